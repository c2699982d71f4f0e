//! The AgentStream codec: text frames to events and back. Pure, total, and quick enough for fifty frames a second of
//! thousands of calls: one parse that borrows from the text, one base64 decode.
//!
//! Frames are read tolerantly, since live captures and documents differ: keys in snake or camel case, at the top level
//! or inside the event's object, numbers as numbers or strings, units after numbers. Frames are written minimally, in
//! the documented snake case. Audio is 16-bit little-endian mono PCM whatever the `encoding` label says, unless an
//! operator has said otherwise ([`Encoding`]). [`bot`] is the other end of the same protocol.

use crate::number::Caller;
use bytes::Bytes;
use data_encoding::BASE64;
use std::{borrow::Cow, collections::BTreeMap, fmt, fmt::Write as _};
use wire::Frame;

pub use encoding::Encoding;

pub mod bot;
mod encoding;
mod wire;

/// What a stream runs at when nobody says: documented, and seen live.
pub const DEFAULT_SAMPLE_RATE: u32 = 8000;
/// Longest event name kept of an unknown event.
const MAX_EVENT: usize = 32;

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received<'a> {
    /// The stream it names, if it names one.
    pub stream_sid: Option<Cow<'a, str>>,
    /// What it says.
    pub event: Incoming,
}

/// What Exotel says on the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The socket is open; `start` follows.
    Connected,
    /// The stream begins.
    Start(Start),
    /// Audio of the caller.
    Media(Media),
    /// A key was pressed.
    Dtmf {
        /// `0`–`9`, `*`, `#`.
        digit: String,
        /// How long, in milliseconds.
        duration_ms: Option<u32>,
    },
    /// Audio before our mark of this name has been played.
    Mark {
        /// As we sent it.
        name: String,
    },
    /// The stream ends.
    Stop {
        /// The person hung up. False where the flow goes on (`stopped`), and where the reason is missing or another word.
        hung_up: bool,
    },
    /// An event that needs no action: `clear`, `closed`, or one that this version does not know.
    Other(String),
}

/// The facts of a stream, as its first event tells them. `Debug` shows neither numbers nor the parameters' values.
#[derive(Clone, PartialEq, Eq)]
pub struct Start {
    /// The stream's id; not hex, of any length.
    pub stream_sid: String,
    /// The call's id.
    pub call_sid: String,
    /// The account's name, where it is told.
    pub account_sid: String,
    /// The caller, or on outbound calls the customer.
    pub from: Caller,
    /// The other end. Not always the ExoPhone (seen live).
    pub to: Caller,
    /// Samples per second: from the media format, else a custom parameter, else 8000.
    pub sample_rate: u32,
    /// The pairs Exotel stripped off the socket URL's query.
    pub custom_parameters: BTreeMap<String, String>,
    /// Whether the keys are in camel case (`streamSid`); else they are in snake case, as captured live.
    pub camel_case: bool,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("stream_sid", &self.stream_sid)
            .field("call_sid", &self.call_sid)
            .field("account_sid", &self.account_sid)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("sample_rate", &self.sample_rate)
            // A static socket's URL may carry a token among them.
            .field("custom_parameters", &self.custom_parameters.len())
            .field("camel_case", &self.camel_case)
            .finish()
    }
}

/// One piece of the caller's audio, of any length.
#[derive(Clone, PartialEq, Eq)]
pub struct Media {
    /// The frame's number in the stream.
    pub sequence: Option<u64>,
    /// The audio's number in the stream.
    pub chunk: Option<u64>,
    /// Milliseconds since the stream began.
    pub timestamp_ms: Option<u64>,
    /// Audio in the line's [`Encoding`]; may be empty, and PCM of odd length.
    pub payload: Bytes,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media")
            .field("sequence", &self.sequence)
            .field("chunk", &self.chunk)
            .field("timestamp_ms", &self.timestamp_ms)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Why a frame is dropped. The call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a JSON object of the known shape.
    #[error("AgentStream frame is not a readable JSON object")]
    Json,
    /// The audio is not strict standard base64 (RFC 4648 §4).
    #[error("AgentStream audio is not valid base64")]
    Base64,
    /// A field without which the event means nothing.
    #[error("AgentStream frame lacks `{0}`")]
    Missing(&'static str),
}

/// Reads one text frame.
pub fn decode(text: &str) -> Result<Received<'_>, FrameError> {
    let mut frame = Frame::read(text).map_err(|_| FrameError::Json)?;
    let stream_sid = frame.take_stream_sid();
    let event = match frame.event.get().ok_or(FrameError::Missing("event"))? {
        "media" => Incoming::Media(frame.media()?),
        "connected" => Incoming::Connected,
        "start" => {
            let start = frame.start(stream_sid.as_deref())?;
            return Ok(Received {
                stream_sid: Some(start.stream_sid.clone().into()),
                event: Incoming::Start(start),
            });
        }
        "dtmf" => {
            let digit = frame.dtmf.digit.get().or(frame.digit.get());
            let digit = digit.ok_or(FrameError::Missing("digit"))?;
            let duration_ms = frame.dtmf.duration.number().or(frame.duration.number());
            Incoming::Dtmf {
                digit: digit.chars().take(1).collect(),
                duration_ms: duration_ms.and_then(|ms| u32::try_from(ms).ok()),
            }
        }
        "mark" => {
            let name = frame.mark.name.get().or(frame.name.get());
            let name = name.ok_or(FrameError::Missing("mark.name"))?.to_owned();
            Incoming::Mark { name }
        }
        "stop" => {
            let reason = frame.stop.reason.get().or(frame.reason.get()).unwrap_or_default();
            Incoming::Stop {
                hung_up: is_hang_up(reason),
            }
        }
        other => Incoming::Other(other.chars().take(MAX_EVENT).collect()),
    };
    Ok(Received { stream_sid, event })
}

/// Whether a `stop`'s reason says that the person hung up: `callended` is documented, `caller_hangup` was seen. Any other
/// word may mean a fault, after which the flow can go on.
fn is_hang_up(reason: &str) -> bool {
    let mut word = crate::form::normal(reason);
    word.retain(|c| !c.is_whitespace());
    word == "callended" || word.contains("hangup") || word.contains("hungup")
}

/// Where a frame of ours is in the stream. No document asks for it; some of Exotel's own samples send it, and say that
/// streams may end early without it (`exotel.md` §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Counted from 1.
    pub chunk: u64,
    /// When its audio begins, in milliseconds of audio before it.
    pub timestamp_ms: u64,
}

/// Writes audio in the line's [`Encoding`], at the stream's own rate. The position is written only where it is wanted: some
/// streams are said to end over fields that the documents do not know.
pub fn media(stream_sid: &str, payload: &[u8], position: Option<Position>) -> String {
    let mut text = String::with_capacity(160 + stream_sid.len() + BASE64.encode_len(payload.len()));
    text.push_str(r#"{"event":"media","stream_sid":"#);
    push_json(&mut text, stream_sid);
    if let Some(Position { chunk, timestamp_ms }) = position {
        // As Exotel writes its own: numbers in quotes. Writing to a String cannot fail.
        let _ = write!(
            text,
            r#","sequence_number":"{chunk}","media":{{"chunk":"{chunk}","timestamp":"{timestamp_ms}","payload":""#
        );
    } else {
        text.push_str(r#","media":{"payload":""#);
    }
    BASE64.encode_append(payload, &mut text);
    text.push_str(r#""}}"#);
    text
}

/// Writes a mark: Exotel sends it back when the audio before it has been played.
pub fn mark(stream_sid: &str, name: &str) -> String {
    let mut text = String::from(r#"{"event":"mark","stream_sid":"#);
    push_json(&mut text, stream_sid);
    text.push_str(r#","mark":{"name":"#);
    push_json(&mut text, name);
    text.push_str("}}");
    text
}

/// Writes a clear: Exotel drops the audio that it has not begun to play.
pub fn clear(stream_sid: &str) -> String {
    let mut text = String::from(r#"{"event":"clear","stream_sid":"#);
    push_json(&mut text, stream_sid);
    text.push('}');
    text
}

fn push_json(text: &mut String, value: &str) {
    // Display of a JSON string value escapes it; writing to a String cannot fail.
    let _ = write!(text, "{}", serde_json::Value::from(value));
}

impl<'a> Frame<'a> {
    fn take_stream_sid(&mut self) -> Option<Cow<'a, str>> {
        let (own, camel) = (self.stream_sid.take(), self.stream_sid_camel.take());
        own.or(camel).or_else(|| self.media.stream_sid.take())
    }

    fn media(&self) -> Result<Media, FrameError> {
        let payload = self.media.payload.text().ok_or(FrameError::Missing("media.payload"))?;
        let payload = BASE64.decode(payload.as_bytes()).map_err(|_| FrameError::Base64)?;
        Ok(Media {
            sequence: self.sequence_number.number().or(self.sequence_number_camel.number()),
            chunk: self.media.chunk.number(),
            timestamp_ms: self.media.timestamp.number(),
            payload: payload.into(),
        })
    }

    fn start(&self, outer_sid: Option<&str>) -> Result<Start, FrameError> {
        let start = &self.start;
        let stream_sid = start
            .stream_sid
            .get()
            .or(start.stream_sid_camel.get())
            .or(outer_sid)
            .ok_or(FrameError::Missing("start.stream_sid"))?;
        let call_sid = start.call_sid.get().or(start.call_sid_camel.get());
        let call_sid = call_sid.ok_or(FrameError::Missing("start.call_sid"))?;
        let parameters = if start.custom_parameters.0.is_empty() {
            &start.custom_parameters_camel.0
        } else {
            &start.custom_parameters.0
        };
        let camel_case = start.call_sid.get().is_none() && start.call_sid_camel.get().is_some();
        let format = start.media_format.rate().or(start.media_format_camel.rate());
        let parameter = || {
            let mut named = parameters
                .iter()
                .filter(|(key, _)| crate::form::normal(key) == "samplerate");
            named.find_map(|(_, value)| read_rate(value))
        };
        Ok(Start {
            stream_sid: stream_sid.to_owned(),
            call_sid: call_sid.to_owned(),
            account_sid: start
                .account_sid
                .get()
                .or(start.account_sid_camel.get())
                .unwrap_or_default()
                .to_owned(),
            from: Caller::read(start.from.get().unwrap_or_default()),
            to: Caller::read(start.to.get().unwrap_or_default()),
            sample_rate: format.or_else(parameter).unwrap_or(DEFAULT_SAMPLE_RATE),
            custom_parameters: parameters.clone(),
            camel_case,
        })
    }
}

/// Reads samples per second from `8000`, `"8000Hz"` or `"8kHz"`; what no telephone uses is not a rate.
fn read_rate(text: &str) -> Option<u32> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u32 = text[..end].parse().ok()?;
    let thousands = text[end..].trim_start().starts_with(['k', 'K']);
    let rate = if thousands { number.checked_mul(1000)? } else { number };
    (4000..=48_000).contains(&rate).then_some(rate)
}

#[cfg(test)]
mod tests;
