//! How long something took.

use std::time::{Duration, Instant};

/// Median, 99th percentile and longest, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) longest: f64,
}

impl Figures {
    /// Repeats `round` for so many seconds and so many times at least, after once and a fifth of that time to warm up.
    pub(crate) fn measure<E>(
        seconds: f64,
        at_least: usize,
        mut round: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let limit = Duration::from_secs_f64(seconds);
        let warm_up = Instant::now();
        round()?;
        while warm_up.elapsed() < limit / 5 {
            round()?;
        }
        let mut samples = Vec::new();
        let started = Instant::now();
        while started.elapsed() < limit || samples.len() < at_least {
            let began = Instant::now();
            round()?;
            samples.push(began.elapsed().as_secs_f64() * 1e6);
        }
        samples.sort_by(f64::total_cmp);
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
        Ok(Self {
            p50: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
        })
    }
}

/// A number of bytes for people.
pub(crate) fn pretty(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}
