//! Pauses between attempts.

use std::time::Duration;

/// Pauses that grow. The n-th is `first * factor^(n - 1)`, at most `longest`, minus a random share
/// of up to `jitter`, so that clients that fail together do not return together.
///
/// ```
/// use std::time::Duration;
/// use slimerpc::backoff::Backoff;
///
/// // 1 s, 3 s, 9 s, 10 s, 10 s, ..., each less up to 30 %
/// let backoff = Backoff {
///     first: Duration::from_secs(1),
///     factor: 3.0,
///     longest: Duration::from_secs(10),
///     jitter: 0.3,
/// };
/// assert_eq!(backoff.wait(1, 0.0), Duration::from_secs(3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first pause, 10 ms by default. Zero means no pauses.
    pub first: Duration,
    /// Factor between consecutive pauses: 1 or more, 2 by default.
    pub factor: f64,
    /// The longest pause: up to an hour, 5 s by default.
    pub longest: Duration,
    /// Largest share that is taken off a pause, from 0 to 1; 0.2 by default.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::doubling(Duration::from_millis(10), Duration::from_secs(5)).with_jitter(0.2)
    }
}

impl Backoff {
    /// Pauses that double from `first` to `longest`, without jitter.
    pub const fn doubling(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            factor: 2.0,
            longest,
            jitter: 0.0,
        }
    }

    /// Sets the jitter: a random share of up to `jitter` is taken off each pause.
    pub const fn with_jitter(self, jitter: f64) -> Self {
        Self { jitter, ..self }
    }

    /// The pause after `before` others. `chance`, from 0 to 1, is how much of the jitter is taken
    /// off.
    pub fn wait(&self, before: usize, chance: f64) -> Duration {
        if self.first.is_zero() {
            return Duration::ZERO;
        }
        let power = i32::try_from(before).unwrap_or(i32::MAX);
        let grown = self.first.as_secs_f64() * self.factor.powi(power);
        let whole = grown.min(self.longest.as_secs_f64());
        Duration::try_from_secs_f64(whole * (1.0 - self.jitter * chance))
            .unwrap_or(self.longest)
            .min(self.longest)
    }

    /// Iterates over the pauses of one series of attempts.
    ///
    /// ```
    /// use std::time::Duration;
    /// use slimerpc::backoff::Backoff;
    ///
    /// let [first, longest] = [20, 50].map(Duration::from_millis);
    /// let mut pauses = Backoff::doubling(first, longest).pauses();
    /// let taken = [pauses.take(), pauses.take(), pauses.take(), pauses.take()];
    /// assert_eq!(taken.map(|pause| pause.as_millis()), [20, 40, 50, 50]);
    /// ```
    pub const fn pauses(self) -> Pauses {
        Pauses {
            backoff: self,
            taken: 0,
        }
    }
}

/// The pauses of one series of attempts: see [`Backoff::pauses`].
#[derive(Debug, Clone)]
pub struct Pauses {
    backoff: Backoff,
    taken: usize,
}

impl Pauses {
    /// Takes the next pause, which is longer than the one before it, up to the longest.
    #[must_use]
    pub fn take(&mut self) -> Duration {
        let pause = self.backoff.wait(self.taken, fastrand::f64());
        self.taken = self.taken.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_below_what_they_would_be() {
        let pause = Duration::from_millis(1000);
        let backoff = Backoff::doubling(pause, pause).with_jitter(0.25);
        let pauses: Vec<_> = (0..100).map(|_| backoff.pauses().take()).collect();
        assert!(pauses.iter().all(|it| (pause * 3 / 4..=pause).contains(it)));
        assert!(pauses.iter().any(|it| *it != pauses[0]));
    }

    #[test]
    fn nonsense_gives_the_longest_pause() {
        let usual = Backoff::default();
        for (factor, jitter) in [(-3.0, 0.0), (f64::NAN, 0.0), (2.0, f64::NAN), (2.0, 9.0)] {
            let nonsense = Backoff {
                factor,
                jitter,
                ..usual
            };
            assert_eq!(nonsense.wait(1, 1.0), usual.longest, "{factor}, {jitter}");
        }
        assert_eq!(usual.wait(usize::MAX, 0.0), usual.longest);
    }
}
