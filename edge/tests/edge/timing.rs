//! The bridge under a clock that the test moves: what takes minutes is seen at once.

use std::{sync::mpsc, time::Duration};

use callbridge_proto::{
    agent::v1::{Message, converse_request::Event},
    ingress::v1::session_event::Event as Report,
};
use tokio::{
    task::{spawn_blocking, yield_now},
    time::{advance, pause},
};

use crate::{
    frames::{self, pcm},
    peers::{Bench, Manner, Script, agent, hears},
    web::begin,
};

/// As long as it lives, time stands unless it is moved. tokio lets time run ahead where nothing is to be done, but not while
/// something blocks; it knows nothing of bytes on their way.
struct Stopped(#[expect(dead_code, reason = "it holds what blocks")] mpsc::Sender<()>);

impl Stopped {
    fn new() -> Self {
        let (holds, until) = mpsc::channel();
        // A test that hangs goes on after this, and its time limits end it.
        spawn_blocking(move || until.recv_timeout(Duration::from_mins(1)));
        pause();
        Self(holds)
    }

    /// Lets time pass, second by second; everybody does in each what there is to do.
    async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            // More than enough for a few round trips within one process.
            for _ in 0..200 {
                yield_now().await;
            }
        }
    }
}

async fn talking(script: Script) -> (Bench, crate::web::Socket, tokio::sync::mpsc::UnboundedReceiver<Event>) {
    let (url, events) = agent(Manner::Echo).await;
    let agents = vec![url];
    let mut bench = Bench::new(Script { agents, ..script }).await;
    let socket = begin(&bench).await;
    assert!(matches!(bench.event().await.event, Some(Report::AgentConnected(_))));
    (bench, socket, events)
}

/// F69: a peer that answers no ping is counted, and talks on; only one that is silent as well is given up, after a minute.
#[tokio::test]
async fn a_missing_pong_alone_ends_nothing() {
    const PING: [u8; 2] = [0x89, 0];
    let (mut bench, mut socket, _events) = talking(Script::default()).await;
    let time = Stopped::new();
    time.pass(21).await;
    assert_eq!(socket.bytes(2).await, PING);
    time.pass(20).await;
    assert_eq!(socket.bytes(2).await, PING);
    // Forty seconds of silence and no pong: the call lives.
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    time.pass(58).await;
    assert!(!bench.has_ended());
    time.pass(3).await;
    let (_, ended) = bench.end().await;
    assert_eq!((ended.ended_by.as_str(), ended.reason.as_str()), ("callbridge", "idle"));
    assert!(ended.quality["missed_pongs"] >= 2, "{:?}", ended.quality);
}

/// F94: half a minute before the time limit the agent is told, and at the limit the call is left in good order.
#[tokio::test]
async fn the_time_limit_is_told_and_kept() {
    let script = Script {
        ends_in: Some(300),
        ..Script::default()
    };
    let (mut bench, mut socket, mut events) = talking(script).await;
    let time = Stopped::new();
    for minute in 0..4 {
        time.pass(59).await;
        socket.send(frames::media(minute + 1, &pcm(vec![7; 160]))).await;
        assert_eq!(socket.listen(160).await, [7; 160], "minute {minute}");
    }
    // 236 seconds are over.
    time.pass(20).await;
    socket.send(frames::media(5, &pcm(vec![7; 160]))).await;
    time.pass(10).await;
    assert!(!bench.has_ended());
    time.pass(6).await;
    let Event::Message(Message { json }) = hears(&mut events, |event| matches!(event, Event::Message(_))).await else {
        panic!()
    };
    assert!(json.starts_with(r#"{"type":"time_limit","seconds_left":"#), "{json}");
    time.pass(30).await;
    assert_eq!(socket.closed().await, (1000, "time_limit".to_owned()));
    let Event::Stop(stop) = hears(&mut events, |event| matches!(event, Event::Stop(_))).await else {
        panic!()
    };
    assert_eq!(stop.reason, "time_limit");
    assert_eq!(bench.end().await.1.reason, "time_limit");
}
