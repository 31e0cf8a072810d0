//! Decides from heartbeats and time whether a peer is stalled: a state machine without I/O.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock::later;

/// How often to send heartbeats, and how long the peer's may stay away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatTiming {
    /// Time between two heartbeats.
    pub interval: Duration,
    /// A peer that has sent no heartbeat for this long is stalled.
    pub detection: Duration,
}

impl HeartbeatTiming {
    /// The silence that is too long. This side notices heartbeats when it sends its own, so the
    /// last one may be a moment younger than the intervals that have passed since; one that is only
    /// a moment late must not count as missing.
    fn patience(&self) -> Duration {
        let spare = self.detection.saturating_sub(self.interval) / 2;
        self.detection - spare.min(self.interval / 10)
    }

    /// When the next heartbeat is due, at most an interval from now. All agents of this host use
    /// the same moments, so that one wake-up serves many heartbeats.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use slimerpc::channel::HeartbeatTiming;
    ///
    /// let [interval, detection] = [500, 1_000].map(Duration::from_millis);
    /// let beat = HeartbeatTiming { interval, detection };
    /// let now = Instant::now();
    /// assert!(beat.next(now) > now && beat.next(now) <= now + beat.interval);
    /// ```
    pub fn next(&self, now: Instant) -> Instant {
        let interval = self.interval.as_nanos().max(1);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let phase = wall.map_or(0, |wall| wall.as_nanos() % interval);
        let wait = u64::try_from(interval - phase).map_or(Duration::MAX, Duration::from_nanos);
        later(now, wait)
    }
}

/// A change in the liveness of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The peer sends no heartbeats, although its end of the connection exists.
    Stalled,
    /// The peer sends heartbeats again.
    Recovered,
}

/// Decides when a peer has stalled, from the heartbeats and times that it is given.
///
/// ```
/// use std::time::{Duration, Instant};
/// use slimerpc::channel::{Change, HeartbeatTiming, Liveness};
///
/// let [interval, detection] = [500, 1_000].map(Duration::from_millis);
/// let beat = HeartbeatTiming { interval, detection };
/// let start = Instant::now();
/// let mut peer = Liveness::new(beat, start);
/// assert_eq!(peer.tick(start + beat.interval), None);
/// assert_eq!(peer.tick(start + 2 * beat.interval), Some(Change::Stalled));
/// assert_eq!(peer.heard(start + 3 * beat.interval), Some(Change::Recovered));
/// ```
#[derive(Debug)]
pub struct Liveness {
    beat: HeartbeatTiming,
    /// When the last heartbeat came, as far as this side could notice.
    heard: Instant,
    ticked: Instant,
    is_stalled: bool,
}

impl Liveness {
    /// Starts with a peer that has just been heard. Call [`tick`](Self::tick) at each interval.
    pub fn new(beat: HeartbeatTiming, now: Instant) -> Self {
        Self {
            beat,
            heard: now,
            ticked: now,
            is_stalled: false,
        }
    }

    /// Handles a heartbeat that came at this time.
    pub fn heard(&mut self, at: Instant) -> Option<Change> {
        self.heard = self.heard.max(at);
        std::mem::take(&mut self.is_stalled).then_some(Change::Recovered)
    }

    /// Returns whether the peer is stalled.
    pub fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    /// Handles an interval that has passed. If it took much longer, this process was not running,
    /// and the excess does not count as the peer's silence.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        let passed = now.saturating_duration_since(self.ticked);
        self.ticked = now;
        if passed > self.beat.interval.saturating_mul(2) {
            self.heard = now.min(self.heard + passed - self.beat.interval);
        }
        let silence = now.saturating_duration_since(self.heard);
        if self.is_stalled || silence < self.beat.patience() {
            return None;
        }
        self.is_stalled = true;
        Some(Change::Stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: HeartbeatTiming = HeartbeatTiming {
        interval: Duration::from_millis(100),
        detection: Duration::from_millis(300),
    };

    #[test]
    fn a_stall_is_told_once_and_so_is_its_end() {
        let start = Instant::now();
        let mut peer = Liveness::new(BEAT, start);
        let stalls: Vec<_> = (1..=10)
            .filter(|n| peer.tick(start + *n * BEAT.interval) == Some(Change::Stalled))
            .collect();
        assert_eq!(stalls, [3]);
        let later = start + 11 * BEAT.interval;
        assert_eq!(peer.heard(later), Some(Change::Recovered));
        assert_eq!(peer.heard(later), None);
        assert_eq!(peer.tick(later + BEAT.interval), None);
    }

    #[test]
    fn a_pause_of_our_own_is_not_held_against_the_peer() {
        let start = Instant::now();
        let mut peer = Liveness::new(BEAT, start);
        assert_eq!(peer.tick(start + BEAT.interval), None);
        let woken = start + Duration::from_secs(3600);
        assert_eq!(peer.tick(woken), None);
        assert_eq!(peer.tick(woken + BEAT.interval), Some(Change::Stalled));
    }

    #[test]
    fn a_pause_of_our_own_does_not_put_off_what_is_noticed_after_it() {
        let start = Instant::now();
        let mut peer = Liveness::new(BEAT, start);
        let woken = start + Duration::from_secs(3600);
        assert_eq!(peer.heard(woken), None);
        assert_eq!(peer.tick(woken), None);
        let stalled = (1..=3).find(|n| peer.tick(woken + *n * BEAT.interval).is_some());
        assert_eq!(stalled, Some(3));
    }

    #[test]
    fn a_sign_of_life_that_comes_a_moment_after_ours_is_none_that_is_missing() {
        let beat = HeartbeatTiming {
            interval: Duration::from_millis(100),
            detection: Duration::from_millis(105),
        };
        let start = Instant::now();
        let mut peer = Liveness::new(beat, start);
        for n in 1..10 {
            let now = start + n * beat.interval;
            assert_eq!(peer.tick(now), None);
            assert_eq!(peer.heard(now + Duration::from_millis(1)), None);
        }
    }

    #[test]
    fn a_clock_that_goes_back_stalls_nobody() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut peer = Liveness::new(BEAT, start);
        assert_eq!(peer.tick(start - Duration::from_secs(5)), None);
        assert_eq!(peer.heard(start - Duration::from_secs(5)), None);
    }
}
