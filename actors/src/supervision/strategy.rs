//! Which services of an agent are restarted together.

/// What happens to the other services of an agent when an instance of one is restarted.
/// [`Builder::strategy`](crate::Builder::strategy) sets it. The names are those of Erlang's
/// supervisors.
///
/// Services that were served by value, or one request at a time, have no factory and take no part.
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
/// The services that are restarted together end at the same time, wait for the same pause, and
/// start in the order of serving: the first when all have ended, each further one when the one
/// before it is up. A running async handler is dropped where it awaits, and its caller gets
/// [`RpcError::ServiceDown`](crate::RpcError::ServiceDown); a sync handler is waited for. Waiting
/// requests are kept. The other services learn of the end a moment after it, and answer as usual
/// until then. A restart counts towards the limit of the service that caused it, and of no other.
/// When that service is given up, so are the others. A service that fails to start is tried again
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The other services go on.
    #[default]
    OneForOne,
    /// All services are restarted.
    OneForAll,
    /// The services that were served after it are restarted.
    RestForOne,
}
