//! The place of a call in a trace.

use std::num::NonZeroU64;

/// The span that a call belongs to, as W3C Trace Context identifies it in `traceparent`. Only spans
/// that are recorded (sampled) travel.
///
/// ```
/// use slimerpc::wire::Traceparent;
///
/// let parent = Traceparent::new(0x4bf92f35_77b34da6_a3ce929d_0e0e4736, 0x00f067aa_0ba902b7);
/// assert_eq!(
///     parent.map(|parent| parent.to_string()).as_deref(),
///     Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
/// );
/// assert_eq!(Traceparent::new(0, 1), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// The halves of the id, the higher one first. Not a `u128`: that is aligned to 16 bytes, and
    /// so would be all that holds it.
    trace_id: [u64; 2],
    span_id: NonZeroU64,
}

impl Traceparent {
    /// Names a span of a trace; `None` if either id is 0, which the standard forbids.
    pub fn new(trace_id: u128, span_id: u64) -> Option<Self> {
        let span_id = NonZeroU64::new(span_id).filter(|_| trace_id != 0)?;
        Some(Self {
            trace_id: [(trace_id >> 64) as u64, trace_id as u64],
            span_id,
        })
    }

    /// Id of the trace.
    pub fn trace_id(self) -> u128 {
        let [high, low] = self.trace_id.map(u128::from);
        high << 64 | low
    }

    /// Id of the span.
    pub fn span_id(self) -> u64 {
        self.span_id.get()
    }

    pub(super) fn words(self) -> [u64; 3] {
        let [high, low] = self.trace_id;
        [high, low, self.span_id()]
    }

    pub(super) fn from_words([high, low, span_id]: [u64; 3]) -> Option<Self> {
        Self::new(u128::from(high) << 64 | u128::from(low), span_id)
    }
}

impl std::fmt::Display for Traceparent {
    /// Writes it as the header `traceparent`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace_id(), self.span_id)
    }
}
