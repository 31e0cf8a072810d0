//! The receive queue that a peer writes into, and the bell of a completion queue.
//!
//! One producer (the peer's sender) and one consumer (our receiver) share [`Posted`] and [`Entry`]s. The
//! consumer posts receives by counting up; the producer may publish message `n` only while `n` is below that
//! count, so it never overtakes the consumer by more than the queue holds.
//!
//! Every field is atomic, so whatever a peer writes is a value and not a data race.

use super::sync::{AtomicU32, Ordering, fence};

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
    pub(super) fn publish(&mut self, ring: ReceiveRing<'_>, arrival: Arrival) {
        let entry = ring.entry(self.next);
        entry.imm.store(arrival.imm, Ordering::Relaxed);
        entry.byte_len.store(arrival.byte_len, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
        entry.sequence.store(self.next, Ordering::Release);
    }
}

/// The consuming end.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    next: u32,
    posted: u32,
}

impl Consumer {
    /// Posts one more receive.
    pub(super) fn post(&mut self, ring: ReceiveRing<'_>) {
        self.posted = self.posted.wrapping_add(1);
        ring.posted.0.store(self.posted, Ordering::Release);
    }

    /// Takes the next message if it is there.
    pub(super) fn take(&mut self, ring: ReceiveRing<'_>) -> Option<Arrival> {
        let entry = ring.entry(self.next);
        let number = self.next.wrapping_add(1);
        if entry.sequence.load(Ordering::Acquire) != number {
            return None;
        }
        self.next = number;
        Some(Arrival {
            imm: entry.imm.load(Ordering::Relaxed),
            byte_len: entry.byte_len.load(Ordering::Relaxed),
        })
    }
}

/// Whether the owner of a completion queue asked to be woken.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Bell(AtomicU32);

impl Bell {
    /// Asks to be woken at the next message. The owner must look for messages once more before it sleeps.
    pub(super) fn arm(&self) {
        self.0.store(1, Ordering::Relaxed);
        // Pairs with the fence in `must_ring`: either that one sees our 1, or our next look sees its message.
        fence(Ordering::SeqCst);
    }

    /// After publishing: whether the owner must be woken. True once for each arming.
    pub(super) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) != 0 && self.0.swap(0, Ordering::AcqRel) != 0
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
            let mut consumer = Consumer { next: start, posted: start };
            let (mut receives, mut inside, mut number) = (0, VecDeque::new(), 0);
            for step in steps {
                match step {
                    0 if receives + inside.len() < entries.len() => {
                        consumer.post(ring);
                        receives += 1;
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
                    2 => prop_assert_eq!(consumer.take(ring), inside.pop_front()),
                    _ => {}
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
            let (mut producer, mut consumer) = (Producer::default(), Consumer::default());
            for _ in 0..8 {
                if producer.has_receive(ring) {
                    producer.publish(ring, Arrival { imm: 1, byte_len: 2 });
                }
                consumer.take(ring);
            }
        }
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
            let mut consumer = Consumer::default();
            consumer.post(shared.ring());
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
                if theirs.bell.must_ring() {
                    theirs.event.store(true, Ordering::Release);
                }
            });
            shared.bell.arm();
            let found = consumer.take(shared.ring());
            producer.join().expect("the producer ends");
            assert!(found.is_some() || shared.event.load(Ordering::Acquire));
            let arrival = found.or_else(|| consumer.take(shared.ring()));
            assert_eq!(
                arrival,
                Some(Arrival {
                    imm: 7,
                    byte_len: 9
                })
            );
        });
    }

    /// A slot that is used again carries the new message whole, and the old one has been read.
    #[test]
    fn a_reused_entry_is_never_torn() {
        loom::model(|| {
            let shared = Shared::new(1);
            let mut consumer = Consumer::default();
            consumer.post(shared.ring());
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
                if let Some(arrival) = consumer.take(shared.ring()) {
                    assert_eq!(
                        arrival,
                        Arrival {
                            imm: taken,
                            byte_len: !taken
                        }
                    );
                    taken += 1;
                    consumer.post(shared.ring());
                }
            }
            let sent = producer.join().expect("the producer ends");
            while let Some(arrival) = consumer.take(shared.ring()) {
                assert_eq!(
                    arrival,
                    Arrival {
                        imm: taken,
                        byte_len: !taken
                    }
                );
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
            let other = thread::spawn(move || theirs.bell.must_ring());
            let here = shared.bell.must_ring();
            assert!(here ^ other.join().expect("the other producer ends"));
        });
    }
}
