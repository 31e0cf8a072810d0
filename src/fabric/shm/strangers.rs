//! Accepted sockets that have not said yet what they are for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a socket may stay silent. A dialling peer says hello at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a socket may stay silent when the process is out of descriptors.
const PATIENCE_IN_NEED: Duration = Duration::from_millis(500);

/// The silent sockets, in the order in which they came. Some may have spoken or ended since.
#[derive(Debug, Default)]
pub(super) struct Strangers(VecDeque<(Instant, u64)>);

impl Strangers {
    /// Notes that a socket was accepted.
    pub(super) fn add(&mut self, now: Instant, token: u64) {
        self.0.push_back((now, token));
    }

    /// Removes a socket that has been silent for too long; `in_need` of its descriptor, earlier.
    pub(super) fn pop_overdue(&mut self, now: Instant, in_need: bool) -> Option<u64> {
        let patience = if in_need { PATIENCE_IN_NEED } else { PATIENCE };
        let (since, _) = self.0.front()?;
        if now < *since + patience {
            return None;
        }
        self.0.pop_front().map(|(_, token)| token)
    }

    /// When the next socket will have been silent for too long.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(since, _)| *since + PATIENCE)
    }
}
