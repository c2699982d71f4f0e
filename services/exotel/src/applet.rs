//! Requests of flow applets, and the answers they expect.
//!
//! One request type serves all applets, since Exotel sends the same parameters and only part of them, depending on the
//! position in the flow. `To` is not the ExoPhone on Voicebot requests (seen live), so only `CallTo` is read.

use crate::form::{self, BodyError, Fields};
use crate::number::{Caller, PhoneNumber};
use crate::status::{Leg, ProviderStatus, read_seconds, safe_word};
use crate::time::parse_ist;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use serde_json::{Value, json};

/// The direction of the call in a flow's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowDirection {
    /// `incoming` (also `inbound`).
    Incoming,
    /// `outbound-dial`, `outbound-api`: any outbound call.
    OutboundDial,
    /// A word that this version does not know.
    Unknown(String),
}

impl FlowDirection {
    fn read(text: &str) -> Self {
        let word = text.to_ascii_lowercase();
        match word.as_str() {
            "incoming" | "inbound" => Self::Incoming,
            word if word.starts_with("outbound") || word == "outgoing" => Self::OutboundDial,
            word => Self::Unknown(safe_word(word)),
        }
    }
}

/// Who ended a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DisconnectedBy {
    /// Our side closed the socket.
    Bot,
    /// The caller hung up.
    User,
    /// Nobody: the stream failed.
    Na,
    /// A word that this version does not know.
    Unknown(String),
}

impl DisconnectedBy {
    fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "bot" => Self::Bot,
            "user" | "caller" | "customer" => Self::User,
            "na" | "n/a" | "none" => Self::Na,
            other => Self::Unknown(safe_word(other)),
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamStatus {
    /// `completed`
    Completed,
    /// `failed`, or any status together with an error: where the two disagree, Exotel says to trust the error.
    Failed,
    /// `cancelled`: the caller hung up.
    Cancelled,
    /// A word that this version does not know.
    Unknown(String),
}

/// The `Stream[…]` part of a Passthru after a Voicebot. `Debug` does not show where the recording is.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamResult {
    /// The stream's id.
    pub stream_sid: Option<String>,
    /// How it ended.
    pub status: Option<StreamStatus>,
    /// Seconds.
    pub duration_s: Option<u32>,
    /// Where the recording is, if the applet records.
    pub recording_url: Option<String>,
    /// Who ended it.
    pub disconnected_by: DisconnectedBy,
    /// Such as `Streaming_call_throttled`: the account's limit of streams.
    pub detailed_status: Option<String>,
    /// The first word of the error, such as `3009`.
    pub error: Option<String>,
}

impl std::fmt::Debug for StreamResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamResult")
            .field("stream_sid", &self.stream_sid)
            .field("status", &self.status)
            .field("duration_s", &self.duration_s)
            .field("recorded", &self.recording_url.is_some())
            .field("disconnected_by", &self.disconnected_by)
            .field("detailed_status", &self.detailed_status)
            .field("error", &self.error)
            .finish()
    }
}

impl StreamResult {
    fn read(fields: &Fields) -> Option<Self> {
        if !fields.any_with_prefix("stream[") {
            return None;
        }
        let get = |name: &str| {
            let value = fields.get(&format!("stream[{name}]"))?;
            (!matches!(value.to_ascii_lowercase().as_str(), "na" | "none")).then_some(value)
        };
        // The rest of an error's text holds the socket's URL, which is a secret.
        let error = get("error")
            .and_then(|text| text.split_whitespace().next())
            .map(safe_word);
        let status = get("status").map(|text| match text.to_ascii_lowercase().as_str() {
            _ if error.is_some() => StreamStatus::Failed,
            "completed" => StreamStatus::Completed,
            "failed" => StreamStatus::Failed,
            "cancelled" | "canceled" => StreamStatus::Cancelled,
            other => StreamStatus::Unknown(safe_word(other)),
        });
        Some(Self {
            stream_sid: get("streamsid").map(str::to_owned),
            status: status.or_else(|| error.is_some().then_some(StreamStatus::Failed)),
            duration_s: get("duration").and_then(read_seconds),
            recording_url: get("recordingurl").map(str::to_owned),
            disconnected_by: get("disconnectedby").map_or(DisconnectedBy::Na, DisconnectedBy::read),
            detailed_status: get("detailedstatus").map(safe_word),
            error,
        })
    }
}

/// One request of an applet. Every field may be missing; `Debug` shows neither numbers nor digits nor tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct AppletRequest {
    /// Exotel's id of the call.
    pub call_sid: Option<String>,
    /// The caller; on outbound calls the customer.
    pub call_from: Option<Caller>,
    /// The ExoPhone.
    pub call_to: Option<Caller>,
    /// Who called whom.
    pub direction: Option<FlowDirection>,
    /// When Exotel asked, to the second.
    pub asked_at: Option<DateTime<Utc>>,
    /// The call's state.
    pub call_status: Option<ProviderStatus>,
    /// What the dial carried; unverified.
    pub custom_field: Option<String>,
    /// Our own `?call_id=`; unverified.
    pub call_id: Option<String>,
    /// Our own `?key=`: an account token on the paths without one.
    pub key: Option<String>,
    /// What was typed, without the quotes that Exotel puts around it.
    pub digits: Option<String>,
    /// Where the recording is.
    pub recording_url: Option<String>,
    /// How a Connect applet's dial ended.
    pub dial_call_status: Option<ProviderStatus>,
    /// Seconds of that dial, ringing included.
    pub dial_call_s: Option<u32>,
    /// `call-attempt`, `completed`, `client-hangup`, `incomplete` or `voicemail`.
    pub call_type: Option<String>,
    /// Who ended the stream, or failing that the call.
    pub disconnected_by: Option<DisconnectedBy>,
    /// How the stream before this applet ended.
    pub stream: Option<StreamResult>,
    /// The legs of a Connect applet's dial.
    pub legs: Vec<Leg>,
    /// The sample rate asked for in the URL, in samples per second.
    pub sample_rate: Option<u32>,
    fields: Fields,
}

impl AppletRequest {
    /// Our own key in a query, and nothing behind it: of a request that is not known to be genuine no more is read.
    pub fn key_of(query: &str) -> Option<String> {
        form::first_of(query, "key")
    }

    /// Reads a request: its query, and its body where there is one. The query wins; keys match in any letter case.
    pub fn parse(query: &str, content_type: Option<&str>, body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::default();
        fields.read_query(query)?;
        if !body.is_empty() {
            let read = fields.read_body(content_type, Bytes::copy_from_slice(body));
            // The whole body is here, so reading never waits.
            read.now_or_never().unwrap_or(Err(BodyError::Multipart))?;
        }
        Ok(Self::read(fields))
    }

    fn read(fields: Fields) -> Self {
        let text = |name: &str| fields.get(name).map(str::to_owned);
        let caller = |name: &str| fields.get(name).map(Caller::read);
        let stream = StreamResult::read(&fields);
        let digits = fields
            .get("digits")
            .map(|text| text.trim_matches('"').trim().to_owned());
        let disconnected_by = match &stream {
            Some(stream) => Some(stream.disconnected_by.clone()),
            None => fields.get("disconnectedby").map(DisconnectedBy::read),
        };
        Self {
            call_sid: text("callsid"),
            call_from: caller("callfrom").or_else(|| caller("from")),
            call_to: caller("callto"),
            direction: fields.get("direction").map(FlowDirection::read),
            asked_at: fields.get("currenttime").and_then(parse_ist),
            call_status: fields
                .get("callstatus")
                .or_else(|| fields.get("status"))
                .map(ProviderStatus::parse),
            custom_field: text("customfield"),
            call_id: text("callid"),
            key: text("key"),
            digits: digits.filter(|digits| !digits.is_empty()),
            recording_url: text("recordingurl"),
            dial_call_status: fields.get("dialcallstatus").map(ProviderStatus::parse),
            dial_call_s: fields.get("dialcallduration").and_then(read_seconds),
            call_type: fields.get("calltype").map(|text| safe_word(&text.to_ascii_lowercase())),
            disconnected_by,
            stream,
            legs: Leg::read_all(&fields),
            sample_rate: fields.get("samplerate").and_then(read_seconds),
            fields,
        }
    }

    /// Whether the request says that the caller has hung up, so that the flow will not go on.
    pub fn caller_hung_up(&self) -> bool {
        let stream = self.stream.as_ref();
        self.disconnected_by == Some(DisconnectedBy::User)
            || stream.is_some_and(|stream| stream.status == Some(StreamStatus::Cancelled))
            || self.call_type.as_deref() == Some("client-hangup")
    }

    /// The fields as they came, as one flat JSON object, numbers and our own key in clear: not for logs.
    pub fn to_json(&self) -> Value {
        self.fields.to_json()
    }
}

impl std::fmt::Debug for AppletRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppletRequest")
            .field("call_sid", &self.call_sid)
            .field("call_from", &self.call_from)
            .field("call_to", &self.call_to)
            .field("direction", &self.direction)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

/// The answer to a Voicebot's dynamic URL: the socket to open.
pub fn connect_answer(url: &str) -> Value {
    json!({ "url": url })
}

/// What is said while digits are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Spoken by Exotel.
    Text(String),
    /// A WAV file: 8 kHz, mono, 16 bits. Exotel caches it by its URL.
    AudioUrl(String),
}

impl Prompt {
    fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!({ "text": text }),
            Self::AudioUrl(url) => json!({ "audio_url": url }),
        }
    }
}

/// The answer to a Gather's dynamic URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherPrompt {
    /// What is said first.
    pub prompt: Prompt,
    /// Digits after which the flow goes on; 1 to 255.
    pub max_input_digits: u8,
    /// The key that ends the input; empty for none.
    pub finish_on_key: String,
    /// Seconds without a key after which the input ends.
    pub input_timeout_s: u32,
    /// How often the prompt is repeated when nothing is typed.
    pub repeat_menu: u32,
    /// What is said when it is repeated; without one the prompt again.
    pub repeat_prompt: Option<Prompt>,
}

impl GatherPrompt {
    /// A prompt with Exotel's own defaults: 255 digits, `#`, 5 seconds, not repeated.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            max_input_digits: u8::MAX,
            finish_on_key: "#".to_owned(),
            input_timeout_s: 5,
            repeat_menu: 0,
            repeat_prompt: None,
        }
    }

    /// The JSON that Exotel reads.
    pub fn to_json(&self) -> Value {
        let mut answer = json!({
            "gather_prompt": self.prompt.to_json(),
            "max_input_digits": self.max_input_digits,
            "finish_on_key": self.finish_on_key,
            "input_timeout": self.input_timeout_s,
            "repeat_menu": self.repeat_menu,
        });
        if let Some(repeat) = &self.repeat_prompt {
            answer["repeat_gather_prompt"] = repeat.to_json();
        }
        answer
    }
}

/// The answer to a Connect applet's dynamic URL: whom to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferTarget {
    /// Whom to dial, one after the other; nobody sends the flow to its "no dial" branch.
    pub numbers: Vec<PhoneNumber>,
    /// The ExoPhone that the target sees; without one Exotel's choice.
    pub caller_id: Option<PhoneNumber>,
    /// Whether to record both sides, on two channels.
    pub record: bool,
    /// Seconds to ring each number.
    pub max_ringing_s: u32,
    /// Seconds after which the conversation is cut.
    pub max_conversation_s: u32,
}

impl TransferTarget {
    /// A transfer to nobody.
    pub fn nobody() -> Self {
        Self {
            numbers: Vec::new(),
            caller_id: None,
            record: false,
            max_ringing_s: 45,
            max_conversation_s: 3600,
        }
    }

    /// The JSON that Exotel reads. `fetch_after_attempt` is always off: with it Exotel asks again, even concurrently.
    pub fn to_json(&self) -> Value {
        let numbers: Vec<_> = self.numbers.iter().map(PhoneNumber::expose).collect();
        let mut answer = json!({
            "fetch_after_attempt": false,
            "destination": { "numbers": numbers },
            "record": self.record,
            "max_ringing_duration": self.max_ringing_s,
            "max_conversation_duration": self.max_conversation_s,
            "music_on_hold": { "type": "operator_tone" },
        });
        if self.record {
            answer["recording_channels"] = Value::from("dual");
        }
        if let Some(caller_id) = &self.caller_id {
            answer["outgoing_phone_number"] = Value::from(caller_id.national());
        }
        answer
    }
}

#[cfg(test)]
mod tests;
