//! How a handler requests the end of its instance.

use crate::EndCause;
use crate::supervision::current_handler::request_exit;

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
