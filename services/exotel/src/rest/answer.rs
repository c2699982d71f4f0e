//! Reading answers: JSON or XML, whichever came, and the two shapes of error bodies.

use super::xml;
use crate::form::normal;
use crate::status::safe_word;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::time::Duration;

/// Longest pause that an answer may ask for: a broken header must not stop an account for a day.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);

/// A refusal's kind. The call was surely not placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// 401: wrong key or token, or the right ones at the wrong cluster.
    BadCredentials,
    /// 400: a parameter is missing or wrong, such as a caller id that is no ExoPhone.
    BadParameter,
    /// 402: no balance, or the plan's limit.
    NoBalance,
    /// 403: the account's KYC is not complete.
    Kyc,
    /// 403: the number is on the do-not-disturb register, or not allowed on a trial account.
    Dnd,
    /// 403: the IP list, a suspended account, a feature that is not enabled.
    Forbidden,
    /// 404: no such account, call or route.
    NotFound,
    /// 429: too many requests; may be sent again later.
    RateLimited,
}

impl Rejection {
    /// A stable machine word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::BadCredentials => "bad_credentials",
            Self::BadParameter => "bad_parameter",
            Self::NoBalance => "no_balance",
            Self::Kyc => "kyc",
            Self::Dnd => "dnd",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
        }
    }

    fn read(status: u16, message: &str) -> Option<Self> {
        let message = message.to_ascii_lowercase();
        let says = |word: &str| message.contains(word);
        Some(match status {
            400 => Self::BadParameter,
            401 => Self::BadCredentials,
            402 => Self::NoBalance,
            // Both texts name TRAI, so the more telling words decide.
            403 if says("kyc") => Self::Kyc,
            403 if says("ndnc") || says("dnd") || says("ncpr") => Self::Dnd,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            429 => Self::RateLimited,
            _ => return None,
        })
    }
}

/// A well-formed refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) kind: Rejection,
    /// `403` or `403/340030`: never the message, which quotes numbers.
    pub(super) provider_code: String,
}

impl Refusal {
    /// Reads `RestException` (v1), or the v2 envelope with `error_data`. None where the body is neither, or the status
    /// is not a refusal: then nobody knows what happened.
    pub(super) fn read(status: u16, root: Node<'_>) -> Option<Self> {
        let exception = root.child("RestException");
        let v2 = || root.child("response").and_then(|response| response.child("error_data"));
        let exception = exception.or_else(v2)?;
        let message = exception.text("Message").unwrap_or_default();
        if message.is_empty() && exception.text("Status").is_none() && exception.text("Code").is_none() {
            return None;
        }
        let code = exception
            .text("Code")
            .map(|code| safe_word(&code))
            .filter(|code| !code.is_empty());
        Some(Self {
            kind: Rejection::read(status, &message)?,
            provider_code: code.map_or_else(|| status.to_string(), |code| format!("{status}/{code}")),
        })
    }
}

/// An object of an answer. Keys match in any letter case, with or without `_`.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) &'a Value);

impl<'a> Node<'a> {
    /// The answer itself, without XML's root element.
    pub(super) fn root(tree: &'a Value) -> Self {
        Node(tree).child("TwilioResponse").unwrap_or(Node(tree))
    }

    fn value(self, name: &str) -> Option<&'a Value> {
        let name = normal(name);
        self.0
            .as_object()?
            .iter()
            .find(|(key, _)| normal(key) == name)
            .map(|(_, value)| value)
    }

    /// An object inside.
    pub(super) fn child(self, name: &str) -> Option<Self> {
        self.value(name).filter(|value| value.is_object()).map(Node)
    }

    /// The elements of a list inside, each without the wrapper of its own (`{"Call": {…}}`) that XML puts around it.
    pub(super) fn list(self, name: &str, element: &str) -> Option<Vec<Self>> {
        let many = |value: &'a Value| match value {
            Value::Array(list) => list.iter().map(Node).collect(),
            value => vec![Node(value)],
        };
        let value = self.value(name)?;
        let nodes = match Node(value).value(element) {
            Some(inner) => many(inner),
            None if value.is_array() => many(value),
            None if value.is_null() => Vec::new(),
            None => return None,
        };
        Some(
            nodes
                .into_iter()
                .map(|node| node.child(element).unwrap_or(node))
                .collect(),
        )
    }

    /// A scalar inside as text; null and blank are missing.
    pub(super) fn text(self, name: &str) -> Option<String> {
        let text = match self.value(name)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// Reads a body as JSON or XML by its first character; the content type is not to be trusted.
pub(super) fn tree(body: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim();
    match text.as_bytes().first()? {
        b'{' => serde_json::from_str(text).ok(),
        b'<' => xml::tree(text),
        _ => None,
    }
}

/// Whether this can be the id of a call: opaque, 32 characters on every capture, and not always hex.
pub(super) fn is_sid(text: &str) -> bool {
    (8..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Reads `Retry-After` (RFC 9110 §10.2.3), seconds or a date, capped at five minutes; a negative number is taken for the
/// cap. A date is compared with the answer's own `Date`, never with our clock.
pub(super) fn retry_after(header: &str, date: Option<DateTime<Utc>>) -> Option<Duration> {
    let header = header.trim();
    let digits = header.strip_prefix('-').unwrap_or(header);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = header.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs);
        return Some(seconds.min(MAX_RETRY_AFTER));
    }
    let until = crate::time::parse_http_date(header)?;
    let wait = (until - date?).to_std().unwrap_or(Duration::ZERO);
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests;
