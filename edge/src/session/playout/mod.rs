//! The way of the agent's speech to the person: a bounded queue behind the greeting, paced to real time, with marks in order
//! with the audio, and barge-in.

mod marks;
mod pace;
mod speech;

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use callbridge_proto::agent::v1::{GreetingEnded, MarkPlayed, converse_request::Event};
use exotel::stream::Position;
use marks::Marks;
use pace::{Pace, Packet};
use speech::Speech;
use tokio::time::Instant;

use super::{
    counters::{Counters, Moment, raise},
    tuning::Tuning,
};

/// What is held of the agent's speech: the least of these two (design: 30 s, 512 KiB). It is held at Exotel's rate, so the
/// higher of the two rates counts.
const MAX_BUFFERED_MS: u32 = 30_000;
const MAX_BUFFERED_BYTES: u64 = 512 * 1024;

fn ms(samples: u64, rate: u32) -> u32 {
    u32::try_from(samples * 1000 / u64::from(rate.max(1))).unwrap_or(u32::MAX)
}

/// How long so many bytes of PCM are at a rate, in milliseconds.
pub fn pcm_ms(bytes: usize, rate: u32) -> u32 {
    ms(bytes as u64 / 2, rate)
}

/// How many milliseconds of the agent's speech are held.
pub fn max_buffered_ms(agent_rate: u32, rate: u32) -> u32 {
    ms(MAX_BUFFERED_BYTES / 2, agent_rate.max(rate)).min(MAX_BUFFERED_MS)
}

/// What can be done for the socket now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// [`Playout::next`] has something to send.
    Send,
    /// It will at this time.
    At(Instant),
    /// Not before something arrives.
    Nothing,
}

enum Step {
    Clear,
    Mark,
    Audio { bytes: usize, silence: usize },
    At(Instant),
    Nothing,
}

/// Something for the socket, in the order it must leave.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Speech.
    Audio {
        /// PCM at Exotel's rate.
        pcm: &'a [u8],
        /// Where in the stream it is.
        position: Position,
        /// When its last sample will have been heard.
        ends: Instant,
    },
    /// Send back when the audio before it was heard.
    Mark(String),
    /// Drop what was not heard.
    Clear,
}

/// A greeting that is not over.
#[derive(Debug)]
struct Greeting {
    ms: u32,
    /// Its end in the stream.
    end: u64,
    /// When its last sample will have been heard, once it was sent.
    due: Option<Instant>,
}

/// The play-out of one session.
#[derive(Debug)]
pub struct Playout {
    rate: u32,
    agent_rate: u32,
    speech: Speech,
    pace: Pace,
    marks: Marks,
    greeting: Option<Greeting>,
    packets: u64,
    /// Bytes that were sent, silence included.
    sent_bytes: u64,
    interrupted_generation: u64,
    /// Since when a `clear` is to be sent.
    clear_wanted: Option<Instant>,
    finishing: bool,
    /// What the agent is to be told.
    notices: VecDeque<Event>,
}

impl Playout {
    /// From the agent's rate to Exotel's, both in samples per second, beginning with the greeting: PCM at Exotel's rate.
    pub fn new(now: Instant, agent_rate: u32, rate: u32, tuning: &Tuning, greeting: Option<Bytes>) -> Self {
        let greeting = greeting.unwrap_or_default();
        Self {
            rate,
            agent_rate,
            greeting: (!greeting.is_empty()).then(|| Greeting {
                ms: pcm_ms(greeting.len(), rate),
                end: greeting.len() as u64,
                due: None,
            }),
            speech: Speech::new(agent_rate, rate, max_buffered_ms(agent_rate, rate), greeting),
            pace: Pace::new(now, rate, tuning),
            marks: Marks::default(),
            packets: 0,
            sent_bytes: 0,
            interrupted_generation: 0,
            clear_wanted: None,
            finishing: false,
            notices: VecDeque::new(),
        }
    }

    /// Takes the agent's speech. What exceeds the limit is dropped and counted, and what belongs to an interrupted turn.
    pub fn audio(&mut self, now: Instant, generation: u64, pcm: &[u8], counters: &mut Counters) {
        counters.agent_audio_ms += u64::from(pcm_ms(pcm.len(), self.agent_rate));
        if self.finishing || (generation != 0 && generation <= self.interrupted_generation) {
            counters.stale_out_ms += u64::from(pcm_ms(pcm.len(), self.agent_rate));
            return;
        }
        if !pcm.is_empty() {
            self.pace.heard_agent(now);
            self.speech.push(generation, pcm);
            counters.dropped_out_ms = u64::from(self.speech.dropped_ms());
        }
    }

    /// Takes a sound of our own at Exotel's rate, as if the agent had said it.
    pub fn sound(&mut self, pcm: &[u8]) {
        self.speech.sound(pcm);
    }

    /// Takes a mark: it is told when everything before it was heard. False when there are too many.
    pub fn mark(&mut self, name: String) -> bool {
        self.marks.push(Some(name), self.speech.end())
    }

    /// Barge-in: everything that was not heard is dropped, and audio of this turn and earlier ones from now on. Returns
    /// how many milliseconds of the agent's speech were dropped.
    pub fn clear(&mut self, now: Instant, generation: u64, counters: &mut Counters) -> u32 {
        let dropped = self.queued_ms(now);
        if let Some(Greeting { ms: all, due, .. }) = self.greeting.take() {
            let unheard = due.map_or(self.pace.lead(now), |due| due.saturating_duration_since(now));
            let interrupted = !unheard.is_zero() || due.is_none();
            let unheard_ms = u32::try_from(unheard.as_millis()).unwrap_or(u32::MAX);
            let played_ms = all.saturating_sub(self.speech.greeting_ms()).saturating_sub(unheard_ms);
            self.notices
                .push_back(Event::GreetingEnded(GreetingEnded { played_ms, interrupted }));
        }
        self.speech.clear();
        self.interrupted_generation = self.interrupted_generation.max(generation);
        let marks = self.marks.clear(now);
        self.notices
            .extend(marks.map(|(name, cleared)| Event::MarkPlayed(MarkPlayed { name, cleared })));
        raise(&mut counters.clear_tail_ms, self.pace.clear(now));
        self.clear_wanted.get_or_insert(now);
        dropped
    }

    /// The agent is gone: what it still wanted to say goes with it, but what Exotel has is heard.
    pub fn forget_agent(&mut self) {
        self.speech.forget_agent();
        self.marks.forget_agent();
        self.interrupted_generation = 0;
    }

    /// The last of the audio is queued: it is sent without waiting for more, with a mark of our own behind it.
    pub fn finish(&mut self, now: Instant) {
        if !self.finishing {
            self.speech.flush();
            let over = self.is_over(now);
            self.finishing = true;
            if !over {
                self.marks.push(None, self.speech.end());
            }
        }
    }

    /// Whether everything was heard, as far as can be known.
    pub fn is_over(&self, now: Instant) -> bool {
        let greeting = self.greeting.as_ref().is_none_or(|greeting| greeting.due.is_some());
        let settled = self.marks.is_empty() && self.clear_wanted.is_none();
        let silent = self.finishing || self.pace.lead(now).is_zero();
        greeting && settled && silent && self.speech.waiting() == 0
    }

    /// When all that is queued will have been heard at the latest, the greeting included.
    pub fn ends_at(&self, now: Instant) -> Instant {
        let waiting = self.speech.greeting_ms() + self.speech.queued_ms();
        let waiting = Duration::from_millis(waiting.into());
        // A second for the way there, and one for the mark's way back.
        self.pace.dry_at().max(now) + waiting + marks::GRACE + marks::GRACE
    }

    /// Exotel has played everything before this mark.
    pub fn echo(&mut self, now: Instant, mark: &str, counters: &mut Counters) {
        self.notices.extend(self.marks.echo(now, mark, counters).map(heard));
    }

    /// Settles what time settles.
    pub fn tick(&mut self, now: Instant, counters: &mut Counters) {
        let is_over = |greeting: &mut Greeting| greeting.due.is_some_and(|due| due <= now);
        if let Some(Greeting { ms: played_ms, .. }) = self.greeting.take_if(is_over) {
            let interrupted = false;
            self.notices
                .push_back(Event::GreetingEnded(GreetingEnded { played_ms, interrupted }));
        }
        self.notices.extend(self.marks.overdue(now, counters).map(heard));
    }

    /// When [`Playout::tick`] has something to settle.
    pub fn wake(&self) -> Option<Instant> {
        let greeting = self.greeting.as_ref().and_then(|greeting| greeting.due);
        [greeting, self.marks.wake()].into_iter().flatten().min()
    }

    /// The next thing that the agent is to be told.
    pub fn notice(&mut self) -> Option<Event> {
        self.notices.pop_front()
    }

    /// How much of the agent's speech was not heard yet, in milliseconds.
    pub fn queued_ms(&self, now: Instant) -> u32 {
        let from = match self.greeting {
            Some(Greeting { due: None, .. }) => return self.speech.queued_ms(),
            Some(Greeting { due: Some(due), .. }) => now.max(due),
            None => now,
        };
        let sent = u32::try_from(self.pace.lead(from).as_millis()).unwrap_or(u32::MAX);
        self.speech.queued_ms().saturating_add(sent)
    }

    /// How much of the agent's speech was dropped for exceeding the limit, in milliseconds.
    pub fn dropped_ms(&self) -> u32 {
        self.speech.dropped_ms()
    }

    /// What can be done for the socket now.
    pub fn plan(&mut self, now: Instant) -> Plan {
        match self.step(now) {
            Step::Clear | Step::Mark | Step::Audio { .. } => Plan::Send,
            Step::At(time) => Plan::At(time),
            Step::Nothing => Plan::Nothing,
        }
    }

    /// Gives the next frame, if it is time for one.
    pub fn next(&mut self, now: Instant, counters: &mut Counters) -> Option<Frame<'_>> {
        match self.step(now) {
            Step::At(_) | Step::Nothing => None,
            Step::Clear => {
                let since = self.clear_wanted.take()?;
                let took = now.saturating_duration_since(since);
                raise(&mut counters.clear_to_silence_ms, took);
                counters.measure(Moment::ClearToSilence(took));
                Some(Frame::Clear)
            }
            Step::Mark => self.marks.send(self.pace.dry_at().max(now)).map(Frame::Mark),
            Step::Audio { bytes, silence } => {
                let length = bytes + silence;
                counters.padded_ms += u64::from(pcm_ms(silence, self.rate));
                counters.underruns += u64::from(self.pace.sent(now, length));
                counters.frames_out += 1;
                counters.bytes_out += length as u64;
                self.packets += 1;
                let position = Position {
                    chunk: self.packets,
                    timestamp_ms: u64::from(ms(self.sent_bytes / 2, self.rate)),
                };
                self.sent_bytes += length as u64;
                let end = self.speech.position() + bytes as u64;
                if let Some(greeting) = &mut self.greeting
                    && greeting.end <= end
                {
                    greeting.due.get_or_insert(self.pace.dry_at());
                }
                Some(Frame::Audio {
                    pcm: self.speech.take(bytes, silence),
                    position,
                    ends: self.pace.dry_at(),
                })
            }
        }
    }

    /// The one place that decides what leaves when.
    fn step(&mut self, now: Instant) -> Step {
        if self.clear_wanted.is_some() {
            return Step::Clear;
        }
        if self.marks.is_due(self.speech.position()) {
            return Step::Mark;
        }
        if self.speech.waiting() == 0 && !self.speech.has_tail() {
            return Step::Nothing;
        }
        let mut packet = self.pace.packet(now, self.speech.waiting(), self.finishing);
        if packet == Packet::Tail && self.speech.flush() {
            packet = self.pace.packet(now, self.speech.waiting(), self.finishing);
        }
        match (packet, self.speech.waiting()) {
            (Packet::At(time), _) => Step::At(time),
            (Packet::Send(bytes), _) => Step::Audio { bytes, silence: 0 },
            (Packet::Tail, 0) => Step::Nothing,
            (Packet::Tail, bytes) => Step::Audio {
                bytes,
                silence: self.pace.silence_behind(bytes),
            },
        }
    }
}

fn heard(name: String) -> Event {
    Event::MarkPlayed(MarkPlayed { name, cleared: false })
}
