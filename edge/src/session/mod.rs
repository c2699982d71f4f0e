//! One media session as a state machine without sockets and without a clock: it is told what happened and when, and says
//! what is to be done. `driver` does it.
//!
//! | phase | `start` | media | `stop`, close | agent's messages |
//! |---|---|---|---|---|
//! | opening | asks call-service | dropped, counted | over, nothing to report | – |
//! | starting | counted | waits for the agent | over, reported once started | – |
//! | live | counted | to the agent | over | played, reported |
//! | leaving | counted | to the agent | over | only `Clear` |
//! | over | ignored | ignored | ignored | transcripts and facts are still reported |
//!
//! Whatever names another stream, from `start` on, is a bad frame: it is dropped and counted, and the twentieth bad one of any
//! kind ends the session.

mod agent;
mod arrivals;
pub mod counters;
mod line;
pub mod playout;
mod recorded;
pub mod resample;
mod service;
mod tone;
pub mod tuning;
pub mod uplink;

use std::{collections::VecDeque, time::Duration};

use arrivals::Arrivals;
use bytes::Bytes;
use callbridge_proto::{
    agent::v1::{Message, Playout as PlayoutReport, Start as AgentStart, Stop, converse_request::Event},
    ingress::v1::{SessionEnded, session_event::Event as Report},
};
use counters::{Counters, Moment, raise};
use exotel::stream;
use playout::{Frame, Plan, Playout};
use recorded::Recorded;
use tokio::time::Instant;
use tuning::Tuning;
use uplink::Uplink;

/// The bad frame that ends the session (F80): a few are noise, so many are another protocol.
pub const BAD_FRAMES: u64 = 20;
/// How often the agent hears about its play-out.
const PLAYOUT_EVERY: Duration = Duration::from_millis(500);
/// How long before the time limit the agent is told (F94).
const TIME_LIMIT_WARNING: Duration = Duration::from_secs(30);
/// Names of marks, by contract.
const MAX_MARK_NAME: usize = 64;
/// Words of the agent that are passed on: a reason (by contract), a number, a language tag.
const MAX_WORD: usize = 64;
/// Text of one transcript that is passed on; nobody says so much in one turn.
const MAX_TRANSCRIPT: usize = 8 * 1024;
/// Entries, keys and values of metadata, by contract.
const MAX_METADATA: (usize, usize, usize) = (32, 64, 1024);
/// An agent's stream that lived this long was a good one: should it break, there is another try. One that breaks sooner after
/// a try is given up.
const GOOD_LINK: Duration = Duration::from_secs(30);

/// The times a session keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the upgrade to `start`.
    pub start: Duration,
    /// Without any frame.
    pub idle: Duration,
}

/// What call-service said at `start`, with what the edge made of it.
#[derive(Debug)]
pub struct Opening {
    /// For the agent; the edge's own fields are filled in here.
    pub start: AgentStart,
    /// How many endpoints the agent has.
    pub endpoints: usize,
    /// Samples per second on the agent's side.
    pub agent_rate: u32,
    /// How the phone's audio is sent and read.
    pub tuning: Tuning,
    /// Played at once: PCM at Exotel's rate.
    pub greeting: Option<Bytes>,
    /// When the call's time limit ends it.
    pub ends_at: Option<Instant>,
    /// Whether the session is recorded, from its start on.
    pub record: bool,
}

impl Default for Opening {
    /// Nothing but audio at Exotel's usual rate, and no agent.
    fn default() -> Self {
        Self {
            start: AgentStart::default(),
            endpoints: 0,
            agent_rate: stream::DEFAULT_SAMPLE_RATE,
            tuning: Tuning::default(),
            greeting: None,
            ends_at: None,
            record: false,
        }
    }
}

/// Why an agent's stream is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// It ended its half without an error.
    Finished,
    /// It broke, or answered with an error.
    Broken,
    /// None of its endpoints could be reached.
    Unreachable,
}

/// What is to be done, besides sending audio.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell call-service that the stream begins. Once.
    Begin(stream::Start),
    /// Open a stream to the agent: its endpoints in order from this one on, and round.
    Dial {
        /// Counted from 0.
        first: usize,
        /// The agent has gone in mid-call: the person hears silence meanwhile.
        again: bool,
        /// The stream's first message.
        start: Box<AgentStart>,
    },
    /// Tell call-service.
    Report(Report),
    /// Close the socket.
    Close {
        /// RFC 6455 §7.4.
        code: u16,
        /// For Exotel's log.
        reason: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    by: &'static str,
    reason: &'static str,
    /// What the agent is told.
    stop: &'static str,
}

impl End {
    const fn new(by: &'static str, reason: &'static str, stop: &'static str) -> Self {
        Self { by, reason, stop }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Starting,
    Live,
    Leaving { end: End, until: Instant },
    Over,
}

/// What a session has from its start on.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each said once")]
#[derive(Debug)]
struct Live {
    start: AgentStart,
    endpoints: usize,
    endpoint: usize,
    playout: Playout,
    ends_at: Option<Instant>,
    warned: bool,
    connected: bool,
    /// An agent's stream is open or being opened.
    agent: bool,
    retried: bool,
    /// Since when the agent's stream is open.
    linked_at: Option<Instant>,
    next_playout: Option<Instant>,
}

/// A media session.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    phase: Phase,
    began: Instant,
    last_frame: Instant,
    stream_sid: String,
    rate: u32,
    tuning: Tuning,
    arrivals: Arrivals,
    uplink: Uplink,
    /// On the heap, as what a socket has only once it is a call.
    live: Option<Box<Live>>,
    recording: Option<Box<Recorded>>,
    ended: Option<End>,
    finished: bool,
    effects: VecDeque<Effect>,
    counters: Counters,
}

impl Session {
    /// A socket was opened.
    pub fn new(now: Instant, limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Opening,
            began: now,
            last_frame: now,
            stream_sid: String::new(),
            rate: 8000,
            tuning: Tuning::default(),
            arrivals: Arrivals::default(),
            uplink: Uplink::default(),
            live: None,
            recording: None,
            ended: None,
            finished: false,
            effects: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The next thing to do.
    pub fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Whether there is something to do.
    pub fn has_effect(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Whether the socket is to be, or was, closed.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether call-service was told of a `start` and knows the session.
    pub fn is_started(&self) -> bool {
        self.live.is_some()
    }

    /// Samples per second of the stream.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The figures so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was measured since this was asked last.
    pub fn moments(&mut self) -> impl Iterator<Item = Moment> {
        self.counters.moments()
    }

    // ---- the socket ----

    /// What can be sent on the socket now, or when.
    pub fn plan(&mut self, now: Instant) -> Plan {
        match (&mut self.live, self.phase) {
            (Some(live), Phase::Live | Phase::Leaving { .. }) => live.playout.plan(now),
            _ => Plan::Nothing,
        }
    }

    /// The next text frame for the socket, if it is time for one.
    pub fn next_text(&mut self, now: Instant) -> Option<String> {
        if self.phase == Phase::Over {
            return None;
        }
        let frame = self.live.as_mut()?.playout.next(now, &mut self.counters)?;
        let sid = &self.stream_sid;
        let text = match frame {
            Frame::Audio { pcm, position, ends } => {
                if self.counters.first_audio_ms == 0 {
                    let after = now.saturating_duration_since(self.began);
                    // 0 is for sessions without audio.
                    raise(&mut self.counters.first_audio_ms, after.max(Duration::from_millis(1)));
                    self.counters.measure(Moment::FirstAudio(after));
                }
                if let Some(recording) = &mut self.recording {
                    recording.agent(now, ends, pcm);
                }
                let position = self.tuning.positions.then_some(position);
                stream::media(sid, &self.tuning.encoding.from_pcm(pcm), position)
            }
            Frame::Mark(name) => stream::mark(sid, &name),
            Frame::Clear => stream::clear(sid),
        };
        self.settle(now);
        Some(text)
    }

    // ---- time ----

    /// When [`Session::tick`] has something to do.
    pub fn wake(&self) -> Option<Instant> {
        let idle = self.last_frame + self.limits.idle;
        match self.phase {
            Phase::Opening => Some((self.began + self.limits.start).min(idle)),
            Phase::Starting => Some(idle),
            Phase::Over => None,
            Phase::Live | Phase::Leaving { .. } => {
                let live = self.live.as_ref();
                let until = if let Phase::Leaving { until, .. } = self.phase {
                    Some(until)
                } else {
                    None
                };
                let limit = live.and_then(|live| {
                    let warn = live.ends_at.and_then(|at| at.checked_sub(TIME_LIMIT_WARNING));
                    if live.warned { live.ends_at } else { warn }
                });
                let playout = live.and_then(|live| live.playout.wake());
                let report = live.and_then(|live| live.next_playout);
                [Some(idle), until, limit, playout, report].into_iter().flatten().min()
            }
        }
    }

    /// Does what time asks for.
    pub fn tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Over => return,
            Phase::Opening if now >= self.began + self.limits.start => {
                self.end(End::new("provider", "no_start", "error"), 1008);
                return;
            }
            _ if now >= self.last_frame + self.limits.idle => {
                self.end(End::new("callbridge", "idle", "stream_stopped"), 1000);
                return;
            }
            Phase::Leaving { end, until } if now >= until => {
                self.end(end, 1000);
                return;
            }
            _ => {}
        }
        if let Some(live) = &mut self.live
            && let Some(ends_at) = live.ends_at
        {
            if now >= ends_at {
                self.end(End::new("callbridge", "time_limit", "time_limit"), 1000);
                return;
            }
            let left = ends_at - now;
            if !live.warned && left <= TIME_LIMIT_WARNING {
                live.warned = true;
                let json = format!(r#"{{"type":"time_limit","seconds_left":{}}}"#, left.as_secs());
                self.tell(now, Event::Message(Message { json }));
            }
        }
        if let Some(live) = &mut self.live {
            live.playout.tick(now, &mut self.counters);
            if live.next_playout.is_some_and(|at| at <= now) {
                let queued_ms = live.playout.queued_ms(now);
                // The last one says that nothing waits.
                live.next_playout = (queued_ms > 0).then_some(now + PLAYOUT_EVERY);
                let dropped_ms = live.playout.dropped_ms();
                self.tell(now, Event::Playout(PlayoutReport { queued_ms, dropped_ms }));
            }
        }
        self.settle(now);
    }

    // ---- the end ----

    /// The agent had its time to say goodbye: reports the end, once.
    pub fn finish(&mut self) {
        if self.finished || self.phase != Phase::Over {
            return;
        }
        if let Some(end) = self.ended
            && self.live.is_some()
        {
            self.finished = true;
            self.report(Report::Ended(SessionEnded {
                ended_by: end.by.to_owned(),
                reason: end.reason.to_owned(),
                quality: self.counters.quality(),
            }));
        }
    }

    /// Why the session ended: by whom and for what reason, as stable machine words.
    pub fn end_words(&self) -> (&'static str, &'static str) {
        self.ended.map_or(("", ""), |end| (end.by, end.reason))
    }

    fn begin_leaving(&mut self, now: Instant, end: End) {
        if self.phase != Phase::Live {
            return;
        }
        let Some(live) = &mut self.live else { return };
        let until = live.playout.ends_at(now);
        live.playout.finish(now);
        self.phase = Phase::Leaving { end, until };
        self.settle(now);
    }

    /// Passes on what the play-out has to tell, and ends a leave whose audio was heard.
    fn settle(&mut self, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        let Some(live) = &mut self.live else { return };
        let mut notices = Vec::new();
        notices.extend(std::iter::from_fn(|| live.playout.notice()));
        for notice in notices {
            if let Event::GreetingEnded(ended) = &notice {
                self.report(Report::GreetingEnded(*ended));
            }
            self.tell(now, notice);
        }
        if let Phase::Leaving { end, .. } = self.phase
            && self.live.as_ref().is_some_and(|live| live.playout.is_over(now))
        {
            self.end(end, 1000);
        }
    }

    fn tell(&mut self, now: Instant, event: Event) {
        self.uplink.control(event);
        if self.uplink.is_stuck() && self.phase == Phase::Live {
            self.uplink.new_agent();
            self.agent_failed(now, "agent_failed");
        }
    }

    fn report(&mut self, report: Report) {
        self.effects.push_back(Effect::Report(report));
    }

    fn dial(&mut self, first: usize, again: bool) {
        if let Some(live) = &mut self.live {
            live.agent = true;
            self.effects.push_back(Effect::Dial {
                first,
                again,
                start: Box::new(live.start.clone()),
            });
        }
    }

    fn end(&mut self, end: End, code: u16) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        self.ended = Some(end);
        self.uplink.control(Event::Stop(Stop {
            reason: end.stop.to_owned(),
        }));
        self.effects.push_back(Effect::Close {
            code,
            reason: end.reason,
        });
    }
}
