//! Logs, traces and metrics. Spans go out by OTLP when `OTEL_EXPORTER_OTLP_ENDPOINT` is set; metrics by OTLP too, and always
//! as Prometheus text on the internal listener.

use std::time::Duration;

use http::HeaderMap;
use opentelemetry::{Context, KeyValue, global, trace::TracerProvider as _};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use prometheus::Registry;
use tracing::{Level, Metadata, Span};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{self, FilterExt as _, LevelFilter, ParseError},
    layer::{self, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::config::Vars;

/// Log lines that wait to be written: some seconds of a busy process.
const LINES: usize = 8192;

/// A collector that does not answer holds the exit for this long at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Whose spans and events may go into traces, and whose lines may be more detailed than INFO. At DEBUG and TRACE others write
/// what must stay here: a WebSocket library its frames, a database driver its parameters; and the exporter's own traffic would
/// feed back into it.
const OURS: [&str; 5] = ["call_service", "edge", "echo_agent", "exotel", "runtime"];

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

/// What telemetry needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `LOG_FORMAT`: `json` (default) or `human`.
    pub format: LogFormat,
    /// `RUST_LOG`, for example `info,edge=debug`.
    pub filter: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`; traces and metrics are exported when it is set.
    pub otlp_endpoint: Option<String>,
}

impl Settings {
    /// Reads the settings; the rest of the standard `OTEL_*` variables is read by the exporters themselves.
    pub fn read(vars: &mut Vars) -> Self {
        let format = match vars.text("LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("human") => LogFormat::Human,
            Some(_) => {
                vars.problem("LOG_FORMAT", "is neither json nor human");
                LogFormat::Json
            }
        };
        let filter = vars.text("RUST_LOG").unwrap_or_else(|| "info".to_owned());
        if EnvFilter::try_new(&filter).is_err() {
            vars.problem("RUST_LOG", "does not read as a filter such as info,edge=debug");
        }
        Self {
            format,
            filter,
            otlp_endpoint: vars.text("OTEL_EXPORTER_OTLP_ENDPOINT"),
        }
    }
}

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

/// Starts logs, traces and metrics for this process. Must be called within a tokio runtime, once.
///
/// # Errors
/// When an exporter cannot be built or telemetry was started before.
pub fn start(service: &'static str, settings: &Settings) -> anyhow::Result<Telemetry> {
    let resource = Resource::builder().with_service_name(service).build();
    let mut metrics = SdkMeterProvider::builder()
        .with_resource(resource.clone())
        .with_reader(opentelemetry_prometheus::exporter().with_registry(registry()).build()?);
    let mut traces = None;
    if let Some(endpoint) = &settings.otlp_endpoint {
        use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        traces = Some(
            SdkTracerProvider::builder()
                .with_resource(resource)
                .with_batch_exporter(spans)
                .build(),
        );
        let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        metrics = metrics.with_periodic_exporter(exporter);
    }
    let metrics = metrics.build();
    global::set_meter_provider(metrics.clone());
    global::set_text_map_propagator(TraceContextPropagator::new());

    // A log that nobody reads must not stop the audio: lines beyond the buffer are dropped.
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES)
        .lossy(true)
        .finish(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Human => lines.compact().boxed(),
    };
    let spans = traces.as_ref().map(|provider| {
        // The hint also keeps what libraries write through `log` from being made at all.
        let exported = filter::filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("callbridge"))
            .with_filter(exported)
    });
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(wanted(&settings.filter)?))
        .try_init()?;
    Ok(Telemetry {
        traces,
        metrics,
        _lines: guard,
    })
}

impl Telemetry {
    /// Sends what is left, within two seconds.
    pub async fn shut_down(self) {
        // The providers block, which would starve a current-thread runtime.
        let flush = tokio::task::spawn_blocking(move || {
            if let Some(traces) = &self.traces {
                let _ = traces.shutdown_with_timeout(FLUSH_LIMIT);
            }
            let _ = self.metrics.shutdown_with_timeout(FLUSH_LIMIT);
        });
        let _ = tokio::time::timeout(2 * FLUSH_LIMIT, flush).await;
    }
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

/// The trace context that came with a request.
pub fn extract(headers: &HeaderMap) -> Context {
    global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)))
}

/// Adds the current span's trace context to a request.
pub fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeaderInjector(headers)));
}

/// The current span's W3C `traceparent`, for rows and messages that carry a trace over a hop that headers cannot cross.
pub fn traceparent() -> Option<String> {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// The context of a `traceparent`, to set as a span's parent or link. An unreadable one gives an empty context.
pub fn context_of(traceparent: &str) -> Context {
    let mut headers = HeaderMap::new();
    if let Ok(value) = traceparent.parse() {
        headers.insert("traceparent", value);
    }
    extract(&headers)
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
