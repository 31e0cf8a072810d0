//! What is measured of each peer.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;

use crate::memory;
use crate::support::{Figures, Result};
use crate::table::Report;

/// Round trips for each figure at least.
const LEAST: usize = 10;
/// Of so many calls under way at once the time of the first is taken: looking at the clock takes
/// part of a fast call.
const SAMPLED: u64 = 16;
/// For a peer to start, to be found, and to end.
const SLACK: Duration = Duration::from_secs(60);

/// What is wanted of each peer.
pub(crate) struct Job {
    pub(crate) sizes: Vec<usize>,
    pub(crate) inflight: Vec<usize>,
    pub(crate) seconds: f64,
    pub(crate) device: String,
    pub(crate) python: String,
}

impl Job {
    /// How long a peer may take for all of it.
    pub(crate) fn limit(&self) -> Duration {
        let figures = (self.sizes.len() + self.inflight.len()) as f64;
        SLACK + Duration::from_secs_f64(4.0 * self.seconds * figures)
    }

    pub(crate) fn largest(&self) -> usize {
        self.sizes.iter().copied().max().unwrap_or(0)
    }

    /// That of calls under way at once.
    pub(crate) fn first_size(&self) -> usize {
        self.sizes.first().copied().unwrap_or(0)
    }
}

/// Why a peer, or one row of it, is left out.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Missing(pub(crate) String);

/// One line of figures.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) size: usize,
    pub(crate) inflight: usize,
    /// In microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) calls_per_s: f64,
}

/// Who can be called from a thread that then waits.
pub(crate) trait Echo {
    /// Bytes of a message that are the peer's own and carry none of ours.
    const HEAD: usize = 0;

    /// A round trip: gives back what came back.
    fn echo(&mut self, request: &[u8]) -> Result<impl AsRef<[u8]>>;

    /// Calls in that window until it closes, and waits for those under way.
    fn many(&mut self, request: &[u8], window: &mut Window) -> Result<()>;
}

/// Measures all of the job.
pub(crate) fn all<E: Echo>(job: &Job, echo: &mut E, report: &mut Report) -> Result<()> {
    for &size in &job.sizes {
        if let Err(missing) = memory::check(size, 1) {
            report.skip(size, 1, &missing);
            continue;
        }
        report.begin(size, 1);
        let request = vec![b'x'; size - E::HEAD];
        check(&request, echo.echo(&request)?.as_ref())?;
        report.row(round_trips(size, job.seconds, || {
            match echo.echo(&request)?.as_ref().len() == request.len() {
                true => Ok(()),
                false => Err("a reply has another length than its request".into()),
            }
        })?)?;
    }
    let size = job.first_size();
    let request = vec![b'x'; size - E::HEAD];
    for &inflight in &job.inflight {
        if let Err(missing) = memory::check(size, inflight) {
            report.skip(size, inflight, &missing);
            continue;
        }
        report.begin(size, inflight);
        let mut window = Window::new(inflight, job.seconds);
        match echo.many(&request, &mut window) {
            Ok(()) => report.row(window.row(size))?,
            Err(error) => match error.downcast_ref::<Missing>() {
                Some(missing) => report.skip(size, inflight, missing),
                None => return Err(error),
            },
        }
    }
    Ok(())
}

fn check(request: &[u8], reply: &[u8]) -> Result<()> {
    match request == reply {
        true => Ok(()),
        false => Err("what came back is not what was sent".into()),
    }
}

fn round_trips(size: usize, seconds: f64, mut round: impl FnMut() -> Result<()>) -> Result<Row> {
    let began = Instant::now();
    let mut calls = 0_u64;
    let mut counted = (0, began);
    let Figures { p50, p99, .. } = Figures::measure(seconds, LEAST, || {
        round()?;
        calls += 1;
        if calls < SAMPLED || calls.is_multiple_of(SAMPLED) {
            counted = (calls, Instant::now());
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    let (calls, ended) = counted;
    Ok(Row {
        size,
        inflight: 1,
        p50,
        p99,
        calls_per_s: calls as f64 / (ended - began).as_secs_f64(),
    })
}

/// Calls under way at once, and what they take.
pub(crate) struct Window {
    inflight: usize,
    opened: Instant,
    closes: Instant,
    is_open: bool,
    begun: u64,
    ended: u64,
    samples: Vec<f64>,
    took: Duration,
}

impl Window {
    fn new(inflight: usize, seconds: f64) -> Self {
        let opened = Instant::now();
        Self {
            inflight,
            opened,
            closes: opened + Duration::from_secs_f64(seconds),
            is_open: true,
            begun: 0,
            ended: 0,
            samples: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Whether another call may be made now.
    pub(crate) fn has_room(&self) -> bool {
        self.is_open && self.begun - self.ended < self.inflight as u64
    }

    /// A call is made. What this gives is wanted back by [`ended`](Self::ended).
    pub(crate) fn begun(&mut self) -> Option<Instant> {
        self.begun += 1;
        (self.begun % SAMPLED == 1).then(Instant::now)
    }

    pub(crate) fn ended(&mut self, began: Option<Instant>) {
        self.ended += 1;
        if let Some(began) = began {
            let now = Instant::now();
            self.samples.push((now - began).as_secs_f64() * 1e6);
            self.is_open = now < self.closes;
        }
        if self.begun == self.ended {
            self.took = self.opened.elapsed();
        }
    }

    /// Makes all calls from one task.
    pub(crate) async fn fill<F: Future<Output = Result<()>>>(
        &mut self,
        call: impl Fn() -> F,
    ) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        loop {
            while self.has_room() {
                let (began, call) = (self.begun(), call());
                under_way.push(async move { call.await.map(|()| began) });
            }
            match under_way.next().await {
                Some(began) => self.ended(began?),
                None => return Ok(()),
            }
        }
    }

    fn row(mut self, size: usize) -> Row {
        self.samples.sort_by(f64::total_cmp);
        let last = self.samples.len().saturating_sub(1) as f64;
        let at = |part: f64| self.samples.get((last * part) as usize);
        Row {
            size,
            inflight: self.inflight,
            p50: at(0.5).copied().unwrap_or(f64::NAN),
            p99: at(0.99).copied().unwrap_or(f64::NAN),
            calls_per_s: self.ended as f64 / self.took.as_secs_f64(),
        }
    }
}
