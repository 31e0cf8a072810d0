//! Decides whether, when and how often a service is restarted: the policy that users set
//! ([`Restart`]), which services are restarted together ([`Strategy`]), and the decision, a state
//! machine that is told the time ([`Restarts`]).
//!
//! - At most `max_restarts` restarts begin within any window.
//! - Between the end of an instance and the next start lies the pause of
//!   [`Backoff`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slimerpc::backoff::Backoff;

use crate::{AgentError, EndCause};

const MAX_RESTARTS: u32 = 100_000;
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// The restart policy of a service: it decides what follows when an instance ends by itself.
/// [`Serve::restart`](crate::Serve::restart) takes it. The names are those of Erlang's supervisors.
///
/// An instance ends by itself when a serial handler panics, [asks for a restart](crate::restart())
/// or [retires](crate::retire). A panic of a parallel method answers its caller and ends nothing,
/// because such a method has no `&mut self` that it could leave half changed.
///
/// | | after a panic or `restart(why)` | after `retire(why)` |
/// | --- | --- | --- |
/// | [`permanent`](Self::permanent) (default with a factory) | restarted | restarted |
/// | [`transient`](Self::transient) | restarted | given up |
/// | [`temporary`](Self::temporary) | given up | given up |
///
/// A restart first waits for its [`backoff`](Self::backoff). Requests wait with it, and none runs
/// twice. When a restart would exceed the [`limit`](Self::limit) within the window, the service is
/// given up instead. It stays listed as down until it is [stopped](crate::ServiceHandle::stop);
/// calls end with [`RpcError::ServiceDown`](crate::RpcError::ServiceDown) at once, and new proxies
/// are refused with [`Mismatch::ServiceDown`](crate::Mismatch::ServiceDown).
///
/// ```
/// use std::time::Duration;
/// use slimerpc_actors::{Backoff, Restart};
///
/// let restart = Restart::transient()
///     .limit(3, Duration::from_secs(60))
///     .backoff(Backoff { first: Duration::from_millis(100), ..Backoff::default() });
/// # let _ = restart;
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "it is a setting of `Serve`"]
pub struct Restart {
    pub(crate) kind: Kind,
    pub(crate) max_restarts: u32,
    pub(crate) window: Duration,
    pub(crate) backoff: Backoff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Permanent,
    Transient,
    Temporary,
}

impl Default for Restart {
    /// Returns [`permanent`](Self::permanent).
    fn default() -> Self {
        Self::permanent()
    }
}

impl Restart {
    /// Restarts the service whenever an instance ends, at most 10 times within a minute.
    pub fn permanent() -> Self {
        Self {
            kind: Kind::Permanent,
            max_restarts: 10,
            window: Duration::from_secs(60),
            backoff: Backoff::default(),
        }
    }

    /// Restarts the service unless an instance [retires](crate::retire), at most 10 times within a
    /// minute.
    pub fn transient() -> Self {
        Self {
            kind: Kind::Transient,
            ..Self::permanent()
        }
    }

    /// Never restarts the service.
    pub fn temporary() -> Self {
        Self {
            kind: Kind::Temporary,
            ..Self::permanent()
        }
    }

    /// Gives the service up instead of restarting it more than `max_restarts` times within any
    /// `window`. Failed starts count. Restarts that the agent's [`Strategy`]
    /// causes along with another service do not. Serving refuses a limit that cannot be reached
    /// because of the backoff.
    pub fn limit(mut self, max_restarts: u32, window: Duration) -> Self {
        self.max_restarts = max_restarts;
        self.window = window;
        self
    }

    /// Sets the pauses before restarts: the n-th restart within the window of the
    /// [limit](Self::limit) waits for the n-th pause.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.kind == Kind::Temporary
    }

    /// Refuses settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        if self.is_temporary() {
            return Ok(());
        }
        if !(1..=MAX_RESTARTS).contains(&self.max_restarts) {
            let allowed = format!("1 to {MAX_RESTARTS}; what is not to restart is `temporary`");
            return refuse("max_restarts", self.max_restarts, &allowed);
        }
        if self.window.is_zero() || self.window > MAX_WINDOW {
            let allowed = "restarts are counted over more than no time, and no more than a day";
            return refuse("window", format!("{:?}", self.window), allowed);
        }
        check_backoff(&self.backoff)?;
        self.check_limit_can_be_reached()
    }

    /// Refuses a backoff that spreads restarts so far apart that the window never holds enough of
    /// them: the service would be restarted for ever.
    fn check_limit_can_be_reached(&self) -> Result<(), AgentError> {
        let mut apart = Duration::ZERO;
        for before in 1..self.max_restarts {
            apart += self.backoff.wait(before as usize, 1.0);
            if apart >= self.window {
                let allowed = format!(
                    "with this backoff {} restarts take {apart:?} or more, so that the limit of {} within {:?} would never \
                     be reached; take a longer window, fewer restarts or a shorter backoff",
                    before + 1,
                    self.max_restarts,
                    self.window
                );
                return refuse("max_restarts", self.max_restarts, &allowed);
            }
        }
        Ok(())
    }
}

fn check_backoff(backoff: &Backoff) -> Result<(), AgentError> {
    if !(backoff.factor >= 1.0 && backoff.factor.is_finite()) {
        let allowed = "a restart waits as long as the one before it, or longer: 1 or more";
        return refuse("backoff.factor", backoff.factor, allowed);
    }
    if !(0.0..=1.0).contains(&backoff.jitter) {
        let allowed = "it is the share of the wait that is left to chance, from 0 to 1";
        return refuse("backoff.jitter", backoff.jitter, allowed);
    }
    if backoff.longest > MAX_WAIT {
        let allowed = "callers would wait for hours; an hour is allowed";
        return refuse("backoff.longest", format!("{:?}", backoff.longest), allowed);
    }
    if backoff.first > backoff.longest {
        let allowed = format!("no wait exceeds backoff.longest, {:?}", backoff.longest);
        return refuse("backoff.first", format!("{:?}", backoff.first), &allowed);
    }
    Ok(())
}

fn refuse(name: &'static str, value: impl ToString, allowed: &str) -> Result<(), AgentError> {
    Err(AgentError::Setting {
        name: name.into(),
        value: value.to_string(),
        allowed: allowed.to_owned(),
    })
}

/// Decides which other services of an agent are restarted along with one.
/// [`Builder::strategy`](crate::Builder::strategy) sets it. The names are those of Erlang's
/// supervisors.
///
/// Services that were served by value, or one request at a time, have no factory and take no part.
///
/// ```no_run
/// # use slimerpc_actors::{AgentError, PeerAgent, Strategy, service};
/// # struct Weights;
/// # #[service]
/// # impl Weights { #[method] fn load(&mut self) {} }
/// # struct Model;
/// # #[service]
/// # impl Model { #[method] fn step(&mut self) {} }
/// # async fn example() -> Result<(), AgentError> {
/// let worker = PeerAgent::builder().strategy(Strategy::RestForOne).start().await?;
/// worker.serve_with(|| Weights).await?;
/// // Restarted with the weights, which are not restarted with it.
/// worker.serve_with(|| Model).await?;
/// # Ok(())
/// # }
/// ```
///
/// The services that are restarted together end at the same time, wait for the same pause, and
/// start in the order of serving: the first when all have ended, each further one when the one
/// before it is up. A running async handler is dropped where it awaits, and its caller gets
/// [`RpcError::ServiceDown`](crate::RpcError::ServiceDown); a sync handler is waited for. Waiting
/// requests are kept. The other services learn of the end a moment after it, and answer as usual
/// until then. A restart counts towards the limit of the service that caused it, and of no other.
/// When that service is given up, so are the others. A service that fails to start is tried again
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The other services go on.
    #[default]
    OneForOne,
    /// All services are restarted.
    OneForAll,
    /// The services that were served after it are restarted.
    RestForOne,
}

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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nonsense_is_refused_with_what_is_allowed() {
        let second = Duration::from_secs(1);
        let with = |backoff| Restart::permanent().backoff(backoff);
        let usual = Backoff::default();
        let nonsense = [
            (Restart::permanent().limit(0, second), "`temporary`"),
            (Restart::permanent().limit(100_001, second), "1 to 100000"),
            (Restart::transient().limit(1, Duration::ZERO), "no time"),
            (Restart::transient().limit(1, Duration::MAX), "a day"),
            (Restart::permanent().limit(100, second), "longer window"),
            (
                with(Backoff {
                    factor: 0.5,
                    ..usual
                }),
                "1 or more",
            ),
            (
                with(Backoff {
                    factor: f64::NAN,
                    ..usual
                }),
                "1 or more",
            ),
            (
                with(Backoff {
                    factor: f64::INFINITY,
                    ..usual
                }),
                "1 or more",
            ),
            (
                with(Backoff {
                    jitter: 1.1,
                    ..usual
                }),
                "from 0 to 1",
            ),
            (
                with(Backoff {
                    jitter: f64::NAN,
                    ..usual
                }),
                "from 0 to 1",
            ),
            (
                with(Backoff {
                    longest: Duration::MAX,
                    ..usual
                }),
                "an hour",
            ),
            (
                with(Backoff {
                    first: second * 6,
                    ..usual
                }),
                "5s",
            ),
        ];
        for (restart, allowed) in nonsense {
            let error = restart.check().unwrap_err();
            assert!(matches!(error, AgentError::Setting { .. }), "{error}");
            assert!(error.to_string().contains(allowed), "{error}");
        }
    }

    #[test]
    fn the_defaults_make_sense() {
        for restart in [
            Restart::permanent(),
            Restart::transient(),
            Restart::temporary(),
            Restart::permanent().limit(1, Duration::from_nanos(1)),
            Restart::permanent().backoff(Backoff {
                first: Duration::ZERO,
                ..Backoff::default()
            }),
        ] {
            restart.check().unwrap();
        }
    }
}

#[cfg(test)]
mod decision_tests {
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
