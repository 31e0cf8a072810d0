//! Measuring what is to be compared: a slice of each at a time, in several rounds, and the best of
//! each counts.

use std::thread;
use std::time::Duration;

use crate::suite::Suite;
use crate::support::record::{Record, rounded};
use crate::support::{Figures, Result};

/// The poller of the slice before falls asleep.
const SETTLE: Duration = Duration::from_millis(30);

/// What can be better in one round than in another.
pub(crate) trait Best: Copy {
    fn best(self, other: Self) -> Self;
}

impl Best for Figures {
    fn best(self, other: Self) -> Self {
        Self {
            p50: self.p50.min(other.p50),
            p99: self.p99.min(other.p99),
            longest: self.longest.min(other.longest),
        }
    }
}

/// So many a second.
#[derive(Clone, Copy)]
pub(crate) struct Rate(pub(crate) f64);

impl Best for Rate {
    fn best(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}

/// Measures one thing for so many seconds.
pub(crate) type Slice<'a, B> = Box<dyn FnMut(f64) -> Result<B> + 'a>;

/// In the order of `all`, which come with names.
pub(crate) fn in_turns<B: Best>(
    suite: &Suite,
    mut all: Vec<(&str, Slice<'_, B>)>,
) -> Result<Vec<B>> {
    suite
        .report
        .expect(all.len() as u64 * u64::from(suite.args.rounds));
    let mut best: Vec<Option<B>> = vec![None; all.len()];
    for _ in 0..suite.args.rounds {
        for ((name, measure), best) in all.iter_mut().zip(&mut best) {
            suite.report.step(name);
            thread::sleep(SETTLE);
            let measured = measure(suite.slice())?;
            *best = Some(best.map_or(measured, |best| best.best(measured)));
        }
    }
    Ok(best.into_iter().flatten().collect())
}

/// Records what was measured of calls with `size` bytes each way.
pub(crate) fn record<'a>(
    suite: &Suite,
    size: usize,
    all: impl Iterator<Item = (&'static str, &'a Figures)>,
) {
    for (name, figures) in all {
        suite.report.record(Record {
            what: name.to_owned(),
            size: Some(size),
            p50_us: Some(rounded(figures.p50)),
            p99_us: Some(rounded(figures.p99)),
            ..Record::default()
        });
    }
}
