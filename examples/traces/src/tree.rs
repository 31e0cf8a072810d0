//! The spans of all processes, joined to trees.

use std::collections::BTreeMap;
use std::fmt::Write;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};

/// Columns of what a span is called, indented.
const WIDTH: usize = 56;

/// A span, and the process that it comes from.
struct Told {
    process: String,
    span: Span,
}

/// Draws the trees of all traces, in the order in which they began.
pub(crate) fn draw(received: Vec<ResourceSpans>) -> String {
    let mut children: BTreeMap<Vec<u8>, Vec<Told>> = BTreeMap::new();
    for resource in received {
        let attributes = resource.resource.map(|it| it.attributes);
        let process = text(&attributes.unwrap_or_default(), "service.name");
        let spans = resource.scope_spans.into_iter().flat_map(|it| it.spans);
        // One without an id would be its own parent.
        for span in spans.filter(|span| !span.span_id.is_empty()) {
            let process = process.clone();
            let siblings = children.entry(span.parent_span_id.clone()).or_default();
            siblings.push(Told { process, span });
        }
    }
    for siblings in children.values_mut() {
        siblings.sort_by_key(|told| told.span.start_time_unix_nano);
    }
    let mut drawn = String::new();
    for root in children.get(&Vec::new()).into_iter().flatten() {
        line(&mut drawn, "", &root.span.name, root);
        draw_below(&mut drawn, &children, &root.span.span_id, "");
    }
    drawn
}

fn draw_below(
    drawn: &mut String,
    children: &BTreeMap<Vec<u8>, Vec<Told>>,
    parent: &[u8],
    indent: &str,
) {
    let siblings = children.get(parent).map_or(&[][..], Vec::as_slice);
    for (at, told) in siblings.iter().enumerate() {
        let is_last = at + 1 == siblings.len();
        let (branch, below) = if is_last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let Told { process, span } = told;
        let name = match span.kind() {
            SpanKind::Client => {
                let peer = text(&span.attributes, "peer");
                format!("{process} calls {} of {peer}", span.name)
            }
            SpanKind::Server => format!("{process} runs {}", span.name),
            _ => format!("{process}: {}", span.name),
        };
        line(drawn, &format!("{indent}{branch}"), &name, told);
        draw_below(drawn, children, &span.span_id, &format!("{indent}{below}"));
    }
}

fn line(drawn: &mut String, indent: &str, name: &str, told: &Told) {
    let span = &told.span;
    let nanos = span
        .end_time_unix_nano
        .saturating_sub(span.start_time_unix_nano);
    let pad = WIDTH.saturating_sub(indent.chars().count());
    let outcome = text(&span.attributes, "outcome");
    let millis = nanos as f64 / 1e6;
    // Writing to a string does not fail.
    let _ = writeln!(drawn, "{indent}{name:pad$} {millis:7.2} ms  {outcome}");
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|it| it.key == key);
    match found.and_then(|it| it.value.clone()) {
        Some(AnyValue {
            value: Some(Value::StringValue(text)),
        }) => text,
        _ => String::new(),
    }
}
