//! The span of a call, at either end.

use tracing::Span;

use super::Outcome;

/// The span of a call, at its caller or its service. When this is dropped, the span is told how the
/// call ended: in its field `outcome` and, if the call failed, in `otel.status_code`.
#[derive(Debug)]
pub struct CallSpan {
    span: Span,
    outcome: Outcome,
}

impl CallSpan {
    /// The span of a call that ends like this unless [something else](Self::ends) is said.
    pub fn new(span: Span, outcome: Outcome) -> Self {
        Self { span, outcome }
    }

    /// Notes how the call ends.
    pub fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        self.span.record("outcome", self.outcome.name());
        if !matches!(self.outcome, Outcome::Ok | Outcome::Told) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}
