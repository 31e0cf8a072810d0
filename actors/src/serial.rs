//! The state of a service, and its handlers that have it to themselves.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::answer::panic_message;
use crate::ring_context::RequestHandler;
use crate::{Dispatch, Request, ServedBy};

/// Makes the state of an instance, on the instance's own arbiter.
pub(crate) type Factory<A> = Box<dyn FnMut() -> A>;

/// Owns the state and handles the requests of all callers one at a time.
pub(crate) struct Serial<S: ServedBy<A> + ?Sized, A: 'static> {
    state: Rc<RefCell<A>>,
    /// Builds a new state after a panic; without one the old state goes on.
    factory: Option<Factory<A>>,
    /// Where parallel handlers find what they see of the state, if there are some.
    shared: Option<watch::Sender<Arc<S::Shared>>>,
    service: PhantomData<fn(&S)>,
}

impl<S: ServedBy<A> + ?Sized, A: 'static> Serial<S, A> {
    /// Also gives back what the parallel handlers see, if there are some.
    pub(crate) fn new(
        state: A,
        factory: Option<Factory<A>>,
    ) -> (Self, Option<watch::Receiver<Arc<S::Shared>>>) {
        let (shared, seen) = S::share(&state).map(watch::channel).unzip();
        let serial = Self {
            state: Rc::new(RefCell::new(state)),
            factory,
            shared,
            service: PhantomData,
        };
        (serial, seen)
    }

    fn renew(&mut self, state: A) {
        if let (Some(shared), Some(new)) = (&self.shared, S::share(&state)) {
            shared.send_replace(new);
        }
        self.state = Rc::new(RefCell::new(state));
    }
}

impl<S: ServedBy<A> + ?Sized, A: 'static> RequestHandler for Serial<S, A> {
    fn handle(&mut self, request: Request) -> Dispatch<'static> {
        let method = request.method() as usize;
        S::dispatch(&self.state, method, request)
    }

    fn panicked(&mut self) {
        let Some(factory) = &mut self.factory else {
            tracing::warn!(
                service = S::NAME,
                "a handler panicked; the instance goes on with its state"
            );
            return;
        };
        match catch_unwind(AssertUnwindSafe(factory)) {
            Ok(state) => {
                tracing::warn!(
                    service = S::NAME,
                    "a handler panicked; the instance was built anew"
                );
                self.renew(state);
            }
            Err(panic) => {
                let message = panic_message(&*panic);
                tracing::error!(
                    service = S::NAME,
                    message,
                    "the factory panicked; the old state goes on"
                );
            }
        }
    }
}
