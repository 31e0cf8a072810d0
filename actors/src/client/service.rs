//! What callers know of a service, and what they send it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use slimerpc::wire::{PayloadCodec, Signature};

use crate::Caller;

/// What callers know of a service. Implemented by `#[service]`: for the type itself when it stands
/// on an `impl`, for `dyn Trait` when it stands on a trait.
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
    /// Name under which it is served.
    const NAME: &'static str;
    /// Names of its methods in code-point order.
    const METHODS: &'static [&'static str];
    /// For each of them, whether it runs beside the others; see [`Share`](crate::Share).
    const PARALLEL: &'static [bool];
    /// For each of them, whether it gives back a stream of items; see [`StreamCall`].
    const STREAMS: &'static [bool];
    /// For each of them, the types that it takes and gives back.
    ///
    /// Both sides publish or know them, and a call is made only of a method that both declare with
    /// the same types (TYPE-1): of others [`proxy`](crate::PeerAgent::proxy) says so if there are
    /// no more, and a call does ([`MethodMismatch`](crate::RpcError::MethodMismatch)) otherwise.
    /// [`Shape`](slimerpc::wire::Shape) says what of a type is seen: the types' `Deserialize` runs
    /// with values that are made up when a service is served or a proxy is made. One that panics at
    /// a value instead of giving an error is taken to refuse it, but ends a program that is
    /// compiled with `panic = "abort"`. A service that is written by hand has none unless it says
    /// so, and is not checked.
    fn signatures() -> &'static [Signature] {
        &[]
    }
    /// How typed payloads travel between native agents. To and from DLSlime peers it is always
    /// pickle.
    const CODEC: PayloadCodec;
    /// Type with a method for each of the service's, to which [`Proxy`](crate::Proxy) dereferences.
    type Client: Clone + From<Caller> + Send + Sync + 'static;
}

/// A message to a service: the arguments of one of its methods. Implemented by `#[service]`.
pub trait Message: 'static {
    /// The service.
    type Service: Service + ?Sized;
    /// The arguments as they travel: a tuple.
    type Arguments: DeserializeOwned;
    /// The same, borrowed.
    type ArgumentsRef<'a>: Serialize
    where
        Self: 'a;
    /// Place of the method in [`Service::METHODS`].
    const METHOD: usize;
    /// What is sent.
    fn arguments(&self) -> Self::ArgumentsRef<'_>;
    /// From what was received.
    fn from_arguments(arguments: Self::Arguments) -> Self;
}

/// A message that is answered once. Implemented by `#[service]`.
pub trait Call: Message {
    /// What the method returns; `T` of a `Result<T, E>`.
    type Output: Serialize + DeserializeOwned + 'static;
}

/// A message that is answered with a stream of items: the arguments of a `#[method(stream)]`.
/// Implemented by `#[service]`.
pub trait StreamCall: Message {
    /// An item; `T` of a `Result<T, E>`.
    type Item: Serialize + DeserializeOwned + 'static;
}
