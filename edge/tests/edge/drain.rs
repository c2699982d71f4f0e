//! A process that shall stop while people talk.

use std::time::Duration;

use callbridge_proto::agent::v1::converse_request::Event;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    frames::{self, pcm},
    peers::{Bench, Manner, Script, agent, hears, with_agent},
    web::begin,
};

/// F76: a live call outlives SIGTERM; new ones find the door closed; the process ends after the last.
#[tokio::test]
async fn live_calls_finish_after_the_stop() {
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let mut socket = begin(&bench).await;
    bench.event().await;
    bench.tasks.stop();
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    socket.send(frames::stop("callended")).await;
    assert_eq!(bench.end().await.1.reason, "caller_hung_up");
    bench.ended.await.unwrap().unwrap().unwrap();
}

/// F78: the drain limit closes what is left, says so to both sides, and the report arrives.
#[tokio::test]
async fn the_drain_limit_closes_with_1001() {
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::with(script, |config| config.drain = Duration::from_millis(200)).await;
    let mut socket = begin(&bench).await;
    bench.event().await;
    bench.tasks.stop();
    assert_eq!(socket.closed().await, (1001, "drained".to_owned()));
    let Event::Stop(stop) = hears(&mut events, |event| matches!(event, Event::Stop(_))).await else {
        panic!()
    };
    assert_eq!(stop.reason, "drained");
    assert_eq!(bench.end().await.1.reason, "drained");
    bench.ended.await.unwrap().unwrap().unwrap();
}

/// A second signal: whoever stops the process does not want to wait for the calls.
#[tokio::test]
async fn a_drain_can_be_cut_short() {
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::with(script, |config| {
        (config.drain, config.accept_window) = (Duration::from_mins(10), Duration::from_mins(10));
    })
    .await;
    let mut socket = begin(&bench).await;
    bench.event().await;
    bench.tasks.stop();
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    bench.tasks.cut_short();
    assert_eq!(socket.closed().await, (1001, "drained".to_owned()));
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
    assert_eq!(bench.end().await.1.reason, "drained");
    bench.ended.await.unwrap().unwrap().unwrap();
}

/// F76: a connection that is kept for the next request is not closed under it: it gets its answer, and hears that it was the last.
#[tokio::test]
async fn a_kept_connection_gets_a_last_answer() {
    let (url, _events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let bench = Bench::with(script, |config| config.accept_window = Duration::from_secs(4)).await;
    let mut kept = TcpStream::connect(bench.public).await.unwrap();
    let first = ask(&mut kept).await;
    assert!(!first.contains("connection: close"), "{first}");
    bench.tasks.stop();
    // Until nobody listens any more.
    while TcpStream::connect(bench.public).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let last = ask(&mut kept).await;
    assert!(last.contains("connection: close"), "{last}");
    assert_eq!(kept.read(&mut [0]).await.unwrap(), 0, "and that is its end");
    bench.ended.await.unwrap().unwrap().unwrap();
}

/// One request; the head of its answer.
async fn ask(kept: &mut TcpStream) -> String {
    kept.write_all(b"HEAD / HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(kept.read_u8().await.expect("an answer"));
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}
