//! Where the pieces' logs and metrics go: a file, and the Prometheus pages of their internal listeners.

use std::{fs::File, os::unix::fs::OpenOptionsExt as _, path::Path, sync::Mutex};

use anyhow::Context as _;
use opentelemetry::global;
use opentelemetry_sdk::{metrics::SdkMeterProvider, propagation::TraceContextPropagator};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Begins the log and the metrics of this process. All pieces share them, so each page shows the metrics of all.
pub(super) fn start(log: &Path) -> anyhow::Result<()> {
    let file = File::options().create(true).append(true).mode(0o600).open(log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(Mutex::new(file));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .context("the log was begun before")?;

    let pages = runtime::telemetry::page().context("cannot set up the metrics pages")?;
    global::set_meter_provider(SdkMeterProvider::builder().with_reader(pages).build());
    global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(())
}
