//! A trace as text.

use std::{collections::BTreeSet, fmt::Write as _};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};

/// An id as it is written.
pub(crate) fn hex(id: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(id)
}

/// A span's attribute as text.
pub(crate) fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match &found.value {
        Some(AnyValue { value: Some(value) }) => Some(match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            Value::BoolValue(is) => is.to_string(),
            other => format!("{other:?}"),
        }),
        _ => None,
    }
}

fn parent<'a>(spans: &'a [Span], of: &Span) -> Option<&'a Span> {
    spans
        .iter()
        .find(|span| span.trace_id == of.trace_id && span.span_id == of.parent_span_id)
}

/// The outermost span above one, by its ids.
fn outermost<'a>(spans: &'a [Span], trace: &[u8], id: &[u8]) -> Option<&'a Span> {
    let mut at = spans.iter().find(|span| span.trace_id == trace && span.span_id == id)?;
    while let Some(above) = parent(spans, at) {
        at = above;
    }
    Some(at)
}

fn render(spans: &[Span], span: &Span, depth: usize) -> String {
    let kind = match span.kind() {
        SpanKind::Server => " [server]",
        SpanKind::Client => " [client]",
        _ => "",
    };
    let failed = span
        .status
        .as_ref()
        .is_some_and(|status| status.code() == StatusCode::Error);
    let failed = if failed { " failed" } else { "" };
    // Of a link into another trace, where that begins; one within the trace tells nothing new.
    let links: BTreeSet<String> = span
        .links
        .iter()
        .filter(|link| link.trace_id != span.trace_id)
        .map(|link| outermost(spans, &link.trace_id, &link.span_id).map_or("?".to_owned(), |span| span.name.clone()))
        .collect();
    let mut text = format!("{}{}{kind}{failed}", "  ".repeat(depth), span.name);
    for link in links {
        let _ = write!(text, " <- {link}");
    }
    text.push('\n');
    let children = spans
        .iter()
        .filter(|child| child.trace_id == span.trace_id && child.parent_span_id == span.span_id);
    // What is alike is told once: how often a report was made says nothing.
    let children: BTreeSet<String> = children.map(|child| render(spans, child, depth + 1)).collect();
    text.extend(children);
    text
}

/// All of a trace, from the spans whose parents are elsewhere on.
pub(crate) fn tree(spans: &[Span], trace: &str) -> String {
    let of_trace = spans.iter().filter(|span| hex(&span.trace_id) == trace);
    let roots = of_trace.filter(|span| parent(spans, span).is_none());
    let roots: BTreeSet<String> = roots.map(|root| render(spans, root, 0)).collect();
    roots.into_iter().collect()
}
