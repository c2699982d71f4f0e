//! `cargo load idle`: what sockets that never say `start` cost the edge, and the calls that it has meanwhile (F66).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Plan, Target, frame,
    generator::{Generator, Heard},
    phone::Line,
    run::{Server, measure},
    scene::{Scene, line},
};
use crate::load::{arguments::Arguments, audio::cores::Cores, machine, progress::Progress, result, say};

/// Calls that talk meanwhile, and how long a chunk of theirs is.
const CALLS: usize = 10;
const CHUNK_MS: u32 = 20;
/// How many sockets are opened in a second: all of them, before the first one's time is up.
const PER_SECOND: u32 = 1_500;
/// A socket is closed by the edge after ten seconds; later than this it is not.
const PATIENCE: Duration = Duration::from_secs(30);
/// The first socket's time is up soon after this; the last one's handshake has been answered so long after it was due.
const UNTIL_CLOSED: Duration = Duration::from_millis(9_900);
const SETTLED: Duration = Duration::from_millis(300);
/// Between two looks at the edge's memory.
const LOOK: Duration = Duration::from_millis(100);
/// The other figure: so many addresses want more sockets each than they may have, and more in all.
const ADDRESSES: u8 = 6;
const OF_EACH: usize = 600;

/// Measures and prints.
pub(in crate::load) async fn run(arguments: &Arguments, cores: &Cores, processors: usize) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        say("load: this is no release build: its figures mean nothing");
    }
    let folder = crate::target::folder().join("load");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let scene = Scene::start(&cores.others, &folder, CHUNK_MS).await?;
    let (admitted, refused) = excess(&scene, cores, &folder).await?;

    let count = arguments.sockets;
    let edge = scene.edge(&cores.server, &folder, &[], |settings| {
        for name in ["EDGE_MAX_PENDING_SOCKETS", "EDGE_MAX_PENDING_PER_ADDRESS"] {
            settings.insert(name.to_owned(), (count + CALLS).to_string());
        }
    });
    let edge = edge.await?;
    let plan = |first| Plan {
        target: Target::Socket(Line {
            first,
            ..line(&edge, &scene.echoed)
        }),
        streams: CALLS,
        chunk: Duration::from_millis(CHUNK_MS.into()),
        cores: cores.generator.clone(),
    };
    let length = Duration::from_secs(arguments.seconds);
    let baseline = measure("calls alone", plan(0), &[&edge], length).await?.heard;
    let there = line(&edge, &scene.echoed);
    // Twice, since a generator has one figure: while they are opened and closed, and while all are there and idle.
    let (idle, storm) = beside_calls(plan(CALLS), &edge, &there, count, Window::Storm).await?;
    let (again, heard) = beside_calls(plan(2 * CALLS), &edge, &there, count, Window::Idle).await?;
    edge.end().await?;
    scene.end().await?;

    let p99 = |heard: &Heard| heard.latency.per_mille(990).as_secs_f64() * 1_000.0;
    let (live, alone, stormy) = (p99(&heard), p99(&baseline), p99(&storm));
    let late = |heard: &Heard| heard.lateness.per_mille(990).as_secs_f64() * 1_000.0;
    let (late, stormy_late) = (late(&heard), late(&storm));
    let grown = u32::try_from(idle.peak_kib.saturating_sub(idle.before_kib))?;
    let each = f64::from(grown) / f64::from(u32::try_from(count)?);
    let rss = f64::from(u32::try_from(idle.peak_kib)?) / 1_024.0;
    let (first, last) = (idle.soonest.as_secs_f64(), idle.latest.as_secs_f64());
    let load = machine::load_average();
    if let Some(path) = &arguments.json {
        let json = json!({
            "idle": count, "rss_mib": rss, "rss_before_kib": idle.before_kib, "rss_peak_kib": idle.peak_kib, "kib_each": each,
            "closed": idle.closed, "closed_after_s_min": first, "closed_after_s_max": last, "live_p99_ms": live,
            "baseline_p99_ms": alone, "echoes": heard.latency.count(), "lateness_p99_ms": late, "storm_p99_ms": stormy,
            "storm_lateness_p99_ms": stormy_late, "default_admitted": admitted,
            "default_refused": refused, "calls": CALLS, "load_avg": load,
        });
        fs::write(path, serde_json::to_vec_pretty(&json)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    result(&format!(
        "idle={count} rss_mib={rss:.1} kib_each={each:.2} closed={} closed_after_s_min={first:.2} closed_after_s_max={last:.2} \
        live_p99_ms={live:.2} baseline_p99_ms={alone:.2} p99_ratio={:.2} lateness_p99_ms={late:.2} storm_p99_ms={stormy:.2} \
        storm_lateness_p99_ms={stormy_late:.2} default_admitted={admitted} default_refused={refused} calls={CALLS} processors={processors} load_avg={load}",
        idle.closed,
        live / alone,
    ));
    for idle in [&idle, &again] {
        ensure!(
            idle.closed == count,
            "{} of {count} sockets were not closed with 1008",
            count - idle.closed
        );
    }
    for heard in [&heard, &storm] {
        ensure!(
            heard.counts.is_clean(),
            "a call lost audio meanwhile: {:?} (bytes)",
            heard.counts
        );
    }
    Ok(())
}

/// When the calls' times are taken.
#[derive(Clone, Copy)]
enum Window {
    /// From the first opening to the last close.
    Storm,
    /// While all sockets are open and none is closed.
    Idle,
}

impl Window {
    /// From when until when, for sockets of which the first is opened then.
    fn of(self, begun: Instant, count: u32) -> anyhow::Result<(Instant, Instant)> {
        match self {
            Self::Storm => Ok((begun, begun + PATIENCE)),
            Self::Idle => {
                let from = begun + Duration::from_secs(1) * count / PER_SECOND + SETTLED;
                let until = begun + UNTIL_CLOSED;
                ensure!(
                    from < until,
                    "{count} sockets are never all open: the first is closed before the last is opened; give fewer --sockets"
                );
                Ok((from, until))
            }
        }
    }
}

/// What became of sockets that say nothing.
struct Idle {
    closed: usize,
    soonest: Duration,
    latest: Duration,
    /// The edge's memory before the first one, and at most.
    before_kib: u64,
    peak_kib: u64,
}

/// Opens the sockets while calls talk, and waits until the edge has closed them all.
async fn beside_calls(
    plan: Plan,
    edge: &Server,
    line: &Line,
    count: usize,
    window: Window,
) -> anyhow::Result<(Idle, Heard)> {
    let mut generator = Generator::start(plan)?;
    if !generator.are_up(CALLS).await {
        return Err(generator.failed().await);
    }
    let before_kib = edge.usage()?.rss_kib;
    let (begun, line) = (Instant::now(), Arc::new(line.clone()));
    let mut sockets = JoinSet::new();
    let many = u32::try_from(count)?;
    let (from, until) = window.of(begun, many)?;
    let (mut before, mut within) = (true, true);
    for at in 0..many {
        let (due, line) = (begun + Duration::from_secs(1) * at / PER_SECOND, Arc::clone(&line));
        sockets.spawn(async move {
            sleep_until(due).await;
            let socket = open(&line, IpAddr::V4(Ipv4Addr::LOCALHOST)).await?;
            let socket = socket.map_err(|status| anyhow::anyhow!("the upgrade was answered {status}"))?;
            timeout(PATIENCE, closed(socket)).await.context("not closed in time")?
        });
    }
    let mut idle = Idle {
        closed: 0,
        soonest: PATIENCE,
        latest: Duration::ZERO,
        before_kib,
        peak_kib: before_kib,
    };
    let progress = Progress::new("sockets that are closed", count as u64);
    loop {
        tokio::select! {
            ended = sockets.join_next() => match ended {
                Some(ended) => match ended.context("a socket's task panicked")? {
                    Ok(after) => {
                        idle.closed += 1;
                        idle.soonest = idle.soonest.min(after);
                        idle.latest = idle.latest.max(after);
                    }
                    Err(error) => say(&format!("load: a socket: {error:#}")),
                },
                None => break,
            },
            failed = generator.failed() => return Err(failed).context("a call beside the sockets"),
            () = sleep_until(from), if before => {
                before = false;
                generator.measure();
            }
            () = sleep_until(until), if within => {
                within = false;
                generator.rest();
            }
            () = sleep(LOOK) => {}
        }
        if idle.closed.is_multiple_of(100) {
            idle.peak_kib = idle.peak_kib.max(edge.usage().context("the edge is gone")?.rss_kib);
            progress.at(idle.closed as u64);
        }
    }
    drop(progress);
    Ok((idle, generator.end().await?))
}

/// With the settings that nobody changed: how many of too many sockets are let in, and how many refused.
async fn excess(scene: &Scene, cores: &Cores, folder: &Path) -> anyhow::Result<(usize, usize)> {
    let edge = scene.edge(&cores.server, folder, &[], |_| ()).await?;
    let line = line(&edge, &scene.echoed);
    let (mut admitted, mut refused) = (Vec::new(), 0);
    for last in 1..=ADDRESSES {
        for _ in 0..OF_EACH {
            match open(&line, IpAddr::from([127, 0, 1, last])).await? {
                Ok(socket) => admitted.push(socket),
                Err(503) => refused += 1,
                Err(status) => anyhow::bail!("the upgrade was answered {status}"),
            }
        }
    }
    edge.end().await?;
    Ok((admitted.len(), refused))
}

/// Opens a socket with the account's credentials. The error is the answer's status.
async fn open(line: &Line, from: IpAddr) -> anyhow::Result<Result<TcpStream, u16>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let mut stream = socket.connect(line.address).await.context("cannot connect")?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: {}\r\n\r\n",
        line.path, line.address, line.authorization
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        ensure!(stream.read_buf(&mut head).await? > 0, "the handshake is not answered");
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(match status.context("an answer without a status")? {
        101 => Ok(stream),
        status => Err(status),
    })
}

/// Says nothing, and answers the edge's close. How long it took.
async fn closed(mut socket: TcpStream) -> anyhow::Result<Duration> {
    let opened = Instant::now();
    // The close of a socket that did not say `start`: 1008, with its reason.
    let mut head = [0; 4];
    socket.read_exact(&mut head).await.context("no close")?;
    let after = opened.elapsed();
    ensure!(
        head[0] == 0x80 | frame::CLOSE && u16::from_be_bytes([head[2], head[3]]) == 1008,
        "it was not closed with 1008"
    );
    let mut answer = Vec::new();
    frame::put(&mut answer, frame::CLOSE, [1, 2, 3, 4], &head[2..]);
    socket.write_all(&answer).await?;
    let mut rest = Vec::new();
    socket
        .read_to_end(&mut rest)
        .await
        .context("it was not closed in order")?;
    Ok(after)
}
