//! An edge whose file descriptors or memory are counted, as a process of its own between the other tests' peers.

#![cfg(target_os = "linux")]
#![expect(
    dead_code,
    unused_imports,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "parts of the other tests' peers; tests fail by panicking, and count small things"
)]

#[path = "edge/frames.rs"]
mod frames;
#[path = "edge/peers/mod.rs"]
mod peers;
#[path = "edge/web.rs"]
mod web;

use std::{fs, net::SocketAddr, time::Duration};

use callbridge_proto::agent::v1::converse_request::Event;
use data_encoding::BASE64;
use frames::pcm;
use peers::{Bench, Manner, Script, account, agent, heard};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc::UnboundedReceiver,
    time::{sleep, timeout},
};
use web::Socket;

const PATIENCE: Duration = Duration::from_secs(20);
const LIMIT: usize = 60;
/// More than it could have, and less than a listen queue holds.
const CROWD: usize = 100;

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !done().await {
            sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

async fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The bench's edge again as a process, which may have so many descriptors.
async fn in_a_process(bench: &mut Bench, descriptors: usize) -> Child {
    bench.tasks.stop();
    (&mut bench.ended).await.unwrap().unwrap().unwrap();
    (bench.public, bench.internal) = (free().await, free().await);
    let process = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -n {descriptors}; exec \"$0\""),
            env!("CARGO_BIN_EXE_edge"),
        ])
        .env_clear()
        .envs(bench.vars.iter().cloned())
        .env("EDGE_ADDR", bench.public.to_string())
        .env("EDGE_INTERNAL_ADDR", bench.internal.to_string())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let public = bench.public;
    until("the edge", async || TcpStream::connect(public).await.is_ok()).await;
    process
}

/// An edge with few descriptors, whose calls have an agent that breaks and another one.
struct Crowded {
    bench: Bench,
    process: Child,
    agents: [UnboundedReceiver<Event>; 2],
}

impl Crowded {
    async fn new() -> Self {
        let (breaking, first) = agent(Manner::Break).await;
        let (url, second) = agent(Manner::Echo).await;
        let mut bench = Bench::new(Script {
            agents: vec![breaking, url],
            ..Script::default()
        })
        .await;
        let process = in_a_process(&mut bench, LIMIT).await;
        Self {
            bench,
            process,
            agents: [first, second],
        }
    }

    fn descriptors(&self) -> usize {
        let pid = self.process.id().unwrap();
        fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    async fn is_given_another_agent(&mut self, socket: &mut Socket) {
        socket.send(frames::connected()).await;
        socket.send(frames::start(8000)).await;
        for agent in &mut self.agents {
            assert!(matches!(heard(agent).await, Event::Start(_)));
        }
        for chunk in 1..=50 {
            socket.send(frames::media(chunk, &pcm(vec![7; 160]))).await;
            assert_eq!(socket.listen(160).await, [7; 160]);
        }
    }
}

/// F130: whoever crowds the door takes no descriptor that a live call needs: it is still given another agent.
#[tokio::test]
async fn a_crowd_leaves_live_calls_their_descriptors() {
    let mut crowded = Crowded::new().await;
    let mut socket = Socket::open(crowded.bench.public, &crowded.bench.socket_path(), None)
        .await
        .unwrap();

    let before = crowded.descriptors();
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(crowded.bench.public).await.unwrap());
    }
    // Nearly as many as are let in at that limit, beside the call.
    until("the crowd", async || crowded.descriptors() >= before + 6).await;

    crowded.is_given_another_agent(&mut socket).await;
    assert!(
        crowded.descriptors() < LIMIT - 20,
        "{} descriptors",
        crowded.descriptors()
    );

    drop(crowd);
    let mut another = Socket::open(crowded.bench.public, &crowded.bench.socket_path(), None)
        .await
        .unwrap();
    another.send(frames::connected()).await;
    crowded.process.kill().await.unwrap();
}

/// Sockets with an account's credentials, on which nothing is said.
async fn idle(bench: &Bench, count: usize) -> Vec<Socket> {
    let credentials = format!("{}:{}", account(), bench.account_token());
    let basic = format!("Basic {}", BASE64.encode(credentials.as_bytes()));
    let mut sockets = Vec::new();
    while sockets.len() < count {
        match Socket::open(bench.public, "/ws/exotel/voice", Some(&basic)).await {
            Ok(socket) => sockets.push(socket),
            // Some were told to go, and have not gone.
            Err(status) => assert_eq!(status, 503),
        }
    }
    sockets
}

/// F66, F130: sockets that say nothing go first, those that have waited longest before all others, and a live call is still given
/// another agent.
#[tokio::test]
async fn sockets_that_say_nothing_give_way() {
    let mut crowded = Crowded::new().await;
    let mut crowd = idle(&crowded.bench, 2 * LIMIT).await;
    let mut socket = loop {
        // Where one that was told to go has not gone.
        if let Ok(socket) = Socket::open(crowded.bench.public, &crowded.bench.another_socket_path(), None).await {
            break socket;
        }
    };
    crowded.is_given_another_agent(&mut socket).await;
    assert!(crowded.descriptors() < LIMIT, "{} descriptors", crowded.descriptors());
    // More than half of them cannot have had a place.
    for gone in &mut crowd[..LIMIT] {
        assert_eq!(gone.closed().await, (1013, "shed".to_owned()));
    }
    crowded.process.kill().await.unwrap();
}

/// F66: what a socket costs on which nothing was said. In a build for debugging, which needs more than one for use.
#[tokio::test]
async fn a_socket_that_says_nothing_costs_little() {
    const SOCKETS: usize = 1000;
    runtime::descriptors::raise();
    let mut bench = Bench::new(Script::default()).await;
    bench.vars.push(("EDGE_MAX_PENDING_PER_ADDRESS", "2000".to_owned()));
    let mut process = in_a_process(&mut bench, 4 * SOCKETS).await;
    let status = format!("/proc/{}/status", process.id().unwrap());
    let resident_kib = || {
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let _before = idle(&bench, 50).await;
    let before = resident_kib();
    let _sockets = idle(&bench, SOCKETS).await;
    let grown = resident_kib() - before;
    assert!(grown <= 8 * SOCKETS, "{grown} KiB for {SOCKETS} sockets");
    process.kill().await.unwrap();
}
