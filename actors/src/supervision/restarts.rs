//! Decides whether and when a service is restarted: a state machine that is told the time.
//!
//! - At most `max_restarts` restarts begin within any window.
//! - Between the end of an instance and the next start lies the pause of
//!   [`Backoff`](crate::Backoff).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::supervision::restart::Kind;
use crate::{EndCause, Restart};

/// The recent restarts of one service.
#[derive(Debug)]
pub(crate) struct Restarts {
    policy: Restart,
    /// When the restarts began that may still be within the window.
    begun: VecDeque<Instant>,
}

/// The answer to the end of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Start another instance after this time.
    RestartAfter(Duration),
    /// Give the service up: there have been too many restarts.
    TooMany,
    /// Start no other instance: the policy does not restart after such an end.
    Over,
}

impl Restarts {
    pub(crate) fn new(policy: Restart) -> Self {
        Self {
            policy,
            begun: VecDeque::new(),
        }
    }

    /// Returns whether the service is never restarted.
    pub(crate) fn is_temporary(&self) -> bool {
        self.policy.is_temporary()
    }

    /// Decides what follows an instance's end or a failed start. `chance` is from 0 to 1.
    pub(crate) fn decide(
        &mut self,
        cause: &EndCause,
        now: Instant,
        chance: f64,
    ) -> RestartDecision {
        let is_restarted = match self.policy.kind {
            Kind::Permanent => true,
            Kind::Transient => !cause.is_normal(),
            Kind::Temporary => false,
        };
        if !is_restarted {
            return RestartDecision::Over;
        }
        self.forget_before(now);
        if self.begun.len() >= self.policy.max_restarts as usize {
            return RestartDecision::TooMany;
        }
        RestartDecision::RestartAfter(self.policy.backoff.wait(self.begun.len(), chance))
    }

    /// Notes that a granted restart begins.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.begun.push_back(now);
    }

    fn forget_before(&mut self, now: Instant) {
        let window = self.policy.window;
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= window;
        while self.begun.front().is_some_and(is_old) {
            self.begun.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::Backoff;

    fn panicked() -> EndCause {
        let message = String::new();
        EndCause::Panicked { message }
    }

    #[test]
    fn what_follows_depends_on_the_kind_and_the_cause() {
        let retired = EndCause::Retired { why: String::new() };
        let asked = EndCause::Asked { why: String::new() };
        let now = Instant::now();
        let is_restarted = |policy, cause: &EndCause| {
            matches!(
                Restarts::new(policy).decide(cause, now, 0.0),
                RestartDecision::RestartAfter(_)
            )
        };
        for (policy, expected) in [
            (Restart::permanent(), [true, true, true]),
            (Restart::transient(), [true, true, false]),
            (Restart::temporary(), [false, false, false]),
        ] {
            let found = [&panicked(), &asked, &retired].map(|c| is_restarted(policy.clone(), c));
            assert_eq!(found, expected, "{policy:?}");
        }
    }

    #[test]
    fn the_window_slides() {
        let window = Duration::from_secs(10);
        let backoff = Backoff {
            first: Duration::ZERO,
            ..Backoff::default()
        };
        let mut restarts = Restarts::new(Restart::permanent().limit(2, window).backoff(backoff));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        restarts.begin(at(0));
        restarts.begin(at(4));
        assert_eq!(
            restarts.decide(&panicked(), at(9), 0.0),
            RestartDecision::TooMany
        );
        let granted = RestartDecision::RestartAfter(Duration::ZERO);
        assert_eq!(restarts.decide(&panicked(), at(10), 0.0), granted);
        restarts.begin(at(10));
        assert_eq!(
            restarts.decide(&panicked(), at(13), 0.0),
            RestartDecision::TooMany
        );
    }

    fn any_policy() -> impl Strategy<Value = Restart> {
        (
            1_u32..6,
            1_u64..5_000,
            0_u64..200,
            1.0..8.0,
            0_u64..2_000,
            0.0..=1.0,
        )
            .prop_map(|(max, window, first, factor, more, jitter)| {
                let first = Duration::from_millis(first);
                let longest = first + Duration::from_millis(more);
                Restart::permanent()
                    .limit(max, Duration::from_millis(window))
                    .backoff(Backoff {
                        first,
                        factor,
                        longest,
                        jitter,
                    })
            })
    }

    proptest! {
        #[test]
        fn never_more_than_max_in_any_window_and_waits_within_bounds(
            policy in any_policy(),
            // How long each instance lives, how late its restart begins, and what chance says.
            lives in proptest::collection::vec((0_u64..1_500, 0_u64..30, 0.0..1.0), 1..80),
        ) {
            let mut restarts = Restarts::new(policy.clone());
            let mut now = Instant::now();
            let mut begun: Vec<Instant> = Vec::new();
            for (life, late, chance) in lives {
                now += Duration::from_millis(life);
                let within = |at: &&Instant| now.duration_since(**at) < policy.window;
                let recent = begun.iter().filter(within).count();
                match restarts.decide(&panicked(), now, chance) {
                    RestartDecision::RestartAfter(wait) => {
                        let longest = policy.backoff.wait(recent, 0.0);
                        prop_assert!(wait <= longest && longest <= policy.backoff.longest);
                        let share = 1.0 - policy.backoff.jitter;
                        prop_assert!(wait.as_secs_f64() >= longest.as_secs_f64() * share - 1e-9);
                        now += wait + Duration::from_millis(late);
                        restarts.begin(now);
                        begun.push(now);
                    }
                    RestartDecision::TooMany => prop_assert_eq!(recent, policy.max_restarts as usize),
                    RestartDecision::Over => prop_assert!(false, "permanent"),
                }
            }
            for at in &begun {
                let within = |other: &&Instant| *other >= at && other.duration_since(*at) < policy.window;
                let together = begun.iter().filter(within).count();
                prop_assert!(together <= policy.max_restarts as usize, "{together} restarts");
            }
        }
    }
}
