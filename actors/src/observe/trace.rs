//! Spans of calls, at both ends.
//!
//! They are made only while somebody listens at [`LEVEL`], which costs a call one load to find out.
//! The caller's span travels with the request if OpenTelemetry records it: then the handler's
//! continues its trace.

#[cfg_attr(not(feature = "opentelemetry"), path = "trace/context_absent.rs")]
mod context;

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

/// A span of either end. Its parent is the current span, or none. One that continues a trace has a
/// target of its own, for filters that choose by chance: the caller's has chosen already.
macro_rules! span {
    ($target:literal, $kind:literal, $service:expr, $method:expr, $peer:expr
     $(, parent: $parent:expr)?) => {
        tracing::debug_span!(
            target: $target,
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
    let span = span!("slimerpc::call", "client", service, method, peer);
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
    let span = match request.trace() {
        None => span!("slimerpc::call", "server", service, method, peer, parent: None),
        Some(caller) => {
            let span =
                span!("slimerpc::call::continued", "server", service, method, peer, parent: None);
            context::continue_trace(&span, caller);
            span
        }
    };
    if span.is_disabled() {
        return None;
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
