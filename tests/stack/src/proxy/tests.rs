//! Every fault, with real sockets on both sides.

use std::{io::ErrorKind, net::SocketAddr, num::NonZeroU64, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::{Counters, Direction, Link, Proxy, When};
use crate::poll;

/// Longest wait for what has to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long nothing has to come.
const SILENCE: Duration = Duration::from_millis(150);

/// PostgreSQL's CommandComplete of a commit.
const COMMITTED: &[u8] = b"C\0\0\0\x0bCOMMIT\0";

fn free() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A proxy in front of one upstream that the test plays itself.
struct World {
    proxy: Proxy,
    upstream: TcpListener,
}

impl World {
    async fn start() -> Self {
        let upstream = TcpListener::bind(free()).await.unwrap();
        let proxy = Proxy::start(free(), [upstream.local_addr().unwrap()]).await.unwrap();
        Self { proxy, upstream }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.proxy.addr()).await.unwrap()
    }

    /// Both ends of one connection.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.connect().await;
        let (server, _) = timeout(PATIENCE, self.upstream.accept()).await.unwrap().unwrap();
        (client, server)
    }

    async fn until(&self, wanted: impl Fn(&Counters) -> bool) -> Counters {
        poll("the counters", PATIENCE, async || {
            let counters = self.proxy.faults().counters();
            if wanted(&counters) {
                Ok(counters)
            } else {
                Err(format!("{counters:?}"))
            }
        })
        .await
        .unwrap()
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut came = vec![0; bytes.len()];
    timeout(PATIENCE, stream.read_exact(&mut came)).await.unwrap().unwrap();
    assert_eq!(came, bytes);
}

async fn expect_silence(stream: &TcpStream) {
    let mut byte = [0];
    let read = timeout(SILENCE, stream.peek(&mut byte)).await;
    assert!(read.is_err(), "nothing may come: {read:?}");
}

/// All bytes to the end, and how it ended.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut came = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut came)).await.unwrap();
    (came, read.err().map(|error| error.kind()))
}

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

#[tokio::test]
async fn bytes_and_ends_pass_both_ways() {
    let world = World::start().await;
    let (mut client, mut server) = world.pair().await;
    send(&mut client, b"question").await;
    expect(&mut server, b"question").await;
    // A half-closed connection still carries the answer.
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (vec![], None));
    let long: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let writing = async {
        send(&mut server, &long).await;
        server.shutdown().await.unwrap();
    };
    let ((), (came, error)) = tokio::join!(writing, rest(&mut client));
    assert!(came == long && error.is_none());
    let counters = world.until(|counters| counters.open == 0).await;
    let expected = Counters {
        connections: 1,
        to_upstream: 8,
        to_client: 800_000,
        ..Counters::default()
    };
    assert_eq!(counters, expected);
}

#[tokio::test]
async fn a_closed_listener_refuses_and_comes_back_on_its_port() {
    let world = World::start().await;
    let (mut client, mut server) = world.pair().await;
    let faults = world.proxy.faults();
    faults.refuse().await;
    for _ in 0..3 {
        let refused = TcpStream::connect(world.proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert!(
        TcpListener::bind(world.proxy.addr()).await.is_err(),
        "nobody else gets the port"
    );
    send(&mut client, b"still").await;
    expect(&mut server, b"still").await;
    faults.accept().await.unwrap();
    faults.accept().await.unwrap();
    let (mut client, mut server) = world.pair().await;
    send(&mut client, b"again").await;
    expect(&mut server, b"again").await;
}

#[tokio::test]
async fn a_black_hole_takes_connections_and_says_nothing() {
    let world = World::start().await;
    let (mut old, mut server) = world.pair().await;
    world.proxy.faults().set_black_hole(true);
    let mut client = world.connect().await;
    send(&mut client, b"hello?").await;
    send(&mut old, b"hello").await;
    let reached = timeout(SILENCE, world.upstream.accept()).await;
    assert!(reached.is_err(), "no upstream is asked");
    expect_silence(&server).await;
    world.proxy.faults().heal();
    expect(&mut server, b"hello").await;
    let (mut server, _) = timeout(PATIENCE, world.upstream.accept()).await.unwrap().unwrap();
    expect(&mut server, b"hello?").await;
}

#[tokio::test]
async fn each_direction_has_its_own_delay() {
    let world = World::start().await;
    let (mut client, mut server) = world.pair().await;
    let delay = Duration::from_millis(200);
    world
        .proxy
        .faults()
        .change(Direction::ToClient, |link| link.delay = delay);
    let began = Instant::now();
    send(&mut client, b"up").await;
    expect(&mut server, b"up").await;
    assert!(began.elapsed() < delay, "the other direction is not late");
    // Several at once are late once, not each after the other.
    let began = Instant::now();
    for _ in 0..5 {
        send(&mut server, b"down").await;
    }
    expect(&mut client, b"downdowndowndowndown").await;
    let took = began.elapsed();
    assert!(took >= delay && took < delay * 4, "{took:?}");
}

#[tokio::test]
async fn a_throttled_direction_takes_its_time() {
    let world = World::start().await;
    let (mut client, mut server) = world.pair().await;
    world.proxy.faults().change(Direction::ToUpstream, |link| {
        link.bytes_per_second = NonZeroU64::new(100_000);
    });
    let bytes = vec![7; 30_000];
    let began = Instant::now();
    send(&mut client, &bytes).await;
    expect(&mut server, &bytes).await;
    let took = began.elapsed();
    // The last slice's pause comes after its bytes.
    assert!(took >= Duration::from_millis(240), "{took:?}");
}

#[tokio::test]
async fn a_stalled_direction_waits_and_the_other_does_not() {
    let world = World::start().await;
    let (mut client, mut server) = world.pair().await;
    let faults = world.proxy.faults();
    faults.change(Direction::ToClient, |link| link.stalled = true);
    send(&mut server, b"answer").await;
    send(&mut client, b"question").await;
    expect(&mut server, b"question").await;
    expect_silence(&client).await;
    faults.change(Direction::ToClient, |link| link.stalled = false);
    expect(&mut client, b"answer").await;
    // What is stalled is bounded: the sender feels it.
    faults.change(Direction::ToClient, |link| link.stalled = true);
    let endless = async {
        let chunk = vec![0; 1 << 20];
        for _ in 0..64 {
            server.write_all(&chunk).await.unwrap();
        }
    };
    assert!(timeout(SILENCE * 4, endless).await.is_err(), "64 MiB do not fit");
}

#[tokio::test]
async fn all_connections_are_reset_on_both_sides() {
    let world = World::start().await;
    let (mut first, mut first_server) = world.pair().await;
    let (mut second, mut second_server) = world.pair().await;
    send(&mut first, b"x").await;
    expect(&mut first_server, b"x").await;
    world.proxy.faults().reset_all();
    for stream in [&mut first, &mut first_server, &mut second, &mut second_server] {
        assert_eq!(rest(stream).await, (vec![], RESET));
    }
    let counters = world.until(|counters| counters.open == 0).await;
    assert_eq!((counters.connections, counters.cuts), (2, 2));
    let (mut client, mut server) = world.pair().await;
    send(&mut client, b"fresh").await;
    expect(&mut server, b"fresh").await;
}

#[tokio::test]
async fn a_direction_is_cut_after_so_many_bytes() {
    let world = World::start().await;
    let faults = world.proxy.faults();
    for cut in [0_usize, 1, 7, 10] {
        let after = Some(u64::try_from(cut).unwrap());
        faults.change(Direction::ToClient, |link| link.cut_after = after);
        let (mut client, mut server) = world.pair().await;
        for piece in [&b"0123"[..], b"456789"] {
            // The connection may be gone by the second.
            let _ = server.write_all(piece).await;
        }
        assert_eq!(rest(&mut client).await, (b"0123456789"[..cut].to_vec(), RESET));
        assert_eq!(rest(&mut server).await.1, RESET);
    }
    faults.heal();
    faults.change(Direction::ToUpstream, |link| {
        *link = Link {
            cut_after: Some(3),
            ..Link::default()
        }
    });
    let (mut client, mut server) = world.pair().await;
    send(&mut client, b"abcdef").await;
    assert_eq!(rest(&mut server).await, (b"abc".to_vec(), RESET));
    assert_eq!(rest(&mut client).await, (vec![], RESET));
    world.until(|counters| counters.cuts == 5).await;
}

#[tokio::test]
async fn a_pattern_cuts_before_it_is_forwarded() {
    let world = World::start().await;
    world
        .proxy
        .faults()
        .cut_on(Direction::ToClient, COMMITTED, When::Before, 2);
    // Whole and with something before it; then byte by byte; the third one passes.
    let (mut client, mut server) = world.pair().await;
    send(&mut client, COMMITTED).await;
    expect(&mut server, COMMITTED).await;
    send(&mut server, &[b"rows", COMMITTED, b"Z"].concat()).await;
    assert_eq!(rest(&mut client).await, (b"rows".to_vec(), RESET));
    assert_eq!(rest(&mut server).await.1, RESET);

    let (mut client, mut server) = world.pair().await;
    for byte in COMMITTED {
        send(&mut server, &[*byte]).await;
        tokio::task::yield_now().await;
    }
    let (came, error) = rest(&mut client).await;
    assert!(came.len() < COMMITTED.len() && error == RESET, "{came:?}");

    let (mut client, mut server) = world.pair().await;
    send(&mut server, COMMITTED).await;
    expect(&mut client, COMMITTED).await;
    assert_eq!(world.proxy.faults().counters().pattern_cuts, 2);
}

#[tokio::test]
async fn a_pattern_cuts_after_it_is_forwarded() {
    let world = World::start().await;
    let faults = world.proxy.faults();
    faults.cut_on(Direction::ToUpstream, b"COMMIT", When::After, 1);
    faults.cut_on(Direction::ToUpstream, b"", When::After, 1);
    let (mut client, mut server) = world.pair().await;
    send(&mut client, b"BEGIN;COM").await;
    expect(&mut server, b"BEGIN;COM").await;
    send(&mut client, b"MIT;SELECT").await;
    assert_eq!(
        rest(&mut server).await,
        (b"MIT".to_vec(), RESET),
        "the server gets to execute it"
    );
    assert_eq!(rest(&mut client).await, (vec![], RESET));
}

#[tokio::test]
async fn upstreams_take_turns_and_dead_ones_are_left_out() {
    let (first, second) = (
        TcpListener::bind(free()).await.unwrap(),
        TcpListener::bind(free()).await.unwrap(),
    );
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    let proxy = Proxy::start(free(), addresses).await.unwrap();
    let connect = async || TcpStream::connect(proxy.addr()).await.unwrap();
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(connect().await);
        kept.push(connect().await);
        for listener in [&first, &second] {
            kept.push(timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0);
        }
    }
    drop(first);
    for _ in 0..3 {
        kept.push(connect().await);
        kept.push(timeout(PATIENCE, second.accept()).await.unwrap().unwrap().0);
    }
    drop(second);
    assert_eq!(rest(&mut connect().await).await, (vec![], RESET));
    assert_eq!(proxy.faults().counters().unreachable, 1);
    let third = TcpListener::bind(free()).await.unwrap();
    proxy.faults().set_upstreams([third.local_addr().unwrap()]);
    kept.push(connect().await);
    timeout(PATIENCE, third.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_dropped_proxy_frees_its_port() {
    let world = World::start().await;
    let (mut client, _server) = world.pair().await;
    let address = world.proxy.addr();
    drop(world);
    assert_eq!(rest(&mut client).await, (vec![], RESET));
    poll("the port", PATIENCE, async || TcpListener::bind(address).await)
        .await
        .unwrap();
}
