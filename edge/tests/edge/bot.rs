//! Agents that are bots written for Exotel: to them the edge is Exotel.

use std::time::Duration;

use callbridge_proto::ingress::v1::session_event::Event as Report;
use edge::Allow;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message as WsMessage;

use crate::{
    frames::{self, Sent, pcm, sound},
    peers::{Bench, Bots, Manner, Script, agent, heard},
    web::{Socket, begin},
};

fn with(agents: &[&str]) -> Script {
    Script {
        agents: agents.iter().map(|&agent| agent.to_owned()).collect(),
        ..Script::default()
    }
}

#[tokio::test]
async fn a_bot_hears_and_speaks_as_with_exotel() {
    let bots = Bots::start().await;
    let mut bench = Bench::new(with(&[&bots.url])).await;
    let mut socket = begin(&bench).await;
    let mut bot = bots.bot().await;
    assert_eq!(bot.path, "/bot", "the query is not in the handshake");
    let start = bot.started().await;
    assert_eq!(
        start["start"],
        json!({
            "stream_sid": frames::STREAM, "call_sid": "b0c8aea60aceb0007fc5a1bb75c218bl", "account_sid": "examplesid1",
            "from": "+919990000105", "to": "+914440000319",
            "custom_parameters": { "lang": "hi", "call_id": "call_1" },
            "media_format": { "encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps" },
        })
    );
    assert_eq!(
        (&start["stream_sid"], &start["sequence_number"]),
        (&json!(frames::STREAM), &json!("1"))
    );

    let said = sound(8000);
    socket.say(&said).await;
    assert_eq!(bot.listen(8000).await, said);
    for piece in said.chunks(1000) {
        bot.speak(piece).await;
    }
    assert_eq!(socket.listen(8000).await, said);
    socket.send(frames::dtmf("5")).await;
    let key = bot.event("dtmf").await;
    assert_eq!(key["dtmf"], json!({ "digit": "5", "duration": "100" }));
    socket.send(frames::stop("callended")).await;
    assert_eq!(bot.event("stop").await["stop"]["reason"], "callended");
    assert_eq!(bot.next().await, Err(Some(1000)));
    assert_eq!(socket.closed().await.0, 1000);
    let (before, ended) = bench.end().await;
    assert!(
        matches!(&before[..], [Report::AgentConnected(_), Report::Dtmf(_)]),
        "{before:?}"
    );
    assert_eq!(
        (ended.reason.as_str(), ended.quality["frames_in"]),
        ("caller_hung_up", 50)
    );
}

/// The mark comes back when Exotel has played what was before it, not when it was sent; one that a clear dropped does not.
#[tokio::test]
async fn a_bots_marks_are_told_when_they_were_heard() {
    let bots = Bots::start().await;
    let mut bench = Bench::new(with(&[&bots.url])).await;
    let mut socket = begin(&bench).await;
    let mut bot = bots.bot().await;
    bot.started().await;
    let mark = |name: &str| json!({ "event": "mark", "stream_sid": "x", "mark": { "name": name } });
    bot.speak(&[500; 4000]).await;
    bot.say(mark(" first turn ")).await;
    let ours = loop {
        if let Sent::Mark(name) = socket.next().await.unwrap() {
            break name;
        }
    };
    // Exotel has it and has not said so: nothing but the person's audio reaches the bot.
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(bot.next().await.unwrap()["event"], "media");
    socket.send(frames::mark(&ours)).await;
    assert_eq!(bot.next().await.unwrap()["mark"]["name"], " first turn ");

    for _ in 0..20 {
        bot.speak(&[600; 8000]).await;
    }
    bot.say(mark("never heard")).await;
    while !matches!(socket.next().await, Ok(Sent::Audio(_))) {}
    bot.say(json!({ "event": "clear", "stream_sid": "x" })).await;
    while socket.next().await != Ok(Sent::Clear) {}
    bot.speak(&[700; 1600]).await;
    bot.say(mark("second turn")).await;
    assert_eq!(socket.listen(1600).await, [700; 1600]);
    let ours = loop {
        if let Sent::Mark(name) = socket.next().await.unwrap() {
            break name;
        }
    };
    socket.send(frames::mark(&ours)).await;
    assert_eq!(bot.event("mark").await["mark"]["name"], "second turn");
    // Its part is over: the flow goes on.
    bot.close(1000).await;
    assert_eq!(socket.closed().await, (1000, "agent_left".to_owned()));
    let (_, ended) = bench.end().await;
    assert_eq!((ended.reason.as_str(), ended.quality["clears"]), ("agent_left", 1));
}

/// F73: a bot that breaks off is replaced, by a gRPC agent as well; what the person says meanwhile waits for it.
#[tokio::test]
async fn a_bot_that_breaks_is_replaced_by_the_next_endpoint() {
    for code in [None, Some(1001), Some(1011), Some(1012)] {
        let bots = Bots::start().await;
        let (url, mut events) = agent(Manner::Echo).await;
        let mut bench = Bench::new(with(&[&bots.url, &url])).await;
        let mut socket = begin(&bench).await;
        let mut bot = bots.bot().await;
        bot.started().await;
        if let Some(code) = code {
            bot.close(code).await;
        }
        drop(bot);
        heard(&mut events).await;
        socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
        assert_eq!(socket.listen(160).await, [7; 160], "{code:?}");
        socket.send(frames::stop("callended")).await;
        let (before, ended) = bench.end().await;
        let connected: Vec<_> = before
            .iter()
            .filter_map(|report| match report {
                Report::AgentConnected(connected) => Some(connected.endpoint_index),
                _ => None,
            })
            .collect();
        assert_eq!((connected, ended.quality["agent_retries"]), (vec![0, 1], 1), "{code:?}");
    }
}

/// F104: what is no AgentStream is counted and ignored; a giant message ends the stream.
#[tokio::test]
async fn a_hostile_bot_costs_its_own_call_only() {
    let bots = Bots::start().await;
    let mut bench = Bench::new(with(&[&bots.url])).await;
    let mut socket = begin(&bench).await;
    let mut bot = bots.bot().await;
    bot.started().await;
    for noise in [
        WsMessage::binary(vec![0; 320]),
        WsMessage::text("[".repeat(10_000)),
        WsMessage::text(r#"{"event":"media","media":{"payload":"%%%"}}"#),
        WsMessage::text(r#"{"event":"hello"}"#),
    ] {
        bot.send(noise).await;
    }
    // The largest audio that Exotel takes still does.
    bot.speak(&vec![5; 51_200]).await;
    assert_eq!(socket.listen(800).await[..800], [5; 800]);
    bot.say(json!({ "event": "clear" })).await;
    bot.send(WsMessage::text("x".repeat(200_000))).await;
    let mut second = bots.bot().await;
    second.started().await;
    second.send(WsMessage::text("x".repeat(200_000))).await;
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.quality["bad_agent_messages"], ended.quality["agent_retries"]),
        (3, 1)
    );
}

/// F74: neither a bot that is not there, nor one that says no, nor a server that never answers keeps a call for long.
#[tokio::test]
async fn a_bot_that_cannot_be_reached_is_given_up() {
    let hole = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("ws://{}/", hole.local_addr().unwrap());
    let (grpc, _events) = agent(Manner::Echo).await;
    let not_a_bot = grpc.replace("http", "ws");
    let bots = Bots::start().await;
    let script = with(&["ws://127.0.0.1:9/", &not_a_bot, &silent, &bots.url]);
    let mut bench = Bench::with(script, |config| config.agent_limit = Duration::from_secs(2)).await;
    let mut socket = begin(&bench).await;
    let mut bot = bots.bot().await;
    bot.started().await;
    let Some(Report::AgentConnected(connected)) = bench.event().await.event else {
        panic!()
    };
    assert_eq!(connected.endpoint_index, 3);
    socket.send(frames::stop("stopped")).await;
    assert_eq!(bot.event("stop").await["stop"]["reason"], "stopped");
    drop(bench);

    let script = with(&["ws://127.0.0.1:9/", &silent]);
    let mut bench = Bench::with(script, |config| config.agent_limit = Duration::from_millis(400)).await;
    let mut socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    assert_eq!(bench.end().await.1.reason, "agent_failed");
}

/// F71: a bot that stops reading is replaced once the limit has passed; the call does not wait for it.
#[tokio::test]
async fn a_bot_that_does_not_read_is_replaced() {
    let bots = Bots::cramped().await;
    let (url, mut events) = agent(Manner::Echo).await;
    let script = with(&[&bots.url, &url]);
    let mut bench = Bench::with(script, |config| config.stall_limit = Duration::from_millis(200)).await;
    let mut socket = begin(&bench).await;
    let _deaf = bots.bot().await;
    bench.event().await;
    // More than the sockets of both sides hold.
    for chunk in 1..=150 {
        socket.send(frames::media(chunk, &vec![1; 32_000])).await;
    }
    heard(&mut events).await;
    let report = bench.event().await.event;
    assert!(
        matches!(&report, Some(Report::AgentConnected(connected)) if connected.endpoint_index == 1),
        "{report:?}"
    );
    socket.send(frames::stop("callended")).await;
    let (_, ended) = bench.end().await;
    assert_eq!((ended.quality["frames_in"], ended.quality["agent_retries"]), (150, 1));
    assert!(ended.quality["dropped_in_ms"] > 0, "{:?}", ended.quality);
}

/// F124: a bot is dialled at allowed places only.
#[tokio::test]
async fn a_bot_that_is_not_allowed_is_not_dialled() {
    let bots = Bots::start().await;
    let mut bench = Bench::with(with(&[&bots.url]), |config| {
        config.agent_endpoint_allow = Allow::default();
    })
    .await;
    let mut socket: Socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "agent_failed".to_owned()));
    assert_eq!(bench.end().await.1.reason, "agent_failed");
}
