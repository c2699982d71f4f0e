//! `cargo load tracing`: what tracing costs the audio path, in instructions.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, bail, ensure};
use opentelemetry_proto::tonic::collector::{
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use runtime::Tasks;
use serde_json::json;
use tokio::{net::TcpListener, process::Command};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::{
    generator::{Plan, Target},
    phone::Line,
    run::measure,
    scene::{Scene, line},
};
use crate::{
    load::{arguments::Arguments, machine, result, say},
    target,
};

/// An edge under valgrind is some fifty times as slow.
const STREAMS: usize = 10;
const CHUNK_MS: u32 = 20;

/// What one run took.
struct Counted {
    instructions: f64,
    /// Chunks that were said while it was measured.
    chunks: f64,
}

/// Measures and prints.
pub(in crate::load) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let found = Command::new("valgrind").arg("--version").output().await;
    ensure!(
        found.is_ok_and(|output| output.status.success()),
        "valgrind is not there: install it (Debian: valgrind)"
    );
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let collector = collect().await?;
    let scene = Scene::start(&[], &folder, CHUNK_MS).await?;
    let mut sides = Vec::new();
    for (side, endpoint) in [None, Some(&*collector)].into_iter().enumerate() {
        let first = 2 * side * STREAMS;
        let short = count(&scene, &folder, endpoint, first, arguments.seconds).await?;
        let long = count(&scene, &folder, endpoint, first + STREAMS, arguments.seconds * 3).await?;
        let chunks = long.chunks - short.chunks;
        ensure!(chunks > 0.0, "the longer run has not more chunks than the shorter one");
        let per_stream_s = (long.instructions - short.instructions) / chunks * f64::from(1_000 / CHUNK_MS);
        say(&format!(
            "load: {}: {per_stream_s:.0} instructions for a second of a call",
            endpoint.map_or("without a collector", |_| "with a collector")
        ));
        sides.push((per_stream_s, long.instructions / long.chunks));
    }
    scene.end().await?;
    let [(plain, plain_whole), (traced, traced_whole)] = sides[..] else {
        bail!("two sides are compared");
    };
    let (ratio, whole) = (traced / plain, traced_whole / plain_whole);
    let load = machine::load_average();
    if let Some(path) = &arguments.json {
        let json = json!({
            "instructions_per_stream_s": plain, "traced_per_stream_s": traced, "ratio": ratio, "whole_run_ratio": whole,
            "streams": STREAMS, "seconds": arguments.seconds, "load_avg": load,
        });
        fs::write(path, serde_json::to_vec_pretty(&json)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    result(&format!(
        "instructions_per_stream_s={plain:.0} traced_per_stream_s={traced:.0} ratio={ratio:.4} whole_run_ratio={whole:.4} \
        streams={STREAMS} processors={} load_avg={load}",
        machine::processors()
    ));
    Ok(())
}

/// Runs an edge for so long and counts the instructions of its whole life.
async fn count(
    scene: &Scene,
    folder: &Path,
    endpoint: Option<&str>,
    first: usize,
    seconds: u64,
) -> anyhow::Result<Counted> {
    let log = folder.join("valgrind.log");
    let _ = fs::remove_file(&log);
    let said = format!("--log-file={}", log.display());
    let watcher = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", &said];
    let edge = scene
        .edge(&[], folder, &watcher, |settings| {
            settings.insert("EDGE_ACCEPT_SECONDS".to_owned(), "0".to_owned());
            if let Some(endpoint) = endpoint {
                settings.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint.to_owned());
            }
        })
        .await?;
    let plan = Plan {
        target: Target::Socket(Line {
            first,
            ..line(&edge, &scene.echoed)
        }),
        streams: STREAMS,
        chunk: Duration::from_millis(CHUNK_MS.into()),
        cores: Vec::new(),
    };
    let what = endpoint.map_or("plain", |_| "traced");
    let measured = measure(what, plan, &[&edge], Duration::from_secs(seconds)).await?;
    edge.finish().await?;
    let said = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(Counted {
        instructions: collected(&said).with_context(|| format!("valgrind counted nothing: {said}"))?,
        chunks: f64::from(u32::try_from(measured.heard.lateness.count())?),
    })
}

/// Callgrind's last word: `==1234== Collected : 5678`.
fn collected(said: &str) -> Option<f64> {
    let (_, count) = said.lines().find_map(|line| line.split_once("Collected : "))?;
    count.trim().parse().ok()
}

/// A collector that takes everything. Returns its URL.
async fn collect() -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = Server::builder()
        .add_service(TraceServiceServer::new(Collector))
        .add_service(MetricsServiceServer::new(Collector));
    Tasks::new().spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(url)
}

struct Collector;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrinds_count_is_read() {
        assert_eq!(
            collected("==7== Events    : Ir\n==7== Collected : 123456\n"),
            Some(123_456.0)
        );
        assert_eq!(collected("nothing"), None);
    }
}
