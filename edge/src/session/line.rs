//! What comes from Exotel's socket.

use std::time::Duration;

use callbridge_proto::{
    agent::v1::{Dtmf, converse_request::Event},
    ingress::v1::session_event::Event as Report,
};
use exotel::stream::{self, FrameError, Incoming, Media, Received};
use tokio::time::Instant;

use super::{BAD_FRAMES, Effect, End, Phase, Session, arrivals::Arrival, playout::pcm_ms};

impl Session {
    /// A text frame came.
    pub fn text(&mut self, now: Instant, text: &str) {
        self.last_frame = now;
        match stream::decode(text) {
            Ok(received) => self.received(now, received),
            Err(error) => self.bad_frame(match error {
                FrameError::Json => Bad::Json,
                FrameError::Base64 => Bad::Base64,
                FrameError::Missing(_) => Bad::Field,
            }),
        }
    }

    /// A binary frame came: AgentStream has none.
    pub fn binary(&mut self, now: Instant) {
        self.last_frame = now;
        self.bad_frame(Bad::Binary);
    }

    /// A ping or pong came: the peer lives.
    pub fn alive(&mut self, now: Instant) {
        self.last_frame = now;
    }

    /// A ping was not answered in time. That alone ends nothing: some paths dislike pings (F69).
    pub fn missed_pong(&mut self) {
        self.counters.missed_pongs += 1;
    }

    /// Drops the frame and counts it (F80, F84, F85, F87).
    fn bad_frame(&mut self, bad: Bad) {
        if self.phase == Phase::Over {
            return;
        }
        let counters = &mut self.counters;
        counters.bad_frames += 1;
        *match bad {
            Bad::Binary => &mut counters.bad_binary,
            Bad::Json => &mut counters.bad_json,
            Bad::Field => &mut counters.bad_fields,
            Bad::Base64 => &mut counters.bad_base64,
            Bad::Stream => &mut counters.bad_stream,
        } += 1;
        if counters.bad_frames >= BAD_FRAMES {
            self.end(End::new("callbridge", "bad_frames", "error"), 1008);
        }
    }

    /// The socket was closed.
    pub fn socket_closed(&mut self) {
        self.end(End::new("provider", "socket_closed", "stream_stopped"), 1000);
    }

    /// The socket is gone without a close, perhaps in the middle of a frame (F91).
    pub fn socket_broke(&mut self) {
        if self.phase != Phase::Over {
            self.counters.broken_off += 1;
            self.socket_closed();
        }
    }

    /// The peer broke the WebSocket protocol; `code` says how (RFC 6455 §7.4.1). 1009 is too large a message (F79).
    pub fn protocol_error(&mut self, code: u16) {
        if self.phase != Phase::Over {
            if code == 1009 {
                self.counters.too_large += 1;
            } else {
                self.counters.protocol_errors += 1;
            }
            self.end(End::new("callbridge", "bad_frames", "error"), code);
        }
    }

    fn received(&mut self, now: Instant, received: Received<'_>) {
        let Received { stream_sid, event } = received;
        match self.phase {
            Phase::Over => return,
            Phase::Opening => return self.before_start(now, event),
            Phase::Starting | Phase::Live | Phase::Leaving { .. } => {}
        }
        if stream_sid.is_some_and(|sid| sid != self.stream_sid) {
            self.bad_frame(Bad::Stream);
            return;
        }
        match event {
            Incoming::Connected | Incoming::Other(_) => self.counters.other_events += 1,
            Incoming::Start(_) => self.counters.repeated_starts += 1,
            Incoming::Media(media) => self.media(now, media),
            Incoming::Dtmf { digit, duration_ms } => {
                let duration_ms = duration_ms.unwrap_or(0);
                let dtmf = Dtmf { digit, duration_ms };
                match self.phase {
                    // Nobody types so much; nobody reads yet.
                    Phase::Starting if !self.uplink.is_stuck() => self.uplink.control(Event::Dtmf(dtmf)),
                    Phase::Live => {
                        self.report(Report::Dtmf(dtmf.clone()));
                        self.tell(now, Event::Dtmf(dtmf));
                    }
                    _ => self.counters.other_events += 1,
                }
            }
            Incoming::Mark { name } => {
                if let Some(live) = &mut self.live {
                    live.playout.echo(now, &name, &mut self.counters);
                }
                self.settle(now);
            }
            Incoming::Stop { hung_up } => self.stopped(hung_up),
        }
    }

    fn before_start(&mut self, now: Instant, event: Incoming) {
        match event {
            Incoming::Start(start) => {
                self.phase = Phase::Starting;
                self.began = now;
                self.stream_sid.clone_from(&start.stream_sid);
                self.rate = start.sample_rate;
                self.effects.push_back(Effect::Begin(start));
            }
            Incoming::Connected | Incoming::Other(_) => self.counters.other_events += 1,
            Incoming::Media(_) | Incoming::Dtmf { .. } | Incoming::Mark { .. } => self.counters.early_frames += 1,
            Incoming::Stop { hung_up } => self.stopped(hung_up),
        }
    }

    fn stopped(&mut self, hung_up: bool) {
        let end = if hung_up {
            End::new("customer", "caller_hung_up", "caller_hung_up")
        } else {
            End::new("provider", "stream_stopped", "stream_stopped")
        };
        self.end(end, 1000);
    }

    fn media(&mut self, now: Instant, media: Media) {
        self.counters.frames_in += 1;
        self.counters.bytes_in += media.payload.len() as u64;
        let encoding = self.tuning.encoding;
        let length = pcm_ms(2 * encoding.samples(media.payload.len()), self.rate);
        let length = Duration::from_millis(length.into());
        let missing = match self.arrivals.take(now, &media, length, &mut self.counters) {
            Arrival::Repeat => return,
            Arrival::New(missing) => missing,
        };
        if self.tuning.fill_gaps && !missing.is_zero() {
            self.uplink.silence(now, missing);
            self.counters.filled_ms += u64::try_from(missing.as_millis()).unwrap_or(u64::MAX);
        }
        if let Some(recording) = &mut self.recording {
            recording.customer(now, &media, missing);
        }
        self.uplink.audio(now, media.payload);
        self.counters.dropped_in_ms = self.uplink.dropped_ms();
    }
}

/// Why a frame is of no use.
#[derive(Debug, Clone, Copy)]
enum Bad {
    Binary,
    Json,
    Field,
    Base64,
    Stream,
}
