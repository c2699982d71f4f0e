//! Logs, traces and metrics. Spans go out by OTLP over gRPC when the standard `OTEL_*` variables name an endpoint; metrics by OTLP
//! too, and always as Prometheus text on the internal listener.
//!
//! A collector that is away or slow costs a bounded queue, and what has no room there: spans are sent from a thread of their own,
//! and the end of the process waits for it for two seconds at most (F128).

mod context;
mod settings;

use std::{thread, time::Duration};

pub use context::{context_of, extract, inject, join, traceparent};
use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithTonicConfig as _};
use opentelemetry_prometheus::PrometheusExporter;
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use prometheus::{Registry, TextEncoder};
pub use settings::{LogFormat, Settings};
use tokio::sync::oneshot;
use tonic::transport::ClientTlsConfig;
use tracing::{Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{self, FilterExt as _, LevelFilter, ParseError},
    fmt::MakeWriter,
    layer::{self, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

/// Log lines that wait to be written: some seconds of a busy process.
const LINES: usize = 8192;

/// A collector that does not answer holds the exit for this long at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Whose spans and events may go into traces, and whose lines may be more detailed than INFO. At DEBUG and TRACE others write
/// what must stay here: a WebSocket library its frames, a database driver its parameters; and the exporter's own traffic would
/// feed back into it.
const OURS: [&str; 5] = ["call_service", "edge", "echo_agent", "exotel", "runtime"];

/// Running telemetry.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
    /// Writes what is left of the log when it is dropped.
    _lines: WorkerGuard,
}

/// The process's metrics, for the Prometheus page.
pub fn registry() -> Registry {
    prometheus::default_registry().clone()
}

/// All metrics as Prometheus text.
///
/// # Errors
/// When a name or a label cannot be written.
pub fn figures() -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry().gather())
}

/// The reader of metrics that fills the page.
///
/// # Errors
/// When this process has one.
pub fn page() -> anyhow::Result<PrometheusExporter> {
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry())
        // There is one scope: its name on each line would say nothing.
        .scope_info_enabled(false);
    Ok(exporter.build()?)
}

/// Starts logs, traces and metrics for this process. Must be called within a tokio runtime, once.
///
/// # Errors
/// When an exporter cannot be built or telemetry was started before.
pub fn start(service: &'static str, settings: &Settings) -> anyhow::Result<Telemetry> {
    let resource = resource(service);
    let mut metrics = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(page()?);
    // Of use where the endpoint is https.
    let tls = ClientTlsConfig::new().with_enabled_roots();
    if settings.metrics {
        let exporter = MetricExporter::builder().with_tonic().with_tls_config(tls.clone());
        metrics = metrics.with_periodic_exporter(exporter.build()?);
    }
    let metrics = metrics.build();
    // First, since the queue of spans is counted with it.
    global::set_meter_provider(metrics.clone());
    let traces = if settings.traces {
        let exporter = SpanExporter::builder().with_tonic().with_tls_config(tls);
        let provider = SdkTracerProvider::builder().with_resource(resource);
        Some(provider.with_batch_exporter(exporter.build()?).build())
    } else {
        None
    };
    global::set_text_map_propagator(TraceContextPropagator::new());

    // A log that nobody reads must not stop the audio: lines beyond the buffer are dropped.
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES)
        .lossy(true)
        .finish(std::io::stderr());
    count_lines(writer.error_counter());
    subscriber(settings, writer, traces.as_ref())?.try_init()?;
    Ok(Telemetry {
        traces,
        metrics,
        _lines: guard,
    })
}

/// What makes of spans and events lines in `lines`, and spans for `traces`: what may be told, and nothing else.
///
/// # Errors
/// When the filter cannot be read.
pub fn subscriber<W>(
    settings: &Settings,
    lines: W,
    traces: Option<&SdkTracerProvider>,
) -> Result<impl Subscriber + Send + Sync + use<W>, ParseError>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(lines);
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Human => lines.compact().boxed(),
    };
    let spans = traces.map(|provider| {
        // The hint also keeps what libraries write through `log` from being made at all.
        let exported = filter::filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("callbridge"))
            // A span begins with its first child or at its end, so that it can be put into the trace of a call that is known only
            // within it ([`join`]), and entering one costs nothing.
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(exported)
    });
    Ok(tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(wanted(&settings.filter)?)))
}

impl Telemetry {
    /// Sends what is left, within two seconds.
    pub async fn shut_down(self) {
        let Self {
            traces,
            metrics,
            _lines,
        } = self;
        let spans = apart(move || {
            if let Some(traces) = traces {
                let _ = traces.shutdown_with_timeout(FLUSH_LIMIT);
            }
        });
        let figures = apart(move || {
            let _ = metrics.shutdown_with_timeout(FLUSH_LIMIT);
        });
        let flushed = async { tokio::join!(spans, figures) };
        let _ = tokio::time::timeout(FLUSH_LIMIT, flushed).await;
    }
}

/// Counts the log lines that had no room (F129).
fn count_lines(dropped: ErrorCounter) {
    meter()
        .u64_observable_counter("callbridge.log.lines.dropped")
        .with_description("log lines that had no room, since nobody read them")
        .with_callback(move |lines| lines.observe(u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX), &[]))
        .build();
}

/// Runs what may block in a thread that nothing waits for once this is dropped, as it would for a blocking task of tokio's.
async fn apart(work: impl FnOnce() + Send + 'static) {
    let (done, over) = oneshot::channel();
    let spawned = thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
        work();
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = over.await;
    }
}

/// Who this process is: by `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, and where they are silent by itself.
fn resource(service: &'static str) -> Resource {
    let told = Resource::builder().build();
    let is_told = |key: &'static str| told.get(&key.into()).is_some();
    let is_named = told
        .get(&"service.name".into())
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let mut resource = Resource::builder();
    if !is_named {
        resource = resource.with_service_name(service);
    }
    if !is_told("service.version") {
        resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    if !is_told("service.instance.id") {
        let id = uuid::Uuid::new_v4().to_string();
        resource = resource.with_attribute(KeyValue::new("service.instance.id", id));
    }
    resource.build()
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata
        .target()
        .split("::")
        .next()
        .is_some_and(|name| OURS.contains(&name))
}

/// Whether a span, or an event within one, may go to the collector (F122).
fn is_exported(metadata: &Metadata<'_>) -> bool {
    is_ours(metadata) && *metadata.level() <= Level::INFO
}

/// What is logged. It has a highest level: without one, libraries would make every span and event that nobody wants.
fn wanted<S>(settings: &str) -> Result<impl layer::Filter<S> + use<S>, ParseError> {
    let allowed = filter::filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE);
    Ok(EnvFilter::try_new(settings)?.and(allowed))
}

/// Whether a line may be written, wanted or not (F122).
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    is_ours(metadata) || *metadata.level() <= Level::INFO
}

/// A meter of this process.
pub fn meter() -> opentelemetry::metrics::Meter {
    global::meter("callbridge")
}

/// A metric label.
pub fn label(key: &'static str, value: impl Into<opentelemetry::Value>) -> KeyValue {
    KeyValue::new(key, value)
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Registry, layer::Filter as _};

    use super::*;

    #[test]
    fn what_nobody_wants_is_not_even_made() {
        for (settings, most) in [
            ("info", LevelFilter::INFO),
            ("warn,edge=debug", LevelFilter::DEBUG),
            ("off", LevelFilter::OFF),
        ] {
            let wanted = wanted::<Registry>(settings).unwrap();
            assert_eq!(wanted.max_level_hint(), Some(most), "{settings}");
        }
    }
}
