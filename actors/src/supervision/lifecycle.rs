//! The start and the end of a service instance: its hooks, why it ends, and how a handler requests
//! that.

use slimerpc::panics::contain;

use crate::supervision::current_handler::request_exit;

/// Hooks that run when an instance of a service starts, restarts or stops. Each does nothing by
/// default; serve a service that has some with [`hooks`](crate::Serve::hooks).
///
/// ```
/// use slimerpc_actors::{EndCause, Lifecycle, PeerAgent, service};
///
/// struct Model;
///
/// impl Lifecycle for Model {
///     fn started(&mut self) {
///         println!("ready");
///     }
///     fn restarting(&mut self, cause: &EndCause) {
///         println!("another takes over: {cause}");
///     }
/// }
///
/// #[service]
/// impl Model {
///     #[method]
///     fn infer(&mut self, x: f32) -> f32 {
///         x * 2.0
///     }
/// }
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let worker = PeerAgent::builder().local().alias("hooks:worker").start().await?;
/// worker.serve_with(|| Model).hooks().await?;
/// # Ok(())
/// # }
/// ```
///
/// All hooks run on the instance's arbiter, between handlers. A panic in `restarting` or `stopped`
/// is logged and has no other effect.
pub trait Lifecycle {
    /// Runs before the instance's first request. A panic is a failed start.
    fn started(&mut self) {}

    /// Runs when the instance has ended and another will replace it. After a panic `self` may be
    /// half changed.
    fn restarting(&mut self, cause: &EndCause) {
        let _ = cause;
    }

    /// Runs when the instance has ended and no other will replace it: the service was given up, or
    /// the service or its agent was stopped. The hook does not run when the process or the actix
    /// system ends first; [`shutdown`](crate::PeerAgent::shutdown) does not wait for it.
    fn stopped(&mut self) {}
}

/// The hooks of a type, or none: a service type need not implement [`Lifecycle`].
pub(crate) struct Hooks<A> {
    pub(crate) started: fn(&mut A),
    restarting: fn(&mut A, &EndCause),
    stopped: fn(&mut A),
}

impl<A: Lifecycle> Hooks<A> {
    pub(crate) fn of_lifecycle() -> Self {
        Self {
            started: A::started,
            restarting: A::restarting,
            stopped: A::stopped,
        }
    }
}

impl<A> Hooks<A> {
    /// The hooks of a type without [`Lifecycle`].
    pub(crate) fn none() -> Self {
        Self {
            started: |_| {},
            restarting: |_, _| {},
            stopped: |_| {},
        }
    }

    pub(crate) fn restarting(&self, state: &mut A, cause: &EndCause) {
        guarded("restarting", || (self.restarting)(state, cause));
    }

    pub(crate) fn stopped(&self, state: &mut A) {
        guarded("stopped", || (self.stopped)(state));
    }
}

/// Runs work that belongs to the end of an instance, and logs its panic: the instance must end in
/// any case.
pub(crate) fn guarded(doing: &str, work: impl FnOnce()) {
    if let Err(message) = contain(work) {
        tracing::error!(doing, message, "the end of an instance panicked");
    }
}

/// Why a service instance ended or could not start, as events and hooks report it.
///
/// A handler is *serial* if its method is not `parallel`: one serial handler of an instance runs at
/// a time.
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
    /// The factory panicked or returned an error, or [`Lifecycle::started`] panicked.
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
