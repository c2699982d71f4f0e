//! In which of its ways Exotel behaves for an account, read off the rows of one call. No IO.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::{events::Event, sessions::Session};

/// What a call showed, as `phones.variants` keeps it. What was not seen is none. A word of a later release is none too (F40).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Variants {
    /// When it was seen.
    pub seen_at: DateTime<Utc>,
    /// How the keys of the audio socket's messages are written.
    pub key_case: Option<KeyCase>,
    /// Samples per second on the audio socket.
    pub sample_rate: Option<u32>,
    /// Bytes of audio in a message: the mean.
    pub chunk_bytes: Option<u32>,
    /// What becomes of the query of a socket's URL.
    pub query: Option<Query>,
    /// How status callbacks come.
    pub callback: Option<Callback>,
    /// The account's clock, in minutes east of UTC.
    pub utc_offset_minutes: Option<i32>,
}

impl Default for Variants {
    fn default() -> Self {
        Self {
            seen_at: DateTime::UNIX_EPOCH,
            key_case: None,
            sample_rate: None,
            chunk_bytes: None,
            query: None,
            callback: None,
            utc_offset_minutes: None,
        }
    }
}

/// How keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyCase {
    /// `stream_sid`.
    Snake,
    /// `streamSid`.
    Camel,
}

/// What becomes of the query of a socket's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// It is part of the handshake.
    Kept,
    /// Its pairs are custom parameters.
    Parameters,
    /// Nothing is heard of it.
    Dropped,
}

/// How status callbacks come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// How the body is coded.
    pub encoding: Encoding,
    /// Whether it tells more than call, status and time.
    pub full: bool,
}

/// How a callback's body is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// `multipart/form-data`.
    Multipart,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// `application/json`.
    Json,
}

impl KeyCase {
    /// The word on a timeline.
    pub fn word(self) -> &'static str {
        match self {
            Self::Snake => "snake",
            Self::Camel => "camel",
        }
    }
}

impl Query {
    /// The word on a timeline.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Parameters => "parameters",
            Self::Dropped => "dropped",
        }
    }
}

impl Variants {
    /// What the rows of one call show: its events in order, its sessions, and the offset that its account's clock is known to have.
    pub fn of(events: &[Event], sessions: &[Session], utc_offset_minutes: Option<i32>, now: DateTime<Utc>) -> Self {
        let facts = events.iter().rev().find(|event| event.kind == "media_started");
        let fact = |name: &str| facts.and_then(|event| text(&event.data, name));
        // A diagnosis's URL has a query: where an edge that looks, which tells of keys too, met it nowhere, it was dropped.
        let query = match (fact("query").as_deref(), fact("key_case")) {
            (Some("kept"), _) => Some(Query::Kept),
            (Some("parameters"), _) => Some(Query::Parameters),
            (_, looked) => looked.map(|_| Query::Dropped),
        };
        Self {
            seen_at: now,
            key_case: fact("key_case").and_then(|word| match word.as_str() {
                "snake" => Some(KeyCase::Snake),
                "camel" => Some(KeyCase::Camel),
                _ => None,
            }),
            sample_rate: fact("sample_rate").and_then(|rate| rate.parse().ok()),
            chunk_bytes: sessions.iter().find_map(|session| chunk(&session.quality)),
            query,
            callback: callback(events),
            utc_offset_minutes,
        }
    }

    /// For the column.
    pub fn kept(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn text(data: &Value, name: &str) -> Option<String> {
    data.get(name).and_then(Value::as_str).map(str::to_owned)
}

fn chunk(quality: &Value) -> Option<u32> {
    let count = |name: &str| quality.get(name).and_then(Value::as_u64);
    let (bytes, frames) = (count("bytes_in")?, count("frames_in")?);
    let mean = bytes.checked_div(frames)?;
    u32::try_from(mean).ok()
}

/// Of several callbacks the one that tells most counts.
fn callback(events: &[Event]) -> Option<Callback> {
    let callbacks = events.iter().filter(|event| event.source == "callback");
    callbacks
        .filter_map(|event| {
            let encoding = match text(&event.data, "encoding")?.as_str() {
                "multipart" => Encoding::Multipart,
                "form" => Encoding::Form,
                "json" => Encoding::Json,
                _ => return None,
            };
            Some(Callback {
                encoding,
                full: text(&event.data, "fields")? == "full",
            })
        })
        .max_by_key(|callback| callback.full)
}

#[cfg(test)]
mod tests;
