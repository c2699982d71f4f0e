//! Status callbacks: what Exotel posts about a call, in any of its encodings.
//!
//! Three fields (`CallSid`, `Status`, `DateUpdated`) are normal for flow calls, seen live; everything else is optional.
//! Callbacks are unsigned, may repeat, come late and in any order.

use crate::form::{BodyEncoding, BodyError, Fields};
use crate::number::Caller;
use crate::status::{Leg, ProviderStatus, read_seconds, safe_word};
use crate::time::parse_ist;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::fmt;

/// What a callback says has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackEvent {
    /// The call is over.
    Terminal,
    /// Somebody answered. Comes once per leg on two-number calls.
    Answered,
    /// A leg is ringing.
    Ringing,
    /// No event named: the short payload, which is sent at the end of the call.
    Unspecified,
    /// An event that this version does not know.
    Unknown(String),
}

impl CallbackEvent {
    fn read(text: Option<&str>) -> Self {
        let Some(text) = text else { return Self::Unspecified };
        match text.to_ascii_lowercase().as_str() {
            "terminal" => Self::Terminal,
            "answered" => Self::Answered,
            "ringing" => Self::Ringing,
            other => Self::Unknown(safe_word(other)),
        }
    }
}

/// One status callback. `Debug` shows neither numbers nor where the recording is.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusCallback {
    /// Exotel's id of the call.
    pub call_sid: Option<String>,
    /// What happened.
    pub event: CallbackEvent,
    /// The call's state.
    pub status: Option<ProviderStatus>,
    /// One end; which one depends on the kind of call.
    pub from: Option<Caller>,
    /// The other end.
    pub to: Option<Caller>,
    /// The ExoPhone.
    pub phone_number: Option<Caller>,
    /// When the call was created.
    pub date_created: Option<DateTime<Utc>>,
    /// When this state was reached.
    pub date_updated: Option<DateTime<Utc>>,
    /// When the call began.
    pub start_time: Option<DateTime<Utc>>,
    /// When the call ended.
    pub end_time: Option<DateTime<Utc>>,
    /// Seconds both parties talked.
    pub conversation_s: Option<u32>,
    /// `inbound`, `outbound-dial` or `outbound-api`.
    pub direction: Option<String>,
    /// Where the recording is; needs the account's credentials.
    pub recording_url: Option<String>,
    /// What the dial carried; unverified.
    pub custom_field: Option<String>,
    /// The legs, first the one dialled first.
    pub legs: Vec<Leg>,
    /// How the body was coded.
    pub encoding: BodyEncoding,
    fields: Fields,
}

impl fmt::Debug for StatusCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusCallback")
            .field("call_sid", &self.call_sid)
            .field("event", &self.event)
            .field("status", &self.status)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("phone_number", &self.phone_number)
            .field("date_updated", &self.date_updated)
            .field("recorded", &self.recording_url.is_some())
            .field("legs", &self.legs)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl StatusCallback {
    /// Reads a callback's body: form, multipart or JSON, at most 64 KiB and 100 fields; the first value of a key wins.
    pub async fn parse(content_type: Option<&str>, body: Bytes) -> Result<Self, BodyError> {
        let mut fields = Fields::default();
        let encoding = fields.read_body(content_type, body).await?;
        Ok(Self::read(fields, encoding))
    }

    /// The fields as they came, as one flat JSON object, numbers in clear: for the inbox, not for logs.
    pub fn to_json(&self) -> serde_json::Value {
        self.fields.to_json()
    }

    /// Reads what [`StatusCallback::to_json`] wrote, or Exotel's own JSON.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, BodyError> {
        let mut fields = Fields::default();
        fields.read_json(json.to_string().as_bytes())?;
        Ok(Self::read(fields, BodyEncoding::Json))
    }

    fn read(fields: Fields, encoding: BodyEncoding) -> Self {
        let text = |name: &str| fields.get(name).map(str::to_owned);
        let caller = |name: &str| fields.get(name).map(Caller::read);
        let time = |name: &str| fields.get(name).and_then(parse_ist);
        Self {
            call_sid: text("callsid"),
            event: CallbackEvent::read(fields.get("eventtype")),
            status: fields
                .get("status")
                .or_else(|| fields.get("callstatus"))
                .map(ProviderStatus::parse),
            from: caller("from").or_else(|| caller("callfrom")),
            to: caller("to").or_else(|| caller("callto")),
            phone_number: caller("phonenumbersid").or_else(|| caller("phonenumber")),
            date_created: time("datecreated"),
            date_updated: time("dateupdated"),
            start_time: time("starttime"),
            end_time: time("endtime"),
            conversation_s: fields.get("conversationduration").and_then(read_seconds),
            direction: fields.get("direction").map(safe_word),
            recording_url: text("recordingurl"),
            custom_field: text("customfield"),
            legs: Leg::read_all(&fields),
            encoding,
            fields,
        }
    }
}

#[cfg(test)]
mod tests;
