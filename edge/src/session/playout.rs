//! The way of the agent's speech to the person: a bounded queue, paced to real time with a small lead, marks in order
//! with the audio, and barge-in.
//!
//! Exotel plays what it is sent at once and in real time, so the end of what was sent tells when its buffer runs dry
//! (`play_until`). A small lead over that covers the network; a large one would make barge-in dull.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use callbridge_proto::agent::v1::{GreetingEnded, MarkPlayed, converse_request::Event};
use tokio::time::Instant;

use super::{counters::Counters, resample::Resampler};

/// Audio sent ahead of its time: at most this much, so that `clear` is heard at once (F72).
pub const MAX_LEAD: Duration = Duration::from_millis(500);
/// Packets are multiples of this; a shorter one makes Exotel wait 20 ms (documented).
pub const PACKET: usize = 320;
/// The documented packet size, reached once Exotel's buffer leads.
pub const FULL_PACKET: usize = 3200;
/// While the lead is above this, less than a wanted packet waits for more audio.
const LOW_LEAD: Duration = Duration::from_millis(100);
/// A turn's last, padded packet leaves this long before Exotel's buffer runs dry.
const TAIL_LEAD: Duration = Duration::from_millis(40);
/// An agent that sent nothing for this long has paused: only then may its last packet be padded.
const PAUSE: Duration = Duration::from_millis(100);
/// A mark that Exotel does not send back counts as heard this long after its time.
const MARK_GRACE: Duration = Duration::from_secs(1);
/// What is held of the agent's speech: the least of these two (design: 30 s, 512 KiB at the agent's rate).
const MAX_BUFFERED_MS: u32 = 30_000;
const MAX_BUFFERED_BYTES: u64 = 512 * 1024;
/// An emptied queue gives memory back when it holds more than this many samples.
const KEPT_SAMPLES: usize = 16 * 1024;
/// Marks without an answer: more than any agent has sentences.
const MAX_MARKS: usize = 1024;

/// A recorded sound: 16-bit mono samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sound {
    /// The samples.
    pub samples: Arc<[i16]>,
    /// Samples per second.
    pub rate: u32,
}

impl Sound {
    /// How long it is, in milliseconds.
    pub fn ms(&self) -> u32 {
        ms(self.samples.len() as u64, self.rate)
    }
}

fn ms(samples: u64, rate: u32) -> u32 {
    u32::try_from(samples * 1000 / u64::from(rate.max(1))).unwrap_or(u32::MAX)
}

/// How many milliseconds of the agent's speech are held.
pub fn max_buffered_ms(agent_rate: u32) -> u32 {
    ms(MAX_BUFFERED_BYTES / 2, agent_rate).min(MAX_BUFFERED_MS)
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
    Audio { bytes: usize, pad: usize },
    At(Instant),
    Nothing,
}

/// Something for the socket, in the order it must leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole number of packets at Exotel's rate.
    Audio(Vec<u8>),
    /// Send back when the audio before it was heard.
    Mark(String),
    /// Drop what was not heard.
    Clear,
}

#[derive(Debug)]
struct Greeting {
    sound: Sound,
    position: usize,
    resampler: Resampler,
    /// The byte of the output at which it ends, once it is known.
    ends_at: Option<u64>,
    /// When its last sample will have been heard, once it was sent.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Mark {
    /// The agent's name for it; none for our own at the end.
    name: Option<String>,
    /// It follows this many of the agent's samples.
    at: u64,
    /// It follows this byte of the output, once that is known.
    after: Option<u64>,
}

#[derive(Debug)]
struct SentMark {
    id: u64,
    name: Option<String>,
    due: Instant,
}

/// The play-out of one session.
#[derive(Debug)]
pub struct Playout {
    rate: u32,
    agent_rate: u32,
    limit: usize,
    greeting: Option<Greeting>,
    queue: VecDeque<i16>,
    /// The first half of a sample, and the turn that it is of.
    odd: Option<(u64, u8)>,
    /// The agent's samples that were queued, and those of them that went on to the stage, ever.
    queued: u64,
    taken: u64,
    resampler: Resampler,
    /// Output that fills the next packet.
    stage: Vec<u8>,
    /// Bytes that came onto the stage and left it, ever.
    staged: u64,
    sent: u64,
    marks: VecDeque<Mark>,
    in_flight: VecDeque<SentMark>,
    mark_ids: u64,
    play_until: Instant,
    last_audio: Option<Instant>,
    interrupted_generation: u64,
    clear_wanted: bool,
    finishing: bool,
    dropped_samples: u64,
    /// What the agent is to be told.
    notices: VecDeque<Event>,
}

impl Playout {
    /// From the agent's rate to Exotel's, both in samples per second, beginning with the greeting.
    pub fn new(now: Instant, agent_rate: u32, rate: u32, greeting: Option<Sound>) -> Self {
        let limit = u64::from(max_buffered_ms(agent_rate)) * u64::from(agent_rate) / 1000;
        Self {
            rate,
            agent_rate,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            greeting: greeting
                .filter(|sound| !sound.samples.is_empty())
                .map(|sound| Greeting {
                    resampler: Resampler::new(sound.rate, rate),
                    sound,
                    position: 0,
                    ends_at: None,
                    due: None,
                }),
            queue: VecDeque::new(),
            odd: None,
            queued: 0,
            taken: 0,
            resampler: Resampler::new(agent_rate, rate),
            stage: Vec::with_capacity(FULL_PACKET + PACKET),
            staged: 0,
            sent: 0,
            marks: VecDeque::new(),
            in_flight: VecDeque::new(),
            mark_ids: 0,
            play_until: now,
            last_audio: None,
            interrupted_generation: 0,
            clear_wanted: false,
            finishing: false,
            dropped_samples: 0,
            notices: VecDeque::new(),
        }
    }

    /// Takes the agent's speech. What exceeds the limit is dropped and counted, and what belongs to an interrupted turn.
    pub fn audio(&mut self, now: Instant, generation: u64, pcm: &[u8], counters: &mut Counters) {
        if self.finishing || (generation != 0 && generation <= self.interrupted_generation) {
            counters.stale_out_ms += u64::from(ms(pcm.len() as u64 / 2, self.agent_rate));
            return;
        }
        if pcm.is_empty() {
            return;
        }
        self.last_audio = Some(now);
        let before = self.queue.len();
        // A turn begins with a whole sample, whatever the one before has left.
        let odd = self.odd.take().filter(|(of, _)| *of == generation);
        let mut bytes = odd.map(|(_, byte)| byte).into_iter().chain(pcm.iter().copied());
        let mut dropped = 0;
        while let Some(low) = bytes.next() {
            match bytes.next() {
                Some(high) if self.queue.len() < self.limit => self.queue.push_back(i16::from_le_bytes([low, high])),
                Some(_) => dropped += 1,
                None => self.odd = Some((generation, low)),
            }
        }
        self.queued += (self.queue.len() - before) as u64;
        self.dropped_samples += dropped;
        counters.dropped_out_ms = u64::from(self.dropped_ms());
    }

    /// Takes a sound of our own, as if the agent had said it.
    pub fn sound(&mut self, samples: &[i16]) {
        let room = self.limit.saturating_sub(self.queue.len()).min(samples.len());
        self.queue.extend(&samples[..room]);
        self.queued += room as u64;
    }

    /// Takes a mark: it is told when everything before it was heard. False when there are too many.
    pub fn mark(&mut self, name: String) -> bool {
        let room = self.marks.len() + self.in_flight.len() < MAX_MARKS;
        if room {
            self.marks.push_back(Mark {
                name: Some(name),
                at: self.queued,
                after: None,
            });
        }
        room
    }

    /// Barge-in: everything that was not heard is dropped, and audio of this turn and earlier ones from now on. Returns
    /// how many milliseconds of the agent's speech were dropped.
    pub fn clear(&mut self, now: Instant, generation: u64) -> u32 {
        let dropped = self.queued_ms(now);
        let lead = self.lead(now);
        if let Some(greeting) = self.greeting.take() {
            let position = ms(greeting.position as u64, greeting.sound.rate);
            let stage = Duration::from_millis(u64::from(ms(self.stage.len() as u64 / 2, self.rate)));
            let unheard = greeting
                .due
                .map_or(lead + stage, |due| due.saturating_duration_since(now));
            let interrupted = !unheard.is_zero() || greeting.due.is_none();
            let played_ms = position.saturating_sub(u32::try_from(unheard.as_millis()).unwrap_or(u32::MAX));
            self.notices
                .push_back(Event::GreetingEnded(GreetingEnded { played_ms, interrupted }));
        }
        self.empty();
        self.interrupted_generation = self.interrupted_generation.max(generation);
        // Whether Exotel sends back the marks it had is not documented, so none is waited for.
        for mark in self.in_flight.drain(..) {
            if let Some(name) = mark.name {
                self.notices.push_back(Event::MarkPlayed(MarkPlayed {
                    name,
                    cleared: mark.due > now,
                }));
            }
        }
        for mark in self.marks.drain(..) {
            if let Some(name) = mark.name {
                self.notices
                    .push_back(Event::MarkPlayed(MarkPlayed { name, cleared: true }));
            }
        }
        self.stage.clear();
        self.sent = self.staged;
        self.play_until = now;
        self.clear_wanted = true;
        dropped
    }

    /// The agent is gone: what it still wanted to say goes with it, but what Exotel has is heard.
    pub fn forget_agent(&mut self) {
        self.empty();
        self.marks.clear();
        for mark in &mut self.in_flight {
            mark.name = None;
        }
        self.interrupted_generation = 0;
    }

    fn empty(&mut self) {
        self.queue.clear();
        self.odd = None;
        self.taken = self.queued;
        self.resampler.reset();
        self.give_back();
    }

    /// The last of the audio is queued: it is sent without waiting for more, with a mark of our own behind it.
    pub fn finish(&mut self, now: Instant) {
        if !self.finishing {
            let over = self.is_over(now);
            self.finishing = true;
            if !over {
                self.marks.push_back(Mark {
                    name: None,
                    at: self.queued,
                    after: None,
                });
            }
        }
    }

    /// Whether everything was heard, as far as can be known.
    pub fn is_over(&self, now: Instant) -> bool {
        let greeting = self.greeting.as_ref().is_none_or(|greeting| greeting.due.is_some());
        let settled = self.marks.is_empty() && self.in_flight.is_empty() && !self.clear_wanted;
        let lead = if self.finishing { Duration::ZERO } else { self.lead(now) };
        greeting && settled && self.queue.is_empty() && self.stage.is_empty() && lead.is_zero()
    }

    /// When all that is queued will have been heard at the latest, the greeting included.
    pub fn ends_at(&self, now: Instant) -> Instant {
        let greeting = self.greeting.as_ref().map_or(0, |greeting| {
            ms(
                (greeting.sound.samples.len() - greeting.position) as u64,
                greeting.sound.rate,
            )
        });
        let rest = u64::from(greeting) + u64::from(self.queued_ms(now)) + 1000;
        self.play_until.max(now) + Duration::from_millis(rest) + MARK_GRACE
    }

    /// Exotel has played everything before this mark.
    pub fn echo(&mut self, mark: &str) {
        let Some(id) = mark.strip_prefix('m').and_then(|id| id.parse::<u64>().ok()) else {
            return;
        };
        // Marks come in order, so an echo that was lost is settled by the next one.
        while self.in_flight.front().is_some_and(|mark| mark.id <= id) {
            self.heard();
        }
    }

    fn heard(&mut self) {
        if let Some(SentMark { name: Some(name), .. }) = self.in_flight.pop_front() {
            self.notices
                .push_back(Event::MarkPlayed(MarkPlayed { name, cleared: false }));
        }
    }

    /// Settles what time settles.
    pub fn tick(&mut self, now: Instant) {
        if let Some(greeting) = self
            .greeting
            .take_if(|greeting| greeting.due.is_some_and(|due| due <= now))
        {
            let ended = GreetingEnded {
                played_ms: greeting.sound.ms(),
                interrupted: false,
            };
            self.notices.push_back(Event::GreetingEnded(ended));
        }
        while self.in_flight.front().is_some_and(|mark| mark.due + MARK_GRACE <= now) {
            self.heard();
        }
    }

    /// When [`Playout::tick`] has something to settle.
    pub fn wake(&self) -> Option<Instant> {
        let greeting = self.greeting.as_ref().and_then(|greeting| greeting.due);
        let mark = self.in_flight.front().map(|mark| mark.due + MARK_GRACE);
        [greeting, mark].into_iter().flatten().min()
    }

    /// The next thing that the agent is to be told.
    pub fn notice(&mut self) -> Option<Event> {
        self.notices.pop_front()
    }

    /// How much of the agent's speech was not heard yet, in milliseconds.
    pub fn queued_ms(&self, now: Instant) -> u32 {
        let queue = ms(self.queue.len() as u64, self.agent_rate);
        let sent = match &self.greeting {
            Some(Greeting { due: None, .. }) => return queue,
            Some(Greeting { due: Some(due), .. }) => self.play_until.saturating_duration_since(now.max(*due)),
            None => self.lead(now),
        };
        queue + ms(self.stage.len() as u64 / 2, self.rate) + u32::try_from(sent.as_millis()).unwrap_or(u32::MAX)
    }

    /// How much of the agent's speech was dropped for exceeding the limit, in milliseconds.
    pub fn dropped_ms(&self) -> u32 {
        ms(self.dropped_samples, self.agent_rate)
    }

    /// How far Exotel's buffer reaches ahead, by our reckoning.
    pub fn lead(&self, now: Instant) -> Duration {
        self.play_until.saturating_duration_since(now)
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
    pub fn next(&mut self, now: Instant, counters: &mut Counters) -> Option<Frame> {
        match self.step(now) {
            Step::At(_) | Step::Nothing => None,
            Step::Clear => {
                self.clear_wanted = false;
                Some(Frame::Clear)
            }
            Step::Mark => {
                let mark = self.marks.pop_front()?;
                self.mark_ids += 1;
                let id = self.mark_ids;
                self.in_flight.push_back(SentMark {
                    id,
                    name: mark.name,
                    due: self.play_until.max(now),
                });
                Some(Frame::Mark(format!("m{id}")))
            }
            Step::Audio { bytes, pad } => {
                let mut pcm: Vec<u8> = self.stage.drain(..bytes).collect();
                self.sent += bytes as u64;
                pcm.resize(bytes + pad, 0);
                counters.padded_ms += u64::from(ms(pad as u64 / 2, self.rate));
                let late = now.saturating_duration_since(self.play_until);
                // A gap right after audio is one inside a sentence; a long one is a pause.
                if self.sent > bytes as u64 && !late.is_zero() && late < PAUSE {
                    counters.underruns += 1;
                }
                self.play_until = self.play_until.max(now) + self.length(pcm.len());
                if let Some(greeting) = &mut self.greeting
                    && greeting.due.is_none()
                    && greeting.ends_at.is_some_and(|end| end <= self.sent)
                {
                    greeting.due = Some(self.play_until);
                }
                counters.frames_out += 1;
                counters.bytes_out += pcm.len() as u64;
                Some(Frame::Audio(pcm))
            }
        }
    }

    fn length(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 500_000_000 / u64::from(self.rate))
    }

    /// The one place that decides what leaves when.
    fn step(&mut self, now: Instant) -> Step {
        if self.clear_wanted {
            return Step::Clear;
        }
        let lead = self.lead(now);
        // As much as Exotel holds already, so that the first packets are small and the later ones full.
        let held = usize::try_from(lead.as_nanos() * u128::from(self.rate) / 500_000_000).unwrap_or(usize::MAX);
        let want = (held / PACKET * PACKET).clamp(PACKET, FULL_PACKET);
        let at = |time: Option<Instant>, step: Step| match time {
            Some(time) if time > now => Step::At(time),
            _ => step,
        };
        loop {
            self.fill(want);
            if self
                .marks
                .front()
                .is_some_and(|mark| mark.after.is_some_and(|after| after <= self.sent))
            {
                return Step::Mark;
            }
            let bytes = self.stage.len().min(want) / PACKET * PACKET;
            let earliest = (self.play_until + self.length(bytes)).checked_sub(MAX_LEAD);
            if bytes == want || (bytes > 0 && self.finishing) {
                return at(earliest, Step::Audio { bytes, pad: 0 });
            }
            if bytes > 0 {
                return at(self.play_until.checked_sub(LOW_LEAD), Step::Audio { bytes, pad: 0 });
            }
            // Less than a packet is left. Padding is silence, which continuous speech must not get.
            let paused = self.last_audio.map(|last| last + PAUSE);
            let packet = (self.play_until + self.length(PACKET)).checked_sub(MAX_LEAD);
            let tail = if self.finishing {
                packet
            } else {
                self.play_until.checked_sub(TAIL_LEAD).max(paused)
            };
            let staged = self.stage.len();
            if let Some(time) = tail
                && time > now
            {
                return if staged == 0 && !self.resampler.is_dirty() {
                    Step::Nothing
                } else {
                    Step::At(time)
                };
            }
            self.resampler.flush(&mut self.stage);
            self.staged += (self.stage.len() - staged) as u64;
            match self.stage.len() {
                0 => return Step::Nothing,
                // The flush filled the packet.
                PACKET.. => {}
                bytes => {
                    return Step::Audio {
                        bytes,
                        pad: PACKET - bytes,
                    };
                }
            }
        }
    }

    /// Fills the stage: first the greeting, then the agent's speech; and finds out where the marks are.
    fn fill(&mut self, want: usize) {
        loop {
            let staged = self.stage.len();
            if self.finishing && self.queue.is_empty() && self.resampler.is_dirty() {
                self.resampler.flush(&mut self.stage);
                self.staged += (self.stage.len() - staged) as u64;
                continue;
            }
            let greeting_left = self
                .greeting
                .as_ref()
                .is_some_and(|greeting| greeting.ends_at.is_none());
            if !greeting_left {
                for mark in self.marks.iter_mut().take_while(|mark| mark.at <= self.taken) {
                    mark.after.get_or_insert(self.staged);
                }
            }
            let Some(missing) = want.checked_sub(staged).filter(|missing| *missing > 0) else {
                return;
            };
            if greeting_left && let Some(greeting) = &mut self.greeting {
                let count = missing * greeting.sound.rate as usize / self.rate as usize / 2 + 1;
                let end = (greeting.position + count).min(greeting.sound.samples.len());
                let piece = &greeting.sound.samples[greeting.position..end];
                greeting.resampler.push(piece.iter().copied(), &mut self.stage);
                greeting.position = end;
                if end == greeting.sound.samples.len() {
                    greeting.resampler.flush(&mut self.stage);
                    greeting.ends_at = Some(self.staged + (self.stage.len() - staged) as u64);
                }
            } else {
                let count = missing * self.agent_rate as usize / self.rate as usize / 2 + 1;
                // Not past a mark, so that it keeps its place.
                let mark = self.marks.iter().find(|mark| mark.at > self.taken);
                let to_mark = mark.map_or(usize::MAX, |mark| {
                    usize::try_from(mark.at - self.taken).unwrap_or(usize::MAX)
                });
                let count = count.min(to_mark).min(self.queue.len());
                if count == 0 {
                    return;
                }
                self.resampler.push(self.queue.drain(..count), &mut self.stage);
                self.taken += count as u64;
                self.give_back();
            }
            self.staged += (self.stage.len() - staged) as u64;
        }
    }

    fn give_back(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEPT_SAMPLES {
            self.queue = VecDeque::new();
        }
    }
}
