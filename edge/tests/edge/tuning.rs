//! A phone's audio settings, and what is counted of the play-out.

use std::time::Duration;

use callbridge_proto::agent::v1::{Clear, Mark, converse_request::Event, converse_response::Action};
use data_encoding::BASE64;
use edge::session::tuning::Tuning;
use exotel::stream::Encoding;
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    frames::{Sent, pcm},
    line::{Line, leave, speech},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bounds of packets and lead: they are kept, and all is heard.
    #[test]
    fn bounds_are_kept_and_nothing_is_lost(
        pieces in proptest::collection::vec((1_usize..6000, 0_u64..300), 1..20), min in 1_usize..11, more in 0_usize..20, lead_ms in 100_u64..=500,
    ) {
        let lead = Duration::from_millis(lead_ms);
        // A packet longer than half the lead would be late.
        let longest = (usize::try_from(lead_ms).unwrap() * 8 / 320 * 320).max(320);
        let tuning = Tuning { min_packet: 320 * min, max_packet: 320 * (min + more), lead, ..Tuning::default() };
        let mut line = Line::tuned(8000, 8000, tuning, None);
        let mut said = Vec::new();
        for (length, pause) in pieces {
            let new = speech(length, said.len());
            said.extend_from_slice(&new);
            line.say(0, pcm(new));
            line.run(pause);
        }
        line.act(leave());
        line.run(60_000);
        line.check_packets(tuning.min_packet.min(longest), tuning.max_packet.min(longest), lead);
        let heard: Vec<i16> = line.audio().into_iter().filter(|sample| *sample != 0).collect();
        prop_assert_eq!(heard, said);
    }
}

/// The documented minimum, for an account that insists on it: also a turn's last packet is filled up to it.
#[test]
fn the_documented_minimum_can_be_kept() {
    let tuning = Tuning {
        min_packet: 3200,
        ..Tuning::default()
    };
    let mut line = Line::tuned(8000, 8000, tuning, None);
    line.say(0, pcm(speech(2000, 0)));
    line.run(2000);
    let sizes: Vec<usize> = line
        .sent
        .iter()
        .filter_map(|(_, sent)| {
            if let Sent::Audio(pcm) = sent {
                Some(pcm.len())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(sizes, [3200, 3200]);
    assert_eq!(line.session.counters().padded_ms, 150);
}

/// Frames say where they are only where that is wanted, and then rightly.
#[test]
fn frames_say_where_they_are() {
    for positions in [false, true] {
        let tuning = Tuning {
            positions,
            ..Tuning::default()
        };
        let mut line = Line::tuned(8000, 8000, tuning, None);
        line.raw = true;
        line.say(0, pcm(speech(8000, 0)));
        line.run(3000);
        let mut milliseconds = 0;
        for (i, text) in line.texts.iter().enumerate() {
            let frame: Value = serde_json::from_str(text).unwrap();
            let payload = BASE64
                .decode(frame["media"]["payload"].as_str().unwrap().as_bytes())
                .unwrap();
            if positions {
                assert_eq!(frame["sequence_number"], (i + 1).to_string());
                assert_eq!(frame["media"]["chunk"], (i + 1).to_string());
                assert_eq!(frame["media"]["timestamp"], milliseconds.to_string());
            } else {
                assert_eq!(frame.as_object().unwrap().len(), 3);
                assert_eq!(frame["media"].as_object().unwrap().len(), 1);
            }
            milliseconds += payload.len() / 16;
        }
        assert_eq!(milliseconds, 1000);
    }
}

/// μ-law: a byte a sample on the socket, and the same time.
#[test]
fn mu_law_is_sent_where_that_is_wanted() {
    let tuning = Tuning {
        encoding: Encoding::MuLaw,
        ..Tuning::default()
    };
    let mut line = Line::tuned(8000, 8000, tuning, None);
    line.raw = true;
    line.say(0, pcm(vec![8316; 1600]));
    line.run(1000);
    let payloads = line.texts.iter().map(|text| {
        let frame: Value = serde_json::from_str(text).unwrap();
        BASE64
            .decode(frame["media"]["payload"].as_str().unwrap().as_bytes())
            .unwrap()
    });
    let sent: Vec<u8> = payloads.flatten().collect();
    assert_eq!(sent, vec![0x9f; 1600]);
    assert_eq!(line.session.counters().bytes_out, 3200);
}

/// What is counted of a barge-in and of marks.
#[test]
fn barge_in_and_marks_are_measured() {
    let mut line = Line::new(8000, 8000, None);
    line.say(1, pcm(speech(16_000, 0)));
    line.run(1000);
    // The socket is busy for a moment before the clear can leave.
    line.session
        .agent(line.now, Some(Action::Clear(Clear { generation: 1 })));
    line.now += Duration::from_millis(7);
    line.run(200);
    let counters = line.session.counters();
    assert_eq!((counters.clears, counters.clear_to_silence_ms), (1, 7));
    assert!((1..=200).contains(&counters.clear_tail_ms), "{counters:?}");

    // An echo that is late, and one that never comes.
    line.echo = false;
    line.say(2, pcm(speech(800, 0)));
    line.act(Action::Mark(Mark { name: "late".into() }));
    line.run(130);
    assert_eq!(line.marks.len(), 1);
    let (due, name) = line.marks.remove(0);
    line.now = due + Duration::from_millis(90);
    line.session.text(line.now, &crate::frames::mark(&name));
    line.say(3, pcm(speech(800, 0)));
    line.act(Action::Mark(Mark { name: "never".into() }));
    line.run(3000);
    let counters = line.session.counters();
    assert_eq!(
        (counters.marks, counters.mark_lag_ms, counters.unanswered_marks),
        (2, 90, 1)
    );
    let played = line
        .told
        .iter()
        .filter(|(_, event)| matches!(event, Event::MarkPlayed(_)));
    assert_eq!(played.count(), 2);
}
