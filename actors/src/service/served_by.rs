//! How a state handles the requests of a service.

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use slimerpc::wire::Fault;

use crate::{Request, Service};

/// How state of type `A` handles the requests of a service. `#[service]` implements it.
pub trait ServedBy<A: 'static>: Service {
    /// What parallel methods see of the state; `()` if there are none.
    type Shared: Send + Sync + 'static;

    /// Handles one request, or begins to. The state is owned or borrowed.
    fn dispatch<'state, L: BorrowMut<A> + 'state>(
        state: &Rc<RefCell<L>>,
        method: usize,
        request: Request,
    ) -> Dispatch<'state>;

    /// What parallel methods see of `state`; `None` if there are none.
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

/// The part of a service that its parallel methods see.
///
/// A `#[method(parallel)]` runs on a thread of a pool, beside the serial method that has `&mut
/// self` at the time and beside other parallel ones. Instead of `self` it therefore takes a
/// reference to a part of the service that is `Send + Sync`: the compiler lets both see that part
/// and nothing else.
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
    /// The type that parallel methods take a reference to.
    type Shared: Send + Sync + 'static;

    /// Returns the shared part. It is called when the service is served, and again for each new
    /// instance; until then parallel methods see what the previous instance had shared.
    fn share(&self) -> Arc<Self::Shared>;
}

/// The result of a dispatch.
pub enum Dispatch<'state> {
    /// The request has been handled.
    Done,
    /// The handler panicked, and its caller has been told.
    Panicked,
    /// An async handler has begun. No other serial handler of the instance runs until it is done
    /// (SERIAL-1).
    Running(Pin<Box<dyn Future<Output = Finished> + 'state>>),
}

/// A parallel handler. It does nothing until it is polled.
pub type Parallel = Pin<Box<dyn Future<Output = Finished> + Send>>;

/// The outcome of an async handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// The handler answered.
    Answered,
    /// The handler panicked, and its caller has been told.
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

/// Answers a request for a method that the service does not have.
pub fn unknown_method(request: Request) -> Finished {
    let (service, method) = (request.service().to_owned(), request.method());
    request.fail(Fault::MethodNotFound { service, method });
    Finished::Answered
}
