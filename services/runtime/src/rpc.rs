//! A span and a measurement for each gRPC call that is served, and the trace context of each that is made.
//!
//! Names are those of OpenTelemetry's semantic conventions for RPC.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use opentelemetry::metrics::Histogram;
use tokio::time::Instant;
use tonic::{Code, Status, metadata::MetadataMap, service::Interceptor};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::telemetry::{self, label};

/// Upper bounds of calls' durations, in seconds.
const DURATIONS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// A method whose name a stranger chose, by OpenTelemetry's conventions.
const OTHER: &str = "_OTHER";

/// Puts each served call into a span of its own, named for the method, whose parent is the caller's span, and measures how long it
/// takes until the answer's head: to the end of a unary call, and to the opening of a stream.
#[derive(Debug, Clone)]
pub struct SpanLayer {
    durations: Histogram<f64>,
    is_known: fn(&str) -> bool,
}

impl SpanLayer {
    /// Measures with the process's meter.
    pub fn new() -> Self {
        Self::naming(|_| true)
    }

    /// The same where only paths that are known are named: whoever asks for others could choose any name.
    pub fn naming(is_known: fn(&str) -> bool) -> Self {
        let meter = telemetry::meter();
        let durations = meter
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .with_description("gRPC calls that were served, to the head of their answer");
        Self {
            durations: durations.with_boundaries(DURATIONS.to_vec()).build(),
            is_known,
        }
    }
}

impl Default for SpanLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for SpanLayer {
    type Service = SpanService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SpanService {
            inner,
            durations: self.durations.clone(),
            is_known: self.is_known,
        }
    }
}

/// The service of [`SpanLayer`].
#[derive(Debug, Clone)]
pub struct SpanService<S> {
    inner: S,
    durations: Histogram<f64>,
    is_known: fn(&str) -> bool,
}

impl<S, B, R> Service<Request<B>> for SpanService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let method: Arc<str> = if (self.is_known)(path) {
            path.trim_start_matches('/').into()
        } else {
            OTHER.into()
        };
        let span = served(&method, &request);
        let future = span.in_scope(|| self.inner.call(request));
        let (recorder, durations, begun) = (span.clone(), self.durations.clone(), Instant::now());
        Box::pin(
            async move {
                let response = future.await?;
                let code = code_of(response.headers());
                recorder.record("rpc.response.status_code", word(code));
                if is_our_fault(code) {
                    recorder.record("error.type", word(code));
                    recorder.record("otel.status_code", "ERROR");
                }
                // Whoever calls what is not there, or may not call, could choose any name.
                let known = !matches!(code, Code::Unimplemented | Code::Unauthenticated);
                let method: opentelemetry::StringValue = if known { method.into() } else { OTHER.into() };
                durations.record(
                    begun.elapsed().as_secs_f64(),
                    &[
                        label("rpc.system.name", "grpc"),
                        label("rpc.method", method),
                        label("rpc.response.status_code", word(code)),
                    ],
                );
                Ok(response)
            }
            .instrument(span),
        )
    }
}

/// The status of an answer as far as its head tells: a failure is told there, unless a stream fails later.
fn code_of(head: &HeaderMap) -> Code {
    head.get("grpc-status")
        .map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()))
}

/// A status code's name, as gRPC writes it.
pub fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What counts as an error of a server; the others are the caller's.
fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

fn served<B>(method: &str, request: &Request<B>) -> Span {
    let span = info_span!(
        "rpc",
        otel.name = method,
        otel.kind = "server",
        otel.status_code = field::Empty,
        rpc.system.name = "grpc",
        rpc.method = method,
        rpc.response.status_code = field::Empty,
        error.type = field::Empty,
    );
    // Fails only when no exporter is there.
    let _ = span.set_parent(telemetry::extract(request.headers()));
    span
}

/// Adds the current trace context to each call that a client makes.
#[derive(Debug, Clone, Copy, Default)]
pub struct InjectTrace;

impl Interceptor for InjectTrace {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let mut headers = std::mem::take(request.metadata_mut()).into_headers();
        telemetry::inject(&mut headers);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        Ok(request)
    }
}
