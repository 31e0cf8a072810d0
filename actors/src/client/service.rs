//! The contract of a service for its callers, and the messages that they send.

use serde::Serialize;
use serde::de::DeserializeOwned;
use slimerpc::wire::{PayloadCodec, Signature};

use crate::Caller;

/// The contract of a service, as callers need it. `#[service]` implements it: for the type itself
/// when it stands on an `impl`, for `dyn Trait` when it stands on a trait.
///
/// ```
/// use slimerpc_actors::{Service, service};
///
/// #[derive(Default)]
/// struct Calc;
///
/// #[service]
/// impl Calc {
///     #[method]
///     fn mul(&mut self, a: f64, b: f64) -> f64 {
///         a * b
///     }
///     #[method]
///     fn add(&mut self, a: i64, b: i64) -> i64 {
///         a + b
///     }
/// }
///
/// assert_eq!(Calc::NAME, "Calc");
/// assert_eq!(Calc::METHODS, ["add", "mul"]);
/// ```
pub trait Service: 'static {
    /// Name under which the service is served by default.
    const NAME: &'static str;
    /// Names of the methods, in code-point order.
    const METHODS: &'static [&'static str];
    /// For each method, `true` if it runs beside the others; see [`Share`](crate::Share).
    const PARALLEL: &'static [bool];
    /// For each method, `true` if it returns a stream of items; see [`StreamCall`].
    const STREAMS: &'static [bool];
    /// The types that each method takes and returns.
    ///
    /// Both sides know these signatures, and a call is sent only to a method that both declare with
    /// the same types (TYPE-1). If no method is left, [`proxy`](crate::PeerAgent::proxy) fails;
    /// otherwise a call of another method fails with
    /// [`MethodMismatch`](crate::RpcError::MethodMismatch). [`Shape`](slimerpc::wire::Shape) says
    /// what of a type is compared: the types' `Deserialize` runs with made-up values when a service
    /// is served or a proxy is made. One that panics at a value instead of returning an error
    /// counts as refusing it, but ends a program that is compiled with `panic = "abort"`. A service
    /// that is written by hand has no signatures by default, and is not checked.
    fn signatures() -> &'static [Signature] {
        &[]
    }
    /// The codec of typed payloads between native agents. Towards DLSlime peers it is always
    /// pickle.
    const CODEC: PayloadCodec;
    /// The type with a method for each of the service's, to which [`Proxy`](crate::Proxy)
    /// dereferences.
    type Client: Clone + From<Caller> + Send + Sync + 'static;
}

/// A message to a service: the arguments of one of its methods. `#[service]` implements it.
pub trait Message: 'static {
    /// The service that the message is for.
    type Service: Service + ?Sized;
    /// The arguments as they travel: a tuple.
    type Arguments: DeserializeOwned;
    /// The borrowed form of [`Arguments`](Self::Arguments).
    type ArgumentsRef<'a>: Serialize
    where
        Self: 'a;
    /// Index of the method in [`Service::METHODS`].
    const METHOD: usize;
    /// Returns the arguments to send.
    fn arguments(&self) -> Self::ArgumentsRef<'_>;
    /// Makes the message of received arguments.
    fn from_arguments(arguments: Self::Arguments) -> Self;
}

/// A message with one answer. `#[service]` implements it.
pub trait Call: Message {
    /// The result of the method: `T` of a `Result<T, E>`.
    type Output: Serialize + DeserializeOwned + 'static;
}

/// A message that is answered with a stream of items: the arguments of a `#[method(stream)]`.
/// `#[service]` makes the message, named after the method, and implements this for it.
///
/// ```
/// use futures_util::{StreamExt, stream};
/// use slimerpc_actors::{PeerAgent, Stream, StreamCall, service};
///
/// struct Counter;
///
/// #[service]
/// impl Counter {
///     #[method(stream)]
///     fn count(&mut self, to: u32) -> impl Stream<Item = u32> {
///         stream::iter(0..to)
///     }
/// }
///
/// /// Needs of the message only that it opens a stream of numbers.
/// fn number<M: StreamCall<Item = u32>>(message: M) -> M {
///     message
/// }
///
/// # #[actix::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let worker = PeerAgent::builder().local().alias("stream:worker").start().await?;
/// worker.serve(Counter).await?;
/// let counter = worker.proxy::<Counter>("stream:worker").await?;
/// let mut items = counter.stream(number(Count { to: 3 }));
/// while let Some(item) = items.next().await {
///     println!("{}", item?);
/// }
/// # Ok(())
/// # }
/// ```
pub trait StreamCall: Message {
    /// An item of the stream: `T` of a `Result<T, E>`.
    type Item: Serialize + DeserializeOwned + 'static;
}
