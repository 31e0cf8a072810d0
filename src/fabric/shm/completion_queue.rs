//! Completion queues of the shm fabric.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::arena::{Arena, Lot};
use super::queue_page::QueuePage;
use super::quiet_queues::QuietQueues;
use super::ready_set::ReadySet;
use super::receive_ring::{Arrival, Doorbell, Entry, Taker};
use super::receiver::Receiver;
use super::segment::{Segment, View};
use crate::fabric::{
    Completion, CompletionQueue, CompletionStatus, FabricError, Opcode, Poller, QueuePairState,
    eventfd,
};

/// The shared half of a completion queue: its page, and all entries but arrived messages.
#[derive(Debug)]
pub(super) struct ShmCompletionQueue {
    device: u64,
    /// No other queue of the process has it.
    number: u64,
    event: Arc<OwnedFd>,
    /// Whether peers wake the owner by messages instead.
    is_quiet: bool,
    lot: Arc<Lot>,
    page: View<QueuePage>,
    entries: Mutex<Entries>,
    /// Held by whoever fences for the owner: one that arms, or the poller.
    fencing: Mutex<()>,
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

/// The page of a completion queue in its memory.
pub(super) fn page_in(memory: Segment) -> Option<View<QueuePage>> {
    View::of(&Arc::new(memory), 0)
}

impl ShmCompletionQueue {
    /// Creates a queue, which is among `quiet` ones if peers wake its owner by messages.
    pub(super) fn create(
        device: u64,
        arena: &Arena,
        quiet: Option<&QuietQueues>,
    ) -> Result<Self, FabricError> {
        let (lot, segment) = arena
            .create(size_of::<QueuePage>())
            .map_err(FabricError::os("creating a completion queue"))?;
        let page = page_in(segment).expect("the page was made so");
        page.doorbell.set_up();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let event = eventfd::create().map_err(FabricError::os("creating an eventfd"))?;
        let event = Arc::new(event);
        if let Some(quiet) = quiet {
            quiet.add(number, &event);
        }
        Ok(Self {
            device,
            number,
            event,
            is_quiet: quiet.is_some(),
            lot,
            page,
            entries: Mutex::default(),
            fencing: Mutex::default(),
            has_news: AtomicBool::new(false),
        })
    }

    /// Number of the device that the queue was created on.
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Number of the queue.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What a peer needs to wake this queue's owner: its page, and the eventfd, unless the queue is
    /// quiet.
    pub(super) fn shared(&self) -> (&Arc<Lot>, Option<&Arc<OwnedFd>>) {
        (&self.lot, Some(&self.event).filter(|_| !self.is_quiet))
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
        &self.page.doorbell
    }

    /// Lets one thread at a time fence: one that merely saw that another is about to would look for
    /// messages too early.
    fn fencing(&self) -> MutexGuard<'_, ()> {
        // Nothing panics while it is held.
        self.fencing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it is held.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CompletionQueue for ShmCompletionQueue {
    fn arm(&self) -> Result<(), FabricError> {
        let _fencing = self.fencing();
        self.doorbell().arm();
        Ok(())
    }

    fn arm_solicited(&self) -> Result<(), FabricError> {
        let _fencing = self.fencing();
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

/// So many receive queues are polled, however long nothing has come in them.
const ALWAYS: usize = 4;
/// Looks at receive queues after which those rest that nothing has come in meanwhile. So many cost
/// much more than the fence that a rest begins with.
const LOOKS: usize = 1 << 13;

/// Polls the receive queues that peers write into, and the other entries of its queue when there
/// are any. Of many receive queues it polls those that are in use.
#[derive(Debug)]
pub(super) struct ShmPoller {
    queue: Arc<ShmCompletionQueue>,
    /// The page of the queue.
    page: View<QueuePage>,
    polled: Vec<Watched>,
    /// Index of the receive queue that the next poll begins with.
    turn: usize,
    /// Looks at polled queues since some of them were last put to rest.
    looks: usize,
    /// The queues that rest, by bit of the ready set and number.
    resting: BTreeMap<(u32, u32), Watched>,
}

/// A receive queue. It may be gone already, if the queue has news.
#[derive(Debug)]
struct Watched {
    entries: View<[Entry]>,
    taker: Taker,
    /// What the taker had taken at the last search for queues that may rest.
    taken: u32,
    receiver: Arc<Receiver>,
}

impl Watched {
    fn new(receiver: &Arc<Receiver>) -> Self {
        let taker = Taker::new(receiver.consumer());
        Self {
            entries: receiver.entries(),
            taken: taker.taken(),
            taker,
            receiver: receiver.clone(),
        }
    }

    fn is_idle(&self) -> bool {
        self.taken == self.taker.taken()
    }

    /// Returns whether it rests, given that the fence that belongs to that is done.
    fn rests(&self) -> bool {
        self.receiver.rest().is_on() && !self.taker.has_arrival(&self.entries)
    }

    fn key(&self) -> (u32, u32) {
        let number = self.receiver.number();
        (ReadySet::bit(number), number)
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

    /// Moves arrived messages to the front of `out`; returns their number.
    #[inline]
    fn take_all(&mut self, out: &mut [Completion]) -> usize {
        let mut count = 0;
        while let Some(completion) = out.get_mut(count)
            && let Some((wr_id, arrival)) = self.take()
        {
            *completion = self.completion(wr_id, Some(arrival));
            count += 1;
        }
        count
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
            page: queue.page.clone(),
            queue,
            polled: Vec::new(),
            turn: 0,
            looks: 0,
            resting: BTreeMap::new(),
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
            let watched = news.receivers.iter().map(Watched::new);
            let (resting, polled): (Vec<_>, _) = watched.partition(Watched::rests);
            self.resting = resting
                .into_iter()
                .map(|watched| (watched.key(), watched))
                .collect();
            (self.polled, self.turn) = (polled, 0);
        }
        let mut is_more = !news.sent.is_empty();
        if news.has_failed {
            let watched = self.polled.iter_mut().chain(self.resting.values_mut());
            count += flush(watched, &mut out[count..]);
            news.has_failed = count == out.len();
            is_more |= news.has_failed;
        }
        drop(news);
        if is_more {
            self.queue.tell(|_| {});
        }
        count
    }

    /// Polls the queues again that rested and were reported.
    #[cold]
    fn end_rest(&mut self) {
        let Self {
            page,
            polled,
            resting,
            ..
        } = self;
        page.ready.take(|bit| {
            let of_bit = (bit, 0)..=(bit, u32::MAX);
            while let Some(key) = resting.range(of_bit.clone()).map(|(key, _)| *key).next() {
                polled.extend(resting.remove(&key));
            }
        });
    }

    /// Puts queues to rest that nothing has come in for a while, but for a few: those that were
    /// used last.
    #[cold]
    fn begin_rest(&mut self) {
        self.looks = 0;
        // Those whose turn it is stay in front, so that none of many busy ones starves.
        let turn = self.turn.min(self.polled.len());
        self.polled.rotate_left(turn);
        // Stable: in front are those that were in use a while ago.
        self.polled.sort_by_key(Watched::is_idle);
        let busy = self.polled.partition_point(|watched| !watched.is_idle());
        let resting = self.polled.split_off(busy.max(ALWAYS));
        for watched in &mut self.polled {
            watched.taken = watched.taker.taken();
        }
        self.turn = 0;
        if resting.is_empty() {
            return;
        }
        let fencing = self.queue.fencing();
        let rests = resting.iter().map(|watched| watched.receiver.rest());
        self.page.begin_rests(rests);
        drop(fencing);
        for watched in resting {
            if watched.rests() {
                self.resting.insert(watched.key(), watched);
            } else {
                self.polled.push(watched);
            }
        }
    }

    /// Moves arrived messages to the front of `out`; returns their number.
    fn take_in_turns(&mut self, out: &mut [Completion]) -> usize {
        // Each is looked at in between: what is not looked at seems idle.
        if self.looks > LOOKS.max(self.polled.len()) {
            self.begin_rest();
        }
        let mut count = 0;
        for _ in 0..self.polled.len() {
            // The next poll begins after the queue that filled `out`, so that none starves.
            if count == out.len() {
                break;
            }
            count += self.polled[self.turn].take_all(&mut out[count..]);
            self.looks += usize::from(self.polled.len() > ALWAYS);
            self.turn += 1;
            if self.turn == self.polled.len() {
                self.turn = 0;
            }
        }
        count
    }
}

/// Moves what is left of receive queues in error to the front of `out`; returns the number.
fn flush<'a>(watched: impl Iterator<Item = &'a mut Watched>, out: &mut [Completion]) -> usize {
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
        if !self.page.ready.is_empty() {
            self.end_rest();
        }
        let out = &mut out[count..];
        Ok(count
            + match &mut *self.polled {
                [only] => only.take_all(out),
                _ => self.take_in_turns(out),
            })
    }

    fn is_quiet(&self) -> bool {
        !self.queue.has_news()
            && self.page.ready.is_empty()
            && self
                .polled
                .iter()
                .all(|watched| !watched.taker.has_arrival(&watched.entries))
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use super::super::receive_ring::Producer;
    use super::super::receiver::RingMemory;
    use super::*;
    use crate::fabric::RecvRequest;

    const QUEUES: u32 = 40;
    const RECEIVES: u32 = 4;

    /// A completion queue with many receive queues, and the peers that write into those.
    struct Crowd {
        queue: Arc<ShmCompletionQueue>,
        poller: ShmPoller,
        receivers: Vec<Arc<Receiver>>,
        peers: Vec<(RingMemory, Producer)>,
    }

    impl Crowd {
        fn new() -> Self {
            Self::of(QUEUES)
        }

        fn of(queues: u32) -> Self {
            let arena = Arena::new("test");
            let queue = ShmCompletionQueue::create(0, &arena, None).expect("a queue");
            let queue = Arc::new(queue);
            let receiver = |number| {
                let receiver = Receiver::create(&arena, number, RECEIVES).expect("a receive queue");
                let to_init = receiver.advance(QueuePairState::Reset, QueuePairState::Init);
                to_init.expect("it was in RESET");
                let receiver = Arc::new(receiver);
                queue.attach(receiver.clone());
                receiver
            };
            // Some share a bit.
            let numbers = (0..queues).map(|at| at / 2 + at % 2 * 4096);
            let receivers: Vec<_> = numbers.map(receiver).collect();
            let peer = |receiver: &Arc<Receiver>| {
                let (lot, capacity) = receiver.shared();
                let len = RingMemory::len(capacity as usize);
                let memory = Segment::of(lot, len).expect("a mapping");
                let memory = RingMemory::new(memory, capacity as usize).expect("a ring");
                (memory, Producer::default())
            };
            Self {
                poller: ShmPoller::new(queue.clone()),
                peers: receivers.iter().map(peer).collect(),
                queue,
                receivers,
            }
        }

        fn post(&self, at: usize) {
            let request = RecvRequest { wr_id: at as u64 };
            self.receivers[at].post(request, 1).expect("there is room");
        }

        /// Posts a receive, and publishes a message for it.
        fn publish(&mut self, at: usize) {
            self.post(at);
            let (memory, producer) = &mut self.peers[at];
            assert!(producer.has_receive(memory.ring()));
            let arrival = Arrival {
                imm: at as u32,
                byte_len: 0,
            };
            producer.publish(memory.ring(), arrival);
        }

        /// Does that, and tells the owner.
        fn send(&mut self, at: usize) {
            self.publish(at);
            let (number, rest) = (self.receivers[at].number(), self.peers[at].0.rest());
            self.queue.page.needs_ring(number, rest, true, 1);
        }

        /// What has arrived, in order of the receive queues.
        fn poll(&mut self) -> Vec<u64> {
            let mut found = Vec::new();
            let mut batch = [Completion::EMPTY; 16];
            loop {
                let count = self.poller.poll(&mut batch).expect("it polls");
                found.extend(batch[..count].iter().map(|completion| completion.wr_id));
                if count == 0 {
                    found.sort_unstable();
                    return found;
                }
            }
        }

        fn poll_long(&mut self) {
            for _ in 0..=LOOKS {
                assert_eq!(self.poll(), [0_u64; 0]);
            }
        }

        /// How many are polled.
        fn polled(&self) -> usize {
            assert_eq!(
                self.poller.polled.len() + self.poller.resting.len(),
                self.receivers.len()
            );
            self.poller.polled.len()
        }
    }

    #[test]
    fn receive_queues_rest_until_something_comes_and_when_nothing_has_come_for_long() {
        let mut crowd = Crowd::new();
        assert_eq!((crowd.poll(), crowd.polled()), (vec![], 0));
        let all: Vec<_> = (0..u64::from(QUEUES)).collect();
        for _ in 0..3 {
            for at in 0..QUEUES as usize {
                crowd.send(at);
            }
            assert!(!crowd.poller.is_quiet());
            assert_eq!(
                (crowd.poll(), crowd.polled()),
                (all.clone(), QUEUES as usize)
            );
            assert!(crowd.poller.is_quiet());
            crowd.poll_long();
            assert_eq!(crowd.polled(), ALWAYS);
        }
    }

    #[test]
    fn what_is_in_use_does_not_rest() {
        let mut crowd = Crowd::new();
        let busy = [3, 7, 19, 20, 33, 39];
        for turn in 0..LOOKS {
            for at in busy {
                crowd.send(at);
            }
            if turn == 0 {
                crowd.send(1);
            }
            assert_eq!(crowd.poll().len(), busy.len() + usize::from(turn == 0));
        }
        assert_eq!(crowd.polled(), busy.len());
        let rests = |at: usize| crowd.receivers[at].rest().is_on();
        assert!(rests(1) && !busy.into_iter().any(rests));
    }

    #[test]
    fn of_many_that_are_busy_none_starves() {
        const BUSY: usize = 300;
        let mut crowd = Crowd::of(BUSY as u32);
        let mut batch = [Completion::EMPTY; 16];
        let mut last = [0; BUSY];
        for at in (0..BUSY).flat_map(|at| [at; RECEIVES as usize]) {
            crowd.send(at);
        }
        // Long enough for many to rest, if anything lets them.
        for turn in 0..3 * LOOKS {
            let count = crowd.poller.poll(&mut batch).expect("it polls");
            for at in batch[..count].iter().map(|it| it.wr_id as usize) {
                let since = turn - std::mem::replace(&mut last[at], turn);
                assert!(since <= 2 * BUSY, "queue {at} has waited for {since} polls");
                crowd.send(at);
            }
        }
        assert!(last.iter().all(|last| *last + 2 * BUSY >= 3 * LOOKS));
    }

    #[test]
    fn a_message_that_nobody_has_reported_is_found_as_its_queue_goes_to_rest() {
        let mut crowd = Crowd::new();
        (0..10).for_each(|at| crowd.send(at));
        assert_eq!(crowd.poll().len(), 10);
        crowd.poller.begin_rest();
        crowd.publish(5);
        crowd.poller.begin_rest();
        assert!(crowd.receivers[5].rest().is_on());
        assert_eq!(crowd.polled(), ALWAYS + 1);
        // All of them are found anew, as another one comes.
        crowd.queue.tell(|entries| entries.are_others = true);
        assert_eq!(crowd.poll(), [5]);
    }

    /// INPUT-1: a peer reports what is not there, and one dies before it reports.
    #[test]
    fn input_1_reports_that_are_wrong_or_missing_harm_nobody_else() {
        let mut crowd = Crowd::new();
        crowd.poll_long();
        (0..5000).for_each(|number| crowd.queue.page.ready.report(number));
        assert_eq!((crowd.poll(), crowd.polled()), (vec![], QUEUES as usize));
        crowd.poll_long();
        assert_eq!(crowd.polled(), ALWAYS);
        let dead = crowd.poller.resting.values().next().expect("some rest");
        let dead = crowd
            .receivers
            .iter()
            .position(|it| Arc::ptr_eq(it, &dead.receiver));
        let dead = dead.expect("it is one of them");
        crowd.publish(dead);
        crowd.post(dead);
        crowd.send(8);
        assert_eq!(crowd.poll(), [8]);
        // The end of its link tells that it is dead: its message comes, and the receive is flushed.
        crowd.receivers[dead].fail();
        crowd.queue.flush();
        assert_eq!(crowd.poll(), [dead as u64; 2]);
    }
}
