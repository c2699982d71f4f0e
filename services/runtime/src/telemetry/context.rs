//! Trace contexts: in and out of requests, and over what no header crosses, on rows.

use http::HeaderMap;
use opentelemetry::{Context, global, trace::TraceContextExt as _};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const TRACEPARENT: &str = "traceparent";

/// The trace context that came with a request.
pub fn extract(headers: &HeaderMap) -> Context {
    global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)))
}

/// Adds the current span's trace context to a request.
pub fn inject(headers: &mut HeaderMap) {
    inject_of(&Span::current(), headers);
}

fn inject_of(span: &Span, headers: &mut HeaderMap) {
    let context = span.context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeaderInjector(headers)));
}

/// A span's W3C `traceparent`, for rows and messages that carry a trace over a hop that headers cannot cross. None: no trace is
/// being made.
pub fn traceparent(span: &Span) -> Option<String> {
    let mut headers = HeaderMap::new();
    inject_of(span, &mut headers);
    headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// The context of a `traceparent`. An unreadable one gives an empty context.
pub fn context_of(traceparent: &str) -> Context {
    let mut headers = HeaderMap::new();
    if let Ok(value) = traceparent.parse() {
        headers.insert(TRACEPARENT, value);
    }
    extract(&headers)
}

/// Puts a span into the trace of a `traceparent`, as a child of its span, whatever trace it would have been in. In vain when it has
/// begun: when it has children, or its context was read.
pub fn join(span: &Span, traceparent: &str) {
    let context = context_of(traceparent);
    if context.span().span_context().is_valid() {
        // Fails also when no exporter is there.
        let _ = span.set_parent(context);
    }
}
