//! The factory that makes the instances of a service.

use std::fmt;

use slimerpc::panics::contain;

use crate::{AgentError, EndCause};

/// Tells a factory about the instance that it is to make; see
/// [`PeerAgent::serve_from`](crate::PeerAgent::serve_from).
pub struct Start<A> {
    previous: Option<A>,
    cause: Option<EndCause>,
    restarts: u64,
}

impl<A> Start<A> {
    /// The start of the first instance.
    pub(crate) fn first() -> Self {
        Self::again(None, None, 0)
    }

    pub(crate) fn again(previous: Option<A>, cause: Option<EndCause>, restarts: u64) -> Self {
        Self {
            previous,
            cause,
            restarts,
        }
    }

    /// Takes the instance that the new one replaces, once. After a panic it may be half changed:
    /// reuse only those parts that are certainly intact. A factory that fails without taking the
    /// instance finds it again at the next attempt.
    pub fn take_previous(&mut self) -> Option<A> {
        self.previous.take()
    }

    /// Why the previous instance ended, or why the start before this one failed; `None` for the
    /// first instance.
    pub fn cause(&self) -> Option<&EndCause> {
        self.cause.as_ref()
    }

    /// Returns how often the service has been restarted, this time included: 0 for the first
    /// instance.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }
}

impl<A> fmt::Debug for Start<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("cause", &self.cause)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

/// Makes the states of instances, each on the instance's own arbiter.
pub(crate) struct Factory<A> {
    pub(crate) make: Box<Make<A>>,
    /// Whether the factory is given the state that it made before.
    pub(crate) hands_over: bool,
}

type Make<A> = dyn FnMut(&mut Start<A>) -> Result<A, String>;

/// Runs a factory, and turns its error or panic into [`NotMade`].
pub(crate) fn made<T>(make: impl FnOnce() -> Result<T, String>) -> Result<T, NotMade> {
    contain(make)
        .map_err(NotMade::Panicked)?
        .map_err(NotMade::Failed)
}

/// Why a factory has made no instance.
#[derive(Debug)]
pub(crate) enum NotMade {
    Panicked(String),
    /// The factory returned this error.
    Failed(String),
}

impl NotMade {
    /// The error for the caller that serves the service.
    pub(crate) fn of_first(self, service: &str) -> AgentError {
        let service = service.to_owned();
        match self {
            Self::Panicked(message) => AgentError::FactoryPanicked { service, message },
            Self::Failed(message) => AgentError::FactoryFailed { service, message },
        }
    }
}

impl From<NotMade> for EndCause {
    fn from(not_made: NotMade) -> Self {
        let (NotMade::Panicked(message) | NotMade::Failed(message)) = not_made;
        Self::NotStarted { message }
    }
}
