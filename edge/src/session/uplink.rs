//! What waits to be sent to the agent: audio, bounded by how long it waits, oldest dropped first; everything else, never
//! dropped.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use callbridge_proto::agent::v1::{Audio, Dtmf, converse_request::Event};
use exotel::stream::Encoding;
use tokio::time::Instant;

use super::resample::Resampler;

/// How long the person's audio waits for a slow agent: what is older would only be answered too late (F71).
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// How much audio waits at all: 32 s at 8 kHz. While an agent is still being reached nothing of the first words is lost, and
/// after a stall of the network Exotel sends seconds at once, which a good agent takes at once: much is not late.
const AUDIO_LIMIT: usize = 512 * 1024;
/// Each piece costs memory of its own, however short it is: more than a person's frames of 20 ms in a minute.
const MOST_PIECES: usize = 4096;
/// A message to an agent is below 128 KiB with all that is around it.
const LONGEST_PIECE: usize = 32 * 1024;
/// How many other events wait: an agent that leaves so many unread is gone.
const CONTROL_LIMIT: usize = 1024;

/// The queue to the agent.
#[derive(Debug, Default)]
pub struct Uplink {
    items: VecDeque<Event>,
    /// Since when each piece of audio waits, in the order of the pieces.
    since: VecDeque<Instant>,
    control: usize,
    audio_bytes: usize,
    /// Until the phone's and the agent's settings are known, audio waits as it came.
    line: Option<Line>,
    /// An agent is there to read.
    is_read: bool,
    dropped_bytes: u64,
}

/// From Exotel's audio to the agent's.
#[derive(Debug)]
struct Line {
    encoding: Encoding,
    /// Samples per second on Exotel's side.
    rate: u32,
    /// The first half of a sample.
    odd: Option<u8>,
    resampler: Resampler,
    /// Of the agent's audio.
    bytes_per_ms: usize,
}

impl Line {
    fn convert(&mut self, payload: Bytes) -> Bytes {
        let pcm = self.encoding.to_pcm(payload);
        if self.odd.is_none() && pcm.len().is_multiple_of(2) && self.resampler.is_identity() {
            return pcm;
        }
        let mut out = Vec::with_capacity(2 * pcm.len() + 2);
        let mut rest = &pcm[..];
        if let Some(low) = self.odd
            && let Some((high, others)) = rest.split_first()
        {
            self.odd = None;
            self.resampler.push(&[low, *high], &mut out);
            rest = others;
        }
        let (samples, odd) = rest.split_at(rest.len() / 2 * 2);
        self.odd = odd.first().copied().or(self.odd);
        self.resampler.push(samples, &mut out);
        out.into()
    }
}

impl Uplink {
    /// The coding and the rates are known now, in samples per second: what waits is converted.
    pub fn set_line(&mut self, encoding: Encoding, rate: u32, agent_rate: u32) {
        let bytes_per_ms = (2 * agent_rate as usize / 1000).max(1);
        let mut next = Self {
            line: Some(Line {
                encoding,
                rate,
                odd: None,
                resampler: Resampler::new(rate, agent_rate),
                bytes_per_ms,
            }),
            dropped_bytes: self.dropped_ms() * bytes_per_ms as u64,
            ..Self::default()
        };
        loop {
            let since = self.since.front().copied();
            match (self.pop(), since) {
                (Some(Event::Audio(audio)), Some(since)) => next.audio(since, audio.pcm),
                (Some(other), _) => next.control(other),
                (None, _) => break,
            }
        }
        *self = next;
    }

    /// The keys that wait.
    pub fn digits(&self) -> Vec<Dtmf> {
        let digits = self.items.iter().filter_map(|item| {
            if let Event::Dtmf(dtmf) = item {
                Some(dtmf.clone())
            } else {
                None
            }
        });
        digits.collect()
    }

    /// Takes the person's audio as Exotel coded it. An odd byte of PCM waits for its other half.
    pub fn audio(&mut self, now: Instant, payload: Bytes) {
        let mut rest = match &mut self.line {
            Some(line) => line.convert(payload),
            None => payload,
        };
        while !rest.is_empty() {
            let pcm = rest.split_to(rest.len().min(LONGEST_PIECE));
            self.audio_bytes += pcm.len();
            self.items.push_back(Event::Audio(Audio { pcm }));
            self.since.push_back(now);
        }
        while self.has_too_much(now) {
            self.since.pop_front();
            let Some(oldest) = self.items.iter().position(|item| matches!(item, Event::Audio(_))) else {
                break;
            };
            if let Some(Event::Audio(audio)) = self.items.remove(oldest) {
                self.audio_bytes -= audio.pcm.len();
                self.dropped_bytes += audio.pcm.len() as u64;
            }
        }
    }

    /// Takes silence in place of audio that is missing.
    pub fn silence(&mut self, now: Instant, length: Duration) {
        let Some(line) = &mut self.line else { return };
        // The other half of a sample is missing with the rest.
        line.odd = None;
        let millis = usize::try_from(length.as_millis()).unwrap_or(usize::MAX);
        let samples = (line.rate as usize).saturating_mul(millis) / 1000;
        let silence = vec![0; 2 * samples];
        let payload = line.encoding.from_pcm(&silence).into_owned();
        self.audio(now, payload.into());
    }

    fn has_too_much(&self, now: Instant) -> bool {
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= WAIT_LIMIT;
        self.audio_bytes > AUDIO_LIMIT
            || self.since.len() > MOST_PIECES
            || (self.is_read && self.since.front().is_some_and(is_late))
    }

    /// An agent begins to read: what has waited for it has its time from now.
    pub fn agent_reads(&mut self, now: Instant) {
        self.is_read = true;
        self.since.iter_mut().for_each(|since| *since = now);
    }

    /// Takes anything else. A play-out report replaces one that still waits.
    pub fn control(&mut self, event: Event) {
        if matches!(event, Event::Playout(_))
            && let Some(waiting) = self.items.iter_mut().find(|item| matches!(item, Event::Playout(_)))
        {
            *waiting = event;
            return;
        }
        self.control += 1;
        self.items.push_back(event);
    }

    /// The next event to send.
    pub fn pop(&mut self) -> Option<Event> {
        let event = self.items.pop_front()?;
        match &event {
            Event::Audio(audio) => {
                self.audio_bytes -= audio.pcm.len();
                self.since.pop_front();
            }
            _ => self.control -= 1,
        }
        Some(event)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the agent has left so much unread that it must be taken for gone.
    pub fn is_stuck(&self) -> bool {
        self.control > CONTROL_LIMIT
    }

    /// Forgets what only concerned an agent that is gone; what the person said and typed waits for the next one.
    pub fn new_agent(&mut self) {
        self.is_read = false;
        self.items
            .retain(|item| matches!(item, Event::Audio(_) | Event::Dtmf(_) | Event::Message(_)));
        self.control = self
            .items
            .iter()
            .filter(|item| !matches!(item, Event::Audio(_)))
            .count();
        if self.control > CONTROL_LIMIT {
            self.items.clear();
            self.since.clear();
            (self.control, self.audio_bytes) = (0, 0);
        }
    }

    /// Milliseconds of audio that were dropped.
    pub fn dropped_ms(&self) -> u64 {
        let bytes_per_ms = self.line.as_ref().map_or(16, |line| line.bytes_per_ms);
        self.dropped_bytes / bytes_per_ms as u64
    }
}

#[cfg(test)]
mod tests;
