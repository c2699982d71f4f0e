//! The session under every short sequence of events (F89): nothing that comes in any order breaks what is promised.

use std::{sync::LazyLock, time::Duration};

use callbridge_proto::{
    agent::v1::{Clear, Leave, LeaveAction, Mark, OutgoingAudio, converse_request::Event, converse_response::Action},
    ingress::v1::session_event::Event as Report,
};
use edge::session::{AgentEnd, Effect, Limits, Opening, Session};
use tokio::time::Instant;

use crate::frames;

/// How long the sequences are, and how long those that begin with a start: before it little can happen.
const LENGTH: usize = 4;
const STARTED_LENGTH: usize = 5;

// Made once: they are read some ten thousand times.
static START: LazyLock<String> = LazyLock::new(|| frames::start(8000));
static MEDIA: LazyLock<Vec<String>> = LazyLock::new(|| (0..=10).map(|chunk| frames::media(chunk, &[1; 320])).collect());
static KEY: LazyLock<String> = LazyLock::new(|| frames::dtmf("5"));
static STOP: LazyLock<String> = LazyLock::new(|| frames::stop("stopped"));
static ANOTHER: LazyLock<String> = LazyLock::new(|| frames::stop("callended").replace(frames::STREAM, "another"));

type Input = (&'static str, fn(&mut Bench));

/// What can happen to a session. What only an answer can be (`started`, `agent`…) is left out where nothing was asked.
const INPUTS: [Input; 11] = [
    ("start", |bench| bench.text(&START)),
    ("media", |bench| {
        bench.chunk += 1;
        let piece = usize::try_from(bench.chunk).unwrap();
        bench.text(&MEDIA[piece]);
    }),
    ("key", |bench| bench.text(&KEY)),
    ("stop", |bench| bench.text(&STOP)),
    ("another stream", |bench| {
        bench.text(&ANOTHER);
    }),
    ("close", |bench| bench.session.socket_closed()),
    ("answer", |bench| {
        if bench.asked && !bench.is_answered {
            bench.is_answered = true;
            bench.session.started(bench.now, opening());
        }
    }),
    ("connected", |bench| {
        if bench.dials > bench.ends {
            bench.session.agent_connected(bench.now, 0);
        }
    }),
    ("broken", |bench| {
        if bench.dials > bench.ends {
            bench.ends += 1;
            bench.session.agent_ended(bench.now, AgentEnd::Broken);
        }
    }),
    ("turn", |bench| {
        if bench.dials > bench.ends {
            let (pcm, name) = (vec![1; 4000].into(), "m".to_owned());
            for action in [
                Action::Audio(OutgoingAudio { pcm, generation: 1 }),
                Action::Mark(Mark { name }),
                Action::Clear(Clear { generation: 0 }),
                Action::Leave(Leave {
                    action: LeaveAction::ContinueFlow.into(),
                    ..Leave::default()
                }),
            ] {
                bench.session.agent(bench.now, Some(action));
            }
        }
    }),
    ("time", |bench| {
        bench.now += Duration::from_secs(3);
        bench.session.tick(bench.now);
        while bench.session.next_text(bench.now).is_some() {}
    }),
];

fn opening() -> Opening {
    Opening {
        endpoints: 2,
        greeting: Some(vec![1; 3200].into()),
        ..Opening::default()
    }
}

/// A session and what was seen of it.
struct Bench {
    session: Session,
    now: Instant,
    chunk: u64,
    asked: bool,
    is_answered: bool,
    dials: usize,
    ends: usize,
    closes: usize,
    stops: usize,
    end_reports: usize,
    said: usize,
    heard: usize,
}

impl Bench {
    fn new(now: Instant) -> Self {
        let limits = Limits {
            start: Duration::from_secs(10),
            idle: Duration::from_mins(1),
        };
        Self {
            session: Session::new(now, limits),
            now,
            chunk: 0,
            asked: false,
            is_answered: false,
            dials: 0,
            ends: 0,
            closes: 0,
            stops: 0,
            end_reports: 0,
            said: 0,
            heard: 0,
        }
    }

    fn text(&mut self, text: &str) {
        self.session.text(self.now, text);
    }

    /// Does what is asked for, and checks what must hold after each event.
    fn settle(&mut self, sequence: &[usize]) {
        let told = || sequence.iter().map(|i| INPUTS[*i].0).collect::<Vec<_>>();
        while let Some(effect) = self.session.effect() {
            assert_eq!(self.end_reports, 0, "something after the end in {:?}", told());
            match effect {
                Effect::Begin(_) => {
                    assert!(!self.asked, "asked twice in {:?}", told());
                    self.asked = true;
                }
                Effect::Dial { .. } => {
                    self.dials += 1;
                    assert_eq!(self.dials, self.ends + 1, "two agents in {:?}", told());
                }
                Effect::Report(Report::Ended(_)) => self.end_reports += 1,
                Effect::Report(_) => {}
                Effect::Close { .. } => {
                    self.closes += 1;
                    assert!(self.session.is_over());
                }
            }
        }
        while let Some(event) = self.session.agent_event() {
            assert_eq!(self.stops, 0, "something after Stop in {:?}", told());
            match event {
                Event::Audio(audio) => self.heard += audio.pcm.len(),
                Event::Stop(_) => self.stops += 1,
                _ => {}
            }
        }
        assert_eq!(self.closes, usize::from(self.session.is_over()), "{:?}", told());
    }

    /// Ends it, and checks what must hold of the whole.
    fn end(mut self, sequence: &[usize]) {
        self.session.socket_closed();
        self.settle(sequence);
        self.session.finish();
        self.session.finish();
        self.settle(sequence);
        let told = || sequence.iter().map(|i| INPUTS[*i].0).collect::<Vec<_>>();
        let one = usize::from(self.is_answered);
        assert_eq!((self.end_reports, self.closes), (one, 1), "{:?}", told());
        assert_eq!(self.stops, one, "{:?}", told());
        assert_eq!(self.session.next_text(self.now), None);
        // All that was said after the start and before the end was heard, as soon as there is somebody to tell.
        self.said = usize::try_from(self.session.counters().bytes_in).unwrap();
        if self.is_answered {
            assert_eq!(self.heard, self.said, "{:?}", told());
        }
    }
}

/// Runs a sequence; whether it has ended the session.
fn run(now: Instant, sequence: &[usize]) -> bool {
    let mut bench = Bench::new(now);
    for (done, input) in sequence.iter().enumerate() {
        INPUTS[*input].1(&mut bench);
        bench.settle(&sequence[..=done]);
    }
    let is_over = bench.session.is_over();
    bench.end(sequence);
    is_over
}

fn extend(now: Instant, sequence: &mut Vec<usize>, length: usize, runs: &mut usize) {
    for input in 0..INPUTS.len() {
        sequence.push(input);
        *runs += 1;
        // After the end nothing changes any more, which one more event shows.
        let length = if run(now, sequence) {
            length.min(sequence.len() + 1)
        } else {
            length
        };
        if sequence.len() < length {
            extend(now, sequence, length, runs);
        }
        sequence.pop();
    }
}

#[test]
fn every_short_sequence_keeps_the_promises() {
    let mut runs = 0;
    extend(Instant::now(), &mut Vec::new(), LENGTH, &mut runs);
    extend(Instant::now(), &mut vec![0], STARTED_LENGTH, &mut runs);
    assert!(runs > 15_000, "{runs}");
}
