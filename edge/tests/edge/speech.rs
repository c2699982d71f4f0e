//! The agent's speech on its way to the person, with a simulated clock and a simulated Exotel that plays in real time.

use std::{sync::Arc, time::Duration};

use callbridge_proto::{
    agent::v1::{
        Clear, Leave, LeaveAction, Mark, OutgoingAudio, Start, converse_request::Event, converse_response::Action,
    },
    ingress::v1::session_event::Event as Report,
};
use edge::session::{
    Effect, Limits, Opening, Session,
    playout::{MAX_LEAD, Plan, Sound, max_buffered_ms},
};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::frames::{self, Sent, pcm, samples};

/// A session between an agent and an Exotel that plays what it gets and sends marks back.
struct Line {
    session: Session,
    now: Instant,
    rate: u32,
    /// When Exotel's buffer runs dry.
    dry_at: Instant,
    /// Marks that Exotel has, and when it sends them back.
    marks: Vec<(Instant, String)>,
    echo: bool,
    sent: Vec<(Instant, Sent)>,
    told: Vec<(Instant, Event)>,
    reports: Vec<Report>,
    closed: Option<(Instant, u16, &'static str)>,
}

impl Line {
    fn new(rate: u32, agent_rate: u32, greeting: Option<Sound>) -> Self {
        let now = Instant::now();
        let limits = Limits {
            start: Duration::from_secs(10),
            idle: Duration::from_mins(10),
        };
        let mut session = Session::new(now, limits);
        session.text(now, &frames::start(rate));
        let opening = Opening {
            start: Start::default(),
            endpoints: 1,
            agent_rate,
            greeting,
            ends_at: None,
        };
        session.started(now, opening);
        session.agent_connected(now, 0);
        let mut line = Self {
            session,
            now,
            rate,
            dry_at: now,
            marks: Vec::new(),
            echo: true,
            sent: Vec::new(),
            told: Vec::new(),
            reports: Vec::new(),
            closed: None,
        };
        line.settle();
        line
    }

    fn say(&mut self, generation: u64, pcm: Vec<u8>) {
        let audio = OutgoingAudio {
            pcm: pcm.into(),
            generation,
        };
        self.act(Action::Audio(audio));
    }

    fn act(&mut self, action: Action) {
        self.session.agent(self.now, Some(action));
        self.settle();
    }

    /// Everything that can be done at this time.
    fn settle(&mut self) {
        loop {
            if self.session.plan(self.now) == Plan::Send
                && let Some(text) = self.session.next_text(self.now)
            {
                let sent = frames::read(&text);
                match &sent {
                    Sent::Audio(pcm) => {
                        let length = Duration::from_nanos(pcm.len() as u64 * 500_000_000 / u64::from(self.rate));
                        self.dry_at = self.dry_at.max(self.now) + length;
                    }
                    Sent::Mark(name) => self.marks.push((self.dry_at.max(self.now), name.clone())),
                    Sent::Clear => {
                        self.dry_at = self.now;
                        self.marks.clear();
                    }
                }
                self.sent.push((self.now, sent));
                continue;
            }
            if self.echo && self.marks.first().is_some_and(|(at, _)| *at <= self.now) {
                let (_, name) = self.marks.remove(0);
                self.session.text(self.now, &frames::mark(&name));
                continue;
            }
            break;
        }
        while let Some(event) = self.session.agent_event() {
            self.told.push((self.now, event));
        }
        while let Some(effect) = self.session.effect() {
            match effect {
                Effect::Report(report) => self.reports.push(report),
                Effect::Close { code, reason } => {
                    assert_eq!(self.closed, None, "closed twice");
                    self.closed = Some((self.now, code, reason));
                }
                Effect::Begin(_) | Effect::Dial { .. } => {}
            }
        }
    }

    /// Lets time pass.
    fn run(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            self.session.tick(self.now);
            self.settle();
            if self.closed.is_some() {
                break;
            }
            let plan = if let Plan::At(at) = self.session.plan(self.now) {
                Some(at)
            } else {
                None
            };
            let echo = self.marks.first().filter(|_| self.echo).map(|(at, _)| *at);
            let next = [plan, echo, self.session.wake()]
                .into_iter()
                .flatten()
                .filter(|at| *at > self.now)
                .min();
            match next {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
        }
        self.now = end;
    }

    fn audio(&self) -> Vec<i16> {
        let audio = self
            .sent
            .iter()
            .filter_map(|(_, sent)| if let Sent::Audio(pcm) = sent { Some(pcm) } else { None });
        audio.flat_map(|pcm| samples(pcm)).collect()
    }

    fn marks_played(&self) -> Vec<(String, bool)> {
        let played = self.told.iter().filter_map(|(_, event)| match event {
            Event::MarkPlayed(mark) => Some((mark.name.clone(), mark.cleared)),
            _ => None,
        });
        played.collect()
    }

    /// F72 and the documented packet sizes, against Exotel's own reckoning.
    fn check_pacing(&self) {
        let mut dry_at = self.sent.first().map_or(self.now, |(at, _)| *at);
        for (at, sent) in &self.sent {
            match sent {
                Sent::Audio(pcm) => {
                    assert!(
                        pcm.len() % 320 == 0 && !pcm.is_empty() && pcm.len() <= 3200,
                        "{} bytes",
                        pcm.len()
                    );
                    let length = Duration::from_nanos(pcm.len() as u64 * 500_000_000 / u64::from(self.rate));
                    dry_at = dry_at.max(*at) + length;
                    assert!(dry_at - *at <= MAX_LEAD, "a lead of {:?}", dry_at - *at);
                }
                Sent::Clear => dry_at = *at,
                Sent::Mark(_) => {}
            }
        }
    }
}

fn leave() -> Action {
    Action::Leave(Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    })
}

/// Samples that are never zero, so that zeros are padding.
fn speech(count: usize, seed: usize) -> Vec<i16> {
    (0..count).map(|i| ((i + seed) * 7919 % 32_000) as i16 + 1).collect()
}

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
        let mut line = Line::new(8000, 8000, Some(Sound { samples: speech(1234, 0).into(), rate: 8000 }));
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
        let limit = max_buffered_ms(rate) as usize * rate as usize / 1000;
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
    let mut line = Line::new(
        8000,
        8000,
        Some(Sound {
            samples: Arc::from(&greeting[..]),
            rate: 8000,
        }),
    );
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
    let mut line = Line::new(
        16_000,
        8000,
        Some(Sound {
            samples: speech(24_000, 1).into(),
            rate: 8000,
        }),
    );
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
