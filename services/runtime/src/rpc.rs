//! A span for each gRPC call that is served, and the trace context of each that is made.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Status, metadata::MetadataMap, service::Interceptor};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::telemetry;

/// Puts each served call into a span of its own, named for the method, whose parent is the caller's span.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpanLayer;

impl<S> Layer<S> for SpanLayer {
    type Service = SpanService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SpanService { inner }
    }
}

/// The service of [`SpanLayer`].
#[derive(Debug, Clone)]
pub struct SpanService<S> {
    inner: S,
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
        let span = served(&request);
        let future = span.in_scope(|| self.inner.call(request));
        let recorder = span.clone();
        Box::pin(
            async move {
                let response = future.await?;
                // A streaming answer has its status in the trailers; only a failure is known with the head.
                if let Some(code) = response
                    .headers()
                    .get("grpc-status")
                    .and_then(|code| code.to_str().ok())
                {
                    recorder.record("rpc.grpc.status_code", code);
                }
                Ok(response)
            }
            .instrument(span),
        )
    }
}

fn served<B>(request: &Request<B>) -> Span {
    let path = request.uri().path().trim_start_matches('/');
    let (service, method) = path.rsplit_once('/').unwrap_or(("unknown", path));
    let span = info_span!(
        "rpc",
        otel.name = path,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        rpc.grpc.status_code = field::Empty,
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
