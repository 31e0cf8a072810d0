//! What a service instance may want to do when it begins and ends.

use slimerpc::panics::contain;

use crate::EndCause;

/// Hooks into the life of a service's instances. Each does nothing unless it is written; a service that has some is served
/// with [`hooks`](crate::Serve::hooks).
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
/// All run on the instance's arbiter, between handlers. A panic in `restarting` or `stopped` is logged and nothing else.
pub trait Lifecycle {
    /// Before its first request. A panic is a failed start.
    fn started(&mut self) {}

    /// The instance has ended and another is to take its place. After a panic `self` may be half changed.
    fn restarting(&mut self, cause: &EndCause) {
        let _ = cause;
    }

    /// The instance has ended and none takes its place: it was given up, or the service or its agent was stopped. Not called
    /// when the process or the actix system ends first; [`shutdown`](crate::PeerAgent::shutdown) does not wait for it.
    fn stopped(&mut self) {}
}

/// The hooks of a type, for where that need not have any.
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
    /// Of a type that has none.
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

/// Does what belongs to the end of an instance, which no panic may keep from ending.
pub(crate) fn guarded(doing: &str, work: impl FnOnce()) {
    if let Err(message) = contain(work) {
        tracing::error!(doing, message, "the end of an instance panicked");
    }
}
