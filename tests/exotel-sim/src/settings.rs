//! Behaviours that can be changed while the simulator runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Faults, Outcome};

/// All settings. The defaults suit a person watching; [`Settings::for_tests`] is quick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Divides the telephone's delays (ringing, time limits, late facts, callback retries). Audio stays in real time.
    pub time_scale: f64,
    /// Whether the last four digits of a number script its outcome, see [`crate::Outcome::by_convention`].
    pub convention: bool,
    /// How long a connect answers late, beside what an outcome adds.
    pub connect_delay_ms: u64,
    /// From the dial until the phone rings.
    pub ring_delay_ms: u64,
    /// How long a phone rings until somebody answers.
    pub answer_delay_ms: u64,
    /// Ring time-out of a connect without `TimeOut`.
    pub ring_timeout_s: u64,
    /// Time limit of a call without `TimeLimit`; also the longest one.
    pub time_limit_s: u64,
    /// How long a person talks who was dialled by a Connect applet or as `To`.
    pub talk_ms: u64,
    /// Whether `POST Calls/{sid}` with `Status=completed` hangs up; otherwise it is 405.
    pub hang_up_by_rest: bool,
    /// How `To` shows for calls into a flow or a stream.
    pub flow_to: FlowTo,
    /// How `ActiveStreams` answers.
    pub active_streams: ActiveStreams,
    /// How long a call is missing from the bulk list.
    pub list_delay_ms: u64,
    /// How long after its end a call gets `Price`, `EndTime` and `Duration`.
    pub late_facts_ms: u64,
    /// `Retry-After` of a 429 by rate; `None` leaves it out.
    pub retry_after: Option<String>,
    /// Time-out of each applet request.
    pub applet_timeout_ms: u64,
    /// How the query is put behind an applet URL that has one.
    pub append_query: AppendQuery,
    /// The form of the stream's facts in the next Passthru.
    pub stream_facts: StreamFacts,
    /// Whether the bulk list and details show `CustomField`. Not documented.
    pub list_custom_field: bool,
    /// What happens when a number is dialled that has no script and whose last four digits mean nothing.
    pub unscripted: Outcome,
    /// The audio streams.
    pub stream: Streams,
    /// The status callbacks.
    pub callbacks: Callbacks,
    /// What happens to connects and reads by chance.
    pub faults: Faults,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            time_scale: 1.0,
            convention: true,
            connect_delay_ms: 150,
            ring_delay_ms: 300,
            answer_delay_ms: 1_500,
            ring_timeout_s: 30,
            time_limit_s: 14_400,
            talk_ms: 4_000,
            hang_up_by_rest: false,
            flow_to: FlowTo::Null,
            active_streams: ActiveStreams::Xml,
            list_delay_ms: 500,
            late_facts_ms: 10_000,
            retry_after: None,
            applet_timeout_ms: 10_000,
            append_query: AppendQuery::Ampersand,
            stream_facts: StreamFacts::Bracketed,
            list_custom_field: false,
            unscripted: Outcome::default(),
            stream: Streams::default(),
            callbacks: Callbacks::default(),
            faults: Faults::default(),
        }
    }
}

impl Settings {
    /// Short delays: ringing takes 200 ms in all, late facts come after 300 ms.
    pub fn for_tests() -> Self {
        Self {
            connect_delay_ms: 0,
            ring_delay_ms: 50,
            answer_delay_ms: 150,
            ring_timeout_s: 2,
            talk_ms: 300,
            list_delay_ms: 0,
            late_facts_ms: 300,
            callbacks: Callbacks {
                retry_delays_ms: vec![100, 300],
                ..Callbacks::default()
            },
            ..Self::default()
        }
    }

    /// A delay of the telephone's side, divided by the time scale.
    pub(crate) fn scaled(&self, delay: Duration) -> Duration {
        if self.time_scale.is_finite() && self.time_scale > 0.0 {
            delay.div_f64(self.time_scale)
        } else {
            delay
        }
    }

    pub(crate) fn scaled_ms(&self, milliseconds: u64) -> Duration {
        self.scaled(Duration::from_millis(milliseconds))
    }
}

/// How `To` shows for a call that has no second number. Both are documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowTo {
    /// `null`.
    Null,
    /// The ExoPhone.
    ExoPhone,
}

/// The two documented forms of `ActiveStreams`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActiveStreams {
    /// `<TwilioResponse><Stream>…`.
    Xml,
    /// `{"status":"success",…}`.
    Json,
}

/// How an applet's query joins a URL that has a query already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendQuery {
    /// `…?key=x&CallSid=…`.
    Ampersand,
    /// `…?key=x?CallSid=…`.
    QuestionMark,
}

/// How a Passthru after a stream tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamFacts {
    /// `Stream[Status]=completed&…`.
    Bracketed,
    /// `Stream={"Status":"completed",…}`.
    Json,
}

/// How AgentStream sockets behave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of a settings file")]
pub struct Streams {
    /// The form of `start` and of the numbers in all messages.
    pub start: StartShape,
    /// How the keys of all messages are written.
    pub key_case: KeyCase,
    /// Samples per second where the URL asks for none: 8000, 16000 or 24000.
    pub sample_rate: u32,
    /// How the caller's audio is cut into messages.
    pub chunks: Chunks,
    /// Whether audio goes on while the caller is silent.
    pub send_silence: bool,
    /// Time for name, TCP, TLS and upgrade together.
    pub handshake_timeout_ms: u64,
    /// Further tries of a failed handshake.
    pub handshake_retries: u32,
    /// Whether `ws://` is allowed to other hosts than this one.
    pub allow_plain_ws: bool,
    /// Whether the URL's query is taken off the handshake, as seen live.
    pub strip_query: bool,
    /// Whether what was taken off is sent as `custom_parameters`, as seen live.
    pub tell_query: bool,
    /// Whether the dynamic URL is asked twice; the second answer counts.
    pub ask_url_twice: bool,
    /// Longest stream; then `stop` with `stopped`, and the flow goes on.
    pub max_seconds: u64,
    /// Whether the stream ends right after `start`: `stop` without media.
    pub stop_without_media: bool,
    /// How the platform's side ends a stream.
    pub end: StreamEnd,
    /// What becomes of marks that a `clear` drops. Not documented.
    pub cleared_marks: ClearedMarks,
    /// How much of the bot's audio waits at most; what is beyond is dropped and counted.
    pub max_buffered_s: u64,
    /// Whether WAV files are written.
    pub record: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            start: StartShape::Live,
            key_case: KeyCase::Snake,
            sample_rate: 8_000,
            chunks: Chunks::Millis(100),
            send_silence: true,
            handshake_timeout_ms: 10_000,
            handshake_retries: 1,
            allow_plain_ws: false,
            strip_query: true,
            tell_query: true,
            ask_url_twice: false,
            max_seconds: 3_600,
            stop_without_media: false,
            end: StreamEnd::StopAndClose,
            cleared_marks: ClearedMarks::Dropped,
            max_buffered_s: 600,
            record: true,
        }
    }
}

/// The two forms of AgentStream messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartShape {
    /// As captured: strings everywhere, national numbers, no `custom_parameters` when there are none.
    Live,
    /// As documented: numbers where numbers are meant, E.164, `custom_parameters` always.
    Documented,
}

/// How the keys of AgentStream messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyCase {
    /// `stream_sid`, as captured and documented.
    Snake,
    /// `streamSid`, as some samples of Exotel's expect it.
    Camel,
}

/// How the caller's audio is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chunks {
    /// Messages of so many milliseconds.
    Millis(u32),
    /// Messages of so many bytes.
    Bytes(u32),
    /// Each message has 320, 640, 1600 or 3200 bytes, by chance.
    Mixed,
    /// Nothing for a while, then all of it at once.
    Bursts {
        /// Bytes of each message.
        bytes: u32,
        /// The pause.
        every_ms: u32,
    },
}

/// How the platform's side ends a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamEnd {
    /// `stop`, then a close frame.
    StopAndClose,
    /// A close frame without `stop`.
    CloseOnly,
    /// TCP ends without a word.
    Drop,
}

/// What becomes of marks that a `clear` drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClearedMarks {
    /// They are never echoed.
    Dropped,
    /// They are echoed at once.
    Echoed,
}

/// How status callbacks are sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callbacks {
    /// The body's encoding.
    pub encoding: CallbackEncoding,
    /// How much the body tells.
    pub payload: Payload,
    /// Time-out of one try.
    pub timeout_ms: u64,
    /// Pauses before the further tries; their number is the number of tries.
    pub retry_delays_ms: Vec<u64>,
    /// Probability that a callback is never sent, 0 to 1.
    pub drop: f64,
    /// Further copies of each callback.
    pub duplicates: u32,
    /// Pause before each copy; with 0 all of them are sent at the same moment as the callback itself.
    pub duplicates_apart_ms: u64,
    /// How long each callback is late.
    pub delay_ms: u64,
    /// How much later still, at most. Then every callback of a call has a delay of its own and may overtake the others.
    pub delay_spread_ms: u64,
    /// Whether `terminal` is sent before the others, which wait until it is delivered or given up.
    pub reorder: bool,
    /// Whether forged callbacks are sent besides: before each callback one to the same URL whose path ends in another
    /// character, with the opposite status; after it one to the right URL with another call's `CallSid`, unless the
    /// callback was lost.
    pub forge: bool,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            encoding: CallbackEncoding::AsRequested,
            payload: Payload::AsSeenLive,
            timeout_ms: 15_000,
            retry_delays_ms: vec![2_000, 6_000],
            drop: 0.0,
            duplicates: 0,
            duplicates_apart_ms: 0,
            delay_ms: 0,
            delay_spread_ms: 0,
            reorder: false,
            forge: false,
        }
    }
}

/// The encoding of callback bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallbackEncoding {
    /// What `StatusCallbackContentType` asked for; multipart when it did not.
    AsRequested,
    /// `multipart/form-data`.
    Multipart,
    /// `application/x-www-form-urlencoded`.
    UrlEncoded,
    /// `application/json`.
    Json,
}

/// How much a callback tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Calls into a flow: the three-field terminal alone, whatever was subscribed. Others: full when events were subscribed.
    AsSeenLive,
    /// Every field, for the subscribed events.
    Full,
    /// `CallSid`, `Status` and `DateUpdated`, once, at the end.
    ThreeField,
}
