//! What OpenTelemetry knows of a span, for the other end of a call.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use slimerpc::wire::Traceparent;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The ids of a span, if OpenTelemetry records it.
pub(super) fn of(span: &Span) -> Option<Traceparent> {
    let context = span.context();
    let span = context.span();
    let ids = span.span_context();
    if !ids.is_sampled() {
        return None;
    }
    let trace_id = u128::from_be_bytes(ids.trace_id().to_bytes());
    let span_id = u64::from_be_bytes(ids.span_id().to_bytes());
    Traceparent::new(trace_id, span_id)
}

/// Makes a span of another process the parent of `span`, which is new.
pub(super) fn continue_trace(span: &Span, parent: Traceparent) {
    let parent = SpanContext::new(
        TraceId::from(parent.trace_id()),
        SpanId::from(parent.span_id()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    // Without a layer of OpenTelemetry there is no trace to continue.
    let _ = span.set_parent(Context::new().with_remote_span_context(parent));
}
