//! The agent's speech on its way to the person.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{Clear, Mark, converse_request::Event, converse_response::Action},
    ingress::v1::session_event::Event as Report,
};
use edge::session::playout::max_buffered_ms;
use proptest::prelude::*;

use crate::{
    frames::{Sent, pcm, samples},
    line::{Line, leave, speech},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the agent says is what the person hears, sample for sample, however it is cut and timed (F86).
    #[test]
    fn nothing_is_lost_or_altered(
        pieces in proptest::collection::vec((0usize..6000, 0u64..260), 1..25), rate in 0usize..3, echo in any::<bool>(),
    ) {
        let rate = [8000, 16_000, 24_000][rate];
        let mut line = Line::new(rate, rate, None);
        line.echo = echo;
        let mut said = Vec::new();
        let mut rest: Vec<u8> = Vec::new();
        for (length, pause) in &pieces {
            // Odd lengths too: the other half of a sample comes with the next piece.
            let mut bytes = std::mem::take(&mut rest);
            let new = speech(length / 2 + 1, said.len());
            said.extend_from_slice(&new);
            bytes.extend(pcm(new));
            if length % 2 == 1 {
                rest = bytes.split_off(bytes.len() - 1);
            }
            line.say(0, bytes);
            line.run(*pause);
        }
        line.say(0, rest);
        line.act(leave());
        line.run(60_000);
        line.check_pacing();
        let heard: Vec<i16> = line.audio().into_iter().filter(|sample| *sample != 0).collect();
        prop_assert_eq!(heard, said);
        let (at, code, reason) = line.closed.unwrap();
        prop_assert_eq!((code, reason), (1000, "agent_left"));
        prop_assert!(at >= line.dry_at, "closed before the end was heard");
        prop_assert!(at <= line.dry_at + Duration::from_millis(1100), "closed {:?} late", at - line.dry_at);
        prop_assert!(matches!(line.reports[1], Report::Leave(_)));
    }

    /// An agent that never pauses for long gets no silence into its speech: only the end is padded.
    #[test]
    fn only_the_end_is_padded(pieces in proptest::collection::vec((2usize..4000, 0u64..90), 1..25)) {
        let mut line = Line::new(8000, 8000, None);
        let mut said = Vec::new();
        for (length, pause) in &pieces {
            let new = speech(*length, said.len());
            said.extend_from_slice(&new);
            line.say(1, pcm(new));
            line.run(*pause);
        }
        line.act(leave());
        line.run(60_000);
        let heard = line.audio();
        prop_assert_eq!(&heard[..said.len()], &said[..]);
        prop_assert!(heard.len() - said.len() < 160 && heard[said.len()..].iter().all(|sample| *sample == 0));
    }

    /// Marks are told in their order, each after the audio before it was heard, and all of them.
    #[test]
    fn marks_keep_their_place(pieces in proptest::collection::vec((0usize..3000, 0u64..150, any::<bool>()), 1..25), echo in any::<bool>()) {
        let mut line = Line::new(8000, 8000, Some(speech(1234, 0)));
        line.echo = echo;
        let mut said = 1234;
        let mut marks = Vec::new();
        for (length, pause, mark) in &pieces {
            line.say(0, pcm(speech(*length, said)));
            said += length;
            if *mark {
                let name = format!("mark {}", marks.len());
                line.act(Action::Mark(Mark { name: name.clone() }));
                marks.push((name, said));
            }
            line.run(*pause);
        }
        line.run(60_000);
        let mut heard = 0;
        let mut positions = Vec::new();
        for (_, sent) in &line.sent {
            match sent {
                Sent::Audio(pcm) => heard += samples(pcm).iter().filter(|sample| **sample != 0).count(),
                Sent::Mark(_) => positions.push(heard),
                Sent::Clear => {}
            }
        }
        for ((name, position), sent_at) in marks.iter().zip(&positions) {
            prop_assert!((*position..*position + 1600).contains(sent_at), "{name} at {position} was sent at {sent_at}");
        }
        let expected: Vec<_> = marks.into_iter().map(|(name, _)| (name, false)).collect();
        prop_assert_eq!(line.marks_played(), expected);
    }

    /// After a Clear nothing of the interrupted turn is heard, its marks are resolved, and the next turn begins at once.
    #[test]
    fn clear_silences_the_turn_and_nothing_else(
        turns in proptest::collection::vec((1usize..40_000, 0u64..1500, 1usize..40_000), 1..8), agent_rate in 0usize..3,
    ) {
        let mut line = Line::new(8000, [8000, 16_000, 24_000][agent_rate], None);
        for (turn, (before, pause, late)) in turns.iter().enumerate() {
            // The turn's number is the loudness of its samples, which survives the change of rate.
            let (generation, value) = (turn as u64 + 1, (turn as i16 + 1) * 1000);
            line.say(generation, pcm(vec![value; *before]));
            line.act(Action::Mark(Mark { name: "end".into() }));
            line.run(*pause);
            line.act(Action::Clear(Clear { generation }));
            let cleared_at = line.sent.iter().rposition(|(_, sent)| *sent == Sent::Clear).unwrap();
            prop_assert_eq!(line.sent[cleared_at].0, line.now, "clear waits for nothing");
            prop_assert_eq!(line.marks_played().len(), turn + 1, "marks are resolved with the clear");
            // Late audio of the interrupted turn.
            line.say(generation, pcm(vec![value; *late]));
            line.run(100);
            prop_assert_eq!(line.sent.len(), cleared_at + 1, "audio after clear");
        }
        line.check_pacing();
        prop_assert_eq!(line.reports.iter().filter(|report| matches!(report, Report::Interrupted(_))).count(), turns.len());
    }

    /// F86: late pieces of an interrupted turn come between those of the next one, cut anywhere: not one sample is altered.
    #[test]
    fn late_pieces_of_an_old_turn_do_not_touch_the_new_one(
        pieces in proptest::collection::vec((any::<bool>(), 1usize..3000, 0u64..120), 1..30), odd_before in any::<bool>(),
    ) {
        let mut line = Line::new(8000, 8000, None);
        // A turn that is cut off in the middle of a sample leaves nothing behind.
        line.say(1, pcm(speech(1000, 0))[..1999 + usize::from(!odd_before)].to_vec());
        line.run(50);
        line.act(Action::Clear(Clear { generation: 1 }));
        let begun = line.audio().len();
        let said = speech(30 * 1500, 5);
        let mut rest = pcm(said.iter().copied());
        let mut bytes = 0;
        for (is_late, length, pause) in &pieces {
            if *is_late {
                line.say(1, vec![0x55; *length]);
            } else {
                let tail = rest.split_off((*length).min(rest.len()));
                bytes += rest.len();
                line.say(2, std::mem::replace(&mut rest, tail));
            }
            line.run(*pause);
        }
        line.act(leave());
        line.run(60_000);
        let heard: Vec<i16> = line.audio()[begun..].iter().copied().filter(|sample| *sample != 0).collect();
        prop_assert_eq!(&heard[..], &said[..bytes / 2]);
    }

    /// A turn begins with a whole sample, though the one before ended in the middle of one.
    #[test]
    fn a_turn_does_not_inherit_half_a_sample(lengths in proptest::collection::vec(1usize..800, 1..12)) {
        let mut line = Line::new(8000, 8000, None);
        let mut said = Vec::new();
        for (turn, length) in lengths.iter().enumerate() {
            let new = speech(*length, said.len());
            line.say(turn as u64 + 1, [pcm(new.iter().copied()), vec![0x55; turn % 2]].concat());
            said.extend(new);
            line.run(20);
        }
        line.act(leave());
        line.run(60_000);
        let heard: Vec<i16> = line.audio().into_iter().filter(|sample| *sample != 0).collect();
        prop_assert_eq!(heard, said);
    }

    /// The queue is bounded at what `Start` promised; the rest is dropped from the end and counted (F72).
    #[test]
    fn a_flood_is_cut_at_the_promised_limit(rate in 0usize..3, extra in 0usize..100_000) {
        let rate = [8000, 16_000, 24_000][rate];
        let limit = max_buffered_ms(rate, rate) as usize * rate as usize / 1000;
        prop_assert!(limit * 2 <= 512 * 1024 && limit <= 30 * rate as usize);
        let mut line = Line::new(rate, rate, None);
        let said = speech(limit + rate as usize + extra, 0);
        for piece in said.chunks(16_000) {
            line.say(0, pcm(piece.iter().copied()));
        }
        line.run(200_000);
        let heard: Vec<i16> = line.audio().into_iter().filter(|sample| *sample != 0).collect();
        prop_assert!(heard.len() >= limit && heard.len() <= limit + rate as usize, "{} of {limit}", heard.len());
        prop_assert_eq!(&heard[..], &said[..heard.len()]);
        let dropped = line.session.counters().dropped_out_ms as usize;
        prop_assert!(dropped.abs_diff((said.len() - heard.len()) * 1000 / rate as usize) <= 1);
        line.check_pacing();
    }
}

#[test]
fn an_answer_starts_at_once_with_small_packets_that_grow() {
    let mut line = Line::new(8000, 8000, None);
    line.say(0, pcm(speech(16_000, 0)));
    let first: Vec<usize> = line
        .sent
        .iter()
        .map(|(at, sent)| {
            assert_eq!(*at, line.now);
            if let Sent::Audio(pcm) = sent { pcm.len() } else { 0 }
        })
        .collect();
    assert_eq!(first, [320, 320, 640, 1280, 2560]);
    line.run(1000);
    let full = line.sent[5..]
        .iter()
        .all(|(_, sent)| matches!(sent, Sent::Audio(pcm) if pcm.len() == 3200));
    assert!(full && line.sent.len() > 8);
}

/// A real-time agent with frames that are no packets is not delayed and not padded.
#[test]
fn a_real_time_agent_is_heard_in_real_time() {
    let mut line = Line::new(8000, 8000, None);
    let mut said = 0;
    for _ in 0..100 {
        line.say(0, pcm(speech(240, said)));
        said += 240;
        line.run(30);
    }
    let counters = line.session.counters();
    assert_eq!(counters.padded_ms, 0);
    assert!(line.audio().len() >= said - 1600, "{} of {said}", line.audio().len());
}

#[test]
fn the_agent_hears_about_its_play_out() {
    let mut line = Line::new(8000, 8000, None);
    line.say(0, pcm(speech(24_000, 0)));
    line.run(10_000);
    let playouts: Vec<(u128, u32)> = line
        .told
        .iter()
        .filter_map(|(at, event)| match event {
            Event::Playout(playout) => Some(((*at - line.told[0].0).as_millis(), playout.queued_ms)),
            _ => None,
        })
        .collect();
    assert_eq!(playouts.len(), 6, "{playouts:?}");
    for (i, (at, queued)) in playouts.iter().enumerate() {
        assert_eq!(*at, 500 * i as u128);
        assert!(queued.abs_diff(2500 - 500 * i as u32) <= 20, "{playouts:?}");
    }
}

#[test]
fn a_greeting_is_heard_first_and_its_end_is_told() {
    let greeting = speech(8000, 1);
    let mut line = Line::new(8000, 8000, Some(greeting.clone()));
    let begun = line.now;
    line.say(0, pcm(speech(800, 9)));
    line.run(3000);
    let heard: Vec<i16> = line.audio().into_iter().filter(|sample| *sample != 0).collect();
    assert_eq!(heard, [greeting, speech(800, 9)].concat());
    let (at, ended) = line
        .told
        .iter()
        .find_map(|(at, event)| {
            if let Event::GreetingEnded(ended) = event {
                Some((*at, *ended))
            } else {
                None
            }
        })
        .unwrap();
    assert_eq!((ended.played_ms, ended.interrupted), (1000, false));
    // To the packet that holds its last sample.
    assert!((1000..=1200).contains(&(at - begun).as_millis()), "{:?}", at - begun);
    assert!(
        line.reports
            .iter()
            .any(|report| matches!(report, Report::GreetingEnded(_)))
    );
}

#[test]
fn a_clear_stops_the_greeting() {
    let mut line = Line::new(16_000, 8000, Some(speech(24_000, 1)));
    line.run(1000);
    line.act(Action::Clear(Clear { generation: 0 }));
    let sent = line.sent.len();
    line.run(5000);
    assert_eq!(line.sent.len(), sent);
    let Some((_, Event::GreetingEnded(ended))) = line.told.first() else {
        panic!("{:?}", line.told)
    };
    assert!(ended.interrupted && ended.played_ms.abs_diff(1000) <= 30, "{ended:?}");
}
