//! `cargo load start`: how long processes take until they are ready.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

use super::{arguments::Arguments, audio::pieces::Piece, machine, progress::Progress, result, say};
use crate::{Settings, Stack, child::Spec, port, target};

/// Starts of each piece for each round.
const STARTS: u32 = 10;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// Measures and prints.
pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let folder = target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // Its database is migrated, and its call-service is there for the edge.
    let stack = Stack::builder().start().await?;
    let starts = arguments.rounds * STARTS;
    let [mut bare, mut service, mut edge] = [const { Vec::new() }; 3];
    let progress = Progress::new("starts", starts.into());
    for at in 0..starts {
        bare.push(start(Piece::Agent, &folder, |_, _| Settings::new()).await?);
        let of_service = |address: SocketAddr, internal: SocketAddr| {
            let mut settings = stack.call_settings.clone();
            settings.insert("CALL_SERVICE_ADDR".to_owned(), address.to_string());
            settings.insert("CALL_SERVICE_INTERNAL_ADDR".to_owned(), internal.to_string());
            settings
        };
        service.push(start(Piece::CallService, &folder, of_service).await?);
        let of_edge = |address: SocketAddr, internal: SocketAddr| {
            let mut settings = stack.edge_settings.clone();
            settings.insert("EDGE_ADDR".to_owned(), address.to_string());
            settings.insert("EDGE_INTERNAL_ADDR".to_owned(), internal.to_string());
            settings
        };
        edge.push(start(Piece::Edge, &folder, of_edge).await?);
        progress.at((at + 1).into());
    }
    drop(progress);
    stack.shut_down().await?;
    let load = machine::load_average();
    if let Some(path) = &arguments.json {
        let json = json!({"call_service_ms": service, "edge_ms": edge, "bare_ms": bare, "load_avg": load});
        fs::write(path, serde_json::to_vec_pretty(&json)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    result(&format!(
        "call_service_ms={:.0} edge_ms={:.0} bare_ms={:.0} call_service_p90_ms={:.0} edge_p90_ms={:.0} starts={starts} \
        processors={} load_avg={load}",
        machine::median(&service),
        machine::median(&edge),
        machine::median(&bare),
        ninetieth(&service),
        ninetieth(&edge),
        machine::processors(),
    ));
    Ok(())
}

/// The figure below which nine of ten are.
fn ninetieth(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() * 9 / 10).copied().unwrap_or_default()
}

/// Starts a piece, waits until it is ready and kills it. How many milliseconds it took.
async fn start(
    piece: Piece,
    folder: &Path,
    settings: impl FnOnce(SocketAddr, SocketAddr) -> Settings,
) -> anyhow::Result<f64> {
    let local = || Ok::<_, std::io::Error>(SocketAddr::from(([127, 0, 0, 1], port::lasting()?)));
    let (address, internal) = (local()?, local()?);
    let spec = Spec {
        program: None,
        name: piece.word(),
        arguments: piece.arguments(address, &[]),
        settings: settings(address, internal),
        log: folder.join(format!("start-{}.log", piece.word())),
    };
    let begun = Instant::now();
    let mut child = spec.start(None)?;
    loop {
        let ready = match piece {
            Piece::CallService | Piece::Edge => says_so(internal).await,
            Piece::Agent | Piece::Socket => TcpStream::connect(address).await.is_ok(),
        };
        if ready {
            break;
        }
        let death = child.ended_within(Duration::ZERO).await?;
        ensure!(
            death.is_none(),
            "{} ended: {death:?}; see {}",
            piece.word(),
            spec.log.display()
        );
        ensure!(
            begun.elapsed() < READY,
            "{} is not ready; see {}",
            piece.word(),
            spec.log.display()
        );
        sleep(LOOK).await;
    }
    let took = begun.elapsed();
    child.kill().await.context("after it was ready")?;
    Ok(took.as_secs_f64() * 1_000.0)
}

/// Whether `/readyz` answers with 200.
async fn says_so(internal: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(internal).await else {
        return false;
    };
    let mut head = [0; 12];
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n")
        .await
        .is_ok()
        && stream.read_exact(&mut head).await.is_ok()
        && head == *b"HTTP/1.1 200"
}
