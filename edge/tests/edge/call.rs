//! Whole sessions: Exotel's socket on one side, an agent on the other.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{
        Clear, Leave, LeaveAction, Mark, Message, OutgoingAudio, Transcript, converse_request::Event,
        converse_response::Action,
    },
    ingress::v1::{
        AgentConnected, Command, Interrupted, attach_edge_request::Message as Upward,
        attach_edge_response::Message as Downward, command, session_event::Event as Report,
    },
};
use data_encoding::BASE64;
use edge::AllowList;
use exotel::token::Purpose;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tonic::Status;

use crate::{
    frames::{self, Sent, pcm},
    http::{sha256, wav},
    peers::{Asked, Bench, MEDIA, Manner, Script, account, agent, call, heard, hears, told},
    web::Socket,
};

async fn begin(bench: &Bench) -> Socket {
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    socket.send(frames::connected()).await;
    socket.send(frames::start(8000)).await;
    socket
}

#[expect(clippy::unnecessary_wraps, reason = "as the channel takes it")]
fn command(id: &str, action: command::Action) -> Option<Downward> {
    let (command_id, media_session_id) = (id.to_owned(), MEDIA.to_owned());
    Some(Downward::Command(Command {
        command_id,
        media_session_id,
        action: Some(action),
    }))
}

#[tokio::test]
async fn what_is_said_comes_back_sample_for_sample() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    let Asked::Claim(claim) = bench.asked().await else {
        panic!()
    };
    assert_eq!((claim.call_id, claim.nonce), (call().to_string(), 0x0102));
    let Asked::Start(start) = bench.asked().await else {
        panic!()
    };
    assert_eq!(
        (start.claim, start.media_session_id.as_str(), start.edge_id),
        (7, MEDIA, claim.edge_id)
    );
    assert_eq!((start.stream_sid.as_str(), start.sample_rate), (frames::STREAM, 8000));
    assert_eq!((start.from.as_str(), start.to.as_str()), ("09990000105", "04440000319"));
    let Event::Start(started) = heard(&mut events).await else {
        panic!()
    };
    assert_eq!(
        (started.call_id.as_str(), started.max_buffered_ms, started.greeting_ms),
        ("call_1", 30_000, 0)
    );
    assert_eq!(started.audio_format.unwrap().sample_rate, 8000);

    let said: Vec<i16> = (0..8000).map(|i| (i % 30_000) as i16 + 1).collect();
    for (i, piece) in said.chunks(160).enumerate() {
        socket
            .send(frames::media(i as u64 + 1, &pcm(piece.iter().copied())))
            .await;
    }
    assert_eq!(socket.listen(8000).await, said);
    socket.send(frames::dtmf("5")).await;
    let Event::Dtmf(dtmf) = hears(&mut events, |event| matches!(event, Event::Dtmf(_))).await else {
        panic!()
    };
    assert_eq!((dtmf.digit.as_str(), dtmf.duration_ms), ("5", 100));
    socket.send(frames::stop("callended")).await;
    let Event::Stop(stop) = hears(&mut events, |event| matches!(event, Event::Stop(_))).await else {
        panic!()
    };
    assert_eq!(stop.reason, "caller_hung_up");
    assert_eq!(socket.closed().await.0, 1000);
    let (before, ended) = bench.end().await;
    assert!(
        matches!(&before[..], [Report::AgentConnected(_), Report::Dtmf(_)]),
        "{before:?}"
    );
    assert_eq!(
        (ended.ended_by.as_str(), ended.reason.as_str()),
        ("customer", "caller_hung_up")
    );
    assert_eq!((ended.quality["frames_in"], ended.quality["bytes_in"]), (50, 16_000));
}

#[tokio::test]
async fn an_agent_speaks_is_interrupted_and_leaves() {
    let (manner, say) = told();
    let (url, mut events) = agent(manner).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        agent_rate: 16_000,
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
    let audio = |generation, seconds: usize| {
        // In pieces that a message may have.
        (0..seconds * 2).map(move |_| {
            Action::Audio(OutgoingAudio {
                pcm: pcm(vec![1000; 8000]).into(),
                generation,
            })
        })
    };
    // F72: twenty seconds in a burst, and a Clear in the middle of it.
    for action in audio(1, 20) {
        say.send(action).unwrap();
    }
    say.send(Action::Mark(Mark {
        name: "end of turn".into(),
    }))
    .unwrap();
    while !matches!(socket.next().await, Ok(Sent::Audio(_))) {}
    say.send(Action::Clear(Clear { generation: 1 })).unwrap();
    while socket.next().await != Ok(Sent::Clear) {}
    let Event::MarkPlayed(mark) = hears(&mut events, |event| matches!(event, Event::MarkPlayed(_))).await else {
        panic!()
    };
    assert_eq!((mark.name.as_str(), mark.cleared), ("end of turn", true));
    for action in audio(1, 1).chain(audio(2, 1)) {
        say.send(action).unwrap();
    }
    say.send(Action::Mark(Mark { name: "goodbye".into() })).unwrap();
    say.send(Action::Transcript(Transcript {
        text: "goodbye".into(),
        r#final: true,
        ..Transcript::default()
    }))
    .unwrap();
    say.send(Action::Leave(Leave {
        action: LeaveAction::ContinueFlow.into(),
        branch_b: true,
        ..Leave::default()
    }))
    .unwrap();
    let begun = Instant::now();
    // 16 kHz on the agent's side, 8 kHz on Exotel's: a second stays a second.
    let heard_samples = socket.listen(7900).await.len();
    assert!(heard_samples <= 8200, "{heard_samples}");
    assert_eq!(socket.closed().await, (1000, "agent_left".to_owned()));
    assert!(
        begun.elapsed() >= Duration::from_millis(450),
        "paced: {:?}",
        begun.elapsed()
    );
    let Event::MarkPlayed(mark) = hears(&mut events, |event| matches!(event, Event::MarkPlayed(_))).await else {
        panic!()
    };
    assert_eq!((mark.name.as_str(), mark.cleared), ("goodbye", false));
    let (before, ended) = bench.end().await;
    let words: Vec<_> = before.iter().map(std::mem::discriminant).collect();
    let expected = [
        Report::AgentConnected(AgentConnected::default()),
        Report::Interrupted(Interrupted::default()),
        Report::Transcript(Transcript::default()),
        Report::Leave(Leave::default()),
    ];
    assert_eq!(
        words,
        expected.iter().map(std::mem::discriminant).collect::<Vec<_>>(),
        "{before:?}"
    );
    assert_eq!(
        (ended.ended_by.as_str(), ended.reason.as_str()),
        ("agent", "agent_left")
    );
    assert_eq!(ended.quality["clears"], 1);
    drop(say);
}

#[tokio::test]
async fn a_greeting_plays_while_the_agent_connects() {
    let greeting = wav(&[500; 4000]);
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        greeting_sha256: sha256(&greeting),
        greeting,
        ..Script::default()
    };
    let mut bench = Bench::new(script).await;
    let mut socket = begin(&bench).await;
    let Event::Start(start) = heard(&mut events).await else {
        panic!()
    };
    assert_eq!(start.greeting_ms, 500);
    assert_eq!(socket.listen(4000).await, [500; 4000]);
    let Event::GreetingEnded(ended) = hears(&mut events, |event| matches!(event, Event::GreetingEnded(_))).await else {
        panic!()
    };
    assert_eq!((ended.played_ms, ended.interrupted), (500, false));
    socket.send(frames::stop("stopped")).await;
    let (before, ended) = bench.end().await;
    assert!(before.iter().any(|report| matches!(report, Report::GreetingEnded(_))));
    assert_eq!(ended.reason, "stream_stopped");
}

/// F62: what call-service refuses is not upgraded, and no agent hears of it.
#[tokio::test]
async fn a_refused_claim_is_a_404() {
    let bench = Bench::new(Script {
        failures: [Status::not_found("used")].into(),
        ..Script::default()
    })
    .await;
    assert_eq!(
        Socket::open(bench.public, &bench.socket_path(), None).await.err(),
        Some(404)
    );
}

/// F63, F65: refused at `start`.
#[tokio::test]
async fn a_refused_start_closes_with_1008() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    bench.asked().await;
    bench.set(|script| script.failures.push_back(Status::failed_precondition("another socket")));
    socket.send(frames::start(8000)).await;
    assert_eq!(socket.closed().await, (1008, "refused".to_owned()));
    assert!(events.try_recv().is_err());
}

/// F63: call-service answers the edge's second try of one `start` as it did the first; another socket's is not that.
#[tokio::test]
async fn a_session_has_one_socket() {
    let (url, _events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    assert_eq!(bench.event().await.sequence, 1);
    let mut second = begin(&bench).await;
    assert_eq!(second.closed().await, (1008, "refused".to_owned()));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
}

#[tokio::test]
async fn a_socket_without_start_is_closed() {
    let bench = Bench::with(Script::default(), |config| {
        config.start_limit = Duration::from_millis(300);
    })
    .await;
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    assert_eq!(socket.closed().await, (1008, "no_start".to_owned()));
}

#[tokio::test]
async fn an_applet_with_a_fixed_url_is_known_by_its_credentials() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let basic =
        |user: &str, password: &str| format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()));
    let path = "/ws/exotel/voice";
    let wrong = [
        None,
        Some(basic("acct_1", &bench.account_token())),
        Some(basic(&account().to_string(), "wrong")),
    ];
    for credentials in wrong {
        assert_eq!(
            Socket::open(bench.public, path, credentials.as_deref()).await.err(),
            Some(401)
        );
    }
    let right = basic(&account().to_string(), &bench.account_token());
    let mut socket = Socket::open(bench.public, path, Some(&right)).await.unwrap();
    socket.send(frames::start(8000)).await;
    let Asked::Start(start) = bench.asked().await else {
        panic!()
    };
    assert_eq!(
        (start.account_id, start.token_generation, start.claim),
        (account().to_string(), 3, 0)
    );
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
}

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
    let (url, mut events) = agent(Manner::Break).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
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
    let (url, mut events) = agent(Manner::Listen).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
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
    let (url, _events) = agent(Manner::Deaf).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
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

/// F124: an endpoint that is not allowed is not dialled, and one of another kind is named as such.
#[tokio::test]
async fn only_allowed_endpoints_are_dialled() {
    let (url, mut events) = agent(Manner::Echo).await;
    for (endpoint, reason) in [
        (url.as_str(), "agent_failed"),
        ("ws://127.0.0.1:1/bot", "agent_endpoint_unsupported"),
    ] {
        let script = Script {
            agents: vec![endpoint.to_owned()],
            ..Script::default()
        };
        let mut bench = Bench::with(script, |config| config.agent_endpoint_allow = AllowList::default()).await;
        let mut socket = begin(&bench).await;
        assert_eq!(socket.closed().await, (1000, reason.to_owned()));
        assert_eq!(bench.end().await.1.reason, reason);
    }
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn commands_reach_the_session_once_and_are_answered() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let mut socket = begin(&bench).await;
    let Some(Report::AgentConnected(_)) = bench.event().await.event else {
        panic!()
    };
    let down = bench.call_service.down.clone();
    let message = |id| {
        command(
            id,
            command::Action::Message(Message {
                json: r#"{"a":1}"#.into(),
            }),
        )
    };
    let mut done = Vec::new();
    for _ in 0..2 {
        down.send(message("cmd_1")).unwrap();
        let Upward::CommandDone(command) = bench.control().await else {
            panic!()
        };
        done.push((command.command_id, command.done));
    }
    down.send(Some(Downward::Command(Command {
        command_id: "cmd_2".into(),
        media_session_id: MEDIA.into(),
        action: None,
    })))
    .unwrap();
    let leave = Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    };
    down.send(command("cmd_3", command::Action::Leave(leave))).unwrap();
    while done.len() < 4 {
        if let Upward::CommandDone(command) = bench.control().await {
            done.push((command.command_id, command.done));
        }
    }
    done.sort();
    let expected = [("cmd_1", true), ("cmd_1", true), ("cmd_2", false), ("cmd_3", true)];
    assert_eq!(done, expected.map(|(id, done)| (id.to_owned(), done)));
    assert_eq!(socket.closed().await, (1000, "ended_by_request".to_owned()));
    let mut messages = 0;
    loop {
        match heard(&mut events).await {
            Event::Message(message) => {
                messages += 1;
                assert_eq!(message.json, r#"{"a":1}"#);
            }
            Event::Stop(stop) => {
                assert_eq!(stop.reason, "ended_by_request");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(messages, 1);
}

/// call-service sends a command as soon as it has committed the start, before the edge has its answer or the greeting.
#[tokio::test]
async fn a_command_before_the_session_is_carried_out() {
    let (url, _events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let Upward::Hello(_) = bench.control().await else {
        panic!()
    };
    let leave = Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    };
    let early = command("cmd_1", command::Action::Leave(leave));
    bench.call_service.down.send(early).unwrap();
    let known = Downward::Command(Command {
        command_id: "cmd_2".into(),
        media_session_id: MEDIA.into(),
        action: None,
    });
    bench.call_service.down.send(Some(known)).unwrap();
    let mut socket = begin(&bench).await;
    assert_eq!(socket.closed().await, (1000, "ended_by_request".to_owned()));
    let mut done = Vec::new();
    while done.len() < 2 {
        if let Upward::CommandDone(command) = bench.control().await {
            done.push((command.command_id, command.done));
        }
    }
    done.sort();
    assert_eq!(done, [("cmd_1".to_owned(), true), ("cmd_2".to_owned(), false)]);
}

/// F75: call-service goes and comes back; the call does not notice, and nothing that was reported is lost.
#[tokio::test]
async fn a_broken_control_stream_is_attached_again() {
    let (url, mut events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        no_acks: true,
        ..Script::default()
    })
    .await;
    let Upward::Hello(hello) = bench.control().await else {
        panic!()
    };
    assert!(hello.media_session_ids.is_empty());
    let mut socket = begin(&bench).await;
    assert_eq!(bench.event().await.sequence, 1);
    bench.set(|script| script.no_acks = false);
    bench.call_service.down.send(None).unwrap();
    let Upward::Hello(again) = bench.control().await else {
        panic!()
    };
    assert_eq!(
        (again.edge_id, again.media_session_ids),
        (hello.edge_id, vec![MEDIA.to_owned()])
    );
    assert_eq!(bench.heartbeat().await.media_session_ids, [MEDIA]);
    let repeated = bench.event().await;
    assert_eq!(repeated.sequence, 1);
    assert!(matches!(repeated.event, Some(Report::AgentConnected(_))));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
    // Now it says that it does not know the session.
    bench.set(|script| script.unknown = vec![MEDIA.to_owned()]);
    bench.call_service.down.send(None).unwrap();
    assert_eq!(socket.closed().await, (1000, "unknown_session".to_owned()));
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
    assert_eq!(bench.end().await.1.reason, "unknown_session");
}

/// F76: a live call outlives SIGTERM; new ones find the door closed; the process ends after the last.
#[tokio::test]
async fn live_calls_finish_after_the_stop() {
    let (url, _events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
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

/// F79, F80, F91: what is no AgentStream.
#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_closed() {
    for (messages, code) in [
        (vec![WsMessage::text("x".repeat(70_000))], 1009),
        (vec![WsMessage::binary(vec![0; 320]); 20], 1008),
        (vec![WsMessage::text("[".repeat(10_000)); 20], 1008),
    ] {
        let (url, _events) = agent(Manner::Echo).await;
        let mut bench = Bench::new(Script {
            agents: vec![url],
            ..Script::default()
        })
        .await;
        let mut socket = begin(&bench).await;
        bench.event().await;
        for message in messages {
            socket.send_message(message).await;
        }
        assert_eq!(socket.closed().await, (code, "bad_frames".to_owned()));
        assert_eq!(bench.end().await.1.reason, "bad_frames");
    }
    // No closing handshake at all.
    let (url, _events) = agent(Manner::Echo).await;
    let mut bench = Bench::new(Script {
        agents: vec![url],
        ..Script::default()
    })
    .await;
    let socket = begin(&bench).await;
    bench.event().await;
    drop(socket);
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.ended_by.as_str(), ended.reason.as_str()),
        ("provider", "socket_closed")
    );
    assert_eq!(bench.keys.mint(Purpose::Socket, call().0, [0; 8], 1).len(), 84);
}
