//! The session under any sequence of events.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{
        Clear, Leave, LeaveAction, Mark, Message, Metadata, OutgoingAudio, Transcript, converse_request::Event,
        converse_response::Action,
    },
    ingress::v1::session_event::Event as Report,
};
use edge::session::{AgentEnd, Effect, Limits, Opening, Session};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::frames;

const LIMITS: Limits = Limits {
    start: Duration::from_secs(10),
    idle: Duration::from_mins(1),
};

fn opening(endpoints: usize) -> Opening {
    Opening {
        endpoints,
        agent_rate: 16_000,
        ..Opening::default()
    }
}

fn live(now: Instant) -> Session {
    let mut session = Session::new(now, LIMITS);
    session.text(now, &frames::connected());
    session.text(now, &frames::start(8000));
    session.started(now, opening(2));
    session.agent_connected(now, 0);
    session
}

#[derive(Debug, Clone)]
enum Input {
    Text(String),
    Binary,
    Closed,
    Started,
    Refused,
    AgentConnected,
    AgentEnded(AgentEnd),
    Agent(Option<Action>),
    Leave(LeaveAction),
    Message,
    Unknown,
    Drain,
    Wait(u64),
    Send,
}

fn inputs() -> impl Strategy<Value = Input> {
    let text = prop_oneof![
        Just(frames::connected()),
        Just(frames::start(8000)),
        Just(frames::start(8000).replace(frames::STREAM, "another")),
        (0u64..5, proptest::collection::vec(any::<u8>(), 0..50)).prop_map(|(chunk, pcm)| frames::media(chunk, &pcm)),
        Just(frames::media_of("another", 1, &[0; 320])),
        Just(frames::dtmf("5")),
        Just(frames::mark("m1")),
        Just(frames::stop("callended")),
        Just("{".to_owned()),
        Just(r#"{"event":"clear"}"#.to_owned()),
    ];
    let agent = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4000).prop_map(|pcm| Some(Action::Audio(OutgoingAudio {
            pcm: pcm.into(),
            generation: 1
        }))),
        Just(Some(Action::Mark(Mark { name: "m".into() }))),
        (0u64..3).prop_map(|generation| Some(Action::Clear(Clear { generation }))),
        Just(Some(Action::Transcript(Transcript {
            text: "é".repeat(9000),
            r#final: true,
            ..Transcript::default()
        }))),
        Just(Some(Action::Metadata(Metadata {
            entries: [("k".into(), "v".into())].into()
        }))),
        Just(Some(Action::Leave(Leave {
            action: LeaveAction::HangUp.into(),
            ..Leave::default()
        }))),
        Just(None),
    ];
    let ends = prop_oneof![
        Just(AgentEnd::Finished),
        Just(AgentEnd::Broken),
        Just(AgentEnd::Unreachable)
    ];
    prop_oneof![
        8 => text.prop_map(Input::Text),
        1 => Just(Input::Binary),
        1 => Just(Input::Closed),
        4 => Just(Input::Started),
        1 => Just(Input::Refused),
        3 => Just(Input::AgentConnected),
        2 => ends.prop_map(Input::AgentEnded),
        6 => agent.prop_map(Input::Agent),
        1 => prop_oneof![Just(LeaveAction::HangUp), Just(LeaveAction::ContinueFlow)].prop_map(Input::Leave),
        1 => Just(Input::Message),
        1 => Just(Input::Unknown),
        1 => Just(Input::Drain),
        4 => (0u64..30_000).prop_map(Input::Wait),
        4 => Just(Input::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// F89: whatever comes in whatever order, one `Begin`, one agent at a time, one close, and one end for what was started.
    #[test]
    fn any_sequence_ends_once(sequence in proptest::collection::vec(inputs(), 0..60)) {
        let mut now = Instant::now();
        let mut session = Session::new(now, LIMITS);
        let (mut begun, mut dials, mut broken, mut closed, mut stops) = (0, 0, 0, 0, 0);
        let mut reports = Vec::new();
        let mut asked = false;
        let mut started = false;
        // In the end the socket is closed and the driver finishes.
        for input in sequence.into_iter().map(Some).chain([Some(Input::Closed), None]) {
            match input {
                Some(Input::Text(text)) => session.text(now, &text),
                Some(Input::Binary) => session.binary(now),
                Some(Input::Closed) => session.socket_closed(),
                // Only what was asked for is answered.
                Some(Input::Started) => if asked { started = true; session.started(now, opening(2)) },
                Some(Input::Refused) => if asked && !started { session.refused(1008) },
                Some(Input::AgentConnected) => if dials > 0 { session.agent_connected(now, 0) },
                Some(Input::AgentEnded(end)) => if dials > broken {
                    broken += 1;
                    session.agent_ended(now, end);
                },
                Some(Input::Agent(action)) => if dials > 0 { session.agent(now, action) },
                Some(Input::Leave(action)) => session.leave(now, Leave { action: action.into(), ..Leave::default() }),
                Some(Input::Message) => { session.message(now, Message { json: "{}".into() }); }
                Some(Input::Unknown) => session.unknown(),
                Some(Input::Drain) => session.drain(),
                Some(Input::Wait(ms)) => {
                    now += Duration::from_millis(ms);
                    session.tick(now);
                }
                Some(Input::Send) => { session.next_text(now); }
                None => { session.finish(); session.finish(); }
            }
            while let Some(effect) = session.effect() {
                match effect {
                    Effect::Begin(_) => { begun += 1; asked = true; }
                    Effect::Dial { .. } => {
                        dials += 1;
                        prop_assert!(dials <= broken + 1, "two agents at once");
                    }
                    Effect::Report(report) => reports.push(report),
                    Effect::Close { .. } => closed += 1,
                }
            }
            while let Some(event) = session.agent_event() {
                prop_assert_eq!(stops, 0, "Stop is the last");
                if let Event::Audio(audio) = &event {
                    prop_assert_eq!(audio.pcm.len() % 2, 0);
                }
                stops += usize::from(matches!(event, Event::Stop(_)));
            }
        }
        prop_assert!(begun <= 1 && dials <= broken + 1);
        prop_assert_eq!(closed, 1);
        prop_assert!(session.is_over());
        let ends = reports.iter().filter(|report| matches!(report, Report::Ended(_))).count();
        prop_assert_eq!(ends, usize::from(started));
        prop_assert!(stops == usize::from(started) || dials == 0);
        if started {
            prop_assert!(matches!(reports.last(), Some(Report::Ended(_))), "the end is the last report");
        }
        prop_assert_eq!(session.next_text(now), None);
    }
}

fn end_of(session: &mut Session) -> (String, String, u16) {
    let mut code = 0;
    session.finish();
    while let Some(effect) = session.effect() {
        match effect {
            Effect::Close { code: c, .. } => code = c,
            Effect::Report(Report::Ended(ended)) => return (ended.ended_by, ended.reason, code),
            _ => {}
        }
    }
    panic!("no end was reported");
}

#[test]
fn each_end_has_its_words() {
    type Ends = (fn(&mut Session, Instant), (&'static str, &'static str, u16));
    let table: [Ends; 11] = [
        (
            |s, now| s.text(now, &frames::stop("callended")),
            ("customer", "caller_hung_up", 1000),
        ),
        (
            |s, now| s.text(now, &frames::stop("stopped")),
            ("provider", "stream_stopped", 1000),
        ),
        (|s, _| s.socket_closed(), ("provider", "socket_closed", 1000)),
        (
            |s, now| (0..20).for_each(|_| s.binary(now)),
            ("callbridge", "bad_frames", 1008),
        ),
        (
            |s, now| (0..20).for_each(|_| s.text(now, "[[[[[[")),
            ("callbridge", "bad_frames", 1008),
        ),
        (
            |s, now| (0..20).for_each(|i| s.text(now, &frames::media_of("another", i, &[0; 320]))),
            ("callbridge", "bad_frames", 1008),
        ),
        (|s, _| s.protocol_error(1009), ("callbridge", "bad_frames", 1009)),
        (
            |s, now| s.tick(now + Duration::from_mins(1)),
            ("callbridge", "idle", 1000),
        ),
        (|s, _| s.drain(), ("callbridge", "drained", 1001)),
        (
            |s, now| s.leave(now, Leave::default()),
            ("caller", "ended_by_request", 1000),
        ),
        (
            |s, now| s.agent_ended(now, AgentEnd::Finished),
            ("agent", "agent_left", 1000),
        ),
    ];
    for (end, expected) in table {
        let now = Instant::now();
        let mut session = live(now);
        end(&mut session, now);
        let (by, reason, code) = end_of(&mut session);
        assert_eq!((by.as_str(), reason.as_str(), code), expected);
    }
}

/// F80: nineteen bad frames are noise, and the call goes on.
#[test]
fn a_few_bad_frames_are_counted_only() {
    let now = Instant::now();
    let mut session = live(now);
    for i in 0..19 {
        if i % 2 == 0 {
            session.binary(now);
        } else {
            session.text(now, r#"{"event":"media","media":{"payload":"!"}}"#);
        }
    }
    assert!(!session.is_over());
    let counters = session.counters();
    assert_eq!(
        (counters.bad_frames, counters.bad_binary, counters.bad_base64),
        (19, 10, 9)
    );
}

/// F66: a socket that never says `start`.
#[test]
fn without_start_the_socket_is_closed() {
    let now = Instant::now();
    let mut session = Session::new(now, LIMITS);
    session.text(now, &frames::connected());
    session.text(now, &frames::media(1, &[0; 320]));
    assert_eq!(session.wake(), Some(now + LIMITS.start));
    session.tick(now + LIMITS.start);
    assert_eq!(
        session.effect(),
        Some(Effect::Close {
            code: 1008,
            reason: "no_start"
        })
    );
    session.finish();
    assert_eq!(session.effect(), None);
    assert_eq!(session.counters().early_frames, 1);
}

/// F88: gaps are counted, repeats are dropped.
#[test]
fn the_numbering_of_audio_is_watched() {
    let now = Instant::now();
    let mut session = live(now);
    for chunk in [1, 2, 5, 5, 4, 6] {
        session.text(now, &frames::media(chunk, &[1; 320]));
    }
    let counters = session.counters();
    assert_eq!((counters.frames_in, counters.gaps, counters.repeats), (6, 2, 2));
}

/// F88: numbers that do not grow are not repeats for ever, or the agent would be deaf for the rest of the call.
#[test]
fn a_numbering_that_begins_anew_costs_little() {
    // Of chunk and time: what comes, and how many pieces of a hundred are dropped.
    type Numbering = (fn(u64) -> (u64, u64), u64);
    let now = Instant::now();
    let table: [Numbering; 5] = [
        (|i| (1, 20 * i), 0),
        (|_| (1, 20), 3),
        (
            |i| {
                if i < 50 {
                    (500 + i, 20 * i)
                } else {
                    (i - 50, 20 * (i - 50))
                }
            },
            3,
        ),
        (|i| if i < 50 { (500 + i, 20 * i) } else { (i - 50, 20 * i) }, 0),
        (|i| (i / 2, 20 * (i / 2)), 50),
    ];
    for (case, (number, lost)) in table.into_iter().enumerate() {
        let mut session = live(now);
        for i in 0..100 {
            let (chunk, timestamp) = number(i);
            session.text(now, &frames::media_at(frames::STREAM, chunk, timestamp, &[1; 320]));
        }
        assert_eq!(session.counters().repeats, lost, "case {case}");
    }
}

/// What the person says before the agent is there waits for it, at the agent's rate.
#[test]
fn early_speech_and_keys_wait_for_the_agent() {
    let now = Instant::now();
    let mut session = Session::new(now, LIMITS);
    session.text(now, &frames::start(8000));
    session.text(now, &frames::media(1, &[0; 320]));
    session.text(now, &frames::dtmf("7"));
    assert!(!session.has_agent_event());
    session.started(now, opening(1));
    let mut told = Vec::new();
    while let Some(event) = session.agent_event() {
        told.push(event);
    }
    assert!(
        matches!(&told[0], Event::Audio(audio) if (600..=640).contains(&audio.pcm.len())),
        "{told:?}"
    );
    assert!(matches!(&told[1], Event::Dtmf(dtmf) if dtmf.digit == "7"));
}

/// F73: the next endpoint once, then the tone and the end.
#[test]
fn a_broken_agent_is_replaced_once() {
    let now = Instant::now();
    let mut session = live(now);
    let dials = |session: &mut Session| {
        let mut dials = Vec::new();
        while let Some(effect) = session.effect() {
            if let Effect::Dial { first, again, .. } = effect {
                dials.push((first, again));
            }
        }
        dials
    };
    assert_eq!(dials(&mut session), [(0, false)]);
    session.agent_ended(now, AgentEnd::Broken);
    assert_eq!(dials(&mut session), [(1, true)]);
    session.agent_connected(now, 1);
    session.agent_ended(now, AgentEnd::Broken);
    assert_eq!(dials(&mut session), []);
    assert!(!session.is_over(), "the tone is heard first");
    assert!(session.next_text(now).is_some());
    session.tick(now + Duration::from_secs(30));
    assert_eq!(end_of(&mut session).1, "agent_failed");
}

/// F73: in a long call an agent may break more than once; one that breaks at once again is given up.
#[test]
fn an_agent_that_was_good_for_a_while_is_replaced_again() {
    let mut now = Instant::now();
    let mut session = live(now);
    for good in [31, 30, 31] {
        now += Duration::from_secs(good);
        session.alive(now);
        session.agent_ended(now, AgentEnd::Broken);
        assert_eq!(session.next_text(now), None, "no tone after {good} s");
        session.agent_connected(now, 1);
    }
    assert_eq!(session.counters().agent_retries, 3);
    now += Duration::from_secs(29);
    session.agent_ended(now, AgentEnd::Broken);
    assert!(session.next_text(now).is_some(), "the tone");
    session.tick(now + Duration::from_secs(30));
    assert_eq!(end_of(&mut session).1, "agent_failed");
}

/// What an agent says is bounded before it is kept.
#[test]
fn long_words_are_cut() {
    let now = Instant::now();
    let mut session = live(now);
    session.agent(
        now,
        Some(Action::Transcript(Transcript {
            text: "yes".into(),
            language: "é".repeat(100_000),
            r#final: true,
            ..Transcript::default()
        })),
    );
    session.agent(
        now,
        Some(Action::Leave(Leave {
            reason: "é".repeat(65),
            transfer_to: "1".repeat(100_000),
            ..Leave::default()
        })),
    );
    let mut seen = 0;
    while let Some(effect) = session.effect() {
        match effect {
            Effect::Report(Report::Transcript(transcript)) => {
                assert_eq!(transcript.language, "é".repeat(64));
                seen += 1;
            }
            Effect::Report(Report::Leave(leave)) => {
                assert_eq!((leave.reason, leave.transfer_to), ("é".repeat(64), "1".repeat(64)));
                seen += 1;
            }
            _ => {}
        }
    }
    assert_eq!(seen, 2);
}

/// F94: the agent is warned, then the session ends at the time limit.
#[test]
fn the_time_limit_is_announced_and_kept() {
    let now = Instant::now();
    let mut session = Session::new(
        now,
        Limits {
            idle: Duration::from_mins(10),
            ..LIMITS
        },
    );
    session.text(now, &frames::start(8000));
    session.started(
        now,
        Opening {
            ends_at: Some(now + Duration::from_secs(100)),
            ..opening(1)
        },
    );
    assert_eq!(session.wake(), Some(now + Duration::from_secs(70)));
    session.tick(now + Duration::from_secs(70));
    assert_eq!(
        session.agent_event(),
        Some(Event::Message(Message {
            json: r#"{"type":"time_limit","seconds_left":30}"#.into()
        }))
    );
    assert_eq!(session.wake(), Some(now + Duration::from_secs(100)));
    session.tick(now + Duration::from_secs(100));
    assert!(matches!(session.agent_event(), Some(Event::Stop(stop)) if stop.reason == "time_limit"));
    assert_eq!(end_of(&mut session), ("callbridge".into(), "time_limit".into(), 1000));
}

/// A stalled agent that leaves a thousand events unread is taken for gone; memory stays bounded (F71).
#[test]
fn an_agent_that_reads_nothing_is_given_up() {
    let now = Instant::now();
    let mut session = live(now);
    for _ in 0..3000 {
        session.text(now, &frames::dtmf("1"));
    }
    session.tick(now + Duration::from_secs(30));
    assert_eq!(end_of(&mut session).1, "agent_failed");
}
