//! The memory of a completion queue that peers write to: its doorbell, and the set of its receive
//! queues that have something.

use super::ready_set::{ReadySet, Rest};
use super::receive_ring::Doorbell;
use super::sync::{Ordering, fence};

/// What a completion queue shares with the peers that write into its receive queues.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct QueuePage {
    pub(super) doorbell: Doorbell,
    pub(super) ready: ReadySet,
}

impl QueuePage {
    /// Tells the owner about a message that was published in the receive queue with this number,
    /// which may rest. Returns whether the owner must be woken. `published` is how many messages
    /// the peer has published since it rang last.
    #[inline(always)]
    pub(super) fn needs_ring(
        &self,
        number: u32,
        rest: &Rest,
        solicited: bool,
        published: u32,
    ) -> bool {
        // The message was published before: its store must not move behind the load of either flag.
        // The owner does it the other way round: it sets the flag, fences, and looks for messages.
        self.doorbell.fence_ringer(Some(published));
        if rest.is_on() {
            self.report(number, rest);
        }
        self.doorbell.is_wanted(solicited, Some(published))
    }

    /// Lets queues rest, as their owner, who must look at each once more: either a peer sees that
    /// its message is to be reported, or that look sees it.
    pub(super) fn begin_rests<'a>(&self, rests: impl Iterator<Item = &'a Rest>) {
        rests.for_each(Rest::begin);
        self.doorbell.fence_owner();
    }

    #[cold]
    fn report(&self, number: u32, rest: &Rest) {
        if rest.end() {
            self.ready.report(number);
            // The owner arms the doorbell, fences, and looks at the set.
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_queue_at_rest_is_reported_once() {
        let (page, rest) = (QueuePage::default(), Rest::default());
        let reports = || {
            let mut count = 0;
            page.ready.take(|bit| count += u32::from(bit == 5));
            count
        };
        page.needs_ring(5, &rest, true, 1);
        assert_eq!(reports(), 0, "it does not rest");
        rest.begin();
        page.needs_ring(5, &rest, true, 2);
        page.needs_ring(5, &rest, true, 3);
        assert_eq!(reports(), 1);
        page.needs_ring(5, &rest, true, 4);
        assert_eq!(reports(), 0);
    }

    #[test]
    fn the_page_has_the_size_that_both_processes_count_on() {
        assert_eq!((size_of::<QueuePage>(), size_of::<Rest>()), (768, 128));
    }
}

#[cfg(all(test, slime_loom))]
mod loom_tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;

    use super::super::receive_ring::{
        Arrival, Consumer, Entry, Posted, Producer, ReceiveRing, Taker,
    };
    use super::*;

    const NUMBER: u32 = 5;

    struct Shared {
        posted: Posted,
        entries: Vec<Entry>,
        rest: Rest,
        page: QueuePage,
        event: AtomicBool,
    }

    impl Shared {
        fn ring(&self) -> ReceiveRing<'_> {
            ReceiveRing {
                posted: &self.posted,
                entries: &self.entries,
            }
        }

        fn is_reported(&self) -> bool {
            let mut is_reported = false;
            self.page.ready.take(|bit| is_reported |= bit == NUMBER);
            is_reported
        }
    }

    /// An owner lets a queue rest, and looks once more; then it arms the doorbell, and looks at
    /// what it polls, if it has not gone to rest, and at the reports. It is told of messages that
    /// come later, of a producer of `count` of them.
    fn no_message_is_missed(set_up: fn(&Doorbell), count: u32, arms: bool) {
        loom::model(move || {
            let shared = Arc::new(Shared {
                posted: Posted::default(),
                entries: (0..count).map(|_| Entry::default()).collect(),
                rest: Rest::default(),
                page: QueuePage::default(),
                event: AtomicBool::new(false),
            });
            set_up(&shared.page.doorbell);
            let consumer = Consumer::new(count, count as usize);
            let mut taker = Taker::new(&consumer);
            assert!(consumer.post(shared.ring(), 7, count));
            let theirs = shared.clone();
            let producer = thread::spawn(move || {
                let mut producer = Producer::default();
                for imm in 0..count {
                    assert!(producer.has_receive(theirs.ring()));
                    let arrival = Arrival { imm, byte_len: 0 };
                    producer.publish(theirs.ring(), arrival);
                    let (page, rest) = (&theirs.page, &theirs.rest);
                    if page.needs_ring(NUMBER, rest, true, 1) {
                        theirs.event.store(true, Ordering::Release);
                    }
                }
            });
            let mut found = 0;
            let mut take = |is_polled: bool| {
                while is_polled && taker.take(&shared.entries, &consumer).is_some() {
                    found += 1;
                }
                found
            };
            shared.page.begin_rests(std::iter::once(&shared.rest));
            let mut is_polled = take(true) > 0;
            if arms {
                shared.page.doorbell.arm();
                is_polled |= shared.is_reported();
                let found = take(is_polled);
                producer.join().expect("the producer ends");
                assert!(found == count || shared.event.load(Ordering::Acquire));
            } else {
                producer.join().expect("the producer ends");
            }
            is_polled |= shared.is_reported();
            assert_eq!(take(is_polled), count);
        });
    }

    #[test]
    fn no_message_is_missed_if_the_ringer_fences() {
        no_message_is_missed(|_| (), 2, false);
    }

    #[test]
    fn no_message_is_missed_if_the_owner_fences() {
        no_message_is_missed(Doorbell::set_up, 2, false);
    }

    #[test]
    fn no_event_of_a_queue_at_rest_is_lost_if_the_ringer_fences() {
        no_message_is_missed(|_| (), 1, true);
    }

    #[test]
    fn no_event_of_a_queue_at_rest_is_lost_if_the_owner_fences() {
        no_message_is_missed(Doorbell::set_up, 1, true);
    }

    /// Two producers report at once, and the owner takes reports meanwhile.
    #[test]
    fn no_report_is_lost() {
        loom::model(|| {
            let set = Arc::new(ReadySet::default());
            let others = [1, 2].map(|number| {
                let set = set.clone();
                thread::spawn(move || set.report(number))
            });
            let mut bits = Vec::new();
            set.take(|bit| bits.push(bit));
            for other in others {
                other.join().expect("the producer ends");
            }
            set.take(|bit| bits.push(bit));
            bits.sort_unstable();
            assert_eq!(bits, [1, 2]);
        });
    }
}
