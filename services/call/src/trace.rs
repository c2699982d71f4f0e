//! Where what is done about a call stands in its trace.
//!
//! A call's trace begins with the request that asked for it and goes on under the `traceparent` of its row, over whatever Exotel
//! does not carry. A webhook, an edge's report and a question to Exotel have traces of their own: the transaction that finds out
//! which call they are about moves into the call's trace, and keeps a link to where it came from.

use runtime::telemetry;
use tracing::{Span, field, info_span};

use crate::store::calls::Call;

/// The span of a transaction, named for what it is for. It never shows a statement, nor its parameters.
pub(crate) fn transaction(name: &'static str) -> Span {
    info_span!(
        "db.transaction",
        otel.name = name,
        otel.kind = "client",
        db.system.name = "postgresql",
        db.query.summary = name,
        call.id = field::Empty,
    )
}

/// The span of a transaction within which [`follow`] is to say which call it is about.
pub(crate) fn finding(name: &'static str) -> Span {
    let span = transaction(name);
    span.follows_from(Span::current());
    span
}

/// The span of a transaction about a call that is known before.
pub(crate) fn about(name: &'static str, call: &Call) -> Span {
    let span = finding(name);
    put(&span, call);
    span
}

/// Puts the current span, which is one of [`finding`], into the call's trace. It stays where it is when it has begun the call's
/// trace itself.
pub(crate) fn follow(call: &Call) {
    put(&Span::current(), call);
}

/// Puts a span into a call's trace.
pub(crate) fn put(span: &Span, call: &Call) {
    span.record("call.id", field::display(call.id()));
    if let Some(traceparent) = &call.traceparent {
        telemetry::join(span, traceparent);
    }
}
