//! How much leaves when. Exotel plays what it is sent at once and in real time, so the end of what was sent tells when its
//! buffer runs dry. A small lead over that covers the network; a large one would make barge-in dull.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::session::tuning::{PACKET, Tuning};

/// While the lead is above this, less than a wanted packet waits for more audio.
const LOW_LEAD: Duration = Duration::from_millis(100);
/// A turn's last, padded packet leaves this long before Exotel's buffer runs dry.
const TAIL_LEAD: Duration = Duration::from_millis(40);
/// An agent that sent nothing for this long has paused: only then may its last packet be padded. A gap in its audio that is
/// shorter is one inside a sentence.
const PAUSE: Duration = Duration::from_millis(100);

/// What to do with the audio that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet {
    /// Send so many bytes.
    Send(usize),
    /// Nothing before this time.
    At(Instant),
    /// Less than a packet is left, and the agent has paused: it is to be seen that really nothing else comes, then sent.
    Tail,
}

/// The clock of one session's play-out.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u32,
    min_packet: usize,
    max_packet: usize,
    lead: Duration,
    /// When Exotel's buffer runs dry.
    dry_at: Instant,
    /// When the packets in it will have been played.
    ends: VecDeque<Instant>,
    last_audio: Option<Instant>,
    /// Something was sent since the last `clear`.
    has_sent: bool,
}

impl Pace {
    pub(super) fn new(now: Instant, rate: u32, tuning: &Tuning) -> Self {
        let mut pace = Self {
            rate,
            min_packet: tuning.min_packet,
            max_packet: tuning.max_packet,
            lead: tuning.lead,
            dry_at: now,
            ends: VecDeque::new(),
            last_audio: None,
            has_sent: false,
        };
        // A packet as long as the lead would leave only when Exotel's buffer is empty, and be late each time.
        let longest = (pace.bytes(tuning.lead / 2) / PACKET * PACKET).max(PACKET);
        pace.max_packet = pace.max_packet.min(longest);
        pace.min_packet = pace.min_packet.min(longest);
        pace
    }

    /// The agent has sent audio.
    pub(super) fn heard_agent(&mut self, now: Instant) {
        self.last_audio = Some(now);
    }

    /// What to do when so many bytes wait. Behind the last of a session's audio nothing is waited for.
    pub(super) fn packet(&self, now: Instant, waiting: usize, last: bool) -> Packet {
        // As much as Exotel holds already, so that the first packets are small and the later ones full.
        let held = self.bytes(self.lead(now)) / PACKET * PACKET;
        let want = held.clamp(self.min_packet, self.max_packet);
        let bytes = waiting.min(want) / PACKET * PACKET;
        let (length, time, packet) = if bytes == want || (last && bytes >= self.min_packet) {
            (bytes, None, Packet::Send(bytes))
        } else if bytes >= self.min_packet {
            (bytes, self.dry_at.checked_sub(LOW_LEAD), Packet::Send(bytes))
        } else if last {
            (self.min_packet, None, Packet::Tail)
        } else {
            let paused = self.last_audio.map(|last| last + PAUSE);
            let time = self.dry_at.checked_sub(TAIL_LEAD).max(paused);
            (self.min_packet, time, Packet::Tail)
        };
        let time = time.max(self.earliest(length));
        match time {
            Some(time) if time > now => Packet::At(time),
            _ => packet,
        }
    }

    /// What fills up less than a packet, in bytes.
    pub(super) fn silence_behind(&self, bytes: usize) -> usize {
        self.min_packet.saturating_sub(bytes)
    }

    /// A packet was sent. Whether the person heard a gap before it.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) -> bool {
        let late = now.saturating_duration_since(self.dry_at);
        let is_gap = self.has_sent && !late.is_zero() && late < PAUSE;
        self.dry_at = self.dry_at.max(now) + self.length(bytes);
        self.has_sent = true;
        while self.ends.front().is_some_and(|end| *end <= now) {
            self.ends.pop_front();
        }
        self.ends.push_back(self.dry_at);
        is_gap
    }

    /// Exotel's buffer is emptied, except for the packet that it has begun to play: how much of that is left.
    pub(super) fn clear(&mut self, now: Instant) -> Duration {
        let playing = self.ends.drain(..).find(|end| *end > now);
        self.dry_at = now;
        // What comes next is another turn.
        self.has_sent = false;
        playing.map_or(Duration::ZERO, |end| end - now)
    }

    /// When Exotel's buffer runs dry, by our reckoning.
    pub(super) fn dry_at(&self) -> Instant {
        self.dry_at
    }

    /// How far it reaches ahead.
    pub(super) fn lead(&self, now: Instant) -> Duration {
        self.dry_at.saturating_duration_since(now)
    }

    fn earliest(&self, bytes: usize) -> Option<Instant> {
        (self.dry_at + self.length(bytes)).checked_sub(self.lead)
    }

    fn length(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 500_000_000 / u64::from(self.rate))
    }

    fn bytes(&self, length: Duration) -> usize {
        let second = 2 * u64::from(self.rate);
        let part = u64::from(length.subsec_nanos()) * second / 1_000_000_000;
        usize::try_from(length.as_secs().saturating_mul(second).saturating_add(part)).unwrap_or(usize::MAX)
    }
}
