//! Spans of calls, at both ends.
//!
//! They are made only while somebody listens at [`LEVEL`], which costs a call one load to find out.
//! The caller's span travels with the request if OpenTelemetry records it: then the handler's
//! continues its trace.

#[cfg_attr(not(feature = "opentelemetry"), path = "trace/context_absent.rs")]
mod context;

use std::sync::atomic::{AtomicU32, Ordering};

use slimerpc::channel::CallSpan;
use slimerpc::wire::Traceparent;
use tracing::Span;
use tracing::field::Empty;
use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};

use crate::{Outcome, Request, RpcError};

/// The level of the spans. Not `INFO`: then a program would pay for them as soon as it logs.
const LEVEL: LevelFilter = LevelFilter::DEBUG;

/// Returns whether somebody may listen.
#[inline]
pub(crate) fn is_on() -> bool {
    LEVEL <= STATIC_MAX_LEVEL && LEVEL <= LevelFilter::current()
}

/// Of how many calls outside of any span one has spans.
static ONE_IN: AtomicU32 = AtomicU32::new(1);

/// From now on, only one in so many of the calls of this process that begin outside of any span has
/// spans, chosen by chance; so has one in so many handlers that continue no trace. 1, as it is at
/// first, means all of them, and so does 0. Calls within a span have theirs in any case, and so
/// have handlers that continue the trace of their caller.
///
/// Choosing takes a few nanoseconds, and a span that is made some hundreds: with a sampler or a
/// filter of the subscriber alone, much of that is paid for each call.
///
/// ```
/// slimerpc_actors::trace_one_in(1_000);
/// ```
pub fn trace_one_in(calls: u32) {
    ONE_IN.store(calls.max(1), Ordering::Relaxed);
}

/// Returns whether chance takes what has no parent.
fn is_taken() -> bool {
    let one_in = ONE_IN.load(Ordering::Relaxed);
    one_in == 1 || fastrand::u32(..one_in) == 0
}

/// A span of either end. Its parent is the current span, or none.
macro_rules! span {
    ($kind:literal, $service:expr, $method:expr, $peer:expr $(, parent: $parent:expr)?) => {
        tracing::debug_span!(
            target: "slimerpc::call",
            $(parent: $parent,)?
            $kind,
            otel.name = format_args!("{}/{}", $service, $method),
            otel.kind = $kind,
            otel.status_code = Empty,
            rpc.system = "slimerpc",
            rpc.service = $service,
            rpc.method = $method,
            peer = $peer,
            outcome = Empty,
        )
    };
}

/// The span of a call that begins now within the current span, with what the service is to be told
/// of it. `None` if nobody wants it.
#[cold]
pub(crate) fn call(
    peer: &str,
    service: &str,
    method: &str,
) -> Option<(CallSpan, Option<Traceparent>)> {
    if !is_taken() && Span::current().is_none() {
        return None;
    }
    let span = span!("client", service, method, peer);
    if span.is_disabled() {
        return None;
    }
    let trace = context::of(&span);
    // Who drops the reply cancels the call.
    Some((CallSpan::new(span, Outcome::Cancelled), trace))
}

/// The span of a handler that begins now, of one of these methods. It learns how the request ends.
/// `None` if nobody wants it.
#[cold]
pub(crate) fn handler(request: &mut Request, methods: &[&str]) -> Option<Span> {
    let method = methods.get(request.method() as usize).unwrap_or(&"?");
    let (service, peer) = (request.service(), request.peer());
    let caller = request.trace();
    if caller.is_none() && !is_taken() {
        return None;
    }
    let span = span!("server", service, method, peer, parent: None);
    if span.is_disabled() {
        return None;
    }
    if let Some(caller) = caller {
        context::continue_trace(&span, caller);
    }
    request.watch(CallSpan::new(span.clone(), Outcome::Ok));
    Some(span)
}

/// How a call ended for its caller, with this error.
pub(crate) fn outcome(error: &RpcError) -> Outcome {
    match error {
        RpcError::Timeout { .. } => Outcome::Timeout,
        RpcError::PeerLost { .. } => Outcome::Lost,
        _ => Outcome::Error,
    }
}
