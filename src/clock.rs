//! Times in the future.

use std::time::{Duration, Instant};

/// Longer than any program runs, and short enough for every clock to add it.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The time `wait` after `now`. A wait beyond the clock's range, such as [`Duration::MAX`], ends
/// after a hundred years.
///
/// ```
/// use std::time::{Duration, Instant};
/// use slimerpc::clock::later;
///
/// let now = Instant::now();
/// assert_eq!(later(now, Duration::from_secs(1)), now + Duration::from_secs(1));
/// assert!(later(now, Duration::MAX) > now + Duration::from_secs(3600));
/// ```
pub fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(NEVER)
}
