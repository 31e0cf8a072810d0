//! Sockets that have been accepted and have not said yet what they are for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a link may say nothing. Who dials says hello at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same where there is no descriptor for others.
const PATIENCE_IN_NEED: Duration = Duration::from_millis(500);

/// The silent ones, in the order in which they came. Some may have spoken or ended since.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<(Instant, u64)>);

impl Strangers {
    /// A link has been accepted.
    pub(super) fn add(&mut self, now: Instant, token: u64) {
        self.0.push_back((now, token));
    }

    /// Forgets one that has been silent for too long; sooner `in_need` of its descriptor.
    pub(super) fn pop_overdue(&mut self, now: Instant, in_need: bool) -> Option<u64> {
        let patience = if in_need { PATIENCE_IN_NEED } else { PATIENCE };
        let (since, _) = self.0.front()?;
        if now < *since + patience {
            return None;
        }
        self.0.pop_front().map(|(_, token)| token)
    }

    /// When the next one will have been silent for too long.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(since, _)| *since + PATIENCE)
    }
}
