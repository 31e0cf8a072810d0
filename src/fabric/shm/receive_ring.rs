//! The receive queue that a peer writes into, and the doorbell of a completion queue.
//!
//! One producer (the peer's sender) and one consumer (this side's receiver) share [`Posted`] and
//! the [`Entry`]s. The consumer posts receives by counting up; the producer may publish message `n`
//! only while `n` is below that count, so it never overtakes the consumer by more than the queue
//! holds.
//!
//! Every field is atomic, so whatever a peer writes is a value and not a data race.

use super::barrier;
use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// What the consumer says. It has a pair of cache lines to itself, because only the consumer writes
/// it.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Posted {
    /// Number of receives posted so far, modulo 2^32.
    count: AtomicU32,
    /// Not 0 once the queue pair is in ERR. Versions that do not say so leave it 0.
    over: AtomicU32,
}

impl Posted {
    /// Tells the producer that the queue pair is in ERR.
    pub(super) fn end(&self) {
        self.over.store(1, Ordering::Release);
    }

    /// Whether the queue pair is in ERR. Nothing is written through it afterwards, nor read.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) != 0
    }
}

/// One message. `sequence` is its number plus one, modulo 2^32, and is written last: a consumer
/// that sees it sees the rest.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub(super) struct Entry {
    sequence: AtomicU32,
    imm: AtomicU32,
    byte_len: AtomicU32,
}

/// What both ends share. The number of entries is a power of two.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiveRing<'a> {
    pub(super) posted: &'a Posted,
    pub(super) entries: &'a [Entry],
}

impl<'a> ReceiveRing<'a> {
    #[inline]
    fn entry(self, number: u32) -> &'a Entry {
        &self.entries[number as usize & (self.entries.len() - 1)]
    }
}

/// A message as its receiver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) imm: u32,
    pub(super) byte_len: u32,
}

/// The producing end.
#[derive(Debug, Default)]
pub(super) struct Producer {
    next: u32,
    /// The count of posted receives when it was last read.
    posted: u32,
}

impl Producer {
    /// Messages published, modulo 2^32.
    #[inline]
    pub(super) fn published(&self) -> u32 {
        self.next
    }

    /// Returns whether the consumer has a receive for the next message.
    #[inline]
    pub(super) fn has_receive(&mut self, ring: ReceiveRing<'_>) -> bool {
        let has = |posted: u32| {
            (1..=ring.entries.len()).contains(&(posted.wrapping_sub(self.next) as usize))
        };
        if has(self.posted) {
            return true;
        }
        // Acquire: the consumer has finished reading the entry that the next message overwrites.
        self.posted = ring.posted.count.load(Ordering::Acquire);
        has(self.posted)
    }

    /// Publishes the next message, for which [`has_receive`](Self::has_receive) returned true.
    /// Everything written before is visible to the thread that takes it.
    #[inline]
    pub(super) fn publish(&mut self, ring: ReceiveRing<'_>, arrival: Arrival) {
        let entry = ring.entry(self.next);
        entry.imm.store(arrival.imm, Ordering::Relaxed);
        entry.byte_len.store(arrival.byte_len, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        // Release, and last: a taker that sees this number sees the entry, and the message's bytes.
        entry.sequence.store(self.next, Ordering::Release);
    }
}

/// The consuming end. One thread at a time posts, and the one [`Taker`] takes.
#[derive(Debug)]
pub(super) struct Consumer {
    depth: u32,
    /// Number of receives posted.
    posted: AtomicU32,
    /// Number of receives used up.
    next: AtomicU32,
    /// The `wr_id`s of the receives; as many as the ring has entries.
    wr_ids: Box<[AtomicU64]>,
}

impl Consumer {
    /// Makes the consumer of a ring with `capacity` entries, a power of two, of which `depth` may
    /// be posted at a time.
    pub(super) fn new(depth: u32, capacity: usize) -> Self {
        Self {
            depth,
            posted: AtomicU32::new(0),
            next: AtomicU32::new(0),
            wr_ids: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    #[inline]
    fn wr_id(&self, number: u32) -> &AtomicU64 {
        &self.wr_ids[number as usize & (self.wr_ids.len() - 1)]
    }

    /// Posts `count` more receives. Returns whether there was room for them.
    #[must_use]
    #[inline]
    pub(super) fn post(&self, ring: ReceiveRing<'_>, wr_id: u64, count: u32) -> bool {
        let posted = self.posted.load(Ordering::Relaxed);
        // Acquire: the taker has finished reading the entries and `wr_id`s that are used again.
        let taken = posted.wrapping_sub(self.next.load(Ordering::Acquire));
        if count > self.depth.saturating_sub(taken) {
            return false;
        }
        for number in 0..count {
            let at = self.wr_id(posted.wrapping_add(number));
            at.store(wr_id, Ordering::Relaxed);
        }
        let posted = posted.wrapping_add(count);
        self.posted.store(posted, Ordering::Release);
        ring.posted.count.store(posted, Ordering::Release);
        true
    }
}

/// Takes what has arrived for a [`Consumer`].
#[derive(Debug)]
pub(super) struct Taker {
    next: u32,
    /// The count of posted receives when it was last read.
    posted: u32,
}

impl Taker {
    /// Makes the taker. No other one may exist at the same time.
    pub(super) fn new(consumer: &Consumer) -> Self {
        let next = consumer.next.load(Ordering::Relaxed);
        Self { next, posted: next }
    }

    /// Number of receives used up, modulo 2^32.
    pub(super) fn taken(&self) -> u32 {
        self.next
    }

    /// Returns whether the next message has arrived.
    #[inline]
    pub(super) fn has_arrival(&self, entries: &[Entry]) -> bool {
        self.is_next(self.entry(entries))
    }

    #[inline]
    fn entry<'a>(&self, entries: &'a [Entry]) -> &'a Entry {
        &entries[self.next as usize & (entries.len() - 1)]
    }

    #[inline]
    fn is_next(&self, entry: &Entry) -> bool {
        entry.sequence.load(Ordering::Acquire) == self.next.wrapping_add(1)
    }

    /// Takes the next message, if it has arrived, and uses up a receive for it. Messages beyond the
    /// posted receives are ignored.
    #[inline]
    pub(super) fn take(
        &mut self,
        entries: &[Entry],
        consumer: &Consumer,
    ) -> Option<(u64, Arrival)> {
        let entry = self.entry(entries);
        if !self.is_next(entry) || self.is_used_up(consumer) {
            return None;
        }
        let arrival = Arrival {
            imm: entry.imm.load(Ordering::Relaxed),
            byte_len: entry.byte_len.load(Ordering::Relaxed),
        };
        Some((self.use_up(consumer), arrival))
    }

    /// Uses up the next receive without a message.
    pub(super) fn flush(&mut self, consumer: &Consumer) -> Option<u64> {
        let is_posted = !self.is_used_up(consumer);
        is_posted.then(|| self.use_up(consumer))
    }

    #[inline]
    fn is_used_up(&mut self, consumer: &Consumer) -> bool {
        if self.posted == self.next {
            self.posted = consumer.posted.load(Ordering::Acquire);
        }
        self.posted == self.next
    }

    #[inline]
    fn use_up(&mut self, consumer: &Consumer) -> u64 {
        let wr_id = consumer.wr_id(self.next).load(Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        consumer.next.store(self.next, Ordering::Release);
        wr_id
    }
}

/// Tells peers whether the owner of a completion queue wants to be woken. A ringing peer publishes
/// its message and then reads `wanted`; the arming owner writes `wanted` and then looks for
/// messages. Each stores first and loads then, and without a fence between the two each could miss
/// the other's store: a lost wake-up.
///
/// The owner can fence for both sides (`membarrier`), if the kernel can do that in both processes.
/// That takes microseconds each time it goes to sleep; a peer's own fence takes nanoseconds, for
/// every message. So peers fence for an owner that is woken for a few messages each time, and the
/// owner fences for peers that send many. An earlier version of this fabric finds a 0 in
/// `fences_everywhere` and leaves it, and fences itself.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Doorbell {
    wanted: AtomicU32,
    /// Whether the owner fences for all when it arms. Peers set it, the owner clears it.
    fences_everywhere: AtomicU32,
    /// How many messages peers send between two rings; 0 if the owner cannot fence for others.
    traffic: AtomicU32,
}

impl Doorbell {
    /// Wakes at any message.
    const ANY: u32 = 1;
    /// Wakes at a solicited message.
    const SOLICITED: u32 = 2;

    /// The owner is woken for a few messages each time.
    const LIGHT: u32 = 1;
    /// The owner takes many messages before it sleeps.
    const HEAVY: u32 = 2;
    /// From so many messages between two rings, one fence of the owner costs less than one at each.
    const MANY: u32 = 64;

    /// Publishes which side fences, before the first peer reads it.
    pub(super) fn set_up(&self) {
        if barrier::is_asymmetric() {
            self.traffic.store(Self::HEAVY, Ordering::Relaxed);
            self.fences_everywhere.store(1, Ordering::Relaxed);
        }
    }

    /// Requests a wake-up at the next message. The owner must look for messages once more before it
    /// sleeps.
    pub(super) fn arm(&self) {
        self.arm_for(Self::ANY);
    }

    /// Requests a wake-up at the next solicited message. The owner must look for messages once more
    /// before it sleeps.
    pub(super) fn arm_solicited(&self) {
        self.arm_for(Self::SOLICITED);
    }

    fn arm_for(&self, wanted: u32) {
        self.wanted.store(wanted, Ordering::Relaxed);
        self.fence_owner();
    }

    /// Fences between a request of the owner, which peers read when they have published a message,
    /// and its look for messages.
    pub(super) fn fence_owner(&self) {
        // Pairs with the fence of the ringer: either the peer sees the request, or the owner's next
        // look sees the peer's message. It pairs with the one in `fence`, too: either the owner
        // sees that peers no longer fence, or those peers see the request.
        fence(Ordering::SeqCst);
        if self.fences_everywhere.load(Ordering::Relaxed) == 0 {
            return;
        }
        if self.traffic.load(Ordering::Relaxed) == Self::LIGHT {
            // The fence below includes peers that have read the old word.
            self.fences_everywhere.store(0, Ordering::Relaxed);
        }
        if !barrier::everywhere() {
            // The kernel has begun to refuse the fence that peers rely on. They have to fence for
            // themselves from now on, and one that read the old word must be past its load.
            self.traffic.store(0, Ordering::SeqCst);
            self.fences_everywhere.store(0, Ordering::SeqCst);
            barrier::settle();
            fence(Ordering::SeqCst);
        }
    }

    /// Returns whether the owner must be woken, after a message was published. True once for each
    /// arming. A peer passes how many messages it has published since it rang last; one that does
    /// not count them leaves open which side fences.
    #[inline]
    pub(super) fn needs_ring(&self, solicited: bool, published: Option<u32>) -> bool {
        // The message was published before: its store must not move behind the load of `wanted`.
        self.fence_ringer(published);
        self.is_wanted(solicited, published)
    }

    /// Fences between a message of a peer and its look for requests of the owner.
    #[inline(always)]
    pub(super) fn fence_ringer(&self, published: Option<u32>) {
        if self.is_fenced_by_owner() {
            barrier::light_if(true);
        } else {
            self.fence(published);
        }
    }

    /// Returns whether the owner must be woken, as a peer that has
    /// [fenced](Self::fence_ringer).
    #[inline(always)]
    pub(super) fn is_wanted(&self, solicited: bool, published: Option<u32>) -> bool {
        let wants = match self.wanted.load(Ordering::Relaxed) {
            0 => false,
            Self::SOLICITED => solicited,
            _ => true,
        };
        wants && self.take_request(published)
    }

    #[cold]
    fn take_request(&self, published: Option<u32>) -> bool {
        // Several peers may see the request; the swap lets one of them raise the event.
        let is_taken = self.wanted.swap(0, Ordering::AcqRel) != 0;
        if let (true, Some(published)) = (is_taken, published) {
            let is_light = published < Self::MANY;
            self.note(if is_light { Self::LIGHT } else { Self::HEAVY });
        }
        is_taken
    }

    /// Fences on the peer's side. A peer that would do so often leaves it to the owner.
    #[cold]
    fn fence(&self, published: Option<u32>) {
        let is_often = published.is_some_and(|published| published > Self::MANY);
        if is_often && barrier::is_asymmetric() && self.note(Self::HEAVY) {
            self.fences_everywhere.store(1, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Tells the owner about the traffic, and returns whether it can fence for others.
    fn note(&self, traffic: u32) -> bool {
        let can_fence = self.traffic.load(Ordering::Relaxed) != 0;
        if can_fence {
            self.traffic.store(traffic, Ordering::Relaxed);
        }
        can_fence
    }

    /// Returns whether the owner's fence includes this process, too.
    #[inline]
    pub(super) fn is_fenced_by_owner(&self) -> bool {
        // Acquire: what the peer reads next is not older.
        barrier::is_asymmetric() && self.fences_everywhere.load(Ordering::Acquire) != 0
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Messages come out once and in order, and none goes in without a receive, whatever the
        /// order of steps.
        #[test]
        fn a_ring_is_a_bounded_queue(
            log2 in 0_u32..4,
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 3), any::<u32>()],
            steps in proptest::collection::vec((0_u8..3, 1_u32..4), 0..200),
        ) {
            let posted = Posted { count: AtomicU32::new(start), ..Posted::default() };
            let entries: Vec<Entry> = (0..1 << log2).map(|_| Entry::default()).collect();
            // As if `start` messages had gone through: no entry holds a number that is still to
            // come.
            entries.iter().for_each(|entry| entry.sequence.store(start, Ordering::Relaxed));
            let ring = ReceiveRing { posted: &posted, entries: &entries };
            let mut producer = Producer { next: start, posted: start };
            let consumer = Consumer::new(entries.len() as u32, entries.len());
            consumer.next.store(start, Ordering::Relaxed);
            consumer.posted.store(start, Ordering::Relaxed);
            let mut taker = Taker::new(&consumer);
            let (mut receives, mut inside, mut number) = (0, VecDeque::new(), 0);
            let (mut named, mut names) = (0, VecDeque::new());
            for (step, count) in steps {
                match step {
                    0 => {
                        let has_room = receives + inside.len() + count as usize <= entries.len();
                        prop_assert_eq!(consumer.post(ring, named, count), has_room);
                        if has_room {
                            receives += count as usize;
                            names.extend(std::iter::repeat_n(named, count as usize));
                            named += 1;
                        }
                    }
                    1 => {
                        prop_assert_eq!(producer.has_receive(ring), receives > 0);
                        if receives > 0 {
                            let arrival = Arrival { imm: number, byte_len: !number };
                            producer.publish(ring, arrival);
                            inside.push_back(arrival);
                            (receives, number) = (receives - 1, number + 1);
                        }
                    }
                    _ => {
                        let expected = inside.pop_front();
                        prop_assert_eq!(taker.has_arrival(&entries), expected.is_some());
                        let found = taker.take(&entries, &consumer);
                        let expected = expected.and_then(|arrival| Some((names.pop_front()?, arrival)));
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }

        /// INPUT-1: whatever stands in shared memory, both ends give an answer.
        #[test]
        fn garbage_in_shared_memory_is_harmless(words in proptest::collection::vec(any::<u32>(), 13)) {
            let posted = Posted { count: AtomicU32::new(words[0]), ..Posted::default() };
            let entries: Vec<Entry> = words[1..]
                .chunks(3)
                .map(|w| Entry {
                    sequence: AtomicU32::new(w[0]),
                    imm: AtomicU32::new(w[1]),
                    byte_len: AtomicU32::new(w[2]),
                })
                .collect();
            let ring = ReceiveRing { posted: &posted, entries: &entries };
            let (mut producer, consumer) = (Producer::default(), Consumer::new(4, entries.len()));
            let mut taker = Taker::new(&consumer);
            for _ in 0..8 {
                if producer.has_receive(ring) {
                    producer.publish(ring, Arrival { imm: 1, byte_len: 2 });
                }
                taker.take(&entries, &consumer);
                let _ = consumer.post(ring, 0, 1);
            }
        }
    }

    #[test]
    fn input_1_what_is_published_beyond_what_was_posted_is_not_delivered() {
        let posted = Posted::default();
        let entries: [Entry; 4] = Default::default();
        let ring = ReceiveRing {
            posted: &posted,
            entries: &entries,
        };
        let consumer = Consumer::new(4, 4);
        // A peer that does not ask whether there is a receive.
        let mut producer = Producer::default();
        let arrival = |imm| Arrival { imm, byte_len: 0 };
        for imm in 0..3 {
            producer.publish(ring, arrival(imm));
        }
        let mut taker = Taker::new(&consumer);
        assert_eq!(taker.take(&entries, &consumer), None);
        assert_eq!(taker.flush(&consumer), None, "nor is it flushed");
        // Each receive takes one, under the name of that receive.
        for number in 0..3 {
            assert!(consumer.post(ring, 7 + u64::from(number), 1));
            let taken = Some((7 + u64::from(number), arrival(number)));
            assert_eq!(taker.take(&entries, &consumer), taken);
            assert_eq!(taker.take(&entries, &consumer), None);
        }
    }

    #[test]
    fn what_was_posted_is_flushed_and_nothing_else() {
        let (posted, entries) = (Posted::default(), [Entry::default(), Entry::default()]);
        let ring = ReceiveRing {
            posted: &posted,
            entries: &entries,
        };
        let consumer = Consumer::new(2, 2);
        assert!(!consumer.post(ring, 7, 3), "there is room for two");
        assert!(consumer.post(ring, 7, 2));
        let mut taker = Taker::new(&consumer);
        assert_eq!(taker.take(&entries, &consumer), None);
        assert_eq!(taker.flush(&consumer), Some(7));
        assert_eq!(taker.flush(&consumer), Some(7));
        assert_eq!(taker.flush(&consumer), None);
    }

    #[test]
    fn who_wants_to_be_asked_for_is_not_woken_by_others() {
        let doorbell = Doorbell::default();
        assert!(!doorbell.needs_ring(true, None));
        doorbell.arm_solicited();
        assert!(!doorbell.needs_ring(false, None));
        assert!(doorbell.needs_ring(true, None));
        assert!(!doorbell.needs_ring(true, None), "once for each arming");
        doorbell.arm();
        assert!(doorbell.needs_ring(false, None));
    }

    /// As an earlier version of this fabric does, and one whose kernel cannot fence others.
    #[test]
    fn who_rings_fences_for_an_owner_that_does_not_fence_everywhere() {
        barrier::register();
        let doorbell = Doorbell::default();
        assert!(!doorbell.is_fenced_by_owner());
        doorbell.set_up();
        assert_eq!(doorbell.is_fenced_by_owner(), barrier::is_asymmetric());
        doorbell.arm();
        assert_eq!(doorbell.is_fenced_by_owner(), barrier::is_asymmetric());
        assert!(doorbell.needs_ring(true, None));
    }

    #[test]
    fn an_owner_that_is_woken_for_few_messages_leaves_fencing_to_the_ringers() {
        barrier::register();
        let doorbell = Doorbell::default();
        doorbell.set_up();
        for _ in 0..2 {
            for _ in 0..2 {
                doorbell.arm();
                assert!(doorbell.needs_ring(true, Some(1)));
            }
            doorbell.arm();
            assert!(!doorbell.is_fenced_by_owner());
            assert!(doorbell.needs_ring(true, Some(Doorbell::MANY)));
            // Many, and the owner has looked in time each time.
            assert!(!doorbell.needs_ring(true, Some(Doorbell::MANY)));
            assert!(!doorbell.is_fenced_by_owner());
            assert!(!doorbell.needs_ring(true, Some(Doorbell::MANY + 1)));
            assert_eq!(doorbell.is_fenced_by_owner(), barrier::is_asymmetric());
            doorbell.arm();
            assert_eq!(doorbell.is_fenced_by_owner(), barrier::is_asymmetric());
            assert!(doorbell.needs_ring(true, Some(Doorbell::MANY)));
        }
    }

    #[test]
    fn an_owner_that_cannot_fence_for_others_is_not_asked_to() {
        barrier::register();
        let doorbell = Doorbell::default();
        for published in [1, Doorbell::MANY, u32::MAX] {
            doorbell.arm();
            assert!(doorbell.needs_ring(true, Some(published)));
            assert!(!doorbell.is_fenced_by_owner());
        }
    }

    #[test]
    fn shared_structures_have_the_size_that_both_processes_count_on() {
        assert_eq!(
            (
                size_of::<Posted>(),
                size_of::<Entry>(),
                size_of::<Doorbell>()
            ),
            (128, 16, 128)
        );
    }
}

#[cfg(all(test, slime_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;

    use super::*;

    struct Shared {
        posted: Posted,
        entries: Vec<Entry>,
        doorbell: Doorbell,
        event: AtomicBool,
    }

    impl Shared {
        fn new(capacity: usize) -> Arc<Self> {
            Arc::new(Self {
                posted: Posted::default(),
                entries: (0..capacity).map(|_| Entry::default()).collect(),
                doorbell: Doorbell::default(),
                event: AtomicBool::new(false),
            })
        }

        fn ring(&self) -> ReceiveRing<'_> {
            ReceiveRing {
                posted: &self.posted,
                entries: &self.entries,
            }
        }
    }

    const MESSAGE: Arrival = Arrival {
        imm: 7,
        byte_len: 9,
    };

    /// A consumer that armed the doorbell and found nothing is told of messages that come later,
    /// here `count` of them, of a producer that says that it has `published` so many.
    fn no_event_is_lost(set_up: fn(&Doorbell), count: u32, published: Option<u32>) {
        loom::model(move || {
            let shared = Shared::new(count as usize);
            set_up(&shared.doorbell);
            let consumer = Consumer::new(count, count as usize);
            let mut taker = Taker::new(&consumer);
            assert!(consumer.post(shared.ring(), 5, count));
            let theirs = shared.clone();
            let producer = thread::spawn(move || {
                let mut producer = Producer::default();
                for _ in 0..count {
                    assert!(producer.has_receive(theirs.ring()));
                    producer.publish(theirs.ring(), MESSAGE);
                    if theirs.doorbell.needs_ring(true, published) {
                        theirs.event.store(true, Ordering::Release);
                    }
                }
            });
            shared.doorbell.arm();
            let mut found = 0;
            while let Some(arrival) = taker.take(&shared.entries, &consumer) {
                assert_eq!(arrival, (5, MESSAGE));
                found += 1;
            }
            producer.join().expect("the producer ends");
            assert!(found == count || shared.event.load(Ordering::Acquire));
            while taker.take(&shared.entries, &consumer).is_some() {
                found += 1;
            }
            assert_eq!(found, count);
        });
    }

    #[test]
    fn no_event_is_lost_if_the_ringer_fences() {
        no_event_is_lost(|_| (), 1, None);
    }

    #[test]
    fn no_event_is_lost_if_the_owner_fences() {
        no_event_is_lost(Doorbell::set_up, 1, None);
    }

    #[test]
    fn no_event_is_lost_as_the_owner_leaves_fencing_to_the_ringers() {
        let few = |doorbell: &Doorbell| {
            doorbell.set_up();
            doorbell.note(Doorbell::LIGHT);
        };
        no_event_is_lost(few, 2, Some(1));
    }

    #[test]
    fn no_event_is_lost_as_a_ringer_leaves_fencing_to_the_owner() {
        let few = |doorbell: &Doorbell| doorbell.traffic.store(Doorbell::LIGHT, Ordering::Relaxed);
        no_event_is_lost(few, 2, Some(Doorbell::MANY + 1));
    }

    /// A slot that is used again carries the new message whole, and the old one has been read.
    #[test]
    fn a_reused_entry_is_never_torn() {
        loom::model(|| {
            let shared = Shared::new(1);
            let consumer = Consumer::new(1, 1);
            let mut taker = Taker::new(&consumer);
            assert!(consumer.post(shared.ring(), 5, 1));
            let theirs = shared.clone();
            let producer = thread::spawn(move || {
                let mut producer = Producer::default();
                let mut sent = 0;
                for number in 0..3 {
                    if producer.has_receive(theirs.ring()) {
                        producer.publish(
                            theirs.ring(),
                            Arrival {
                                imm: sent,
                                byte_len: !sent,
                            },
                        );
                        sent += 1;
                    }
                    let _ = number;
                }
                sent
            });
            let mut taken = 0;
            for _ in 0..2 {
                if let Some((_, arrival)) = taker.take(&shared.entries, &consumer) {
                    let expected = Arrival {
                        imm: taken,
                        byte_len: !taken,
                    };
                    assert_eq!(arrival, expected);
                    taken += 1;
                    assert!(consumer.post(shared.ring(), 5, 1));
                }
            }
            let sent = producer.join().expect("the producer ends");
            while let Some((_, arrival)) = taker.take(&shared.entries, &consumer) {
                let expected = Arrival {
                    imm: taken,
                    byte_len: !taken,
                };
                assert_eq!(arrival, expected);
                taken += 1;
            }
            assert_eq!(taken, sent);
        });
    }

    /// Two producers of one completion queue ring its doorbell once for one arming.
    #[test]
    fn one_arming_gives_one_event() {
        loom::model(|| {
            let shared = Shared::new(1);
            shared.doorbell.arm();
            let theirs = shared.clone();
            let other = thread::spawn(move || theirs.doorbell.needs_ring(true, None));
            let here = shared.doorbell.needs_ring(true, None);
            assert!(here ^ other.join().expect("the other producer ends"));
        });
    }
}
