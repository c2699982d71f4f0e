//! Agents that are not there, break, stall or lie; and an Exotel that does not read.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{OutgoingAudio, converse_request::Event, converse_response::Action},
    ingress::v1::session_event::Event as Report,
};
use edge::Allow;

use crate::{
    frames::{self, pcm},
    peers::{Bench, Lie, Manner, Script, agent, heard, hears, liar, told, with_agent},
    web::{Socket, begin},
};

/// F74: endpoints in order; one that refuses and one where nobody listens cost little.
#[tokio::test]
async fn the_next_endpoint_is_tried() {
    let (refusing, _heard) = agent(Manner::Refuse).await;
    let (url, mut events) = agent(Manner::Echo).await;
    let nobody = "http://127.0.0.1:9".to_owned();
    let mut bench = Bench::new(Script {
        agents: vec![nobody, refusing, url],
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    let Some(Report::AgentConnected(connected)) = bench.event().await.event else {
        panic!()
    };
    assert_eq!(connected.endpoint_index, 2);
    socket.send(frames::stop("callended")).await;
    assert_eq!(bench.end().await.1.reason, "caller_hung_up");
}

/// F73, F104: an agent that breaks off is replaced once; then the tone is heard and the call is left.
#[tokio::test]
async fn a_call_without_an_agent_is_left_cleanly() {
    let (mut bench, mut events) = with_agent(Manner::Break).await;
    let mut socket = begin(&bench).await;
    assert!(!socket.listen(4000).await.is_empty());
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.reason.as_str(), ended.quality["agent_retries"]),
        ("agent_failed", 1)
    );
}

/// F74: somebody accepts the connection and says nothing at all.
#[tokio::test]
async fn an_agent_that_is_a_black_hole_is_given_up() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hole.local_addr().unwrap());
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::with(script, |config| config.agent_limit = Duration::from_millis(400)).await;
    let mut socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    assert_eq!(bench.end().await.1.reason, "agent_failed");
}

/// An agent that waits for the person to speak need not send headers before.
#[tokio::test]
async fn an_agent_that_only_listens_is_connected() {
    let (mut bench, mut events) = with_agent(Manner::Listen).await;
    let mut socket = begin(&bench).await;
    assert!(matches!(bench.event().await.event, Some(Report::AgentConnected(_))));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    hears(&mut events, |event| matches!(event, Event::Audio(_))).await;
    socket.send(frames::stop("callended")).await;
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
    assert_eq!(bench.end().await.1.reason, "caller_hung_up");
}

/// F71: an agent that does not read costs its own call the oldest audio; the end does not wait for it.
#[tokio::test]
async fn an_agent_that_does_not_read_loses_audio_only() {
    let (mut bench, _events) = with_agent(Manner::Deaf).await;
    let mut socket = begin(&bench).await;
    bench.event().await;
    // More than the agent's transport holds: three megabytes.
    for chunk in 1..=100 {
        socket.send(frames::media(chunk, &vec![1; 32_000])).await;
    }
    socket.send(frames::stop("callended")).await;
    assert_eq!(socket.closed().await.0, 1000);
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.reason.as_str(), ended.quality["frames_in"]),
        ("caller_hung_up", 100)
    );
    assert!(ended.quality["dropped_in_ms"] > 30_000, "{:?}", ended.quality);
}

/// F124: an endpoint that is not allowed is not dialled.
#[tokio::test]
async fn only_allowed_endpoints_are_dialled() {
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::with(script, |config| config.agent_endpoint_allow = Allow::default()).await;
    let mut socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    assert_eq!(bench.end().await.1.reason, "agent_failed");
    assert!(events.try_recv().is_err());
}

/// F73: the call goes on with the next endpoint, and what the person said meanwhile is not lost.
#[tokio::test]
async fn an_agent_that_breaks_is_replaced_by_the_next_endpoint() {
    let (breaking, mut first) = agent(Manner::Break).await;
    let nobody = "http://127.0.0.1:9".to_owned();
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![breaking, nobody, url],
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    assert!(matches!(heard(&mut first).await, Event::Start(_)));
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    socket.send(frames::stop("callended")).await;
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.reason.as_str(), ended.quality["agent_retries"]),
        ("caller_hung_up", 1)
    );
}

/// F104: whatever an agent's server answers with, the call ends with the reason, and soon.
#[tokio::test]
async fn an_agent_that_lies_ends_its_call_cleanly() {
    for (lie, retries) in [
        (Lie::Status, 0),
        (Lie::NotGrpc, 1),
        (Lie::Garbage, 1),
        (Lie::Giant, 1),
        (Lie::Unfinished, 1),
    ] {
        let url = liar(lie).await;
        let mut bench = Bench::new(Script {
            agents: vec![url],
            ..Script::default()
        })
        .await;
        let mut socket = begin(&bench).await;
        assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()), "{lie:?}");
        let (_, ended) = bench.end().await;
        // What is zero is not told.
        let counted = ended.quality.get("agent_retries").copied().unwrap_or(0);
        assert_eq!((ended.reason.as_str(), counted), ("agent_failed", retries), "{lie:?}");
    }
}

/// F70: an Exotel that reads no more is waited for a while, with bounded memory, and left.
#[tokio::test]
async fn an_exotel_that_does_not_read_is_left() {
    let (manner, say) = told();
    let (url, mut events) = agent(manner).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::cramped(script, |config| config.stall_limit = Duration::from_secs(2)).await;
    let mut socket = Socket::cramped(bench.public, &bench.socket_path()).await;
    socket.send(frames::start(8000)).await;
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    for _ in 0..120 {
        // A minute, half a second each.
        let pcm = pcm(vec![1000; 4000]).into();
        say.send(Action::Audio(OutgoingAudio { pcm, generation: 1 })).unwrap();
    }
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.ended_by.as_str(), ended.reason.as_str()),
        ("provider", "socket_closed")
    );
    assert!(ended.quality["dropped_out_ms"] >= 25_000, "{:?}", ended.quality);
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
}
