//! Completion queues of the shm fabric.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::receive_ring::Bell;
use super::receiver::Receiver;
use super::segment::{Segment, View};
use crate::fabric::{Completion, CompletionQueue, FabricError, Gid, Poller, eventfd};

/// A completion queue: completions of our own sends, and the receive queues that peers write into, which are
/// looked at directly.
#[derive(Debug)]
pub(super) struct ShmCompletionQueue {
    device: Gid,
    event: OwnedFd,
    page: OwnedFd,
    bell: View<Bell>,
    entries: Mutex<Entries>,
    /// Counts changes of the receivers.
    version: AtomicU32,
    has_sent: AtomicBool,
}

/// What the poller takes from.
#[derive(Debug, Default)]
struct Entries {
    sent: VecDeque<Sent>,
    receivers: Vec<Arc<Receiver>>,
}

/// Takes what completes.
#[derive(Debug)]
pub(super) struct ShmPoller {
    queue: Arc<ShmCompletionQueue>,
    /// The receivers as they were when the queue had this version.
    receivers: Vec<Arc<Receiver>>,
    version: u32,
    /// Which receiver is looked at first the next time.
    turn: usize,
}

/// A completion of a send, which frees places in its send queue when it is polled.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) completion: Completion,
    pub(super) retires: u32,
    pub(super) retired: Arc<AtomicU32>,
}

/// The bell in a completion queue's shared page.
pub(super) fn bell_in(page: Segment) -> Option<View<Bell>> {
    View::of(&Arc::new(page), 0, 1)
}

impl ShmCompletionQueue {
    pub(super) fn create(device: Gid) -> Result<Self, FabricError> {
        let (page, segment) = Segment::create("slimerpc-bell", size_of::<Bell>())
            .map_err(FabricError::os("creating a completion queue"))?;
        Ok(Self {
            device,
            event: eventfd::create().map_err(FabricError::os("creating an eventfd"))?,
            page,
            bell: bell_in(segment).expect("the page was made so"),
            entries: Mutex::default(),
            version: AtomicU32::new(0),
            has_sent: AtomicBool::new(false),
        })
    }

    /// The device that it was created on.
    pub(super) fn device(&self) -> Gid {
        self.device
    }

    /// What a peer needs to wake us: the page with the bell, and the eventfd.
    pub(super) fn shared(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.page.as_fd(), self.event.as_fd())
    }

    /// Looks at this receive queue, too, from now on.
    pub(super) fn attach(&self, receiver: Arc<Receiver>) {
        let mut entries = self.lock();
        entries.receivers.push(receiver);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Forgets a receive queue.
    pub(super) fn detach(&self, number: u32) {
        let mut entries = self.lock();
        entries
            .receivers
            .retain(|receiver| receiver.number() != number);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn push(&self, sent: Sent) {
        let is_failure = !sent.completion.status.is_success();
        let mut entries = self.lock();
        entries.sent.push_back(sent);
        self.has_sent.store(true, Ordering::Release);
        drop(entries);
        self.ring(is_failure);
    }

    /// Raises an event if one was asked for, of this kind.
    pub(super) fn ring(&self, is_failure: bool) {
        if self.bell().must_ring(is_failure) {
            eventfd::raise(&self.event);
        }
    }

    fn bell(&self) -> &Bell {
        &self.bell[0]
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShmPoller {
    pub(super) fn new(queue: Arc<ShmCompletionQueue>) -> Self {
        Self {
            queue,
            receivers: Vec::new(),
            version: 0,
            turn: 0,
        }
    }

    /// Whether receivers have come or gone since they were looked at.
    fn is_outdated(&self) -> bool {
        self.queue.version.load(Ordering::Acquire) != self.version
    }

    #[cold]
    fn update(&mut self) {
        let entries = self.queue.lock();
        self.version = self.queue.version.load(Ordering::Relaxed);
        self.receivers.clone_from(&entries.receivers);
        self.turn = 0;
    }

    /// Moves completions of sends to the front of `out`; the number of them.
    #[cold]
    fn take_sent(&self, out: &mut [Completion]) -> usize {
        let mut entries = self.queue.lock();
        let count = out.len().min(entries.sent.len());
        for (completion, sent) in out.iter_mut().zip(entries.sent.drain(..count)) {
            sent.retired.fetch_add(sent.retires, Ordering::Relaxed);
            *completion = sent.completion;
        }
        self.queue
            .has_sent
            .store(!entries.sent.is_empty(), Ordering::Relaxed);
        count
    }
}

impl Poller for ShmPoller {
    fn poll(&mut self, out: &mut [Completion]) -> Result<usize, FabricError> {
        if self.is_outdated() {
            self.update();
        }
        let mut count = 0;
        if self.queue.has_sent.load(Ordering::Acquire) {
            count = self.take_sent(out);
        }
        let (later, first) = self.receivers.split_at(self.turn);
        for (step, receiver) in first.iter().chain(later).enumerate() {
            if receiver.is_quiet() {
                continue;
            }
            count += receiver.poll(&mut out[count..]);
            if count == out.len() {
                // The one that filled it comes last the next time, so that none starves.
                self.turn = (self.turn + step + 1) % self.receivers.len();
                break;
            }
        }
        Ok(count)
    }

    fn is_quiet(&self) -> bool {
        !self.is_outdated()
            && !self.queue.has_sent.load(Ordering::Acquire)
            && self.receivers.iter().all(|receiver| receiver.is_quiet())
    }
}

impl CompletionQueue for ShmCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        self.bell().arm();
        Ok(())
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        self.bell().arm_solicited();
        Ok(())
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn clear_events(&self) {
        eventfd::lower(&self.event);
    }
}
