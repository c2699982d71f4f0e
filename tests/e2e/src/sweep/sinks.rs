//! What a process tells: lines, spans and metrics, by the layers of production with other ends.

use std::{
    future::{Future, ready},
    io,
};

use opentelemetry::global;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    metrics::SdkMeterProvider,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use runtime::telemetry::{self, LogFormat, Settings};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{Sink, found};

/// Lets lines, spans and metrics of this process come here. Where telemetry has been started already, it stays as it is.
pub(super) fn open() {
    let settings = Settings {
        format: LogFormat::Json,
        filter: "trace".to_owned(),
        traces: true,
        metrics: false,
    };
    let provider = SdkTracerProvider::builder().with_simple_exporter(Spans).build();
    if let Ok(subscriber) = telemetry::subscriber(&settings, || Lines, Some(&provider))
        && subscriber.try_init().is_ok()
    {
        let page = telemetry::page().expect("this process has no page of metrics yet");
        global::set_meter_provider(SdkMeterProvider::builder().with_reader(page).build());
    }
}

/// All metrics as the internal listener shows them.
pub(super) fn page() -> String {
    telemetry::figures().expect("the metrics can be written")
}

/// The log.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        found().look(Sink::Line, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The collector.
#[derive(Debug)]
struct Spans;

impl SpanExporter for Spans {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        for span in batch {
            found().look(Sink::Span, format!("{span:?}").as_bytes());
        }
        ready(Ok(()))
    }
}
