//! What a service is, to its callers and to the agent that runs it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use slimerpc::wire::PayloadCodec;

use crate::{Caller, Request};

/// What callers know of a service. Implemented by `#[service]`: for the type itself when it stands on an
/// `impl`, for `dyn Trait` when it stands on a trait.
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
    /// How typed payloads travel between native agents. To and from DLSlime peers it is always pickle.
    const CODEC: PayloadCodec;
    /// Type with a method for each of the service's, to which [`Proxy`](crate::Proxy) dereferences.
    type Client: Clone + From<Caller> + Send + Sync + 'static;
}

/// How state of type `A` handles the requests of a service. Implemented by `#[service]`.
pub trait ServedBy<A: 'static>: Service {
    /// Handles one request, or begins to.
    fn dispatch(state: &Rc<RefCell<A>>, method: usize, request: Request) -> Dispatch;
}

/// A message to a service: the arguments of one of its typed methods. Implemented by `#[service]`.
pub trait Call: 'static {
    /// The service.
    type Service: Service + ?Sized;
    /// The arguments as they travel: a tuple.
    type Arguments: DeserializeOwned;
    /// The same, borrowed.
    type ArgumentsRef<'a>: Serialize
    where
        Self: 'a;
    /// What the method returns; `T` of a `Result<T, E>`.
    type Output: Serialize + DeserializeOwned + 'static;
    /// Place of the method in [`Service::METHODS`].
    const METHOD: usize;
    /// What is sent.
    fn arguments(&self) -> Self::ArgumentsRef<'_>;
    /// From what was received.
    fn from_arguments(arguments: Self::Arguments) -> Self;
}

/// What a dispatch came to.
pub enum Dispatch {
    /// The request has been handled.
    Done,
    /// It has been handled by a panic, which its caller has been told.
    Panicked,
    /// An async handler has begun. No other serial handler of the instance runs until it is done (SERIAL-1).
    Running(Pin<Box<dyn Future<Output = Finished>>>),
}

/// How an async handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It answered.
    Answered,
    /// It panicked; its caller has been told.
    Panicked,
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "Done",
            Self::Panicked => "Panicked",
            Self::Running(_) => "Running",
        })
    }
}
