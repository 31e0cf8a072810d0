//! Requests, one after the other from several clients at once, and what came back.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::Addr;
use futures_util::future::join_all;

use crate::digits::{Digits, Network, best};
use crate::processes::{Interrupt, Progress};
use crate::resend::Repeat;
use crate::router::{Infer, RouteError, Router, Strike};
use crate::runner::Scores;

/// Of the images, how far the next batch begins after the last.
const STRIDE: usize = 8;

/// A request, and what a single process answers to it.
pub(crate) struct Batch {
    pixels: Arc<[u8]>,
    labels: Vec<u8>,
    expected: Scores,
}

/// Who asks what.
pub(crate) struct Load {
    pub(crate) router: Addr<Router>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) clients: usize,
    pub(crate) requests: u32,
    pub(crate) interrupt: Interrupt,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) sent: u64,
    /// Sorted at the end.
    pub(crate) latencies: Vec<Duration>,
    /// Answers that are to the bit what a single process says.
    pub(crate) equal: u64,
    pub(crate) images: u64,
    /// Images that were read right, and that a single process reads right.
    pub(crate) right: u64,
    pub(crate) right_alone: u64,
    pub(crate) took: Duration,
    /// Why a request has no answer; the first reason.
    pub(crate) failure: Option<RouteError>,
}

impl Batch {
    /// All that there are of `size` images; each is read here first.
    pub(crate) fn all(digits: &Digits, size: usize, network: &Network) -> Vec<Self> {
        let starts = (0..digits.len()).step_by(STRIDE);
        let batch = |start| {
            let numbers = (start..start + size).map(|number| number % digits.len());
            let images = digits.select(numbers);
            Self {
                pixels: images.pixels().into(),
                labels: images.labels().to_vec(),
                expected: network.scores(images.pixels()),
            }
        };
        starts.map(batch).collect()
    }

    fn right(&self, scores: &Scores) -> u64 {
        let read = scores.iter().map(best).zip(&self.labels);
        read.filter(|(read, label)| read == *label).count() as u64
    }

    fn is_equal(&self, scores: &Scores) -> bool {
        let bits = |scores: &Scores| -> Vec<u32> {
            scores
                .iter()
                .flatten()
                .map(|score| score.to_bits())
                .collect()
        };
        bits(scores) == bits(&self.expected)
    }
}

impl Figures {
    pub(crate) fn answered(&self) -> u64 {
        self.latencies.len() as u64
    }

    /// Requests that were sent and have no answer.
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.answered()
    }

    /// The latency that so many of a hundred requests did not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get(last * percent / 100).copied()
    }

    fn answer(&mut self, batch: &Batch, scores: &Scores, latency: Duration) {
        self.latencies.push(latency);
        self.equal += u64::from(batch.is_equal(scores));
        self.images += batch.labels.len() as u64;
        self.right += batch.right(scores);
        self.right_alone += batch.right(&batch.expected);
    }
}

impl Load {
    /// Sends all requests, or those until an interrupt or until nobody is left to answer; waits for
    /// their answers. Meanwhile has a worker killed every `kill_every`.
    pub(crate) async fn run(&self, kill_every: Option<Duration>, progress: &Progress) -> Figures {
        let started = Instant::now();
        let figures = Rc::new(RefCell::new(Figures::default()));
        let next = Cell::new(0);
        let clients = (0..self.clients).map(|_| self.client(&next, &figures, progress));
        tokio::select! {
            _ = join_all(clients) => {}
            () = self.strike(kill_every, &next) => {}
        }
        let mut figures = figures.take();
        figures.took = started.elapsed();
        figures.latencies.sort_unstable();
        figures
    }

    /// Sends a request when the last is answered.
    async fn client(&self, next: &Cell<u32>, figures: &RefCell<Figures>, progress: &Progress) {
        while next.get() < self.requests && !self.interrupt.is_asked() {
            let batch = &self.batches[next.get() as usize % self.batches.len()];
            next.set(next.get() + 1);
            let sent = Instant::now();
            figures.borrow_mut().sent += 1;
            let infer = Infer {
                pixels: batch.pixels.clone(),
                repeat: Repeat::Harmless,
            };
            let answer = self.router.send(infer).await;
            match answer.unwrap_or(Err(RouteError::Ended)) {
                Ok(scores) => {
                    figures.borrow_mut().answer(batch, &scores, sent.elapsed());
                    progress.step();
                }
                Err(error) => {
                    let nobody_is_left =
                        matches!(error, RouteError::NoWorkers { .. } | RouteError::Ended);
                    figures.borrow_mut().failure.get_or_insert(error);
                    if nobody_is_left {
                        next.set(self.requests);
                    }
                }
            }
        }
    }

    /// Kills workers, as long as there are requests to come which need them.
    async fn strike(&self, every: Option<Duration>, next: &Cell<u32>) {
        while let Some(every) = every {
            tokio::time::sleep(every).await;
            if next.get() == self.requests || self.interrupt.is_asked() {
                break;
            }
            if self.router.send(Strike).await.is_err() {
                break;
            }
        }
        std::future::pending().await
    }
}
