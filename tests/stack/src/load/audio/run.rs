//! One measurement: calls that are set up, watched for a while, and heard out.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{net::TcpStream, time::sleep};

use super::{
    generator::{Generator, Heard, Plan},
    pieces::Piece,
    usage::Usage,
};
use crate::{
    Settings,
    child::{Child, Spec},
    load::progress::Progress,
    poll, port,
};

/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);
/// After the last call is up: what its set-up began is over.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// A server in a process of its own.
pub(super) struct Server {
    child: Child,
    /// Where it listens.
    pub(super) address: std::net::SocketAddr,
}

impl Server {
    /// Starts a piece and waits until it listens. What it needs of settings is made from the address.
    ///
    /// # Errors
    /// When it does not come up; its log is in the folder.
    pub(super) async fn start(
        piece: Piece,
        cores: &[usize],
        folder: &Path,
        settings: impl FnOnce(std::net::SocketAddr) -> Settings,
    ) -> anyhow::Result<Self> {
        Self::start_under(&[], piece, cores, folder, settings).await
    }

    /// The same under a program that watches it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub(super) async fn start_under(
        watcher: &[&str],
        piece: Piece,
        cores: &[usize],
        folder: &Path,
        settings: impl FnOnce(std::net::SocketAddr) -> Settings,
    ) -> anyhow::Result<Self> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port::lasting()?));
        let spec = Spec {
            program: None,
            name: piece.word(),
            arguments: piece.arguments(address, cores),
            settings: settings(address),
            log: folder.join(format!("{}.log", piece.word())),
        };
        let mut child = spec.start_under(watcher, None)?;
        let ready = poll("a piece to listen", READY, async || {
            match child.ended_within(Duration::ZERO).await {
                Ok(None) => {}
                Ok(Some(death)) => return Err(format!("it ended: {death:?}")),
                Err(error) => return Err(error.to_string()),
            }
            TcpStream::connect(address)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        });
        let ready = ready.await;
        ready.with_context(|| format!("{} does not come up; see {}", piece.word(), spec.log.display()))?;
        Ok(Self { child, address })
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id()?)
    }

    /// Asks it to end in order, and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) async fn finish(mut self) -> anyhow::Result<()> {
        self.child.finish(READY).await.map(drop)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not die.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.child.kill().await.map(drop)
    }
}

/// What one server used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// Processor time for a second of one stream, in milliseconds.
    pub(super) ms_per_stream_s: f64,
    /// Resident memory that came with each call.
    pub(super) rss_per_call_kib: f64,
}

/// What was measured.
pub(super) struct Measured {
    /// Of each server.
    pub(super) costs: Vec<Cost>,
    /// At the other end.
    pub(super) heard: Heard,
}

/// Measures for so long.
///
/// # Errors
/// When a call fails, or a server.
pub(super) async fn measure(what: &str, plan: Plan, servers: &[&Server], length: Duration) -> anyhow::Result<Measured> {
    let usages = || {
        servers
            .iter()
            .map(|server| server.usage())
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let streams = plan.streams;
    let idle = usages()?;
    let mut generator = Generator::start(plan)?;
    let set_up = Progress::new(&format!("{what}: calls"), streams as u64);
    loop {
        tokio::select! {
            up = generator.are_up(streams) => {
                if up {
                    break;
                }
                return Err(generator.failed().await).context(what.to_owned());
            }
            () = sleep(LOOK) => set_up.at(generator.up() as u64),
        }
    }
    drop(set_up);
    sleep(SETTLE).await;
    generator.measure();
    let (begun, before) = (Instant::now(), usages()?);
    let progress = Progress::new(&format!("{what}: seconds"), length.as_secs());
    while begun.elapsed() < length {
        tokio::select! {
            failed = generator.failed() => return Err(failed).context(what.to_owned()),
            () = sleep(LOOK.min(length.saturating_sub(begun.elapsed()))) => progress.at(begun.elapsed().as_secs()),
        }
    }
    let (after, took) = (usages()?, begun.elapsed());
    drop(progress);
    let heard = generator.end().await.with_context(|| what.to_owned())?;
    let calls = u32::try_from(streams)?;
    let mut costs = Vec::new();
    for ((idle, before), after) in idle.iter().zip(before).zip(after) {
        let cpu = after.cpu.saturating_sub(before.cpu) / calls;
        let grown = u32::try_from(after.rss_kib.saturating_sub(idle.rss_kib))?;
        costs.push(Cost {
            ms_per_stream_s: cpu.as_secs_f64() * 1_000.0 / took.as_secs_f64(),
            rss_per_call_kib: f64::from(grown) / f64::from(calls),
        });
    }
    Ok(Measured { costs, heard })
}
