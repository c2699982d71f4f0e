//! What waits to be sent to the agent: audio, bounded in time, oldest dropped first; everything else, never dropped.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use callbridge_proto::agent::v1::{Audio, Dtmf, converse_request::Event};

use super::resample::Resampler;

/// How much of the person's audio waits for a slow agent: more would only be answered too late (F71).
const AUDIO_LIMIT: Duration = Duration::from_secs(1);
/// How many other events wait: an agent that leaves so many unread is gone.
const CONTROL_LIMIT: usize = 1024;

/// The queue to the agent.
#[derive(Debug)]
pub struct Uplink {
    items: VecDeque<Event>,
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
            control: 0,
            audio_bytes: 0,
            limit_bytes: bytes_per_ms * usize::try_from(AUDIO_LIMIT.as_millis()).unwrap_or(1000),
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
        while let Some(event) = self.pop() {
            match event {
                Event::Audio(audio) => next.audio(&audio.pcm),
                other => next.control(other),
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
    pub fn audio(&mut self, pcm: &[u8]) {
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
        while self.audio_bytes > self.limit_bytes {
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
            Event::Audio(audio) => self.audio_bytes -= audio.pcm.len(),
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
        uplink.control(Event::Dtmf(Dtmf {
            digit: "1".into(),
            duration_ms: 0,
        }));
        for i in 0..100u8 {
            uplink.audio(&[i; 320]);
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
        assert_eq!((uplink.control, uplink.audio_bytes), (0, 0));
    }

    proptest! {
        /// F86: any cutting, odd lengths included, gives the same audio.
        #[test]
        fn what_goes_in_comes_out(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20)) {
            let mut uplink = Uplink::new(16_000, 16_000);
            let mut out = Vec::new();
            for piece in &pieces {
                uplink.audio(piece);
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
