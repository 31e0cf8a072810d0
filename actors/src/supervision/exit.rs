//! Why an instance of a service ends, and how a handler requests it.

use crate::supervision::current_handler::request_exit;

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
    /// The factory panicked or returned an error, or
    /// [`Lifecycle::started`](crate::Lifecycle::started) panicked.
    #[error("it could not be started: {message}")]
    NotStarted {
        /// The panic's message, or the error's text.
        message: String,
    },
    /// Another service of the agent ended, and the agent's [`Strategy`](crate::Strategy) ties this
    /// one to it.
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

/// Requests that the instance whose serial handler calls this be replaced by a new one once the
/// handler is done, as after a panic; the handler's caller still gets its answer, and waiting
/// requests go to the next instance. The service's [`Restart`](crate::Restart) decides whether
/// there is one, and its limit counts this end like a panic.
///
/// Returns whether the request was noted: it is not outside of a serial handler, nor in a task that
/// the handler spawned, nor in [`serve_once`](crate::PeerAgent::serve_once). A service that was
/// served by value has no factory, so for it the request has no effect.
///
/// ```
/// use slimerpc_actors::{PeerAgent, service};
///
/// struct Model {
///     steps: u32,
/// }
///
/// #[service]
/// impl Model {
///     #[method]
///     fn step(&mut self) -> u32 {
///         self.steps += 1;
///         if self.steps == 3 {
///             slimerpc_actors::restart("the weights are stale");
///         }
///         self.steps
///     }
/// }
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let worker = PeerAgent::builder().local().alias("restart:worker").start().await?;
/// worker.serve_with(|| Model { steps: 0 }).await?;
/// let model = worker.proxy::<Model>(worker.alias()).await?;
/// let mut steps = Vec::new();
/// for _ in 0..5 {
///     steps.push(model.step().await?);
/// }
/// assert_eq!(steps, [1, 2, 3, 1, 2]);
/// # Ok(())
/// # }
/// ```
pub fn restart(why: impl Into<String>) -> bool {
    request_exit(EndCause::Asked { why: why.into() })
}

/// Declares that the instance whose serial handler calls this has done its work. Like [`restart`],
/// but a normal end: a [transient](crate::Restart::transient) service is not started again.
///
/// ```
/// # use slimerpc_actors::service;
/// # struct Job { left: u32 }
/// #[service]
/// impl Job {
///     #[method]
///     fn run(&mut self) -> u32 {
///         self.left -= 1;
///         if self.left == 0 {
///             slimerpc_actors::retire("nothing is left to be done");
///         }
///         self.left
///     }
/// }
/// ```
pub fn retire(why: impl Into<String>) -> bool {
    request_exit(EndCause::Retired { why: why.into() })
}
