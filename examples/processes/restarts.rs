//! When a worker that ended is started again, and when not any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Restarts after lives that were good for nothing, within [`WINDOW`]; one more, and the worker is
/// given up.
pub(crate) const LIMIT: usize = 5;
/// Wide enough for that many starts that each take as long as they may.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Doubled after each useless life.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The restarts of one worker.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    /// When lives ended in which nothing had been answered.
    useless: VecDeque<Instant>,
}

impl Restarts {
    /// How long to wait before the next life, or that there shall be none. A worker that
    /// `was_useful`, one that answered something, died of something else than itself: it is started
    /// again at once.
    pub(crate) fn after(&mut self, was_useful: bool, now: Instant) -> Option<Duration> {
        if was_useful {
            self.useless.clear();
            return Some(Duration::ZERO);
        }
        self.useless
            .retain(|&ended| now.duration_since(ended) < WINDOW);
        self.useless.push_back(now);
        let doublings = self.useless.len() - 1;
        (doublings < LIMIT).then(|| FIRST_PAUSE * (1 << doublings))
    }
}
