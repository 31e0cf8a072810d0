//! The restart policy of a service: whether, when and how often it is restarted.

use std::time::Duration;

use slimerpc::backoff::Backoff;

use crate::AgentError;

const MAX_RESTARTS: u32 = 100_000;
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What follows when an instance of a service ends by itself.
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
    /// `window`. Failed starts count. Restarts that the agent's [`Strategy`](crate::Strategy)
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
