//! What waits to be sent to the agent: audio, bounded by how long it waits, oldest dropped first; everything else, never
//! dropped.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use callbridge_proto::agent::v1::{Audio, Dtmf, converse_request::Event};
use tokio::time::Instant;

use super::resample::Resampler;

/// How long the person's audio waits for a slow agent: what is older would only be answered too late (F71).
const WAIT_LIMIT: Duration = Duration::from_secs(1);
/// How much audio waits at all. After a stall of the network Exotel sends seconds of it at once, and a good agent takes
/// them at once: much is not late.
const AUDIO_LIMIT: Duration = Duration::from_secs(5);
/// How many other events wait: an agent that leaves so many unread is gone.
const CONTROL_LIMIT: usize = 1024;

/// The queue to the agent.
#[derive(Debug)]
pub struct Uplink {
    items: VecDeque<Event>,
    /// Since when each piece of audio waits, in the order of the pieces.
    since: VecDeque<Instant>,
    control: usize,
    audio_bytes: usize,
    limit_bytes: usize,
    bytes_per_ms: usize,
    odd: Option<u8>,
    resampler: Resampler,
    dropped_bytes: u64,
}

impl Uplink {
    /// From Exotel's rate to the agent's, in samples per second.
    pub fn new(from: u32, to: u32) -> Self {
        let bytes_per_ms = 2 * to as usize / 1000;
        Self {
            items: VecDeque::new(),
            since: VecDeque::new(),
            control: 0,
            audio_bytes: 0,
            limit_bytes: bytes_per_ms * usize::try_from(AUDIO_LIMIT.as_millis()).unwrap_or(5000),
            bytes_per_ms: bytes_per_ms.max(1),
            odd: None,
            resampler: Resampler::new(from, to),
            dropped_bytes: 0,
        }
    }

    /// The same queue with other rates: what waits is converted.
    #[must_use]
    pub fn into_rates(mut self, from: u32, to: u32) -> Self {
        let mut next = Self::new(from, to);
        loop {
            let since = self.since.front().copied();
            match (self.pop(), since) {
                (Some(Event::Audio(audio)), Some(since)) => next.audio(since, &audio.pcm),
                (Some(other), _) => next.control(other),
                (None, _) => break,
            }
        }
        next.odd = self.odd;
        next.dropped_bytes += self.dropped_ms() * next.bytes_per_ms as u64;
        next
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

    /// Takes the person's audio. An odd byte waits for its other half.
    pub fn audio(&mut self, now: Instant, pcm: &[u8]) {
        let mut bytes = self.odd.take().into_iter().chain(pcm.iter().copied());
        let mut samples = Vec::with_capacity(pcm.len().div_ceil(2));
        while let Some(low) = bytes.next() {
            match bytes.next() {
                Some(high) => samples.push(i16::from_le_bytes([low, high])),
                None => self.odd = Some(low),
            }
        }
        let mut out = Vec::with_capacity(pcm.len() + 2);
        self.resampler.push(samples, &mut out);
        if out.is_empty() {
            return;
        }
        self.audio_bytes += out.len();
        self.items.push_back(Event::Audio(Audio { pcm: Bytes::from(out) }));
        self.since.push_back(now);
        let is_late = |since: &Instant| now.saturating_duration_since(*since) >= WAIT_LIMIT;
        while self.audio_bytes > self.limit_bytes || self.since.front().is_some_and(is_late) {
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
        self.dropped_bytes / self.bytes_per_ms as u64
    }
}

#[cfg(test)]
mod tests {
    use callbridge_proto::agent::v1::{Message, Playout};
    use proptest::prelude::*;

    use super::*;

    /// F71: a stalled agent costs its own call the oldest audio, and no key press.
    #[test]
    fn the_oldest_audio_goes_and_control_stays() {
        let mut uplink = Uplink::new(8000, 8000);
        let mut now = Instant::now();
        uplink.control(Event::Dtmf(Dtmf {
            digit: "1".into(),
            duration_ms: 0,
        }));
        for i in 0..100u8 {
            uplink.audio(now, &[i; 320]);
            now += Duration::from_millis(20);
            uplink.control(Event::Playout(Playout {
                queued_ms: u32::from(i),
                dropped_ms: 0,
            }));
        }
        uplink.control(Event::Message(Message { json: "{}".into() }));
        assert_eq!(uplink.dropped_ms(), 1000);
        assert!(matches!(uplink.pop(), Some(Event::Dtmf(_))));
        assert_eq!(
            uplink.pop(),
            Some(Event::Playout(Playout {
                queued_ms: 99,
                dropped_ms: 0
            }))
        );
        let mut audio = 0;
        while let Some(event) = uplink.pop() {
            match event {
                Event::Audio(a) => {
                    assert_eq!(a.pcm[0], 50 + audio);
                    audio += 1;
                }
                other => assert!(matches!(other, Event::Message(_)) && uplink.is_empty()),
            }
        }
        assert_eq!(audio, 50);
        assert_eq!((uplink.control, uplink.audio_bytes, uplink.since.len()), (0, 0, 0));
    }

    /// A burst after a stall is not late: a fast agent gets all of it, and memory stays bounded.
    #[test]
    fn a_burst_is_not_dropped_for_its_size() {
        let mut uplink = Uplink::new(8000, 8000);
        let now = Instant::now();
        for _ in 0..40 {
            uplink.audio(now, &[1; 1600]);
        }
        assert_eq!((uplink.dropped_ms(), uplink.audio_bytes), (0, 64_000));
        let mut uplink = uplink.into_rates(8000, 16_000);
        let mut bytes = 0;
        while let Some(Event::Audio(audio)) = uplink.pop() {
            bytes += audio.pcm.len();
        }
        assert!(bytes > 127_000, "{bytes}");
        for _ in 0..600 {
            uplink.audio(now, &[1; 1600]);
        }
        assert!(
            uplink.audio_bytes <= 160_000 && uplink.dropped_ms() >= 54_000,
            "{uplink:?}"
        );
    }

    proptest! {
        /// F86: any cutting, odd lengths included, gives the same audio.
        #[test]
        fn what_goes_in_comes_out(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20)) {
            let mut uplink = Uplink::new(16_000, 16_000);
            let now = Instant::now();
            let mut out = Vec::new();
            for piece in &pieces {
                uplink.audio(now, piece);
                while let Some(Event::Audio(audio)) = uplink.pop() {
                    prop_assert_eq!(audio.pcm.len() % 2, 0);
                    out.extend_from_slice(&audio.pcm);
                }
            }
            let mut whole = pieces.concat();
            whole.truncate(whole.len() / 2 * 2);
            prop_assert_eq!(out, whole);
        }
    }
}
