//! What the simulator tells about calls: the ledger's entries, the events, the state of each call.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Fault, Outcome, number::Number};

/// One line of `ledger.jsonl`: a phone was dialled, or a caller came in. Numbers are as they were sent.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// When.
    pub time: DateTime<Utc>,
    /// The call.
    pub call_sid: String,
    /// The account.
    pub account_sid: String,
    /// How it came about.
    pub mode: Mode,
    /// The number rung first; for an inbound call the caller.
    pub from: String,
    /// `To`, or the ExoPhone that was called.
    pub to: Option<String>,
    /// `CallerId`.
    pub caller_id: Option<String>,
    /// `CustomField`.
    pub custom_field: Option<String>,
    /// What was scripted for the number at that moment.
    pub outcome: Outcome,
}

/// One line of `arrivals.jsonl`: a connect came. It is on the disk before anything is dialled.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Arrival {
    /// When it had been read.
    pub time: DateTime<Utc>,
    /// The account in its path.
    pub account_sid: String,
    /// `CustomField`, when it could be read.
    pub custom_field: Option<String>,
    /// `From` as it was sent.
    pub from: Option<String>,
    /// `CallerId` as it was sent.
    pub caller_id: Option<String>,
    /// What becomes of it.
    pub fate: Fate,
    /// The fault that hits it by chance.
    pub fault: Option<Fault>,
}

/// What becomes of a connect that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its body did not come to its end, or is none that can be read.
    Unreadable,
    /// The key is wrong.
    Unauthorized,
    /// It is over the account's rate.
    RateLimited,
    /// Its parameters are refused, or the account may not dial.
    Refused,
    /// It is good, and its script or chance dials nobody.
    NotDialled,
    /// It is dialled: a line of the ledger follows.
    Dialled,
}

/// One line of `events.jsonl`: a fact on the wire.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: DateTime<Utc>,
    /// The call, if the fact belongs to one.
    pub call_sid: Option<String>,
    /// What: `rest`, `applet`, `callback`, `stream`, `call` or `control`.
    pub kind: String,
    /// The details, by kind.
    pub facts: Value,
}

/// How a call came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A connect with `To`.
    TwoNumbers,
    /// A connect with `Url`.
    Flow,
    /// A connect with `StreamUrl` alone.
    Stream,
    /// A person called an ExoPhone.
    Inbound,
    /// Somebody else's connect with the same account: [`crate::Outcome::strangers`].
    Stranger,
}

impl Mode {
    /// Whether a connect that came over REST made the call.
    pub fn is_connect(self) -> bool {
        match self {
            Self::TwoNumbers | Self::Flow | Self::Stream => true,
            Self::Inbound | Self::Stranger => false,
        }
    }
}

/// Where a call is. The order is the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; nothing rings yet.
    Queued,
    /// The phone rings.
    Ringing,
    /// Answered.
    InProgress,
    /// Over.
    Ended,
}

/// Why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The phone was busy, did not answer or could not be reached.
    NotAnswered,
    /// The person hung up.
    Caller,
    /// A Hangup applet.
    Flow,
    /// The bot closed the socket of a call without a flow, or that stream failed.
    Bot,
    /// The dialled person of a call between two numbers hung up.
    Callee,
    /// The time limit.
    TimeLimit,
    /// `POST Calls/{sid}`.
    Rest,
    /// The simulator stopped.
    Shutdown,
}

/// A call as it stands.
#[derive(Clone, Serialize, Deserialize)]
pub struct CallReport {
    /// The call's SID.
    pub call_sid: String,
    /// The account.
    pub account_sid: String,
    /// How it came about.
    pub mode: Mode,
    /// The person, in national form: rung first, or calling in.
    pub customer: String,
    /// The ExoPhone, in national form.
    pub exophone: String,
    /// The second number of a call between two.
    pub to: Option<String>,
    /// `CustomField`.
    pub custom_field: Option<String>,
    /// Where it is.
    pub phase: Phase,
    /// The platform's word for how it ended: `completed`, `busy`, `no-answer`, `failed` or `canceled`.
    pub status: Option<String>,
    /// Why it ended.
    pub cause: Option<Cause>,
    /// When it was accepted.
    pub created: DateTime<Utc>,
    /// When the phone rang.
    pub ringing: Option<DateTime<Utc>>,
    /// When it was answered.
    pub answered: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// The applets it came to, in order.
    pub applets: Vec<String>,
    /// Its audio streams, in order.
    pub streams: Vec<StreamReport>,
    /// Calls made by Connect applets or to `To`.
    pub legs: Vec<Leg>,
    /// Callbacks that were sent, lost on purpose, or given up.
    pub callbacks: Vec<CallbackReport>,
    /// Forged callbacks that were sent besides.
    #[serde(default)]
    pub forgeries: Vec<ForgeryReport>,
    /// Texts that Greeting and Gather applets said.
    pub said: Vec<String>,
    /// Whether `Record=true` or a recording applet recorded it.
    pub recorded: bool,
    /// How often the recording was fetched.
    #[serde(default)]
    pub recording_fetches: u32,
}

impl CallReport {
    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Seconds from the answer to the end, or to now.
    pub(crate) fn seconds(&self, now: DateTime<Utc>) -> i64 {
        self.answered.map_or(0, |answered| {
            (self.ended.unwrap_or(now) - answered).num_seconds().max(0)
        })
    }
}

/// A second person's part in a call.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// The number, in national form.
    pub number: String,
    /// `completed`, `busy`, `no-answer`, `failed` or `canceled`.
    pub status: String,
    /// Seconds of conversation.
    pub seconds: i64,
}

/// One try of a callback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallbackReport {
    /// `terminal`, `answered` or `ringing`.
    pub event: String,
    /// Which try, from 1.
    pub attempt: u32,
    /// The HTTP status; `None` when there was none.
    pub status: Option<u16>,
    /// Whether it was lost on purpose.
    pub lost: bool,
}

/// A forged callback and how it was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgeryReport {
    /// The event of the callback beside which it was sent.
    pub event: String,
    /// What was wrong with it.
    pub forged: Forged,
    /// The HTTP status; `None` when there was none.
    pub status: Option<u16>,
}

/// What is wrong with a forged callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forged {
    /// The last character of the URL's path.
    Token,
    /// `CallSid` is another call's.
    CallSid,
}

/// An audio stream as it stands.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Its SID.
    pub stream_sid: String,
    /// The URL without user and password.
    pub url: String,
    /// Whether the socket is open and `start` was sent.
    pub open: bool,
    /// When `start` was sent: where `heard` begins.
    #[serde(default)]
    pub started: Option<DateTime<Utc>>,
    /// `completed`, `failed` or `cancelled`, once it ended.
    pub status: Option<String>,
    /// `bot`, `user` or `NA`, once it ended.
    pub disconnected_by: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Why the platform refused it, such as `Streaming_call_throttled`.
    pub detailed_status: Option<String>,
    /// Whole seconds.
    pub seconds: u64,
    /// Samples a second, both ways.
    pub sample_rate: u32,
    /// What was taken from the URL's query.
    pub custom_parameters: BTreeMap<String, String>,
    /// How many handshakes it took.
    pub handshakes: u32,
    /// The code of the bot's close frame.
    pub close_code: Option<u16>,
    /// `media` messages to the bot.
    pub sent_messages: u64,
    /// Audio bytes to the bot.
    pub sent_bytes: u64,
    /// `media` messages from the bot.
    pub received_messages: u64,
    /// Audio bytes from the bot.
    pub received_bytes: u64,
    /// From `start` to the bot's first audio, in milliseconds.
    pub first_audio_ms: Option<u64>,
    /// Messages whose length is no multiple of 320 bytes: each made a gap of 20 ms.
    pub gaps: u64,
    /// Messages with an odd number of bytes: the last one was lost.
    pub odd_messages: u64,
    /// Messages below the documented 3,200 bytes.
    pub small_messages: u64,
    /// Bytes dropped because too much audio waited.
    pub overflow_bytes: u64,
    /// Times the play-out ran dry and audio came again within half a second: audible holes.
    pub underruns: u64,
    /// The most audio that waited, in milliseconds.
    pub longest_queue_ms: u64,
    /// `clear` messages from the bot.
    pub clears: u64,
    /// Bytes that they dropped.
    pub cleared_bytes: u64,
    /// Marks from the bot.
    pub marks: u64,
    /// Marks echoed.
    pub echoed_marks: u64,
    /// Keys sent to the bot.
    pub digits: String,
    /// Messages with an event that the platform does not know.
    pub unknown_messages: u64,
    /// Messages that are no JSON, or audio that is no base64, or binary frames.
    pub invalid_messages: u64,
    /// WAV of what the person heard, in real time.
    pub heard: Option<PathBuf>,
    /// WAV of exactly the bot's bytes, in order.
    pub received: Option<PathBuf>,
    /// WAV of what was sent to the bot.
    pub said: Option<PathBuf>,
}

/// Load on an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLoad {
    /// Calls that have not ended.
    pub calls: u64,
    /// The most of them at once.
    pub peak_calls: u64,
    /// Streams open.
    pub streams: u64,
    /// The most of them at once.
    pub peak_streams: u64,
    /// Connect requests that came, refused ones included.
    pub connects: u64,
    /// The most of them in any sliding minute.
    pub peak_connects_per_minute: u64,
    /// Connects refused by rate.
    pub refused_by_rate: u64,
    /// The same by ExoPhone, for those that had a call.
    #[serde(default)]
    pub exophones: Vec<ExoPhoneLoad>,
}

impl AccountLoad {
    /// The load on one ExoPhone, in any usual form; `None` when it never had a call.
    pub fn exophone(&self, number: &str) -> Option<&ExoPhoneLoad> {
        let number = Number::parse(number)?.national();
        self.exophones.iter().find(|phone| phone.number == number)
    }
}

/// Load on an ExoPhone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExoPhoneLoad {
    /// The number, in national form.
    pub number: String,
    /// Calls from and to it that have not ended.
    pub calls: u64,
    /// The most of them at once.
    pub peak_calls: u64,
}

/// Members that hold numbers, tokens or what callers said: they are in the files, never in `Debug`.
const HIDDEN: [&str; 14] = [
    "from",
    "to",
    "caller_id",
    "custom_field",
    "customer",
    "exophone",
    "number",
    "url",
    "path",
    "error",
    "custom_parameters",
    "said",
    "digits",
    "digit",
];

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if HIDDEN.contains(&name.as_str()) && !member.is_null() {
                    *member = Value::from("(hidden)");
                } else {
                    hide(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

macro_rules! debug_without_numbers {
    ($($name:ident),*) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut value = serde_json::to_value(self).unwrap_or_default();
                hide(&mut value);
                write!(f, "{} {value}", stringify!($name))
            }
        })*
    };
}

debug_without_numbers!(Arrival, LedgerEntry, Event, CallReport, ExoPhoneLoad, Leg, StreamReport);

#[cfg(test)]
mod tests {
    use super::Leg;

    #[test]
    fn debug_shows_no_number() {
        let leg = Leg {
            number: "09812345678".to_owned(),
            status: "busy".to_owned(),
            seconds: 3,
        };
        let text = format!("{leg:?}");
        assert!(text.contains("busy") && !text.contains("0981"), "{text}");
    }
}
