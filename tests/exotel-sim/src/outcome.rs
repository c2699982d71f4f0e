//! What happens when a number is dialled.

use serde::{Deserialize, Serialize};

use crate::{
    script::CallerScript,
    settings::{Callbacks, Streams},
};

/// The script of a number: what the connect answers, what its phone does, what its owner says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outcome {
    /// What the REST connect answers.
    pub answer: Answer,
    /// How long the answer is held back after the dial.
    pub answer_delay_ms: u64,
    /// How long the dial itself waits after the request was read.
    pub dial_delay_ms: u64,
    /// Whether the phone is dialled; `None` is what the answer implies.
    pub dialled: Option<bool>,
    /// The connection is reset after so many bytes of the answer, its head included; an answer that is not longer comes
    /// whole.
    pub cut_at_byte: Option<u64>,
    /// Calls that somebody else makes with the same account, from the same ExoPhone to the same person, at the same
    /// moment; they are [`crate::Mode::Stranger`]s.
    pub strangers: u32,
    /// How long the call is missing from the bulk list, instead of the settings'.
    pub list_delay_ms: Option<u64>,
    /// What the phone does.
    pub callee: Callee,
    /// How long it rings until it is answered, instead of the settings'.
    pub answer_after_ms: Option<u64>,
    /// How long a conversation without a bot takes, instead of the settings'.
    pub talk_ms: Option<u64>,
    /// What the person says; `None` is the default speech, then silence.
    pub caller: Option<CallerScript>,
    /// Callback behaviour of these calls, instead of the account's or the settings'.
    pub callbacks: Option<Callbacks>,
    /// Stream behaviour of these calls, instead of the settings'.
    pub stream: Option<Streams>,
    /// Whether [`crate::Faults`] hit connects to this number all the same.
    pub random_faults: bool,
    /// After so many connects the script is used up; `None` is never.
    pub times: Option<u32>,
}

impl Outcome {
    /// A phone that is answered and does what the script says.
    pub fn answered_by(caller: CallerScript) -> Self {
        Self {
            caller: Some(caller),
            ..Self::default()
        }
    }

    /// A phone that does this.
    pub fn callee(callee: Callee) -> Self {
        Self {
            callee,
            ..Self::default()
        }
    }

    /// A connect that answers this.
    pub fn answer(answer: Answer) -> Self {
        Self {
            answer,
            ..Self::default()
        }
    }

    /// Whether a connect with this outcome rings the phone. An accepted one always does, a vanished one never.
    pub fn dials(&self) -> bool {
        match self.answer {
            Answer::Accepted => true,
            Answer::Vanished => false,
            Answer::Lost | Answer::Stall | Answer::Html | Answer::Empty | Answer::Truncated | Answer::Drip { .. } => {
                self.dialled.unwrap_or(true)
            }
            Answer::Dnd | Answer::Kyc | Answer::RateLimited { .. } | Answer::Unavailable | Answer::Custom { .. } => {
                self.dialled.unwrap_or(false)
            }
        }
    }

    /// The outcome of a number without a script, by its last four digits; all others are answered.
    ///
    /// | digits | outcome |
    /// |---|---|
    /// | 9901, 9902, 9903 | busy, no answer, failed |
    /// | 9904, 9905 | 403 DND, 403 KYC |
    /// | 9906 | 429 with `Retry-After: 2` |
    /// | 9907, 9908 | 503 code 35008 with and without dialling |
    /// | 9909 | dialled at once, answer after 30 s |
    /// | 9910 | dialled, answer lost |
    /// | 9911 | dialled, answer is HTML |
    /// | 9912 | answered, hangs up after a second |
    /// | 9913 | rings for 12 s |
    pub fn by_convention(number: &str) -> Self {
        Self::meant_by(number).unwrap_or_default()
    }

    /// The outcome that the last four digits mean, if they mean one.
    pub(crate) fn meant_by(number: &str) -> Option<Self> {
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        Some(match digits.get(digits.len().saturating_sub(4)..) {
            Some("9901") => Self::callee(Callee::Busy),
            Some("9902") => Self::callee(Callee::NoAnswer),
            Some("9903") => Self::callee(Callee::Fails),
            Some("9904") => Self::answer(Answer::Dnd),
            Some("9905") => Self::answer(Answer::Kyc),
            Some("9906") => Self::answer(Answer::RateLimited {
                retry_after: Some("2".to_owned()),
            }),
            Some("9907") => Self {
                dialled: Some(true),
                ..Self::answer(Answer::Unavailable)
            },
            Some("9908") => Self::answer(Answer::Unavailable),
            Some("9909") => Self {
                answer_delay_ms: 30_000,
                ..Self::default()
            },
            Some("9910") => Self::answer(Answer::Lost),
            Some("9911") => Self::answer(Answer::Html),
            Some("9912") => Self::answered_by(CallerScript::new().silence(1_000).hang_up()),
            Some("9913") => Self {
                answer_after_ms: Some(12_000),
                ..Self::default()
            },
            _ => return None,
        })
    }

    /// Whether the connect is dialled and answered as if there were no script.
    pub(crate) fn leaves_the_answer(&self) -> bool {
        self.answer == Answer::Accepted
            && self.answer_delay_ms == 0
            && self.dial_delay_ms == 0
            && self.cut_at_byte.is_none()
    }
}

/// What a connect answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// 200 with the call.
    #[default]
    Accepted,
    /// 403: the callee is registered as do-not-disturb.
    Dnd,
    /// 403: the account has no KYC.
    Kyc,
    /// 429.
    RateLimited {
        /// The `Retry-After` header as it is.
        retry_after: Option<String>,
    },
    /// 503 with code 35008.
    Unavailable,
    /// The connection is reset instead of an answer.
    Lost,
    /// No answer at all, until the client goes away or the simulator stops.
    Stall,
    /// 200 with a call that nobody ever hears of again: nothing rings, and no list and no details know its Sid.
    Vanished,
    /// 200 with an HTML page.
    Html,
    /// 200 without a body.
    Empty,
    /// 200 whose body ends in the middle.
    Truncated,
    /// 200, one byte at a time.
    Drip {
        /// Pause between bytes.
        every_ms: u64,
    },
    /// Anything else.
    Custom {
        /// The status.
        status: u16,
        /// Headers, such as `content-type` or `location`.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The body.
        #[serde(default)]
        body: String,
        /// How often the body is repeated: makes huge bodies out of small scripts.
        #[serde(default = "once")]
        repeat: u32,
    },
}

fn once() -> u32 {
    1
}

/// What a phone does when it is dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Callee {
    /// Rings and is answered.
    #[default]
    Answers,
    /// Is busy.
    Busy,
    /// Rings until the ring time-out.
    NoAnswer,
    /// Cannot be reached.
    Fails,
}
