//! Hooks for the start and the end of a service instance.

use slimerpc::panics::contain;

use crate::EndCause;

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
