//! What of a session is recorded: the person as she came, the agent as Exotel plays it.

use std::time::Duration;

use bytes::Bytes;
use exotel::stream::{Encoding, Media};
use tokio::time::Instant;

use super::Session;
use crate::recording::align::{Aligner, Piece};

/// The person's audio that waits until its coding is known: more than a start takes, at the highest rate.
const MAX_EARLY: usize = 512 * 1024;
/// And the pieces of it: each costs memory of its own, however short it is.
const MOST_EARLY: usize = 4096;

/// The recording of a session, or what may become one.
#[derive(Debug)]
pub(super) struct Recorded {
    aligner: Aligner,
    /// How the person's audio is coded; call-service tells.
    encoding: Option<Encoding>,
    early: Vec<Early>,
    early_bytes: usize,
    /// Bytes for which there was no room.
    dropped_bytes: usize,
}

/// Audio that came before its coding was known.
#[derive(Debug)]
struct Early {
    came: Instant,
    payload: Bytes,
    timestamp_ms: Option<u64>,
    missing: Duration,
}

impl Recorded {
    fn new(now: Instant, rate: u32) -> Self {
        Self {
            aligner: Aligner::new(now, rate),
            encoding: None,
            early: Vec::new(),
            early_bytes: 0,
            dropped_bytes: 0,
        }
    }

    /// The coding is known: what waits is placed where it came.
    pub(super) fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = Some(encoding);
        for early in std::mem::take(&mut self.early) {
            let pcm = encoding.to_pcm(early.payload);
            self.aligner
                .customer(early.came, &pcm, early.timestamp_ms, early.missing);
        }
    }

    /// Audio of the person came, and so much is missing before it.
    pub(super) fn customer(&mut self, now: Instant, media: &Media, missing: Duration) {
        let payload = media.payload.clone();
        if let Some(encoding) = self.encoding {
            let pcm = encoding.to_pcm(payload);
            self.aligner.customer(now, &pcm, media.timestamp_ms, missing);
        } else if self.early_bytes + payload.len() > MAX_EARLY || self.early.len() >= MOST_EARLY {
            self.dropped_bytes += payload.len();
        } else {
            self.early_bytes += payload.len();
            self.early.push(Early {
                came: now,
                payload,
                timestamp_ms: media.timestamp_ms,
                missing,
            });
        }
    }

    /// Audio was sent to Exotel, whose last sample is heard at `ends`.
    pub(super) fn agent(&mut self, now: Instant, ends: Instant, pcm: &[u8]) {
        self.aligner.agent(now, ends, pcm);
    }

    /// Barge-in: what has not been played is not heard.
    pub(super) fn cut(&mut self, now: Instant) {
        self.aligner.cut(now);
    }

    /// Samples of either side that are not on the recording.
    fn missing(&self) -> u64 {
        let dropped = self.encoding.unwrap_or_default().samples(self.dropped_bytes);
        self.aligner.missing() + dropped as u64
    }
}

impl Session {
    /// The stream begins, and it may be recorded: call-service tells with [`super::Opening::record`].
    pub fn may_record(&mut self, now: Instant) {
        self.recording = Some(Box::new(Recorded::new(now, self.rate)));
    }

    /// The next audio for the recording.
    pub fn recorded(&mut self) -> Option<Piece> {
        self.live.as_ref()?;
        self.recording.as_mut()?.aligner.piece()
    }

    /// The recording ends: how many samples each side has, and how many of either were dropped. What is left can be taken after it.
    pub fn end_recording(&mut self, now: Instant) -> Option<(u64, u64)> {
        self.live.as_ref()?;
        let recording = self.recording.as_mut()?;
        let samples = recording.aligner.end(now);
        Some((samples, recording.missing()))
    }
}
