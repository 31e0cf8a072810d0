//! What a service is, to its callers and to the agent that runs it.

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use slimerpc::wire::{PayloadCodec, Signature};

use crate::service::answer::unknown_method;
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
    /// For each of them, whether it runs beside the others; see [`Share`].
    const PARALLEL: &'static [bool];
    /// For each of them, whether it gives back a stream of items; see [`StreamCall`].
    const STREAMS: &'static [bool];
    /// For each of them, the types that it takes and gives back.
    ///
    /// Both sides publish or know them, and a call is made only of a method that both declare with the same types (TYPE-1): of
    /// others [`proxy`](crate::PeerAgent::proxy) says so if there are no more, and a call does
    /// ([`MethodMismatch`](crate::RpcError::MethodMismatch)) otherwise. [`Shape`](slimerpc::wire::Shape) says what of a type is
    /// seen: the types' `Deserialize` runs with values that are made up when a service is served or a proxy is made. One that
    /// panics at a value instead of giving an error is taken to refuse it, but ends a program that is compiled with
    /// `panic = "abort"`. A service that is written by hand has none unless it says so, and is not checked.
    fn signatures() -> &'static [Signature] {
        &[]
    }
    /// How typed payloads travel between native agents. To and from DLSlime peers it is always pickle.
    const CODEC: PayloadCodec;
    /// Type with a method for each of the service's, to which [`Proxy`](crate::Proxy) dereferences.
    type Client: Clone + From<Caller> + Send + Sync + 'static;
}

/// How state of type `A` handles the requests of a service. Implemented by `#[service]`.
pub trait ServedBy<A: 'static>: Service {
    /// What parallel methods see of the state; `()` if there are none.
    type Shared: Send + Sync + 'static;

    /// Handles one request, or begins to. The state is owned or borrowed.
    fn dispatch<'state, L: BorrowMut<A> + 'state>(
        state: &Rc<RefCell<L>>,
        method: usize,
        request: Request,
    ) -> Dispatch<'state>;

    /// What parallel methods see of `state`. `None` if there are none.
    fn share(state: &A) -> Option<Arc<Self::Shared>> {
        let _ = state;
        None
    }

    /// Begins to handle a request for a parallel method.
    fn dispatch_parallel(shared: Arc<Self::Shared>, method: usize, request: Request) -> Parallel {
        let _ = (shared, method);
        Box::pin(async move { unknown_method(request) })
    }
}

/// What a service shares with its parallel methods.
///
/// A `#[method(parallel)]` runs on a thread of a pool, beside the serial method that has `&mut self` at the time and
/// beside other parallel ones. So it takes, instead of `self`, a reference to a part of the service that is
/// `Send + Sync`: that, and that alone, is what the compiler lets both see.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use slimerpc_actors::{Share, service};
///
/// #[derive(Default)]
/// struct Progress {
///     steps: AtomicU64,
/// }
///
/// #[derive(Default)]
/// struct Trainer {
///     progress: Arc<Progress>,
/// }
///
/// impl Share for Trainer {
///     type Shared = Progress;
///     fn share(&self) -> Arc<Progress> {
///         self.progress.clone()
///     }
/// }
///
/// #[service]
/// impl Trainer {
///     #[method]
///     fn step(&mut self) {
///         // .. for seconds ..
///         self.progress.steps.fetch_add(1, Ordering::Relaxed);
///     }
///
///     #[method(parallel)]
///     fn steps(progress: &Progress) -> u64 {
///         progress.steps.load(Ordering::Relaxed)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has parallel methods, but nothing that they could see",
    note = "write `impl Share for {Self}`, whose `type Shared` is what its parallel methods take a reference to"
)]
pub trait Share {
    /// What parallel methods take a reference to.
    type Shared: Send + Sync + 'static;

    /// Asked for when the service is served, and again whenever a factory has made a new instance; until then parallel methods
    /// see what the one before had shared.
    fn share(&self) -> Arc<Self::Shared>;
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

/// A message that is answered with a stream of items: the arguments of a `#[method(stream)]`. Implemented by `#[service]`.
pub trait StreamCall: Message {
    /// An item; `T` of a `Result<T, E>`.
    type Item: Serialize + DeserializeOwned + 'static;
}

/// What a dispatch came to.
pub enum Dispatch<'state> {
    /// The request has been handled.
    Done,
    /// It has been handled by a panic, which its caller has been told.
    Panicked,
    /// An async handler has begun. No other serial handler of the instance runs until it is done (SERIAL-1).
    Running(Pin<Box<dyn Future<Output = Finished> + 'state>>),
}

/// A parallel handler. It does nothing until it is polled.
pub type Parallel = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// How an async handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// It answered.
    Answered,
    /// It panicked; its caller has been told.
    Panicked,
}

impl std::fmt::Debug for Dispatch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Done => "Done",
            Self::Panicked => "Panicked",
            Self::Running(_) => "Running",
        })
    }
}
