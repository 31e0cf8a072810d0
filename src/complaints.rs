//! Rate-limited warnings about events that another process may cause at will.

use std::fmt;
use std::time::{Duration, Instant};

/// Time between two lines.
const PERIOD: Duration = Duration::from_secs(10);

/// One kind of warning, of which at most one line is logged per period.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: Option<Instant>,
    /// Warnings since the last line.
    unsaid: u64,
}

impl Complaints {
    /// Logs a warning, unless one of this kind was logged a short time ago.
    pub(crate) fn warn(&mut self, now: Instant, what: impl fmt::Display) {
        if let Some(unsaid) = self.is_due(now) {
            tracing::warn!(unsaid, "{what}");
        }
    }

    /// Returns the number of suppressed warnings if a line is due now.
    fn is_due(&mut self, now: Instant) -> Option<u64> {
        let is_due = |last| now.saturating_duration_since(last) >= PERIOD;
        if self.last.is_none_or(is_due) {
            self.last = Some(now);
            return Some(std::mem::take(&mut self.unsaid));
        }
        self.unsaid += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_line_a_period_which_says_how_many_there_were_not() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.is_due(start), Some(0));
        for _ in 0..600_000 {
            assert_eq!(complaints.is_due(start + PERIOD / 2), None);
        }
        assert_eq!(complaints.is_due(start + PERIOD), Some(600_000));
        assert_eq!(complaints.is_due(start + PERIOD), None);
    }
}
