//! Why a service instance ended.

/// Why a service instance ended or could not start, as events and hooks report it.
///
/// ```no_run
/// # use slimerpc_actors::{AgentEvent, EndCause, PeerAgent};
/// # async fn example(agent: PeerAgent) {
/// let mut events = agent.events();
/// while let Some(event) = events.next().await {
///     match event {
///         AgentEvent::Restarted { service, cause: EndCause::Panicked { message }, restarts } => {
///             println!("{service} panicked ({message}); restart {restarts}");
///         }
///         AgentEvent::GivenUp { service, cause } => println!("{service} is down: {cause}"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndCause {
    /// A serial handler panicked. Its caller got the panic as an error.
    #[error("a handler panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A serial handler [asked for a restart](crate::restart()).
    #[error("a handler asked for a restart: {why}")]
    Asked {
        /// The reason that the handler gave.
        why: String,
    },
    /// A serial handler [said that the instance has done its work](crate::retire).
    #[error("it has done its work: {why}")]
    Retired {
        /// The reason that the handler gave.
        why: String,
    },
    /// The factory panicked or returned an error, or [`Lifecycle::started`](crate::Lifecycle::started) panicked.
    #[error("it could not be started: {message}")]
    NotStarted {
        /// The panic's message, or the error's text.
        message: String,
    },
    /// Another service of the agent ended, and the agent's [`Strategy`](crate::Strategy) ties this one to it.
    #[error("service `{service}` ended")]
    Sibling {
        /// Name of the other service.
        service: String,
    },
}

impl EndCause {
    /// Returns whether this is a normal end.
    pub(crate) fn is_normal(&self) -> bool {
        matches!(self, Self::Retired { .. })
    }
}
