//! A running service.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::answer::panic_message;
use crate::mailboxes::{Mailboxes, SharedMailboxes};
use crate::ring_context::{Ending, RingActor, RingContext};
use crate::{Dispatch, Request, ServedBy};
use actix::{Actor, ActorContext, Handler, Message, ResponseFuture};

/// Makes the state of an instance, on the instance's own arbiter.
pub(crate) type Factory<A> = Box<dyn FnMut() -> A>;

/// A service instance: an actor that owns the state and handles the requests of all callers one at a time.
pub(crate) struct Instance<S: ?Sized, A> {
    state: Rc<RefCell<A>>,
    /// Builds a new state after a panic; without one the old state goes on.
    factory: Option<Factory<A>>,
    mailboxes: SharedMailboxes,
    ending: Rc<Ending>,
    service: PhantomData<fn(&S)>,
}

impl<S: ServedBy<A> + ?Sized, A: 'static> Instance<S, A> {
    pub(crate) fn new(
        state: A,
        factory: Option<Factory<A>>,
        mailboxes: SharedMailboxes,
        ending: Rc<Ending>,
    ) -> Self {
        Self {
            ending,
            state: Rc::new(RefCell::new(state)),
            factory,
            mailboxes,
            service: PhantomData,
        }
    }
}

impl<S: ServedBy<A> + ?Sized, A: 'static> Actor for Instance<S, A> {
    type Context = RingContext<Self>;
}

impl<S: ServedBy<A> + ?Sized, A: 'static> RingActor for Instance<S, A> {
    fn handle(&mut self, request: Request) -> Dispatch {
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
                self.state = Rc::new(RefCell::new(state));
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

/// Work on the instance's mailboxes, done between two of its requests: letting callers in and dismissing them.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct WithMailboxes(pub(crate) Box<dyn FnOnce(&mut Mailboxes) + Send>);

impl<S: ServedBy<A> + ?Sized, A: 'static> Handler<WithMailboxes> for Instance<S, A> {
    type Result = ();

    fn handle(&mut self, work: WithMailboxes, _: &mut RingContext<Self>) {
        work.0(&mut self.mailboxes.borrow_mut());
    }
}

/// Has the instance answer what it has and take nothing more; answered when that is done.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

impl<S: ServedBy<A> + ?Sized, A: 'static> Handler<Drain> for Instance<S, A> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, _: &mut RingContext<Self>) -> Self::Result {
        let ended = self.ending.begin();
        Box::pin(async move {
            // An error says that it has ended already.
            let _ = ended.await;
        })
    }
}

/// Ends the instance.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop;

impl<S: ServedBy<A> + ?Sized, A: 'static> Handler<Stop> for Instance<S, A> {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut RingContext<Self>) {
        context.stop();
    }
}
