//! The receive queue that a peer writes into, and the bell of a completion queue.
//!
//! One producer (the peer's sender) and one consumer (our receiver) share [`Posted`] and [`Entry`]s. The
//! consumer posts receives by counting up; the producer may publish message `n` only while `n` is below that
//! count, so it never overtakes the consumer by more than the queue holds.
//!
//! Every field is atomic, so whatever a peer writes is a value and not a data race.

use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Receives posted since the beginning, modulo 2^32. On a cache line pair of its own: the consumer writes it.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Posted(AtomicU32);

/// One message. `sequence` is its number plus one, modulo 2^32, and is written last.
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

/// A message as its receiver learns of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) imm: u32,
    pub(super) byte_len: u32,
}

/// The producing end.
#[derive(Debug, Default)]
pub(super) struct Producer {
    next: u32,
    /// The count of receives when it was last looked at.
    posted: u32,
}

impl Producer {
    /// Whether the consumer has a receive for the next message.
    #[inline]
    pub(super) fn has_receive(&mut self, ring: ReceiveRing<'_>) -> bool {
        let has = |posted: u32| {
            (1..=ring.entries.len()).contains(&(posted.wrapping_sub(self.next) as usize))
        };
        if has(self.posted) {
            return true;
        }
        // Acquire: the consumer has read the entry that the next message overwrites.
        self.posted = ring.posted.0.load(Ordering::Acquire);
        has(self.posted)
    }

    /// Publishes the next message, for which [`has_receive`](Self::has_receive) was true. Everything written
    /// before is visible to who takes it.
    #[inline]
    pub(super) fn publish(&mut self, ring: ReceiveRing<'_>, arrival: Arrival) {
        let entry = ring.entry(self.next);
        entry.imm.store(arrival.imm, Ordering::Relaxed);
        entry.byte_len.store(arrival.byte_len, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        entry.sequence.store(self.next, Ordering::Release);
    }
}

/// The consuming end. One thread at a time posts, and one at a time takes; they need not be the same.
#[derive(Debug)]
pub(super) struct Consumer {
    depth: u32,
    /// Receives posted.
    posted: AtomicU32,
    /// Of these, used up.
    next: AtomicU32,
    /// What their owner calls them; as many as the ring has entries.
    wr_ids: Box<[AtomicU64]>,
}

impl Consumer {
    /// Of a ring with `capacity` entries, a power of two, of which `depth` may be posted at a time.
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

    /// Posts one more receive. Says whether there was room.
    #[must_use]
    #[inline]
    pub(super) fn post(&self, ring: ReceiveRing<'_>, wr_id: u64) -> bool {
        let posted = self.posted.load(Ordering::Relaxed);
        // Acquire: the entry, and the name, that are used again have been read.
        if posted.wrapping_sub(self.next.load(Ordering::Acquire)) >= self.depth {
            return false;
        }
        self.wr_id(posted).store(wr_id, Ordering::Relaxed);
        let posted = posted.wrapping_add(1);
        self.posted.store(posted, Ordering::Release);
        ring.posted.0.store(posted, Ordering::Release);
        true
    }

    /// Whether the next message is there. For the one who takes.
    #[inline]
    pub(super) fn has_arrival(&self, ring: ReceiveRing<'_>) -> bool {
        let next = self.next.load(Ordering::Relaxed);
        ring.entry(next).sequence.load(Ordering::Acquire) == next.wrapping_add(1)
    }

    /// Whether no receive is posted. For the one who takes.
    #[inline]
    pub(super) fn is_used_up(&self) -> bool {
        self.posted.load(Ordering::Acquire) == self.next.load(Ordering::Relaxed)
    }

    /// Uses up the next receive: for the next message, or for none if that is not there and this `flushes`.
    #[inline]
    pub(super) fn take(
        &self,
        ring: ReceiveRing<'_>,
        flushes: bool,
    ) -> Option<(u64, Option<Arrival>)> {
        let has_arrival = self.has_arrival(ring);
        // A peer that publishes more than was posted is not listened to.
        if !(has_arrival || flushes) || self.is_used_up() {
            return None;
        }
        let next = self.next.load(Ordering::Relaxed);
        let entry = ring.entry(next);
        let arrival = has_arrival.then(|| Arrival {
            imm: entry.imm.load(Ordering::Relaxed),
            byte_len: entry.byte_len.load(Ordering::Relaxed),
        });
        let wr_id = self.wr_id(next).load(Ordering::Relaxed);
        self.next.store(next.wrapping_add(1), Ordering::Release);
        Some((wr_id, arrival))
    }
}

/// Whether the owner of a completion queue asked to be woken.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Bell(AtomicU32);

impl Bell {
    /// Wakes at any message.
    const ANY: u32 = 1;
    /// Wakes at one that asks for it.
    const SOLICITED: u32 = 2;

    /// Asks to be woken at the next message. The owner must look for messages once more before it sleeps.
    pub(super) fn arm(&self) {
        self.arm_for(Self::ANY);
    }

    /// The same, at the next one that asks for it.
    pub(super) fn arm_solicited(&self) {
        self.arm_for(Self::SOLICITED);
    }

    fn arm_for(&self, wanted: u32) {
        self.0.store(wanted, Ordering::Relaxed);
        // Pairs with the fence in `must_ring`: either that one sees what we want, or our next look sees its message.
        fence(Ordering::SeqCst);
    }

    /// After publishing: whether the owner must be woken. True once for each arming.
    #[inline]
    pub(super) fn must_ring(&self, solicited: bool) -> bool {
        fence(Ordering::SeqCst);
        let wants = match self.0.load(Ordering::Relaxed) {
            0 => false,
            Self::SOLICITED => solicited,
            _ => true,
        };
        wants && self.0.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Messages come out once and in order, and none goes in without a receive, whatever the order of steps.
        #[test]
        fn a_ring_is_a_bounded_queue(
            log2 in 0_u32..4,
            start in prop_oneof![Just(0_u32), Just(u32::MAX - 3), any::<u32>()],
            steps in proptest::collection::vec(0_u8..3, 0..200),
        ) {
            let posted = Posted(AtomicU32::new(start));
            let entries: Vec<Entry> = (0..1 << log2).map(|_| Entry::default()).collect();
            // As if `start` messages had gone through: no entry holds a number that is still to come.
            entries.iter().for_each(|entry| entry.sequence.store(start, Ordering::Relaxed));
            let ring = ReceiveRing { posted: &posted, entries: &entries };
            let mut producer = Producer { next: start, posted: start };
            let consumer = Consumer::new(entries.len() as u32, entries.len());
            consumer.next.store(start, Ordering::Relaxed);
            consumer.posted.store(start, Ordering::Relaxed);
            let (mut receives, mut inside, mut number) = (0, VecDeque::new(), 0);
            let (mut named, mut taken) = (0, 0);
            for step in steps {
                match step {
                    0 => {
                        let has_room = receives + inside.len() < entries.len();
                        prop_assert_eq!(consumer.post(ring, named), has_room);
                        if has_room {
                            (receives, named) = (receives + 1, named + 1);
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
                        prop_assert_eq!(consumer.has_arrival(ring), expected.is_some());
                        let found = consumer.take(ring, false);
                        prop_assert_eq!(found, expected.map(|arrival| (taken, Some(arrival))));
                        taken += u64::from(found.is_some());
                    }
                }
            }
        }

        /// INPUT-1: whatever stands in shared memory, both ends give an answer.
        #[test]
        fn garbage_in_shared_memory_is_harmless(words in proptest::collection::vec(any::<u32>(), 13)) {
            let posted = Posted(AtomicU32::new(words[0]));
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
            for _ in 0..8 {
                if producer.has_receive(ring) {
                    producer.publish(ring, Arrival { imm: 1, byte_len: 2 });
                }
                consumer.take(ring, false);
                let _ = consumer.post(ring, 0);
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
        assert_eq!(consumer.take(ring, false), None);
        assert_eq!(consumer.take(ring, true), None, "nor is it flushed");
        // Each receive takes one, under the name of that receive.
        for number in 0..3 {
            assert!(consumer.post(ring, 7 + u64::from(number)));
            let taken = Some((7 + u64::from(number), Some(arrival(number))));
            assert_eq!(consumer.take(ring, false), taken);
            assert_eq!(consumer.take(ring, false), None);
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
        assert!(consumer.post(ring, 7));
        assert_eq!(consumer.take(ring, false), None);
        assert_eq!(consumer.take(ring, true), Some((7, None)));
        assert_eq!(consumer.take(ring, true), None);
    }

    #[test]
    fn who_wants_to_be_asked_for_is_not_woken_by_others() {
        let bell = Bell::default();
        assert!(!bell.must_ring(true));
        bell.arm_solicited();
        assert!(!bell.must_ring(false));
        assert!(bell.must_ring(true));
        assert!(!bell.must_ring(true), "once for each arming");
        bell.arm();
        assert!(bell.must_ring(false));
    }

    #[test]
    fn shared_structures_have_the_size_that_both_processes_count_on() {
        assert_eq!(
            (size_of::<Posted>(), size_of::<Entry>(), size_of::<Bell>()),
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
        bell: Bell,
        event: AtomicBool,
    }

    impl Shared {
        fn new(capacity: usize) -> Arc<Self> {
            Arc::new(Self {
                posted: Posted::default(),
                entries: (0..capacity).map(|_| Entry::default()).collect(),
                bell: Bell::default(),
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

    /// A consumer that armed the bell and found nothing is told of a message that comes later.
    #[test]
    fn no_event_is_lost() {
        loom::model(|| {
            let shared = Shared::new(1);
            let consumer = Consumer::new(1, 1);
            assert!(consumer.post(shared.ring(), 5));
            let theirs = shared.clone();
            let producer = thread::spawn(move || {
                let mut producer = Producer::default();
                assert!(producer.has_receive(theirs.ring()));
                producer.publish(
                    theirs.ring(),
                    Arrival {
                        imm: 7,
                        byte_len: 9,
                    },
                );
                if theirs.bell.must_ring(true) {
                    theirs.event.store(true, Ordering::Release);
                }
            });
            shared.bell.arm();
            let found = consumer.take(shared.ring(), false);
            producer.join().expect("the producer ends");
            assert!(found.is_some() || shared.event.load(Ordering::Acquire));
            let arrival = found.or_else(|| consumer.take(shared.ring(), false));
            let expected = Arrival {
                imm: 7,
                byte_len: 9,
            };
            assert_eq!(arrival, Some((5, Some(expected))));
        });
    }

    /// A slot that is used again carries the new message whole, and the old one has been read.
    #[test]
    fn a_reused_entry_is_never_torn() {
        loom::model(|| {
            let shared = Shared::new(1);
            let consumer = Consumer::new(1, 1);
            assert!(consumer.post(shared.ring(), 5));
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
                if let Some((_, arrival)) = consumer.take(shared.ring(), false) {
                    let expected = Arrival {
                        imm: taken,
                        byte_len: !taken,
                    };
                    assert_eq!(arrival, Some(expected));
                    taken += 1;
                    assert!(consumer.post(shared.ring(), 5));
                }
            }
            let sent = producer.join().expect("the producer ends");
            while let Some((_, arrival)) = consumer.take(shared.ring(), false) {
                let expected = Arrival {
                    imm: taken,
                    byte_len: !taken,
                };
                assert_eq!(arrival, Some(expected));
                taken += 1;
            }
            assert_eq!(taken, sent);
        });
    }

    /// Two producers of one completion queue ring its bell once for one arming.
    #[test]
    fn one_arming_gives_one_event() {
        loom::model(|| {
            let shared = Shared::new(1);
            shared.bell.arm();
            let theirs = shared.clone();
            let other = thread::spawn(move || theirs.bell.must_ring(true));
            let here = shared.bell.must_ring(true);
            assert!(here ^ other.join().expect("the other producer ends"));
        });
    }
}
