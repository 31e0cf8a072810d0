//! What is printed in the end.

use std::fmt;
use std::time::Duration;

use crate::load::Figures;
use crate::processes::{Row, table};
use crate::router::Tally;

/// One run: what its clients saw, and what the router did for that.
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) figures: Figures,
    pub(crate) tally: Tally,
}

/// All runs, a column each; nothing if there was an interrupt before the first.
pub(crate) struct Account(pub(crate) Vec<Run>);

const ROWS: &[Row<Run>] = &[
    ("", |run| run.name.to_owned()),
    ("requests", |run| run.figures.sent.to_string()),
    ("answered", |run| run.figures.answered().to_string()),
    ("retried", |run| run.tally.retried.to_string()),
    ("lost", |run| run.figures.lost().to_string()),
    ("killed", |run| run.tally.killed.to_string()),
    ("restarts", |run| run.tally.restarts.to_string()),
    ("away, longest", |run| {
        millis(run.tally.away.iter().max().copied())
    }),
    ("given up", |run| run.tally.given_up.len().to_string()),
    ("latency p50", |run| millis(run.figures.percentile(50))),
    ("latency p99", |run| millis(run.figures.percentile(99))),
    ("requests/s", |run| {
        let rate = run.figures.answered() as f64 / run.figures.took.as_secs_f64();
        format!("{rate:.0}")
    }),
    ("bit-equal to a single process's", |run| {
        run.figures.equal.to_string()
    }),
    ("accuracy", |run| {
        accuracy(run.figures.right, run.figures.images)
    }),
    ("accuracy of a single process", |run| {
        accuracy(run.figures.right_alone, run.figures.images)
    }),
];

impl Run {
    /// Whether each request was answered, as a single process would have.
    fn is_good(&self) -> bool {
        self.figures.lost() == 0 && self.figures.equal == self.figures.answered()
    }
}

impl Account {
    pub(crate) fn is_good(&self) -> bool {
        self.0.iter().all(Run::is_good)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() {
            writeln!(f, "{}", table(ROWS, &self.0))?;
        }
        let given_up = self.0.iter().flat_map(|run| &run.tally.given_up);
        for reason in given_up {
            writeln!(f, "{reason}")?;
        }
        let failures = self.0.iter().filter_map(|run| run.figures.failure.as_ref());
        for failure in failures {
            writeln!(f, "not answered: {failure}")?;
        }
        Ok(())
    }
}

fn millis(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| {
        format!("{:.2} ms", time.as_secs_f64() * 1000.0)
    })
}

fn accuracy(right: u64, images: u64) -> String {
    if images == 0 {
        return "-".to_owned();
    }
    format!("{:.5}", right as f64 / images as f64)
}
