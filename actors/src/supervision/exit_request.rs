//! How a handler asks for its instance's end.

use crate::EndCause;
use crate::supervision::current_handler::request_exit;

/// Has the instance whose serial handler calls this replaced by a new one, as after a panic, once the handler is done; its
/// caller gets its answer. Requests that wait go to the next instance. Whether there is one, the service's
/// [`Restart`](crate::Restart) decides, and its limit counts this like a panic.
///
/// Says whether anybody listens: not outside of a serial handler, nor in a task that it spawned, nor in
/// [`serve_once`](crate::PeerAgent::serve_once). For a service that was served by value nothing follows.
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

/// Says that the instance whose serial handler calls this has done its work; as [`restart`], but a normal end: a
/// [transient](crate::Restart::transient) service is not started again after it.
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
