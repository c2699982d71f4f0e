//! A session with a simulated clock and a simulated Exotel that plays in real time.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{Leave, LeaveAction, OutgoingAudio, converse_request::Event, converse_response::Action},
    ingress::v1::session_event::Event as Report,
};
use edge::session::{
    Effect, Limits, Opening, Session,
    playout::Plan,
    tuning::{MAX_LEAD, Tuning},
};
use tokio::time::Instant;

use crate::frames::{self, Sent, pcm, samples};

/// A session between an agent and an Exotel that plays what it gets and sends marks back.
pub(crate) struct Line {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) rate: u32,
    /// When Exotel's buffer runs dry.
    pub(crate) dry_at: Instant,
    /// Marks that Exotel has, and when it sends them back.
    pub(crate) marks: Vec<(Instant, String)>,
    pub(crate) echo: bool,
    pub(crate) sent: Vec<(Instant, Sent)>,
    /// Frames are kept as they are.
    pub(crate) raw: bool,
    pub(crate) texts: Vec<String>,
    pub(crate) told: Vec<(Instant, Event)>,
    pub(crate) reports: Vec<Report>,
    pub(crate) closed: Option<(Instant, u16, &'static str)>,
}

impl Line {
    pub(crate) fn new(rate: u32, agent_rate: u32, greeting: Option<Vec<i16>>) -> Self {
        Self::tuned(rate, agent_rate, Tuning::default(), greeting)
    }

    pub(crate) fn tuned(rate: u32, agent_rate: u32, tuning: Tuning, greeting: Option<Vec<i16>>) -> Self {
        let now = Instant::now();
        let limits = Limits {
            start: Duration::from_secs(10),
            idle: Duration::from_mins(10),
        };
        let mut session = Session::new(now, limits);
        session.text(now, &frames::start(rate));
        let opening = Opening {
            endpoints: 1,
            agent_rate,
            tuning,
            greeting: greeting.map(|samples| pcm(samples).into()),
            ..Opening::default()
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
            raw: false,
            texts: Vec::new(),
            told: Vec::new(),
            reports: Vec::new(),
            closed: None,
        };
        line.settle();
        line
    }

    pub(crate) fn say(&mut self, generation: u64, pcm: Vec<u8>) {
        let audio = OutgoingAudio {
            pcm: pcm.into(),
            generation,
        };
        self.act(Action::Audio(audio));
    }

    pub(crate) fn act(&mut self, action: Action) {
        self.session.agent(self.now, Some(action));
        self.settle();
    }

    /// Everything that can be done at this time.
    pub(crate) fn settle(&mut self) {
        loop {
            if self.session.plan(self.now) == Plan::Send
                && let Some(text) = self.session.next_text(self.now)
            {
                if self.raw {
                    self.texts.push(text);
                    continue;
                }
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
    pub(crate) fn run(&mut self, ms: u64) {
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

    pub(crate) fn audio(&self) -> Vec<i16> {
        let audio = self
            .sent
            .iter()
            .filter_map(|(_, sent)| if let Sent::Audio(pcm) = sent { Some(pcm) } else { None });
        audio.flat_map(|pcm| samples(pcm)).collect()
    }

    pub(crate) fn marks_played(&self) -> Vec<(String, bool)> {
        let played = self.told.iter().filter_map(|(_, event)| match event {
            Event::MarkPlayed(mark) => Some((mark.name.clone(), mark.cleared)),
            _ => None,
        });
        played.collect()
    }

    /// F72 and the documented packet sizes, against Exotel's own reckoning.
    pub(crate) fn check_pacing(&self) {
        self.check_packets(320, 3200, MAX_LEAD);
    }

    pub(crate) fn check_packets(&self, min: usize, max: usize, lead: Duration) {
        let mut dry_at = self.sent.first().map_or(self.now, |(at, _)| *at);
        for (at, sent) in &self.sent {
            match sent {
                Sent::Audio(pcm) => {
                    assert!(
                        pcm.len() % 320 == 0 && (min..=max).contains(&pcm.len()),
                        "{} bytes",
                        pcm.len()
                    );
                    let length = Duration::from_nanos(pcm.len() as u64 * 500_000_000 / u64::from(self.rate));
                    dry_at = dry_at.max(*at) + length;
                    assert!(dry_at - *at <= lead, "a lead of {:?}", dry_at - *at);
                }
                Sent::Clear => dry_at = *at,
                Sent::Mark(_) => {}
            }
        }
    }
}

pub(crate) fn leave() -> Action {
    Action::Leave(Leave {
        action: LeaveAction::HangUp.into(),
        ..Leave::default()
    })
}

/// Samples that are never zero, so that zeros are padding.
pub(crate) fn speech(count: usize, seed: usize) -> Vec<i16> {
    (0..count).map(|i| ((i + seed) * 7919 % 32_000) as i16 + 1).collect()
}
