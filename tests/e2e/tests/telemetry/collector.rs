//! An OpenTelemetry collector in this process: it keeps what it is sent, or takes it and never answers.

use std::{
    collections::BTreeSet,
    future::pending,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    trace::v1::Span,
};
use runtime::Tasks;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// What was sent.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) spans: Vec<Span>,
    /// Names of metrics.
    pub(crate) metrics: BTreeSet<String>,
    /// Attributes of who sent it.
    pub(crate) resource: BTreeSet<String>,
}

/// The collector. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    taken: Arc<Mutex<Taken>>,
    answers: bool,
}

impl Collector {
    /// Listens on a free port; returns its URL too.
    pub(crate) async fn start(answers: bool) -> Result<(Self, String)> {
        let collector = Self {
            answers,
            ..Self::default()
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let server = Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()));
        Tasks::new().spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok((collector, url))
    }

    /// What was sent so far.
    pub(crate) fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self) {
        if !self.answers {
            pending::<()>().await;
        }
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_process in request.into_inner().resource_spans {
            let mut taken = self.taken();
            let attributes = of_process.resource.into_iter().flat_map(|resource| resource.attributes);
            taken.resource.extend(attributes.map(|attribute| attribute.key));
            taken
                .spans
                .extend(of_process.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        self.answer().await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics;
        let metrics = scopes
            .into_iter()
            .flat_map(|of_process| of_process.scope_metrics)
            .flat_map(|scope| scope.metrics);
        self.taken().metrics.extend(metrics.map(|metric| metric.name));
        self.answer().await;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
