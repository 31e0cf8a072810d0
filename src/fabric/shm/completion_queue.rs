//! Completion queues of the shm fabric.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{Arena, Lot};
use super::receive_ring::{Arrival, Doorbell, Entry, Taker};
use super::receiver::Receiver;
use super::segment::{Segment, View};
use crate::fabric::{
    Completion, CompletionQueue, CompletionStatus, FabricError, Gid, Opcode, Poller,
    QueuePairState, eventfd,
};

/// The shared half of a completion queue: its doorbell, and all entries but arrived messages.
#[derive(Debug)]
pub(super) struct ShmCompletionQueue {
    device: Gid,
    /// No other queue of the process has it.
    number: u64,
    event: Arc<OwnedFd>,
    page: Arc<Lot>,
    doorbell: View<Doorbell>,
    entries: Mutex<Entries>,
    /// Whether the poller has to look at the entries.
    has_news: AtomicBool,
}

/// All entries of the queue that are not arrived messages.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) sent: VecDeque<Sent>,
    /// Receive queues that had a receive posted.
    pub(super) receivers: Vec<Arc<Receiver>>,
    /// Whether receive queues were added or removed.
    pub(super) are_others: bool,
    /// Whether a receive queue has something to flush.
    pub(super) has_failed: bool,
}

/// A completion of a send, which frees places in its send queue when it is polled.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) completion: Completion,
    pub(super) retires: u32,
    pub(super) retired: Arc<AtomicU32>,
}

/// The doorbell in a completion queue's shared page.
pub(super) fn doorbell_in(page: Segment) -> Option<View<Doorbell>> {
    View::of(&Arc::new(page), 0, 1)
}

impl ShmCompletionQueue {
    pub(super) fn create(device: Gid, arena: &Arena) -> Result<Self, FabricError> {
        let (page, segment) = arena
            .create(size_of::<Doorbell>())
            .map_err(FabricError::os("creating a completion queue"))?;
        let doorbell = doorbell_in(segment).expect("the page was made so");
        doorbell[0].set_up();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Self {
            device,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            event: Arc::new(eventfd::create().map_err(FabricError::os("creating an eventfd"))?),
            page,
            doorbell,
            entries: Mutex::default(),
            has_news: AtomicBool::new(false),
        })
    }

    /// The device that the queue was created on.
    pub(super) fn device(&self) -> Gid {
        self.device
    }

    /// Number of the queue.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What a peer needs to wake this queue's owner: the page with the doorbell,
    /// and the eventfd.
    pub(super) fn shared(&self) -> (&Arc<Lot>, &Arc<OwnedFd>) {
        (&self.page, &self.event)
    }

    /// Polls this receive queue, too, from now on.
    pub(super) fn attach(&self, receiver: Arc<Receiver>) {
        self.tell(|entries| {
            entries.receivers.push(receiver);
            entries.are_others = true;
        });
    }

    /// Polls this receive queue no longer.
    pub(super) fn detach(&self, number: u32) {
        self.tell(|entries| {
            entries
                .receivers
                .retain(|receiver| receiver.number() != number);
            entries.are_others = true;
        });
    }

    pub(super) fn push(&self, sent: Sent) {
        let is_failure = !sent.completion.status.is_success();
        self.tell(|entries| entries.sent.push_back(sent));
        self.ring(is_failure);
    }

    /// Notes that a receive queue has something to flush.
    pub(super) fn flush(&self) {
        self.tell(|entries| entries.has_failed = true);
    }

    /// Changes the entries and has the poller look at them.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Entries)) {
        change(&mut self.lock());
        self.has_news.store(true, Ordering::Release);
    }

    /// Returns whether there are entries other than arrived messages.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    /// The entries, for the poller to take.
    pub(super) fn news(&self) -> MutexGuard<'_, Entries> {
        // A swap and not a store: its acquire makes entries visible that were added before.
        self.has_news.swap(false, Ordering::AcqRel);
        self.lock()
    }

    /// Raises an event of this kind if the owner has armed the doorbell for it.
    pub(super) fn ring(&self, is_failure: bool) {
        if self.doorbell().needs_ring(is_failure, None) {
            eventfd::raise(&self.event);
        }
    }

    fn doorbell(&self) -> &Doorbell {
        &self.doorbell[0]
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for ShmCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        self.doorbell().arm();
        Ok(())
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.doorbell().arm_solicited();
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn clear_events(&self) {
        eventfd::lower(&self.event);
    }

    fn has_edges(&self) -> bool {
        true
    }
}

/// Polls the receive queues that peers write into, and the other entries of its queue when there
/// are any.
#[derive(Debug)]
pub(super) struct ShmPoller {
    queue: Arc<ShmCompletionQueue>,
    watched: Vec<Watched>,
    /// Index of the receive queue that the next poll begins with.
    turn: usize,
}

/// A receive queue. It may be gone already, if the queue has news.
#[derive(Debug)]
struct Watched {
    entries: View<Entry>,
    taker: Taker,
    receiver: Arc<Receiver>,
}

impl Watched {
    fn new(receiver: &Arc<Receiver>) -> Self {
        Self {
            entries: receiver.entries(),
            taker: Taker::new(receiver.consumer()),
            receiver: receiver.clone(),
        }
    }

    #[inline]
    fn take(&mut self) -> Option<(u64, Arrival)> {
        self.taker.take(&self.entries, self.receiver.consumer())
    }

    /// Takes a message from before the error, and after those the receives that are left.
    fn take_or_flush(&mut self) -> Option<(u64, Option<Arrival>)> {
        match self.take() {
            Some((wr_id, arrival)) => Some((wr_id, Some(arrival))),
            None => Some((self.taker.flush(self.receiver.consumer())?, None)),
        }
    }

    fn completion(&self, wr_id: u64, arrival: Option<Arrival>) -> Completion {
        Completion {
            wr_id,
            status: arrival.map_or(CompletionStatus::Flushed, |_| CompletionStatus::Success),
            opcode: Opcode::RecvWriteWithImm,
            byte_len: arrival.map_or(0, |arrival| arrival.byte_len),
            imm: arrival.map(|arrival| arrival.imm),
            qp_num: self.receiver.number(),
        }
    }
}

impl ShmPoller {
    pub(super) fn new(queue: Arc<ShmCompletionQueue>) -> Self {
        Self {
            queue,
            watched: Vec::new(),
            turn: 0,
        }
    }

    /// Takes the other entries of the queue. Returns how many completions they gave.
    #[cold]
    fn take_news(&mut self, out: &mut [Completion]) -> usize {
        let mut news = self.queue.news();
        let mut count = out.len().min(news.sent.len());
        for (completion, sent) in out.iter_mut().zip(news.sent.drain(..count)) {
            sent.retired.fetch_add(sent.retires, Ordering::Relaxed);
            *completion = sent.completion;
        }
        if std::mem::take(&mut news.are_others) {
            self.watched = news.receivers.iter().map(Watched::new).collect();
            self.turn = 0;
        }
        let mut is_more = !news.sent.is_empty();
        if news.has_failed {
            count += flush(&mut self.watched, &mut out[count..]);
            news.has_failed = count == out.len();
            is_more |= news.has_failed;
        }
        drop(news);
        if is_more {
            self.queue.tell(|_| {});
        }
        count
    }

    /// Moves arrived messages to the front of `out`; returns their number.
    #[inline]
    fn take(&mut self, out: &mut [Completion]) -> usize {
        let mut count = 0;
        for _ in 0..self.watched.len() {
            let watched = &mut self.watched[self.turn];
            while let Some(completion) = out.get_mut(count)
                && let Some((wr_id, arrival)) = watched.take()
            {
                *completion = watched.completion(wr_id, Some(arrival));
                count += 1;
            }
            self.turn += 1;
            if self.turn == self.watched.len() {
                self.turn = 0;
            }
            // The next poll begins after the queue that filled `out`, so that none starves.
            if count == out.len() {
                break;
            }
        }
        count
    }
}

/// Moves what is left of receive queues in error to the front of `out`; returns the number.
fn flush(watched: &mut [Watched], out: &mut [Completion]) -> usize {
    let mut count = 0;
    for watched in watched {
        if watched.receiver.state() == QueuePairState::Error {
            while count < out.len()
                && let Some((wr_id, arrival)) = watched.take_or_flush()
            {
                out[count] = watched.completion(wr_id, arrival);
                count += 1;
            }
        }
    }
    count
}

impl Poller for ShmPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        let mut count = 0;
        if self.queue.has_news() {
            count = self.take_news(out);
        }
        count += self.take(&mut out[count..]);
        Ok(count)
    }

    fn is_quiet(&self) -> bool {
        !self.queue.has_news()
            && self
                .watched
                .iter()
                .all(|watched| !watched.taker.has_arrival(&watched.entries))
    }
}
