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
    /// Repeats `round` for so many seconds and so many times at least, after once and a fifth of
    /// that time to warm up.
    pub(crate) fn measure<E>(
        seconds: f64,
        at_least: usize,
        round: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        Self::measure_between(seconds, at_least, || (), round)
    }

    /// The same, with a `pause` before each round that does not count.
    pub(crate) fn measure_between<E>(
        seconds: f64,
        at_least: usize,
        mut pause: impl FnMut(),
        mut round: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut samples = Samples::new(seconds, at_least);
        while samples.are_too_few() {
            pause();
            let began = Instant::now();
            round()?;
            samples.took(began);
        }
        Ok(samples.figures())
    }

    /// The same inside a runtime.
    pub(crate) async fn measure_async<E>(
        seconds: f64,
        at_least: usize,
        mut round: impl AsyncFnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut samples = Samples::new(seconds, at_least);
        while samples.are_too_few() {
            let began = Instant::now();
            round().await?;
            samples.took(began);
        }
        Ok(samples.figures())
    }
}

/// How long each round took, in microseconds, the first ones left out.
struct Samples {
    taken: Vec<f64>,
    at_least: usize,
    is_first: bool,
    warm_from: Instant,
    until: Instant,
}

impl Samples {
    fn new(seconds: f64, at_least: usize) -> Self {
        let limit = Duration::from_secs_f64(seconds);
        let warm_from = Instant::now() + limit / 5;
        Self {
            taken: Vec::new(),
            at_least: at_least.max(1),
            is_first: true,
            warm_from,
            until: warm_from + limit,
        }
    }

    fn are_too_few(&self) -> bool {
        self.taken.len() < self.at_least || Instant::now() < self.until
    }

    fn took(&mut self, since: Instant) {
        let took = since.elapsed();
        if !self.is_first && since >= self.warm_from {
            self.taken.push(took.as_secs_f64() * 1e6);
        }
        self.is_first = false;
    }

    fn figures(mut self) -> Figures {
        self.taken.sort_by(f64::total_cmp);
        let at = |part: f64| self.taken[((self.taken.len() - 1) as f64 * part) as usize];
        Figures {
            p50: at(0.5),
            p99: at(0.99),
            longest: at(1.0),
        }
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
