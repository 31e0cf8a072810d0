//! The state of a service, with the handlers that have it to themselves.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use slimerpc::panics::contain;
use tokio::sync::watch;

use crate::service::dispatch::dispatch;
use crate::service::instance::InstanceCommand;
use crate::service::ring_context::{Readiness, RequestHandler};
use crate::supervision::factory::{Factory, NotMade, Start, made};
use crate::supervision::lifecycle::{Hooks, guarded};
use crate::{Dispatch, EndCause, Request, ServedBy};

/// Reports to the supervisor that the instance with this number has ended by itself, and why.
pub(crate) type Report = Box<dyn Fn(u64, EndCause)>;

/// The source of a service's state.
pub(crate) enum StateSource<A> {
    /// A value: there is no second one.
    Value(A),
    Factory(Factory<A>),
}

/// Owns the state and handles the requests of all callers one at a time.
pub(crate) struct Serial<S: ServedBy<A> + ?Sized, A: 'static> {
    life: InstanceLife<A>,
    /// Number of the start, from 0.
    number: u64,
    factory: Option<Factory<A>>,
    hooks: Hooks<A>,
    /// Without a supervisor to report to, the instance goes on with its state, whatever happens.
    report: Option<Report>,
    /// Publishes what parallel handlers see of the state, if there are such handlers.
    shared: Option<watch::Sender<Arc<S::Shared>>>,
    service: PhantomData<fn(&S)>,
}

enum InstanceLife<A> {
    Up(Rc<RefCell<A>>),
    /// The instance has ended by itself. It keeps its state until the supervisor has decided what
    /// follows: other services may have to end first.
    Ended(Rc<RefCell<A>>),
    /// The instance is gone, and another will follow; its factory may be given this state.
    Between(Option<A>),
    /// The instance is gone, and no other will follow.
    Down,
}

/// No part of it is structurally pinned.
impl<S: ServedBy<A> + ?Sized, A: 'static> Unpin for Serial<S, A> {}

/// Where parallel handlers find what they see of the state, if there are such handlers.
pub(crate) type Seen<T> = Option<watch::Receiver<Arc<T>>>;

impl<S: ServedBy<A> + ?Sized, A: 'static> Serial<S, A> {
    /// Starts the first instance.
    pub(crate) fn start(
        source: StateSource<A>,
        hooks: Hooks<A>,
        report: Option<Report>,
    ) -> Result<(Self, Seen<S::Shared>), NotMade> {
        let ((state, shared), factory) = match source {
            StateSource::Value(state) => (ready::<S, A>(state, &hooks)?, None),
            StateSource::Factory(mut factory) => {
                let made = made(|| (factory.make)(&mut Start::first()));
                match made.and_then(|state| ready::<S, A>(state, &hooks)) {
                    Ok(ready) => (ready, Some(factory)),
                    Err(not_made) => {
                        guarded("dropping a factory", || drop(factory));
                        return Err(not_made);
                    }
                }
            }
        };
        let (shared, seen) = shared.map(watch::channel).unzip();
        let serial = Self {
            life: InstanceLife::Up(Rc::new(RefCell::new(state))),
            number: 0,
            factory,
            hooks,
            report,
            shared,
            service: PhantomData,
        };
        Ok((serial, seen))
    }

    /// Starts the next instance. If that fails, its state waits for the next attempt.
    fn start_again(&mut self, number: u64, cause: EndCause) -> Result<(), EndCause> {
        let InstanceLife::Between(previous) = &mut self.life else {
            return Ok(());
        };
        let Some(factory) = &mut self.factory else {
            return Ok(());
        };
        let mut start = Start::again(previous.take(), Some(cause), number);
        let made = made(|| (factory.make)(&mut start));
        let made = made.and_then(|state| ready::<S, A>(state, &self.hooks));
        let untaken = start.take_previous();
        let (state, shared) = match made {
            Ok(made) => made,
            Err(not_made) => {
                *previous = untaken;
                return Err(not_made.into());
            }
        };
        guarded("dropping the instance before it", || drop(untaken));
        if let (Some(seen), Some(shared)) = (&self.shared, shared) {
            let before = seen.send_replace(shared);
            guarded("dropping what parallel methods saw", || drop(before));
        }
        self.number = number;
        self.life = InstanceLife::Up(Rc::new(RefCell::new(state)));
        Ok(())
    }

    /// Takes the state of an instance that has ended, or is to. The running handler has been
    /// dropped before, so nothing else holds the state.
    fn take_state(&mut self) -> Option<A> {
        match std::mem::replace(&mut self.life, InstanceLife::Between(None)) {
            InstanceLife::Up(state) | InstanceLife::Ended(state) => {
                Rc::into_inner(state).map(RefCell::into_inner)
            }
            InstanceLife::Between(previous) => {
                self.life = InstanceLife::Between(previous);
                None
            }
            InstanceLife::Down => {
                self.life = InstanceLife::Down;
                None
            }
        }
    }

    fn retire(&mut self, cause: &EndCause) {
        let Some(mut state) = self.take_state() else {
            return;
        };
        self.hooks.restarting(&mut state, cause);
        if matches!(&self.factory, Some(factory) if factory.hands_over) {
            self.life = InstanceLife::Between(Some(state));
        } else {
            guarded("dropping an instance", || drop(state));
        }
    }

    fn stop(&mut self) {
        if let Some(mut state) = self.take_state() {
            self.hooks.stopped(&mut state);
            guarded("dropping an instance", || drop(state));
        }
        let before = std::mem::replace(&mut self.life, InstanceLife::Down);
        guarded("dropping an instance", || drop(before));
        let factory = self.factory.take();
        guarded("dropping a factory", || drop(factory));
    }
}

/// A state, and what its parallel handlers see of it.
type ReadyState<A, Shared> = (A, Option<Arc<Shared>>);

/// Prepares a new state for its first request: runs its hook, and asks what its parallel handlers
/// are to see.
fn ready<S: ServedBy<A> + ?Sized, A>(
    mut state: A,
    hooks: &Hooks<A>,
) -> Result<ReadyState<A, S::Shared>, NotMade> {
    let begun = contain(|| {
        (hooks.started)(&mut state);
        S::share(&state)
    });
    match begun {
        Ok(shared) => Ok((state, shared)),
        Err(message) => {
            // Drop it now: a panic in its destructor during another unwinding would abort the
            // process.
            guarded("dropping an instance that did not start", || drop(state));
            Err(NotMade::Panicked(message))
        }
    }
}

impl<S: ServedBy<A> + ?Sized, A: 'static> RequestHandler for Serial<S, A> {
    fn readiness(&self) -> Readiness {
        match &self.life {
            InstanceLife::Up(_) => Readiness::Ready,
            InstanceLife::Ended(_) | InstanceLife::Between(_) => Readiness::Waiting,
            InstanceLife::Down => Readiness::Down,
        }
    }

    fn handle(&mut self, mut request: Request) -> Dispatch<'static> {
        let InstanceLife::Up(state) = &self.life else {
            // Dropped, the request answers that the service is down.
            return Dispatch::Done;
        };
        request.begin_handler();
        dispatch::<S, A, A>(state, request)
    }

    fn ended(&mut self, cause: EndCause) {
        let Some(report) = &self.report else {
            tracing::warn!(service = S::NAME, %cause, "the instance goes on with its state");
            return;
        };
        if let InstanceLife::Up(state) = &self.life {
            // From now on `readiness` keeps requests in their rings, until the supervisor starts
            // another instance or gives the service up.
            report(self.number, cause);
            self.life = InstanceLife::Ended(state.clone());
        }
    }

    fn apply(&mut self, command: InstanceCommand) {
        match command {
            // The supervisor may have stopped waiting.
            InstanceCommand::Retire { cause, tell } => {
                self.retire(&cause);
                let _ = tell.send(());
            }
            InstanceCommand::Start {
                number,
                cause,
                tell,
            } => {
                let _ = tell.send(self.start_again(number, cause));
            }
            InstanceCommand::GiveUp | InstanceCommand::End => self.stop(),
        }
    }
}
