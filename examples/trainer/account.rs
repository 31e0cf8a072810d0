//! What is printed in the end.

use std::fmt;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::digits::{Digits, Network, best};
use crate::figures::{Figures, Trained};
use crate::processes::{Row, table};

/// One training and what it came to.
pub(crate) struct Run {
    name: String,
    figures: Figures,
    accuracy: f64,
    hash: u64,
}

/// All of them, a column each; the first is what the others are measured by.
pub(crate) struct Account(pub(crate) Vec<Run>);

const ROWS: &[Row<Run>] = &[
    ("", |run| run.name.clone()),
    ("steps", |run| run.figures.steps.len().to_string()),
    ("steps repeated", |run| run.figures.repeated.to_string()),
    ("workers restarted", |run| run.figures.restarts.to_string()),
    ("seconds in all", |run| {
        format!("{:.2}", run.figures.took.as_secs_f64())
    }),
    ("images/s", |run| {
        let rate = run.figures.images() as f64 / run.figures.took.as_secs_f64();
        format!("{rate:.0}")
    }),
    ("a step", |run| millis(run.each(run.figures.in_steps()))),
    ("  in compute", |run| {
        millis(run.each(run.figures.in_compute()))
    }),
    ("  in communication", |run| {
        millis(run.each(run.in_communication()))
    }),
    ("  communication's part", |run| {
        let part = run.in_communication().as_secs_f64() / run.figures.in_steps().as_secs_f64();
        format!("{:.1} %", 100.0 * part)
    }),
    ("  moved", |run| {
        let moved = run.figures.moved() as f64 / run.figures.steps.len() as f64;
        format!("{:.2} MiB", moved / f64::from(1 << 20))
    }),
    ("loss of the last step", |run| {
        let last = run.figures.steps.last();
        last.map_or("-".to_owned(), |step| format!("{:.6}", step.loss))
    }),
    ("accuracy", |run| format!("{:.5}", run.accuracy)),
    ("hash of the weights", |run| format!("{:016x}", run.hash)),
];

impl Run {
    /// Tries a trained network on images that it has not seen.
    pub(crate) fn new(
        name: String,
        trained: Trained,
        mut network: Network,
        unseen: &Digits,
    ) -> Self {
        let Trained { weights, figures } = trained;
        let mut rest = &weights[..];
        for part in network.parts_mut() {
            let (these, others) = rest.split_at(part.len());
            part.copy_from_slice(these);
            rest = others;
        }
        let scores = network.scores(unseen.pixels());
        let read = scores.iter().map(best).zip(unseen.labels());
        let right = read.filter(|(read, label)| read == *label).count();
        Self {
            name,
            figures,
            accuracy: right as f64 / unseen.len() as f64,
            hash: hash(&weights),
        }
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    fn in_communication(&self) -> Duration {
        let figures = &self.figures;
        figures.in_steps().saturating_sub(figures.in_compute())
    }

    fn each(&self, time: Duration) -> Duration {
        time.div_f64(self.figures.steps.len().max(1) as f64)
    }
}

impl Account {
    /// Whether all came to the same weights, and the same losses on the way.
    pub(crate) fn is_equal(&self) -> bool {
        let bits = |run: &Run| -> Vec<u32> {
            let steps = run.figures.steps.iter();
            steps.map(|step| step.loss.to_bits()).collect()
        };
        let mut runs = self.0.windows(2);
        runs.all(|runs| runs[0].hash == runs[1].hash && bits(&runs[0]) == bits(&runs[1]))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", table(ROWS, &self.0))?;
        let verdict = match self.is_equal() {
            true => "all weights and losses are equal to the bit",
            false => "the weights, or the losses on the way, are NOT equal",
        };
        writeln!(f, "{verdict}")
    }
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn hash(weights: &[f32]) -> u64 {
    let mut hash = Xxh3::new();
    for weight in weights {
        hash.update(&weight.to_le_bytes());
    }
    hash.digest()
}
