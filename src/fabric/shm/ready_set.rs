//! Which receive queues of a completion queue have something, so that its owner need not look at
//! each: only few of many have, most of the time.
//!
//! The owner polls the queues that are busy, and lets others rest. Who writes to a queue at rest
//! reports that, once, and the owner polls it again. Resting is the rare side, and whoever reports
//! must not miss it: see [`QueuePage::needs_ring`](super::queue_page::QueuePage::needs_ring).
//!
//! All peers can write the set. A bit that nobody should have set costs the owner a few looks.

use super::sync::{AtomicU32, AtomicU64, Ordering};

/// Words of the set, and bits of each.
const WORDS: u32 = u64::BITS;

/// A bit for each receive queue, and a bit for each word that has any. Queues whose numbers are
/// congruent share a bit.
#[derive(Debug)]
#[repr(C)]
pub(super) struct ReadySet {
    summary: Summary,
    words: [AtomicU64; WORDS as usize],
}

/// It has a pair of cache lines to itself: the owner looks at it again and again.
#[derive(Debug, Default)]
#[repr(C, align(128))]
struct Summary(AtomicU64);

impl Default for ReadySet {
    fn default() -> Self {
        Self {
            summary: Summary::default(),
            words: std::array::from_fn(|_| AtomicU64::default()),
        }
    }
}

impl ReadySet {
    /// The bit of the queue with this number.
    pub(super) fn bit(number: u32) -> u32 {
        number % (WORDS * u64::BITS)
    }

    /// Reports that a queue has something.
    pub(super) fn report(&self, number: u32) {
        let bit = Self::bit(number);
        let (word, bit) = (bit / u64::BITS, bit % u64::BITS);
        // Release: who takes the bit sees the message. The word comes first: who dies in between
        // leaves a bit that is found with the next one of its word.
        self.words[word as usize].fetch_or(1 << bit, Ordering::Release);
        self.summary.0.fetch_or(1 << word, Ordering::Release);
    }

    /// Returns whether there is no report.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.summary.0.load(Ordering::Relaxed) == 0
    }

    /// Takes the bits of all reports.
    pub(super) fn take(&self, mut each: impl FnMut(u32)) {
        for word in ones(self.summary.0.swap(0, Ordering::Acquire)) {
            for bit in ones(self.words[word as usize].swap(0, Ordering::Acquire)) {
                each(word * u64::BITS + bit);
            }
        }
    }
}

/// The places of the bits that are 1.
fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let place = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(place)
    })
}

/// Whether a receive queue rests: its owner does not look at it until it is reported. It has a pair
/// of cache lines to itself, because the peer reads it with each message.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub(super) struct Rest(AtomicU32);

impl Rest {
    /// Lets the queue rest, as far as the peer is concerned. The owner must fence, and look at it
    /// once more.
    pub(super) fn begin(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// Returns whether the next message is to be reported.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Ends the rest, as the peer that has written to the queue. Returns whether it has to report.
    pub(super) fn end(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) != 0
    }
}

#[cfg(all(test, not(slime_loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(set: &ReadySet) -> Vec<u32> {
        let mut bits = Vec::new();
        set.take(|bit| bits.push(bit));
        bits
    }

    proptest! {
        #[test]
        fn what_was_reported_is_taken_once(
            numbers in proptest::collection::btree_set(0..WORDS * u64::BITS, 0..50),
            shift in 0_u32..1000,
        ) {
            let set = ReadySet::default();
            for _ in 0..2 {
                prop_assert!(set.is_empty());
                prop_assert!(taken(&set).is_empty());
                for number in &numbers {
                    set.report(number + shift * WORDS * u64::BITS);
                }
                prop_assert_eq!(set.is_empty(), numbers.is_empty());
                let expected: Vec<_> = numbers.iter().copied().collect();
                prop_assert_eq!(taken(&set), expected);
            }
        }
    }

    /// INPUT-1: bits that nobody reported, and words without their bit in the summary.
    #[test]
    fn input_1_a_set_that_others_write_to_is_taken_all_the_same() {
        let set = ReadySet::default();
        set.words[3].store(1 << 5, Ordering::Relaxed);
        assert!(taken(&set).is_empty(), "who was to report it has died");
        set.report(3 * 64 + 7);
        assert_eq!(taken(&set), [3 * 64 + 5, 3 * 64 + 7]);
        set.summary.0.store(u64::MAX, Ordering::Relaxed);
        assert!(taken(&set).is_empty());
        set.words
            .iter()
            .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        set.summary.0.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(taken(&set), (0..4096).collect::<Vec<_>>());
    }
}
