//! Dialling: one POST, sent at most once, and a verdict on whether somebody's phone may ring.

use super::answer::{Node, Refusal, Rejection, is_sid};
use super::endpoint::{Endpoint, EndpointError, segment};
use super::span::{self, Operation};
use super::{Answer, Client, Credentials, DIAL_BODY, Failure, authorize, exchange};
use crate::number::PhoneNumber;
use crate::time::parse_naive;
use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use reqwest::header::HeaderMap;
use std::time::{Duration, Instant};
use tracing::Instrument as _;

/// Longest call that Exotel takes, in seconds; a longer limit is cut to it.
const MAX_TIME_LIMIT_S: u32 = 14_400;
/// Longest `CustomField`, in characters.
const MAX_CUSTOM_FIELD: usize = 128;
/// Longest `StreamUrl`, in characters.
const MAX_STREAM_URL: usize = 599;

/// One outbound call. `Debug` shows neither numbers nor capabilities.
#[derive(Clone)]
pub struct Dial {
    /// Whom to call.
    pub customer: PhoneNumber,
    /// The ExoPhone to call from.
    pub caller_id: PhoneNumber,
    /// What happens once the customer answers.
    pub mode: Mode,
    /// Comes back on callbacks and applet requests; at most 128 characters.
    pub custom_field: String,
    /// Where status callbacks go. A capability: never for logs.
    pub status_callback: String,
    /// Seconds after which Exotel cuts the call; at most 14400.
    pub time_limit_s: u32,
    /// Seconds to ring.
    pub ring_timeout_s: u32,
    /// Whether Exotel records the call.
    pub record: bool,
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dial")
            .field("customer", &self.customer)
            .field("caller_id", &self.caller_id)
            .field("mode", &self.mode)
            .field("custom_field", &self.custom_field)
            .field("time_limit_s", &self.time_limit_s)
            .field("ring_timeout_s", &self.ring_timeout_s)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// What happens once the customer answers.
#[derive(Clone, PartialEq, Eq)]
pub enum Mode {
    /// A flow runs, which has a Voicebot applet in it.
    Flow {
        /// The flow's id in the dashboard.
        app_id: String,
    },
    /// A WebSocket opens at once; has to be enabled for the account.
    Stream {
        /// The socket, `wss://…`. A capability: never for logs.
        url: String,
    },
}

impl std::fmt::Debug for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flow { app_id } => f.debug_struct("Flow").field("app_id", app_id).finish(),
            Self::Stream { .. } => f.debug_struct("Stream").finish_non_exhaustive(),
        }
    }
}

/// What is known about a dial afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialOutcome {
    /// Nothing was sent; the dial may be repeated.
    NotSent {
        /// `dns`, `tcp`, `tls`, `connect_timeout`, or what is wrong with the settings.
        reason: String,
    },
    /// Exotel refused, in so many words; nobody's phone rings.
    Rejected {
        /// The kind of refusal.
        kind: Rejection,
        /// The HTTP status and Exotel's code, such as `403/340030`.
        provider_code: String,
        /// How long to wait, at most five minutes.
        retry_after: Option<Duration>,
    },
    /// Exotel took the call. Nobody has answered yet.
    Placed {
        /// Exotel's id of the call.
        call_sid: String,
    },
    /// A phone may ring. Never to be repeated.
    Unknown {
        /// A stable machine word: `timeout`, `connection_lost`, `server_error`, `redirect`, `unreadable_answer`, …
        reason: String,
    },
}

impl DialOutcome {
    /// A stable machine word: `not_sent`, `rejected`, `placed` or `unknown`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotSent { .. } => "not_sent",
            Self::Rejected { .. } => "rejected",
            Self::Placed { .. } => "placed",
            Self::Unknown { .. } => "unknown",
        }
    }

    fn unknown(reason: &str) -> Self {
        Self::Unknown {
            reason: reason.to_owned(),
        }
    }
}

/// A dial's outcome and what its answer told besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialReport {
    /// What is known.
    pub outcome: DialOutcome,
    /// The answer's HTTP status, where there was one.
    pub http_status: Option<u16>,
    /// The answer's `Date`.
    pub server_date: Option<DateTime<Utc>>,
    /// `DateCreated` as printed, without a zone; together with `server_date` it tells the account's UTC offset.
    pub date_created: Option<NaiveDateTime>,
    /// How long the request took, on the monotonic clock.
    pub elapsed: Duration,
}

impl Client {
    /// Dials once. Never sends a second request, whatever happens.
    ///
    /// The future must run to its end: dropping it leaves a call that may have been placed.
    pub async fn connect(&self, credentials: &Credentials, dial: &Dial) -> DialReport {
        self.dial(&self.dialer, credentials, dial).await
    }

    /// The same with [`Limits::connect_soon`](super::Limits): a dial that cannot begin soon is not sent.
    pub async fn connect_soon(&self, credentials: &Credentials, dial: &Dial) -> DialReport {
        self.dial(&self.hasty, credentials, dial).await
    }

    async fn dial(&self, dialer: &reqwest::Client, credentials: &Credentials, dial: &Dial) -> DialReport {
        let span = Operation::Connect.span(credentials);
        let begin = Instant::now();
        let mut report = attempt(dialer, credentials, dial).instrument(span.clone()).await;
        report.elapsed = begin.elapsed();
        span::record(&span, report.http_status, report.outcome.word());
        report
    }
}

async fn attempt(dialer: &reqwest::Client, credentials: &Credentials, dial: &Dial) -> DialReport {
    let url = Endpoint::parse(&credentials.subdomain)
        .and_then(|endpoint| endpoint.url(&credentials.sid, &["Calls", "connect.json"]));
    let (url, form) = match (url, dial.form(&credentials.sid)) {
        (Ok(url), Ok(form)) => (url, form),
        (Err(error), _) => return DialReport::not_sent(endpoint_reason(&error)),
        (_, Err(reason)) => return DialReport::not_sent(reason),
    };
    let request = authorize(dialer.post(url).form(&form), credentials);
    match exchange(request, DIAL_BODY).await {
        Ok(answer) => DialReport::read(&answer),
        Err(Failure {
            reason, not_sent: true, ..
        }) => DialReport::not_sent(reason),
        Err(Failure {
            reason, status, date, ..
        }) => DialReport {
            http_status: status,
            server_date: date,
            ..DialReport::new(DialOutcome::unknown(reason))
        },
    }
}

fn endpoint_reason(error: &EndpointError) -> &'static str {
    match error {
        EndpointError::Segment(_) => "bad_account_sid",
        _ => "bad_subdomain",
    }
}

impl Dial {
    /// The parameters, in Exotel's words.
    fn form(&self, sid: &str) -> Result<Vec<(&'static str, String)>, &'static str> {
        if self.custom_field.chars().count() > MAX_CUSTOM_FIELD {
            return Err("custom_field_too_long");
        }
        let mut form = vec![
            ("From", self.customer.expose().to_owned()),
            // Exotel's own code converts the caller id, and only it, to the national form.
            ("CallerId", self.caller_id.national()),
        ];
        match &self.mode {
            Mode::Flow { app_id } => {
                let app_id = segment(app_id, "app id").map_err(|_| "bad_app_id")?;
                form.push(("Url", format!("http://my.exotel.com/{sid}/exoml/start_voice/{app_id}")));
                form.push(("CallType", "trans".to_owned()));
            }
            Mode::Stream { url } => {
                if url.chars().count() > MAX_STREAM_URL {
                    return Err("stream_url_too_long");
                }
                form.push(("StreamUrl", url.clone()));
                form.push(("StreamType", "bidirectional".to_owned()));
            }
        }
        form.extend([
            ("TimeLimit", self.time_limit_s.clamp(1, MAX_TIME_LIMIT_S).to_string()),
            ("TimeOut", self.ring_timeout_s.max(1).to_string()),
            ("CustomField", self.custom_field.clone()),
            ("StatusCallback", self.status_callback.clone()),
            // Of the four spellings that were seen, the one that production systems use.
            ("StatusCallbackEvents[0]", "terminal".to_owned()),
            ("StatusCallbackEvents[1]", "answered".to_owned()),
            ("StatusCallbackContentType", "application/json".to_owned()),
            ("Record", self.record.to_string()),
        ]);
        Ok(form)
    }
}

impl DialReport {
    fn new(outcome: DialOutcome) -> Self {
        Self {
            outcome,
            http_status: None,
            server_date: None,
            date_created: None,
            elapsed: Duration::ZERO,
        }
    }

    fn not_sent(reason: &'static str) -> Self {
        Self::new(DialOutcome::NotSent {
            reason: reason.to_owned(),
        })
    }

    /// Judges a complete answer to a dial: its HTTP status, its headers and its whole body.
    pub fn judge(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self::read(&Answer::new(status, headers, body))
    }

    fn read(answer: &Answer) -> Self {
        let tree = answer.tree();
        let call = tree.as_ref().and_then(|tree| Node::root(tree).child("Call"));
        let outcome = match answer.status {
            200 | 201 => match call.and_then(|call| call.text("Sid")).filter(|sid| is_sid(sid)) {
                Some(call_sid) => DialOutcome::Placed { call_sid },
                None => DialOutcome::unknown("unreadable_answer"),
            },
            400..=404 | 429 => match answer.refusal() {
                Some(Refusal { kind, provider_code }) => DialOutcome::Rejected {
                    kind,
                    provider_code,
                    retry_after: answer.retry_after(),
                },
                None => DialOutcome::unknown("unreadable_refusal"),
            },
            300..=399 => DialOutcome::unknown("redirect"),
            500..=599 => DialOutcome::unknown("server_error"),
            _ => DialOutcome::unknown("unexpected_status"),
        };
        Self {
            outcome,
            http_status: Some(answer.status),
            server_date: answer.date,
            date_created: call
                .and_then(|call| call.text("DateCreated"))
                .and_then(|text| parse_naive(&text)),
            elapsed: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    fn dial(mode: Mode) -> Dial {
        Dial {
            customer: PhoneNumber::parse("+919812345678").unwrap(),
            caller_id: PhoneNumber::parse("+918040000155").unwrap(),
            mode,
            custom_field: "call_1.ABC".into(),
            status_callback: "https://h/api/v1/exotel/voice/status/TOK".into(),
            time_limit_s: 99_999,
            ring_timeout_s: 30,
            record: false,
        }
    }

    fn wire(dial: &Dial) -> String {
        let form = dial.form("acme1").unwrap();
        form.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn forms() {
        assert_snapshot!(wire(&dial(Mode::Flow { app_id: "45195".into() })), @r"
        From=+919812345678
        CallerId=08040000155
        Url=http://my.exotel.com/acme1/exoml/start_voice/45195
        CallType=trans
        TimeLimit=14400
        TimeOut=30
        CustomField=call_1.ABC
        StatusCallback=https://h/api/v1/exotel/voice/status/TOK
        StatusCallbackEvents[0]=terminal
        StatusCallbackEvents[1]=answered
        StatusCallbackContentType=application/json
        Record=false
        ");
        assert_snapshot!(wire(&dial(Mode::Stream { url: "wss://h/ws/exotel/voice/call_1/TOK".into() })), @r"
        From=+919812345678
        CallerId=08040000155
        StreamUrl=wss://h/ws/exotel/voice/call_1/TOK
        StreamType=bidirectional
        TimeLimit=14400
        TimeOut=30
        CustomField=call_1.ABC
        StatusCallback=https://h/api/v1/exotel/voice/status/TOK
        StatusCallbackEvents[0]=terminal
        StatusCallbackEvents[1]=answered
        StatusCallbackContentType=application/json
        Record=false
        ");
    }

    #[test]
    fn what_exotel_would_refuse_is_not_sent() {
        let refused = |dial: Dial| dial.form("acme1").unwrap_err();
        let flow = || dial(Mode::Flow { app_id: "1".into() });
        assert_eq!(
            refused(Dial {
                custom_field: "x".repeat(129),
                ..flow()
            }),
            "custom_field_too_long"
        );
        assert_eq!(refused(dial(Mode::Flow { app_id: "1/2".into() })), "bad_app_id");
        assert_eq!(
            refused(dial(Mode::Stream { url: "w".repeat(600) })),
            "stream_url_too_long"
        );
    }

    #[test]
    fn printing_shows_no_numbers_and_no_urls() {
        for mode in [
            Mode::Stream {
                url: "wss://h/TOK".into(),
            },
            Mode::Flow { app_id: "45195".into() },
        ] {
            let dial = dial(mode);
            let shown = format!("{dial:?}\n{dial:#?}");
            for secret in ["9812345678", "8040000155", "TOK"] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
    }
}
