//! Which services of an agent are restarted together.

/// What becomes of the other services of an agent when an instance of one is restarted; set with
/// [`Builder::strategy`](crate::Builder::strategy). The names are those of Erlang's supervisors.
///
/// Services that were served by value, or one request at a time, have nothing to be made anew from, and take no part.
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
/// worker.serve_with(|| Model).await?; // restarted with the weights, which are not restarted with it
/// # Ok(())
/// # }
/// ```
///
/// Those that are restarted end at the same time, wait out the same pause, and start in the order of serving: the first when
/// all have ended, each further one when the one before it is up. A running async handler of theirs is dropped where it awaits, and its
/// caller gets [`RpcError::ServiceDown`](crate::RpcError::ServiceDown); a sync one is waited for. Requests that wait are kept.
/// Until they hear of the end that causes theirs, a moment after it, they answer as they were. A restart counts towards the limit of the service that caused it alone. When that is given up, the others are, too. One
/// that could not be started is tried again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// They go on.
    #[default]
    OneForOne,
    /// All are restarted.
    OneForAll,
    /// Those are restarted that were served after it.
    RestForOne,
}
