//! The states that Exotel reports for calls and legs.

use crate::form::Fields;
use std::fmt;

/// Longest unknown word that is kept; Exotel's own are half as long.
const MAX_WORD: usize = 32;

/// A call's state in Exotel's words. A word that is not known is its own case and never an end state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProviderStatus {
    /// `queued`
    Queued,
    /// `in-progress`: also the first answer of every dial, so it does not mean that anyone answered.
    InProgress,
    /// `ringing`
    Ringing,
    /// `completed`
    Completed,
    /// `busy`
    Busy,
    /// `no-answer`
    NoAnswer,
    /// `failed`
    Failed,
    /// `canceled`
    Canceled,
    /// A word that this version does not know, shortened and stripped to letters, digits, `-` and `_`.
    Unknown(String),
}

impl ProviderStatus {
    /// Reads a state; letter case, `_` for `-`, and `cancelled` do not matter.
    pub fn parse(text: &str) -> Self {
        let word = text.trim().to_ascii_lowercase().replace(['_', ' '], "-");
        match word.as_str() {
            "queued" => Self::Queued,
            "in-progress" => Self::InProgress,
            "ringing" => Self::Ringing,
            "completed" => Self::Completed,
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "failed" => Self::Failed,
            "canceled" | "cancelled" => Self::Canceled,
            _ => Self::Unknown(safe_word(&word)),
        }
    }

    /// The word as Exotel documents it.
    pub fn word(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in-progress",
            Self::Ringing => "ringing",
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no-answer",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Unknown(word) => word,
        }
    }

    /// Whether a call in this state is over.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Completed | Self::Busy | Self::NoAnswer | Self::Failed | Self::Canceled => true,
            Self::Queued | Self::InProgress | Self::Ringing | Self::Unknown(_) => false,
        }
    }
}

impl fmt::Display for ProviderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One leg of a call. Every field may be missing; a leg that was not tried has no status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leg {
    /// How the leg ended, or its present state.
    pub status: Option<ProviderStatus>,
    /// Seconds on the call, without ringing.
    pub on_call_s: Option<u32>,
    /// Answering-machine detection: `human`, `machine`, `notsure`, `na`; lower case.
    pub answered_by: Option<String>,
    /// Why the leg ended, such as `USER_BUSY`.
    pub cause_code: Option<String>,
    /// Who ended the leg, as Exotel prints it.
    pub disconnected_by: Option<String>,
}

impl Leg {
    /// Exotel's calls have two legs, and parallel ringing adds at most ten.
    const MAX: usize = 12;

    /// Reads `Legs[0][Status]` and so on, nested (`Legs[0][Leg][…]`) or flat.
    pub(crate) fn read_all(fields: &Fields) -> Vec<Self> {
        let mut legs = Vec::new();
        for index in 0..Self::MAX {
            let get = |name: &str| {
                fields
                    .get(&format!("legs[{index}][{name}]"))
                    .or_else(|| fields.get(&format!("legs[{index}][leg][{name}]")))
            };
            let present = fields.any_with_prefix(&format!("legs[{index}]"));
            if !present {
                break;
            }
            legs.push(Self {
                status: get("status").map(ProviderStatus::parse),
                on_call_s: get("oncallduration").and_then(read_seconds),
                answered_by: get("answeredby").map(|w| safe_word(&w.to_ascii_lowercase())),
                cause_code: get("causecode").or_else(|| get("cause")).map(safe_word),
                disconnected_by: get("disconnectedby").map(safe_word),
            });
        }
        legs
    }
}

/// Reads whole seconds: `"17"`, `17`, `17.0` and `17s`.
pub(crate) fn read_seconds(text: &str) -> Option<u32> {
    let digits = text.trim();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// Keeps what is safe to store, label and log of a vendor's word: no digits in a row that could be a number.
pub(crate) fn safe_word(text: &str) -> String {
    let mut run = 0;
    text.trim()
        .chars()
        .map(|c| if c == ' ' { '-' } else { c })
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .filter(|c| {
            run = if c.is_ascii_digit() { run + 1 } else { 0 };
            run <= 6
        })
        .take(MAX_WORD)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for word in [
            "queued",
            "in-progress",
            "ringing",
            "completed",
            "busy",
            "no-answer",
            "failed",
            "canceled",
        ] {
            assert_eq!(ProviderStatus::parse(word).word(), word);
            assert_eq!(
                ProviderStatus::parse(&word.to_uppercase().replace('-', "_")).word(),
                word
            );
        }
        assert_eq!(ProviderStatus::parse("cancelled"), ProviderStatus::Canceled);
        let unknown = ProviderStatus::parse("parked by 09812345678\n");
        assert_eq!(unknown, ProviderStatus::Unknown("parked-by-098123".into()));
        assert!(!unknown.is_terminal());
    }

    #[test]
    fn seconds() {
        assert_eq!(read_seconds("17"), Some(17));
        assert_eq!(read_seconds("17.5"), Some(17));
        assert_eq!(read_seconds(""), None);
        assert_eq!(read_seconds("-1"), None);
        assert_eq!(read_seconds("99999999999"), None);
    }
}
