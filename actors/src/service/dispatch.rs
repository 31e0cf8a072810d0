//! Begins the handler of a request, in a span if somebody listens.

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use slimerpc::panics::contain;
use tracing::{Instrument, Span};

use crate::observe::trace;
use crate::{Dispatch, Parallel, Request, ServedBy};

/// Handles a request, or begins to.
#[inline]
pub(crate) fn dispatch<'state, S, A, L>(
    state: &Rc<RefCell<L>>,
    mut request: Request,
) -> Dispatch<'state>
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
    L: BorrowMut<A> + 'state,
{
    let method = request.method() as usize;
    if trace::is_on()
        && let Some(span) = span(&mut request, S::METHODS)
    {
        let dispatched = span.in_scope(|| S::dispatch(state, method, request));
        return match dispatched {
            Dispatch::Running(future) => Dispatch::Running(Box::pin(future.instrument(span))),
            handled => handled,
        };
    }
    S::dispatch(state, method, request)
}

/// Begins to handle a request for a parallel method.
pub(crate) fn dispatch_parallel<S, A>(shared: Arc<S::Shared>, mut request: Request) -> Parallel
where
    S: ServedBy<A> + ?Sized,
    A: 'static,
{
    let method = request.method() as usize;
    let is_on = trace::is_on();
    let span = is_on.then(|| span(&mut request, S::METHODS));
    let handling = S::dispatch_parallel(shared, method, request);
    match span.flatten() {
        None => handling,
        Some(span) => Box::pin(handling.instrument(span)),
    }
}

/// The span of a handler. A listener that panics costs the span, not the service.
#[cold]
fn span(request: &mut Request, methods: &[&str]) -> Option<Span> {
    contain(|| trace::handler(request, methods)).ok().flatten()
}
