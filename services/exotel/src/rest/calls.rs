//! Reading one call, and trying to end one.

use super::answer::{Node, Rejection, is_sid, tree};
use super::endpoint::{Endpoint, segment};
use super::{Client, Credentials, RestError, span::Operation};
use crate::form::Fields;
use crate::number::Caller;
use crate::status::{Leg, ProviderStatus, read_seconds, safe_word};
use crate::time::{parse_ist, parse_naive};
use chrono::{DateTime, NaiveDateTime, Utc};

/// Which way a call went, in the REST API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// `inbound`
    Inbound,
    /// `outbound-dial`: placed from the dashboard.
    OutboundDial,
    /// `outbound-api`: placed by a program.
    OutboundApi,
    /// A word that this version does not know.
    Unknown(String),
}

impl Direction {
    /// The word as Exotel writes it.
    pub fn word(&self) -> &str {
        match self {
            Self::Inbound => "inbound",
            Self::OutboundDial => "outbound-dial",
            Self::OutboundApi => "outbound-api",
            Self::Unknown(word) => word,
        }
    }

    fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "inbound" | "incoming" => Self::Inbound,
            "outbound-dial" => Self::OutboundDial,
            "outbound-api" => Self::OutboundApi,
            other => Self::Unknown(safe_word(other)),
        }
    }
}

/// A call as Exotel's own records have it. Times, durations and price lag up to 15 minutes. `Debug` shows neither numbers
/// nor where the recording is.
#[derive(Clone, PartialEq, Eq)]
pub struct CallDetails {
    /// Exotel's id.
    pub call_sid: String,
    /// The state.
    pub status: ProviderStatus,
    /// Which way it went.
    pub direction: Option<Direction>,
    /// One end.
    pub from: Caller,
    /// The other end.
    pub to: Caller,
    /// The ExoPhone.
    pub phone_number: Caller,
    /// When it was created, taken for India's time.
    pub date_created: Option<DateTime<Utc>>,
    /// The same as printed, for accounts at another offset.
    pub date_created_naive: Option<NaiveDateTime>,
    /// When it began.
    pub start_time: Option<DateTime<Utc>>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
    /// Seconds in all.
    pub duration_s: Option<u32>,
    /// Seconds both parties talked.
    pub talk_s: Option<u32>,
    /// Decimal text in the account's currency.
    pub price: Option<String>,
    /// Where the recording is; needs the account's credentials.
    pub recording_url: Option<String>,
    /// What the dial carried, where Exotel tells it; unverified.
    pub custom_field: Option<String>,
    /// Human, machine, and so on; lower case.
    pub answered_by: Option<String>,
    /// The legs.
    pub legs: Vec<Leg>,
    /// When Exotel answered, by its own clock: the HTTP `Date`.
    pub server_date: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for CallDetails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallDetails")
            .field("call_sid", &self.call_sid)
            .field("status", &self.status)
            .field("direction", &self.direction)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("phone_number", &self.phone_number)
            .field("date_created", &self.date_created)
            .field("start_time", &self.start_time)
            .field("end_time", &self.end_time)
            .field("duration_s", &self.duration_s)
            .field("talk_s", &self.talk_s)
            .field("price", &self.price)
            .field("recorded", &self.recording_url.is_some())
            .field("answered_by", &self.answered_by)
            .field("legs", &self.legs)
            .field("server_date", &self.server_date)
            .finish_non_exhaustive()
    }
}

impl CallDetails {
    /// Reads the body of an answer about one call, JSON or XML; `server_date` is the answer's `Date`.
    pub fn parse(body: &[u8], server_date: Option<DateTime<Utc>>) -> Option<Self> {
        let tree = tree(body)?;
        Self::read(Node::root(&tree).child("Call")?, server_date)
    }

    pub(super) fn read(call: Node<'_>, server_date: Option<DateTime<Utc>>) -> Option<Self> {
        let caller = |name: &str| Caller::read(&call.text(name).unwrap_or_default());
        let time = |name: &str| call.text(name).and_then(|text| parse_ist(&text));
        let seconds = |node: Node<'_>, name: &str| node.text(name).and_then(|text| read_seconds(&text));
        let details = call.child("Details");
        let talk_s = details.and_then(|details| seconds(details, "ConversationDuration"));
        Some(Self {
            call_sid: call.text("Sid").filter(|sid| is_sid(sid))?,
            status: ProviderStatus::parse(&call.text("Status")?),
            direction: call.text("Direction").map(|text| Direction::read(&text)),
            from: caller("From"),
            to: caller("To"),
            phone_number: caller("PhoneNumberSid"),
            date_created: time("DateCreated"),
            date_created_naive: call.text("DateCreated").and_then(|text| parse_naive(&text)),
            start_time: time("StartTime"),
            end_time: time("EndTime"),
            duration_s: seconds(call, "Duration"),
            talk_s: talk_s.or_else(|| seconds(call, "ConversationDuration")),
            price: call.text("Price").filter(|price| is_decimal(price)),
            recording_url: call.text("RecordingUrl"),
            custom_field: call.text("CustomField"),
            answered_by: call
                .text("AnsweredBy")
                .map(|text| safe_word(&text.to_ascii_lowercase())),
            legs: details.map(read_legs).unwrap_or_default(),
            server_date,
        })
    }
}

fn is_decimal(text: &str) -> bool {
    text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-')) && !text.is_empty()
}

/// Legs with their durations in a list, and their states beside it as `Leg1Status` and `Leg2Status`.
fn read_legs(details: Node<'_>) -> Vec<Leg> {
    let mut fields = Fields::default();
    if fields.read_json(details.0.to_string().as_bytes()).is_err() {
        return Vec::new();
    }
    let mut legs = Leg::read_all(&fields);
    for (index, leg) in legs.iter_mut().enumerate() {
        let beside = fields
            .get(&format!("leg{}status", index + 1))
            .map(ProviderStatus::parse);
        leg.status = leg.status.take().or(beside);
    }
    legs
}

/// What came of trying to end a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HangUp {
    /// Exotel took the request. Only a callback or a read tells whether the call ended.
    Accepted,
    /// Exotel did not: expected, since no hang-up is documented.
    NotSupported {
        /// The HTTP status.
        http_status: u16,
    },
}

impl Client {
    /// Reads one call.
    pub async fn call(&self, credentials: &Credentials, call_sid: &str) -> Result<CallDetails, RestError> {
        let file = format!("{}.json", segment(call_sid, "call sid")?);
        let query = [("details", "true".to_owned())];
        let answer = self
            .get(
                credentials,
                Operation::Call.span(credentials),
                &["Calls", &file],
                &query,
            )
            .await?;
        CallDetails::parse(&answer.body, answer.date).ok_or(RestError::Unreadable("a call"))
    }

    /// Tries to end a call. Undocumented, so a refusal is an ordinary answer; wrong credentials and too many requests
    /// stay errors.
    pub async fn hang_up(&self, credentials: &Credentials, call_sid: &str) -> Result<HangUp, RestError> {
        let file = format!("{}.json", segment(call_sid, "call sid")?);
        let url = Endpoint::parse(&credentials.subdomain)?.url(&credentials.sid, &["Calls", &file])?;
        let request = self.reader.post(url).form(&[("Status", "completed")]);
        match self
            .read(credentials, request, Operation::HangUp.span(credentials))
            .await
        {
            Ok(_) => Ok(HangUp::Accepted),
            Err(RestError::Status(http_status @ 400..=499)) => Ok(HangUp::NotSupported { http_status }),
            Err(RestError::Refused {
                kind: Rejection::BadParameter,
                ..
            }) => Ok(HangUp::NotSupported { http_status: 400 }),
            Err(RestError::Refused {
                kind: Rejection::NotFound,
                ..
            }) => Ok(HangUp::NotSupported { http_status: 404 }),
            Err(error) => Err(error),
        }
    }
}
