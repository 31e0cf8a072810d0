//! How long calls took, in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Linear buckets of a nanosecond at the low end; each octave above has eight.
const LINEAR: usize = 16;
const PER_OCTAVE: usize = 8;
const FIRST_OCTAVE: usize = LINEAR.ilog2() as usize;
/// Octaves up to 137 s. The last bucket holds what took longer.
const OCTAVES: usize = 33;
const BUCKETS: usize = LINEAR + OCTAVES * PER_OCTAVE;

/// Counts times from any thread, without a lock.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
        }
    }

    pub(super) fn record(&self, nanos: u64) {
        self.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Distribution {
        Distribution {
            counts: self.counts.each_ref().map(|it| it.load(Ordering::Relaxed)),
            sum: Duration::from_nanos(self.sum.load(Ordering::Relaxed)),
        }
    }
}

/// The bucket of a time.
fn bucket(nanos: u64) -> usize {
    if nanos < LINEAR as u64 {
        return nanos as usize;
    }
    let octave = nanos.ilog2() as usize;
    let within = (nanos >> (octave - PER_OCTAVE.ilog2() as usize)) as usize % PER_OCTAVE;
    (LINEAR + (octave - FIRST_OCTAVE) * PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The shortest time that is in none of the buckets up to this one.
fn end(bucket: usize) -> u64 {
    if bucket < LINEAR {
        return bucket as u64 + 1;
    }
    let (octave, within) = (
        FIRST_OCTAVE + (bucket - LINEAR) / PER_OCTAVE,
        (bucket - LINEAR) % PER_OCTAVE,
    );
    (1 << octave) + ((within as u64 + 1) << (octave - PER_OCTAVE.ilog2() as usize))
}

/// How long calls took: their number, their sum, and any quantile within an eighth of its value.
///
/// ```
/// # use slimerpc::channel::Distribution;
/// # use std::time::Duration;
/// let none = Distribution::default();
/// assert_eq!((none.count(), none.quantile(0.5)), (0, Duration::ZERO));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum: Duration::ZERO,
        }
    }
}

impl Distribution {
    /// Number of calls.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What all of them took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Number of calls that took less than `2^octave` nanoseconds, for octaves from 4 to 36.
    pub fn below(&self, octave: u32) -> u64 {
        let octave = (octave as usize).clamp(FIRST_OCTAVE, FIRST_OCTAVE + OCTAVES);
        let buckets = LINEAR + (octave - FIRST_OCTAVE) * PER_OCTAVE;
        self.counts[..buckets].iter().sum()
    }

    /// The time within which a part `q` of the calls ended (0.5 for the median), rounded up to the
    /// end of its bucket; zero if there were none.
    pub fn quantile(&self, q: f64) -> Duration {
        let count = self.count();
        let wanted = (count as f64 * q.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|in_bucket| {
            seen += in_bucket;
            seen >= wanted
        });
        at.filter(|_| count > 0)
            .map_or(Duration::ZERO, |at| Duration::from_nanos(end(at)))
    }

    /// These calls and `others`.
    pub fn add(&mut self, others: &Self) {
        for (count, more) in self.counts.iter_mut().zip(others.counts) {
            *count = count.saturating_add(more);
        }
        self.sum = self.sum.saturating_add(others.sum);
    }

    /// The calls since an `earlier` reading of the same figures.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in since.counts.iter_mut().zip(earlier.counts) {
            *count = count.saturating_sub(before);
        }
        since.sum = since.sum.saturating_sub(earlier.sum);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_bucket_that_ends_after_it() {
        let mut times: Vec<u64> = (0..10_000).collect();
        times.extend((4..37).flat_map(|octave| [(1u64 << octave) - 1, 1 << octave]));
        for nanos in times {
            let at = bucket(nanos);
            assert!(nanos < end(at), "{nanos} is in bucket {at}");
            assert!(at == 0 || end(at - 1) <= nanos, "{nanos} is in bucket {at}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let histogram = Histogram::new();
        (1..=1000).for_each(|micros| histogram.record(micros * 1000));
        let read = histogram.read();
        assert_eq!(read.count(), 1000);
        assert_eq!(read.sum(), Duration::from_micros(500_500));
        for (q, exact) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = read.quantile(q).as_secs_f64() * 1e6;
            assert!((exact..=exact * 1.125).contains(&found), "{q}: {found}");
        }
        assert_eq!(read.below(20), 1000);
        assert_eq!(
            read.below(10),
            1,
            "only the call of 1000 ns took less than 1024"
        );
    }

    #[test]
    fn a_reading_counts_from_an_earlier_one() {
        let histogram = Histogram::new();
        histogram.record(100);
        let earlier = histogram.read();
        histogram.record(5_000);
        let since = histogram.read().since(&earlier);
        assert_eq!(
            (since.count(), since.sum()),
            (1, Duration::from_nanos(5_000))
        );
        let mut both = earlier.clone();
        both.add(&since);
        assert_eq!(both, histogram.read());
    }
}
