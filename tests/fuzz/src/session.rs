//! Whole WebSocket sessions: what Exotel, the agent, call-service and time do, in any order.
//!
//! An input is a list of lines, so that a corpus can be read and written by people. A line that begins with one of these letters
//! does what it says, and any other line is a text frame of Exotel's:
//!
//! | line | does |
//! |---|---|
//! | `+N` | N times 10 ms pass, 255 at most |
//! | `b`, `p`, `o` | a binary frame, a ping, a pong that did not come |
//! | `q`, `k`, `z` | the socket is closed, breaks off, breaks the protocol |
//! | `sN`, `rN` | call-service takes the start, with the settings of the bits of N, or refuses it; N = 13: it does not answer |
//! | `v` | the socket gives way to others, since it has not said `start` |
//! | `h`, `n`, `m…`, `u`, `d` | call-service hangs up, goes on in the flow, has a message, knows nothing of it; the process drains |
//! | `cN`, `f`, `x`, `y` | the agent is connected at endpoint N, has finished, breaks, cannot be reached |
//! | `a…` | the agent's message: the rest of the line in base64 is a `ConverseResponse` |
//! | `eN` | the agent speaks for N ms |

use std::time::Duration;

use bytes::Bytes;
use callbridge_proto::{
    agent::v1::{
        ConverseResponse, Leave, LeaveAction, Message, OutgoingAudio, converse_request::Event,
        converse_response::Action,
    },
    directory::v1::AudioSettings,
    ingress::v1::session_event::Event as Report,
};
use data_encoding::BASE64;
use edge::session::{AgentEnd, BAD_FRAMES, Effect, Limits, Opening, Session, tuning::Tuning};
use prost::Message as _;
use tokio::time::Instant;

/// Lines of an input that are played: more would only be slow.
const MOST_LINES: usize = 200;
/// What a session may hold of the agent's speech: 512 KiB and a piece, in base64 with its envelope, and what was sent ahead.
const MOST_SENT: usize = 4 * 1024 * 1024;
/// What is made of one message of audio: three times as many samples at most, in base64.
const SPREAD: usize = 16;

/// A session under any sequence (F89): one start is asked for, one agent at a time, one close, one end and nothing behind it.
pub fn sessions(data: &[u8]) {
    let mut bench = Bench::new();
    for line in data.split(|byte| *byte == b'\n').take(MOST_LINES) {
        bench.line(line);
        bench.settle();
    }
    bench.end();
}

/// An agent's messages as they come over gRPC (F104): each is decoded and played in a session that has its agent.
pub fn agent_messages(data: &[u8]) {
    let mut bench = Bench::new();
    bench.text(r#"{"event":"start","stream_sid":"s","start":{"call_sid":"c"}}"#);
    bench.settle();
    bench.started(0);
    bench.settle();
    bench.session.agent_connected(bench.now, 0);
    // Messages with their length before them, as prost writes a stream.
    let mut rest = data;
    for _ in 0..MOST_LINES {
        if rest.is_empty() {
            break;
        }
        let Ok(message) = ConverseResponse::decode_length_delimited(&mut rest) else {
            break;
        };
        bench.said += message.encoded_len();
        bench.session.agent(bench.now, message.action);
        bench.settle();
        bench.pass(Duration::from_millis(20));
    }
    bench.end();
}

/// A session and what was seen of it.
struct Bench {
    session: Session,
    now: Instant,
    /// Bytes that came from either side.
    said: usize,
    asked: bool,
    answered: bool,
    dials: usize,
    ends: usize,
    closes: usize,
    stops: usize,
    end_reports: usize,
    heard: usize,
    sent: usize,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let limits = Limits {
            start: Duration::from_secs(10),
            idle: Duration::from_mins(1),
        };
        Self {
            session: Session::new(now, limits),
            now,
            said: 0,
            asked: false,
            answered: false,
            dials: 0,
            ends: 0,
            closes: 0,
            stops: 0,
            end_reports: 0,
            heard: 0,
            sent: 0,
        }
    }

    fn text(&mut self, text: &str) {
        self.said += text.len();
        self.session.text(self.now, text);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        // What asks to be woken at once without anything to do would spin.
        let before = self.session.wake();
        self.session.tick(self.now);
        let again = self.session.wake();
        if before == again && !self.session.is_over() {
            assert!(
                again.is_none_or(|at| at > self.now || self.session.has_effect()),
                "it wants to be woken for nothing"
            );
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some((letter, rest)) = line.split_first() else {
            return;
        };
        let number = std::str::from_utf8(rest)
            .ok()
            .and_then(|text| text.parse::<u8>().ok())
            .unwrap_or(0);
        let now = self.now;
        // An agent that was not dialled says nothing.
        let has_agent = self.dials > self.ends;
        match letter {
            b'+' => self.pass(Duration::from_millis(10) * number.into()),
            b'b' => self.session.binary(now),
            b'p' => self.session.alive(now),
            b'o' => self.session.missed_pong(),
            b'q' => self.session.socket_closed(),
            b'k' => self.session.socket_broke(),
            b'z' => self.session.protocol_error(if number == 9 { 1009 } else { 1002 }),
            b's' if self.asked && !self.answered => self.started(number),
            b'r' if self.asked && !self.answered => self.session.refused(if number == 13 { 1013 } else { 1008 }),
            b'v' => {
                let was_over = self.session.is_over();
                self.session.shed();
                assert!(!self.asked || self.session.is_over() == was_over, "a call gives way");
            }
            b'h' => self.session.leave(now, leave(LeaveAction::HangUp)),
            b'n' => self.session.leave(now, leave(LeaveAction::ContinueFlow)),
            b'm' => {
                let json = String::from_utf8_lossy(rest).into_owned();
                self.session.message(now, Message { json });
            }
            b'u' => self.session.unknown(),
            b'd' => self.session.drain(),
            b'c' if has_agent => self.session.agent_connected(now, number.into()),
            b'f' | b'x' | b'y' if has_agent => {
                self.ends += 1;
                self.session.agent_ended(
                    now,
                    match letter {
                        b'f' => AgentEnd::Finished,
                        b'x' => AgentEnd::Broken,
                        _ => AgentEnd::Unreachable,
                    },
                );
            }
            b'a' if has_agent => {
                let message = BASE64
                    .decode(rest)
                    .ok()
                    .and_then(|bytes| ConverseResponse::decode(&bytes[..]).ok());
                if let Some(message) = message {
                    self.said += message.encoded_len();
                    self.session.agent(now, message.action);
                }
            }
            b'e' if has_agent => {
                let pcm: Bytes = vec![1; 16 * usize::from(number)].into();
                self.said += pcm.len();
                self.session
                    .agent(now, Some(Action::Audio(OutgoingAudio { pcm, generation: 1 })));
            }
            b's' | b'r' | b'c' | b'f' | b'x' | b'y' | b'a' | b'e' => {}
            _ => {
                if let Ok(text) = std::str::from_utf8(line) {
                    self.text(text);
                }
            }
        }
    }

    /// call-service answers, with the settings that the bits choose.
    fn started(&mut self, bits: u8) {
        let has = |bit: u8| bits & (1 << bit) != 0;
        self.answered = true;
        let settings = AudioSettings {
            encoding: if has(0) { 2 } else { 0 },
            positions: has(1),
            fill_gaps: has(2),
            lead_ms: if has(3) { 100 } else { 0 },
            min_packet_bytes: if has(4) { 24_000 } else { 0 },
            ..AudioSettings::default()
        };
        self.said += 3200;
        self.session.started(
            self.now,
            Opening {
                endpoints: 2,
                agent_rate: if has(5) { 24_000 } else { 8000 },
                tuning: Tuning::from(&settings),
                greeting: has(6).then(|| vec![1; 3200].into()),
                ends_at: has(7).then(|| self.now + Duration::from_secs(40)),
                record: has(1),
                ..Opening::default()
            },
        );
    }

    /// Does what is asked for, and checks what holds after each event.
    fn settle(&mut self) {
        self.pass_on();
        // With its last words it may end.
        while self.session.has_effect() {
            self.pass_on();
        }
        assert!(
            self.sent <= SPREAD * self.said + MOST_SENT,
            "{} bytes from {}",
            self.sent,
            self.said
        );
        assert_eq!(self.closes, usize::from(self.session.is_over()));
        assert!(self.session.counters().bad_frames <= BAD_FRAMES);
    }

    /// What the driver does after an event: effects, what the agent hears, what Exotel hears.
    fn pass_on(&mut self) {
        while let Some(effect) = self.session.effect() {
            assert_eq!(self.end_reports, 0, "something after the end");
            match effect {
                Effect::Begin(_) => {
                    assert!(!self.asked, "asked twice");
                    self.asked = true;
                    self.session.may_record(self.now);
                }
                Effect::Dial { .. } => {
                    self.dials += 1;
                    assert_eq!(self.dials, self.ends + 1, "two agents at one time");
                }
                Effect::Report(Report::Ended(_)) => self.end_reports += 1,
                Effect::Report(report) => within_limits(&report),
                Effect::Close { code, .. } => {
                    self.closes += 1;
                    assert!(matches!(code, 1000 | 1001 | 1002 | 1008 | 1009 | 1013), "{code}");
                    assert!(self.session.is_over());
                }
            }
        }
        while let Some(event) = self.session.agent_event() {
            assert_eq!(self.stops, 0, "something after Stop");
            match event {
                Event::Audio(audio) => self.heard += audio.pcm.len(),
                Event::Stop(_) => self.stops += 1,
                _ => {}
            }
        }
        while let Some(text) = self.session.next_text(self.now) {
            self.sent += text.len();
            assert!(
                exotel::stream::bot::decode(&text).is_ok(),
                "a frame that nobody can read"
            );
        }
        while self.session.recorded().is_some() {}
    }

    /// Ends it, and checks what holds of the whole.
    fn end(mut self) {
        self.session.socket_closed();
        self.settle();
        self.session.finish();
        self.session.finish();
        self.settle();
        let one = usize::from(self.session.is_started());
        assert_eq!((self.end_reports, self.closes, self.stops), (one, 1, one));
        assert_eq!(self.session.next_text(self.now), None);
        assert_eq!(self.session.wake(), None);
        self.session.end_recording(self.now);
        while self.session.recorded().is_some() {}
        let _ = (self.session.counters().quality(), self.session.moments().count());
    }
}

fn leave(action: LeaveAction) -> Leave {
    Leave {
        action: action.into(),
        ..Leave::default()
    }
}

/// What is told to call-service is bounded, whatever an agent says (`edge::session`).
fn within_limits(report: &Report) {
    match report {
        Report::Transcript(transcript) => {
            assert!(transcript.text.len() <= 8 * 1024 && transcript.language.chars().count() <= 64);
        }
        Report::Metadata(metadata) => {
            assert!((1..=32).contains(&metadata.entries.len()));
            let fits = |(key, value): (&String, &String)| key.chars().count() <= 64 && value.chars().count() <= 1024;
            assert!(metadata.entries.iter().all(fits));
        }
        Report::Leave(leave) => {
            assert!(leave.reason.chars().count() <= 64 && leave.transfer_to.chars().count() <= 64);
        }
        _ => {}
    }
}
