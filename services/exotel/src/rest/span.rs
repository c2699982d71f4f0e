//! The span of a request, by OpenTelemetry's conventions for HTTP clients. Paths hold ids, so only their templates are told.

use tracing::{Span, field};

use super::{Credentials, Endpoint};

/// What Exotel is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    /// Dial a call.
    Connect,
    /// Read a call.
    Call,
    /// End a call.
    HangUp,
    /// List calls.
    Calls,
    /// Count open streams.
    ActiveStreams,
    /// List the account's numbers.
    Numbers,
    /// Fetch a recording, from wherever Exotel keeps it.
    Recording,
}

impl Operation {
    /// Its name, method, and the template of its path.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Connect => ("connect", "POST", "/v1/Accounts/{sid}/Calls/connect.json"),
            Self::Call => ("call", "GET", "/v1/Accounts/{sid}/Calls/{call_sid}.json"),
            Self::HangUp => ("hang_up", "POST", "/v1/Accounts/{sid}/Calls/{call_sid}.json"),
            Self::Calls => ("calls", "GET", "/v1/Accounts/{sid}/Calls.json"),
            Self::ActiveStreams => ("active_streams", "GET", "/v1/Accounts/{sid}/ActiveStreams"),
            Self::Numbers => ("numbers", "GET", "/v2_beta/Accounts/{sid}/IncomingPhoneNumbers"),
            Self::Recording => ("recording", "GET", "/{recording}"),
        }
    }

    /// The span of one request.
    pub(super) fn span(self, credentials: &Credentials) -> Span {
        let (operation, method, template) = self.words();
        let span = tracing::info_span!(
            "exotel.request",
            otel.name = format!("{method} {template}"),
            otel.kind = "client",
            otel.status_code = field::Empty,
            exotel.operation = operation,
            exotel.outcome = field::Empty,
            url.template = template,
            http.request.method = method,
            http.response.status_code = field::Empty,
            server.address = field::Empty,
            server.port = field::Empty,
            error.type = field::Empty,
        );
        if let Some((host, port)) = Endpoint::parse(&credentials.subdomain)
            .ok()
            .as_ref()
            .and_then(Endpoint::address)
        {
            span.record("server.address", host);
            span.record("server.port", port);
        }
        span
    }
}

/// How a request went: the status, if there was an answer, and a stable word.
pub(super) fn record(span: &Span, status: Option<u16>, outcome: &'static str) {
    span.record("exotel.outcome", outcome);
    if let Some(status) = status {
        span.record("http.response.status_code", status);
    }
    match status {
        Some(200..=399) => return,
        Some(status) => span.record("error.type", field::display(status)),
        None => span.record("error.type", outcome),
    };
    span.record("otel.status_code", "ERROR");
}
