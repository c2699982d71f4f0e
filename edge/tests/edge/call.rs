//! Whole calls: Exotel's socket on one side, an agent on the other.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{
        Clear, Leave, LeaveAction, Mark, OutgoingAudio, Transcript, converse_request::Event, converse_response::Action,
    },
    ingress::v1::{AgentConnected, Interrupted, session_event::Event as Report},
};
use tokio::time::Instant;

use crate::{
    frames::{self, Sent, pcm, sound},
    http::{sha256, wav},
    peers::{Asked, Bench, MEDIA, Manner, Script, agent, call, heard, hears, told, with_agent},
    web::begin,
};

#[tokio::test]
async fn what_is_said_comes_back_sample_for_sample() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
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

    let said = sound(8000);
    socket.say(&said).await;
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
