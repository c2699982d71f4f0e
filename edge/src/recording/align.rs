//! Where each piece of audio lies on a recording: pure, told what was heard or sent and when.
//!
//! Positions are samples since the stream's start, on the edge's clock. The person's audio lies where its timestamps put it,
//! counted from when the first of it came, so that a stall of the network moves nothing; without timestamps it is one piece after
//! the other. The agent's lies where Exotel plays it, and is kept back until then: what a barge-in drops is not on the recording.
//! What nobody writes is silence.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Audio that is written at once: half a second at 8 kHz.
const BATCH_BYTES: usize = 8 * 1024;
/// Differences up to this are rounding and jitter, and the audio goes on without a seam.
const SEAM: Duration = Duration::from_millis(20);
/// Audio later than this, by its timestamps, has timestamps that mean something else.
const MAX_LATE: Duration = Duration::from_secs(5);
/// Without timestamps and numbers, a stream that is so far behind its time has lost something.
const MAX_BEHIND: Duration = Duration::from_secs(1);
/// Pieces that nobody has taken yet: the audio of a start that takes its time, at the highest rate.
const MAX_WAITING: usize = 64;
/// The longest recording that a WAV file can hold, in samples of each side (RIFF lengths have 32 bits).
pub const MAX_SAMPLES: u64 = (u32::MAX as u64 - 44) / 4;

/// A side of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The person: left.
    Customer,
    /// The agent: right.
    Agent,
}

/// Audio and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose.
    pub side: Side,
    /// The first sample's position.
    pub at: u64,
    /// 16-bit little-endian samples.
    pub pcm: Vec<u8>,
}

/// What is on its way into pieces, of one side.
#[derive(Debug, Default)]
struct Track {
    /// The position after all that was placed.
    next: u64,
    /// Audio without a seam, and where it begins.
    batch: Vec<u8>,
    at: u64,
}

/// The agent's audio that Exotel has and has not played.
#[derive(Debug, Default)]
struct Ahead {
    samples: VecDeque<[u8; 2]>,
    at: u64,
}

/// The places of one session's audio.
#[derive(Debug)]
pub struct Aligner {
    origin: Instant,
    rate: u32,
    customer: Track,
    agent: Track,
    ahead: VecDeque<Ahead>,
    /// The first half of a sample of the person's.
    odd: Option<u8>,
    /// Where the person's timestamp 0 lies; can be before the start.
    anchor: Option<i64>,
    /// The latest timestamp.
    timestamp_ms: Option<u64>,
    pieces: VecDeque<Piece>,
    missing: u64,
}

impl Aligner {
    /// A stream of this many samples per second starts now.
    pub fn new(now: Instant, rate: u32) -> Self {
        Self {
            origin: now,
            rate: rate.max(1),
            customer: Track::default(),
            agent: Track::default(),
            ahead: VecDeque::new(),
            odd: None,
            anchor: None,
            timestamp_ms: None,
            pieces: VecDeque::new(),
            missing: 0,
        }
    }

    /// Samples of either side that are not on the recording.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Audio of the person came. So much is missing before it, by its numbering.
    pub fn customer(&mut self, now: Instant, pcm: &[u8], timestamp_ms: Option<u64>, missing: Duration) {
        self.release(now);
        let mut bytes = Vec::with_capacity(pcm.len() + 1);
        bytes.extend(self.odd.take());
        bytes.extend_from_slice(pcm);
        if bytes.len() % 2 == 1 {
            self.odd = bytes.pop();
        }
        let length = bytes.len() as u64 / 2;
        if length == 0 {
            return;
        }
        let at = self.place(now, length, timestamp_ms, self.samples(missing));
        self.missing += self.customer.put(Side::Customer, at, &bytes, &mut self.pieces);
        self.bound();
    }

    /// Where a piece of the person's audio begins.
    fn place(&mut self, now: Instant, length: u64, timestamp_ms: Option<u64>, lost: u64) -> u64 {
        let (next, came) = (self.customer.next, self.position(now));
        let by_arrival = came.saturating_sub(length);
        let seam = length.max(self.samples(SEAM));
        // Times that do not go on tell nothing, and those that go back begin anew.
        let goes_on = self
            .timestamp_ms
            .is_none_or(|last| timestamp_ms.is_some_and(|new| new > last));
        if timestamp_ms < self.timestamp_ms {
            self.anchor = None;
        }
        self.timestamp_ms = timestamp_ms;
        let wanted = if let Some(timestamp) = timestamp_ms.filter(|_| goes_on) {
            let offset = signed(timestamp).saturating_mul(i64::from(self.rate)) / 1000;
            let seen = self.anchor.map(|anchor| anchor.saturating_add(offset));
            let soonest = signed(by_arrival) - signed(self.samples(MAX_LATE));
            // The first of it may have come late, and then the rest lies ahead of its time.
            let latest = signed(came + self.samples(MAX_LATE));
            if let Some(at) = seen.filter(|at| (soonest..=latest).contains(at)) {
                u64::try_from(at).unwrap_or(0)
            } else {
                // The first one, or another count of the time.
                let at = if next > 0 && by_arrival.abs_diff(next) <= seam {
                    next
                } else {
                    by_arrival.max(next)
                };
                self.anchor = Some(signed(at) - offset);
                at
            }
        } else if lost > 0 {
            next.saturating_add(lost).min(by_arrival.max(next))
        } else if by_arrival > next + self.samples(MAX_BEHIND) || next == 0 {
            by_arrival
        } else {
            next
        };
        if lost == 0 && wanted.abs_diff(next) <= seam && next > 0 {
            next
        } else {
            // What is written stays.
            wanted.max(next)
        }
    }

    /// Audio was sent to Exotel, whose last sample is played at `ends`.
    pub fn agent(&mut self, now: Instant, ends: Instant, pcm: &[u8]) {
        self.release(now);
        let (samples, _) = pcm.as_chunks::<2>();
        let at = self.position(ends).saturating_sub(samples.len() as u64);
        let next = match self.ahead.back() {
            Some(last) => last.at + last.samples.len() as u64,
            None => self.agent.next,
        };
        // Times of samples are rounded.
        let is_seamless = at.abs_diff(next) <= 1;
        if is_seamless && let Some(last) = self.ahead.back_mut() {
            last.samples.extend(samples);
        } else {
            self.ahead.push_back(Ahead {
                at: if is_seamless && next > 0 { next } else { at.max(next) },
                samples: samples.iter().copied().collect(),
            });
        }
        self.bound();
    }

    /// Barge-in: what has not been played is not heard.
    pub fn cut(&mut self, now: Instant) {
        self.release(now);
        self.ahead.clear();
    }

    /// The stream is over. Returns how many samples each side has; all pieces can be taken now.
    pub fn end(&mut self, now: Instant) -> u64 {
        self.cut(now);
        for (side, track) in [(Side::Customer, &mut self.customer), (Side::Agent, &mut self.agent)] {
            track.flush(side, &mut self.pieces);
        }
        let heard = self.customer.next.max(self.agent.next);
        heard.max(self.position(now)).min(MAX_SAMPLES)
    }

    /// The next audio to write.
    pub fn piece(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// What Exotel has played by now is fixed.
    fn release(&mut self, now: Instant) {
        let played = self.position(now);
        while let Some(first) = self.ahead.front_mut() {
            let count = usize::try_from(played.saturating_sub(first.at)).unwrap_or(usize::MAX);
            let count = count.min(first.samples.len());
            if count == 0 {
                return;
            }
            let pcm: Vec<u8> = first.samples.drain(..count).flatten().collect();
            self.missing += self.agent.put(Side::Agent, first.at, &pcm, &mut self.pieces);
            first.at += count as u64;
            if !first.samples.is_empty() {
                return;
            }
            self.ahead.pop_front();
        }
    }

    /// Nobody takes the pieces: the latest ones are not on the recording.
    fn bound(&mut self) {
        while self.pieces.len() > MAX_WAITING {
            let dropped = self.pieces.pop_back().map_or(0, |piece| piece.pcm.len() as u64 / 2);
            self.missing += dropped;
        }
    }

    fn position(&self, at: Instant) -> u64 {
        self.samples(at.saturating_duration_since(self.origin))
    }

    fn samples(&self, time: Duration) -> u64 {
        let nanos = time.as_nanos() * u128::from(self.rate);
        // To the nearest one: times of samples are not whole nanoseconds.
        u64::try_from((nanos + 500_000_000) / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

impl Track {
    /// Places audio at or after `next`. Returns how many samples a file cannot hold.
    fn put(&mut self, side: Side, at: u64, pcm: &[u8], out: &mut VecDeque<Piece>) -> u64 {
        let length = pcm.len() as u64 / 2;
        if at + length > MAX_SAMPLES {
            return length;
        }
        if at != self.next {
            self.flush(side, out);
        }
        if self.batch.is_empty() {
            self.at = at;
        }
        self.batch.extend_from_slice(pcm);
        self.next = at + length;
        if self.batch.len() >= BATCH_BYTES {
            self.flush(side, out);
        }
        0
    }

    fn flush(&mut self, side: Side, out: &mut VecDeque<Piece>) {
        if !self.batch.is_empty() {
            out.push_back(Piece {
                side,
                at: self.at,
                pcm: std::mem::take(&mut self.batch),
            });
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
