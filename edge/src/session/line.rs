//! What comes from Exotel's socket.

use callbridge_proto::{
    agent::v1::{Dtmf, converse_request::Event},
    ingress::v1::session_event::Event as Report,
};
use exotel::stream::{self, Incoming, Media};
use tokio::time::Instant;

use super::{BAD_FRAMES, Effect, End, Phase, Session, uplink::Uplink};

/// A numbering that falls back this far has begun anew; less is a repeat.
const RENUMBERED: u64 = 1000;
/// So many repeats in a row are none, but another numbering: the agent must not be deaf for the rest of a call.
const MAX_REPEATS: u8 = 3;

/// Where the numbering of the audio is.
#[derive(Debug, Default)]
pub(super) struct Numbering {
    chunk: Option<u64>,
    timestamp_ms: Option<u64>,
    repeats: u8,
}

impl Numbering {
    /// How many pieces were lost before this one; none when it was heard before.
    fn take(&mut self, chunk: u64, timestamp_ms: Option<u64>) -> Option<u64> {
        let lost = match self.chunk {
            Some(last) if chunk <= last => {
                // A repeat has the time of what it repeats, where times are told.
                let is_newer = timestamp_ms.is_some_and(|new| self.timestamp_ms.is_some_and(|last| new > last));
                if !is_newer && last - chunk < RENUMBERED && self.repeats < MAX_REPEATS {
                    self.repeats += 1;
                    return None;
                }
                0
            }
            Some(last) => {
                self.repeats = 0;
                chunk - last - 1
            }
            None => 0,
        };
        (self.chunk, self.timestamp_ms) = (Some(chunk), timestamp_ms);
        Some(lost)
    }
}

impl Session {
    /// A text frame came.
    pub fn text(&mut self, now: Instant, text: &str) {
        self.last_frame = now;
        match stream::decode(text) {
            Ok(incoming) => self.incoming(now, incoming),
            Err(_) => self.bad_frame(now),
        }
    }

    /// A ping or pong came: the peer lives.
    pub fn alive(&mut self, now: Instant) {
        self.last_frame = now;
    }

    /// A frame came that cannot be one of AgentStream's (F80, F84, F85, F87).
    pub fn bad_frame(&mut self, now: Instant) {
        self.last_frame = now;
        if self.phase == Phase::Over {
            return;
        }
        self.counters.bad_frames += 1;
        if self.counters.bad_frames >= BAD_FRAMES {
            self.end(End::new("callbridge", "bad_frames", "error"), 1008);
        }
    }

    /// The socket was closed or is broken.
    pub fn socket_closed(&mut self) {
        self.end(End::new("provider", "socket_closed", "stream_stopped"), 1000);
    }

    /// The peer broke the WebSocket protocol; `code` says how (RFC 6455 §7.4.1).
    pub fn protocol_error(&mut self, code: u16) {
        self.end(End::new("callbridge", "bad_frames", "error"), code);
    }

    fn incoming(&mut self, now: Instant, incoming: Incoming) {
        if self.phase == Phase::Over {
            return;
        }
        match incoming {
            Incoming::Connected | Incoming::Other(_) => self.counters.other_events += 1,
            Incoming::Start(start) => match self.phase {
                Phase::Opening => {
                    self.phase = Phase::Starting;
                    self.began = now;
                    self.stream_sid.clone_from(&start.stream_sid);
                    self.rate = start.sample_rate;
                    self.effects.push_back(Effect::Begin(start));
                }
                _ if start.stream_sid == self.stream_sid => self.counters.other_events += 1,
                _ => self.bad_frame(now),
            },
            Incoming::Media(media) => self.media(now, &media),
            Incoming::Dtmf { digit, duration_ms } => {
                let duration_ms = duration_ms.unwrap_or(0);
                let dtmf = Dtmf { digit, duration_ms };
                match self.phase {
                    Phase::Starting => self.waiting().control(Event::Dtmf(dtmf)),
                    Phase::Live => {
                        self.report(Report::Dtmf(dtmf.clone()));
                        self.tell(now, Event::Dtmf(dtmf));
                    }
                    _ => self.counters.other_events += 1,
                }
            }
            Incoming::Mark { name } => {
                if let Some(live) = &mut self.live {
                    live.playout.echo(&name);
                }
                self.settle(now);
            }
            Incoming::Stop { hung_up } => {
                self.end(
                    if hung_up {
                        End::new("customer", "caller_hung_up", "caller_hung_up")
                    } else {
                        End::new("provider", "stream_stopped", "stream_stopped")
                    },
                    1000,
                );
            }
        }
    }

    fn media(&mut self, now: Instant, media: &Media) {
        match self.phase {
            Phase::Opening => {
                self.counters.early_frames += 1;
                return;
            }
            Phase::Starting | Phase::Live | Phase::Leaving { .. } => {}
            Phase::Over => return,
        }
        if media.stream_sid.as_deref().is_some_and(|sid| sid != self.stream_sid) {
            self.bad_frame(now);
            return;
        }
        self.counters.frames_in += 1;
        self.counters.bytes_in += media.pcm.len() as u64;
        // Sequence numbers count all events, so only chunk numbers tell of missing audio (F88).
        if let Some(chunk) = media.chunk {
            let Some(lost) = self.numbering.take(chunk, media.timestamp_ms) else {
                self.counters.repeats += 1;
                return;
            };
            self.counters.gaps = self.counters.gaps.saturating_add(lost);
        }
        let uplink = self.waiting();
        uplink.audio(now, &media.pcm);
        self.counters.dropped_in_ms = uplink.dropped_ms();
    }

    /// Until the agent's rate is known, what is for it waits as it came.
    fn waiting(&mut self) -> &mut Uplink {
        let rate = self.rate;
        self.uplink.get_or_insert_with(|| Uplink::new(rate, rate))
    }
}
