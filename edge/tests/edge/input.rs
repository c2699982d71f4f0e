//! What comes from Exotel that should not, and how what should is heard.

use std::time::Duration;

use callbridge_proto::agent::v1::converse_request::Event;
use edge::session::{Limits, Opening, Session, counters::Counters, tuning::Tuning};
use exotel::stream::Encoding;
use proptest::prelude::*;
use tokio::time::Instant;

use crate::frames;

const LIMITS: Limits = Limits {
    start: Duration::from_secs(10),
    idle: Duration::from_mins(1),
};

fn started(now: Instant, tuning: Tuning) -> Session {
    let mut session = Session::new(now, LIMITS);
    session.text(now, &frames::start(8000));
    session.started(
        now,
        Opening {
            endpoints: 1,
            tuning,
            ..Opening::default()
        },
    );
    session.agent_connected(now, 0);
    session
}

fn heard(session: &mut Session) -> Vec<u8> {
    let mut heard = Vec::new();
    while let Some(event) = session.agent_event() {
        if let Event::Audio(audio) = event {
            heard.extend_from_slice(&audio.pcm);
        }
    }
    heard
}

/// F79, F80, F84, F85, F87, F89, F90: each kind of bad input has one action, and is counted by its reason.
#[test]
fn bad_input_is_counted_by_its_reason() {
    type Bad = (&'static str, fn(&mut Session, Instant), fn(&mut Counters), bool);
    let deep = |session: &mut Session, now| session.text(now, &"[".repeat(10_000));
    let bad_json = |counters: &mut Counters| (counters.bad_frames, counters.bad_json) = (1, 1);
    let table: [Bad; 19] = [
        (
            "binary",
            |s, now| s.binary(now),
            |c| (c.bad_frames, c.bad_binary) = (1, 1),
            false,
        ),
        ("deep", deep, bad_json, false),
        ("no JSON", |s, now| s.text(now, "{"), bad_json, false),
        (
            "a lone surrogate",
            |s, now| s.text(now, r#"{"event":"\ud800"}"#),
            bad_json,
            false,
        ),
        (
            "a huge number",
            |s, now| s.text(now, r#"{"event":"media","sequence_number":1e999,"media":{}}"#),
            bad_json,
            false,
        ),
        (
            "a key twice",
            |s, now| s.text(now, r#"{"event":"dtmf","event":"stop"}"#),
            bad_json,
            false,
        ),
        (
            "no field",
            |s, now| s.text(now, r#"{"event":"media"}"#),
            |c| (c.bad_frames, c.bad_fields) = (1, 1),
            false,
        ),
        (
            "no base64",
            |s, now| s.text(now, r#"{"event":"media","media":{"payload":"AA-_"}}"#),
            |c| (c.bad_frames, c.bad_base64) = (1, 1),
            false,
        ),
        (
            "another stream's audio",
            |s, now| s.text(now, &frames::media_of("another", 1, &[0; 320])),
            |c| (c.bad_frames, c.bad_stream) = (1, 1),
            false,
        ),
        (
            "another stream's end",
            |s, now| s.text(now, &frames::stop("callended").replace(frames::STREAM, "another")),
            |c| (c.bad_frames, c.bad_stream) = (1, 1),
            false,
        ),
        (
            "another stream's key",
            |s, now| s.text(now, &frames::dtmf("1").replace(frames::STREAM, "another")),
            |c| (c.bad_frames, c.bad_stream) = (1, 1),
            false,
        ),
        (
            "another stream's start",
            |s, now| s.text(now, &frames::start(8000).replace(frames::STREAM, "another")),
            |c| (c.bad_frames, c.bad_stream) = (1, 1),
            false,
        ),
        (
            "two starts",
            |s, now| s.text(now, &frames::start(8000)),
            |c| c.repeated_starts = 1,
            false,
        ),
        (
            "connected again",
            |s, now| s.text(now, &frames::connected()),
            |c| c.other_events = 1,
            false,
        ),
        (
            "an unknown event",
            |s, now| s.text(now, r#"{"event":"news","x":[{"y":1}]}"#),
            |c| c.other_events = 1,
            false,
        ),
        (
            "their clear",
            |s, now| {
                s.text(
                    now,
                    r#"{"event":"clear","stream_sid":"3357459ca698d8c765bac10b0ec418bl"}"#,
                );
            },
            |c| c.other_events = 1,
            false,
        ),
        ("too large", |s, _| s.protocol_error(1009), |c| c.too_large = 1, true),
        (
            "no WebSocket",
            |s, _| s.protocol_error(1002),
            |c| c.protocol_errors = 1,
            true,
        ),
        ("broken off", |s, _| s.socket_broke(), |c| c.broken_off = 1, true),
    ];
    for (name, happen, count, ends) in table {
        let now = Instant::now();
        let mut session = started(now, Tuning::default());
        let mut expected = session.counters().clone();
        happen(&mut session, now);
        count(&mut expected);
        assert_eq!(session.counters(), &expected, "{name}");
        assert_eq!(session.is_over(), ends, "{name}");
        // The call goes on.
        session.text(now, &frames::media(7, &[9; 320]));
        assert_eq!(heard(&mut session).len(), if ends { 0 } else { 320 }, "{name}");
    }
}

/// F89: what comes before `start` is dropped and counted, and the session begins all the same.
#[test]
fn what_comes_before_the_start_is_dropped() {
    let now = Instant::now();
    let mut session = Session::new(now, LIMITS);
    session.text(now, &frames::media(1, &[0; 320]));
    session.text(now, &frames::dtmf("1"));
    session.text(now, &frames::mark("m1"));
    assert!(session.effect().is_none() && !session.is_over());
    assert_eq!(session.counters().early_frames, 3);
    session.text(now, &frames::start(8000));
    assert!(session.effect().is_some());
}

/// F88: where an operator wants it, what is missing is silence, and the agent's time stays right.
#[test]
fn gaps_are_filled_where_that_is_wanted() {
    let now = Instant::now();
    for (fill_gaps, encoding, expected) in [
        (false, Encoding::Pcm16, 2 * 320),
        (true, Encoding::Pcm16, 7 * 320),
        (true, Encoding::MuLaw, 2 * 640 + 4 * 320),
    ] {
        let tuning = Tuning {
            fill_gaps,
            encoding,
            ..Tuning::default()
        };
        let mut session = started(now, tuning);
        session.text(now, &frames::media_at(frames::STREAM, 1, 0, &[1; 320]));
        // Five pieces of 20 ms are missing by the times, of which a piece of μ-law fills two.
        session.text(now, &frames::media_at(frames::STREAM, 7, 120, &[1; 320]));
        let heard = heard(&mut session);
        assert_eq!(heard.len(), expected, "{tuning:?}");
        let counters = session.counters();
        assert_eq!((counters.gaps, counters.filled_ms > 0), (5, fill_gaps));
    }
}

/// RFC 3550 §6.4.1, by Exotel's timestamps.
#[test]
fn uneven_arrival_is_told() {
    let mut now = Instant::now();
    let mut session = started(now, Tuning::default());
    for i in 0..200 {
        session.text(now, &frames::media_at(frames::STREAM, i + 1, 20 * i, &[1; 320]));
        now += Duration::from_millis(if i % 2 == 0 { 5 } else { 35 });
    }
    let counters = session.counters();
    assert!((13..=15).contains(&counters.jitter_ms), "{counters:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// F86: what the agent hears is what came, however it was cut, and whenever the session became live and the agent was
    /// there: not one byte of the first words is lost.
    #[test]
    fn the_agent_hears_all_that_was_said(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1700), 1..40), live_at in 0_usize..40,
        connected_after in 0_usize..40,
    ) {
        let began = Instant::now();
        let mut session = Session::new(began, LIMITS);
        session.text(began, &frames::start(8000));
        let mut heard_all = Vec::new();
        let (live_at, connected_at) = (live_at.min(pieces.len()), (live_at + connected_after).min(pieces.len()));
        for i in 0..=pieces.len() {
            // The agent takes its time, up to 40 pieces of a fifth of a second.
            let now = began + Duration::from_millis(200) * i as u32;
            if i == live_at {
                let opening = Opening {
                    endpoints: 1,
                    ..Opening::default()
                };
                session.started(now, opening);
            }
            if i == connected_at {
                session.agent_connected(now, 0);
            }
            if let Some(piece) = pieces.get(i) {
                session.text(now, &frames::media_at(frames::STREAM, i as u64 + 1, 200 * i as u64, piece));
            }
            if i >= connected_at {
                heard_all.extend(heard(&mut session));
            }
        }
        let mut said = pieces.concat();
        said.truncate(said.len() / 2 * 2);
        prop_assert_eq!(session.counters().dropped_in_ms, 0);
        prop_assert_eq!(heard_all, said);
    }
}
