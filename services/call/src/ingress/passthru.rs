//! Passthru applets: what the person entered, and how a stream ended.

use std::sync::Arc;

use callbridge_proto::{
    agent::v1::Message,
    id::CallId,
    ingress::v1::{RecordEndRequest, command::Action},
};
use diesel::{ExpressionMethods as _, OptionalExtension as _, PgJsonbExpressionMethods as _, QueryDsl as _};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl};
use serde_json::{Map, Value, json};
use tracing::Instrument as _;

use super::{
    bounded, commands,
    inbound::{self, Arrival, Arrived},
    resolve::{self, Applet, Known, Way},
    session_events::over,
    word,
};
use crate::{
    app::App,
    calls::{
        record::{Note, record_locked},
        state::{End, Event, Outcome, Party, Source},
    },
    error::Error,
    store::{calls::Change, commands as rows, schema::call_events, sessions},
    trace,
};

/// A keypad entry of Exotel has at most 255 keys.
const DIGITS: usize = 255;
const URL_CHARS: usize = 2048;
const DETAIL_CHARS: usize = 256;

/// The edge's id of a request, on the timeline.
const REQUEST_ID: &str = "request_id";
/// Exotel's time of a request, to the second.
const ASKED_AT: &str = "asked_at";

/// What a request asks to be kept.
struct Entry {
    kind: &'static str,
    data: Map<String, Value>,
    /// What an entry of the same request has, where a repeat can be told from news.
    marks: Vec<Value>,
}

/// Keeps what the person entered and passes it to the live agent, if there is one. True: branch B.
///
/// # Errors
/// `NotFound` as for a connect.
pub async fn input(app: &Arc<App>, applet: &Applet, digits: &str, recording_url: &str) -> Result<bool, Error> {
    let digits: String = digits
        .chars()
        .filter(|c| c.is_ascii_digit() || "*#ABCD".contains(*c))
        .take(DIGITS)
        .collect();
    let recording_url = bounded(recording_url, URL_CHARS);
    let mut data = Map::new();
    for (key, value) in [("digits", &digits), ("recording_url", &recording_url)] {
        if !value.is_empty() {
            data.insert(key.to_owned(), value.as_str().into());
        }
    }
    let message = json!({ "input": data }).to_string();
    let entry = entry("input", data, applet);
    let mut conn = app.db.reserved().await?;
    let kept = conn
        .transaction::<_, Error, _>(async |conn| {
            let account = resolve::account(conn, applet.account, applet.generation).await?;
            let id = match (
                resolve::find(conn, &account, applet).await?,
                applet.way,
                applet.call_sid.as_deref(),
            ) {
                (Some(id), _, _) => id,
                // A menu before the agent: this is the first that is heard of the call.
                (None, Way::Incoming, Some(call_sid)) => {
                    let (customer, phone) = (&applet.customer, &applet.phone);
                    let arrival = Arrival {
                        call_sid,
                        customer,
                        phone,
                        source: "passthru",
                        facts: &applet.facts,
                    };
                    match inbound::arrive(conn, app, &account, arrival).await? {
                        Arrived::Call(id) => id,
                        Arrived::Refused(id) => return Ok((Some(id), None)),
                    }
                }
                (None, Way::Incoming | Way::Outbound | Way::Unknown, _) => return Ok((None, None)),
            };
            let Some(known) = resolve::lock(conn, id, applet.call_sid.as_deref(), "passthru").await? else {
                return Ok((Some(id), None));
            };
            if let Some(branch_b) = repeated(conn, id, &entry).await? {
                return Ok((Some(id), Some((branch_b, None))));
            }
            let branch_b = known.call.branch_b;
            let known = write(conn, known, &entry, branch_b, Change::default()).await?;
            let message = Action::Message(Message { json: message });
            let queued = match commands::queue(conn, app, known.call, known.now, message, "passthru").await {
                Ok(queued) => Some(queued),
                // Nobody is there to hear it; it is on the timeline.
                Err(Error::Precondition { .. } | Error::Exhausted { .. }) => None,
                Err(error) => return Err(error),
            };
            Ok((Some(id), Some((branch_b, queued))))
        })
        .instrument(trace::finding("record_input"))
        .await?;
    let (touched, answer) = kept;
    if let Some(id) = touched {
        app.hub.committed(id);
    }
    let (branch_b, queued) = answer.ok_or_else(resolve::unknown)?;
    if let Some(queued) = queued {
        queued.wake(app);
    }
    Ok(branch_b)
}

/// Keeps how a stream ended, and that the person hung up where the request says so. True: branch B.
///
/// # Errors
/// `NotFound` as for a connect.
pub async fn end(app: &Arc<App>, applet: &Applet, request: &RecordEndRequest) -> Result<bool, Error> {
    let ending = Ending::read(request);
    let entry = entry("stream_ended", ending.data(request), applet);
    let mut conn = app.db.reserved().await?;
    let (touched, answer) = conn
        .transaction::<_, Error, _>(async |conn| {
            let account = resolve::account(conn, applet.account, applet.generation).await?;
            let Some(id) = resolve::find(conn, &account, applet).await? else {
                return Ok((None, None));
            };
            let Some(known) = resolve::lock(conn, id, applet.call_sid.as_deref(), "passthru").await? else {
                return Ok((Some(id), None));
            };
            if let Some(branch_b) = repeated(conn, id, &entry).await? {
                return Ok((Some(id), Some(branch_b)));
            }
            let branch_b = known.call.branch_b;
            let recording_url = ending
                .recording_url
                .clone()
                .filter(|_| known.call.recording_url.is_none());
            let change = Change {
                recording_url,
                ..Change::default()
            };
            let known = write(conn, known, &entry, branch_b, change).await?;
            let Known { call, now, .. } = end_session(conn, known, &ending).await?;
            if request.customer_hung_up {
                let end = End {
                    by: Some(Party::Customer),
                    ..End::new(Outcome::Completed)
                };
                let event = Event::Ended(Source::Passthru, end);
                record_locked(conn, call, now, Some(&event), None, Note::from("passthru")).await?;
            }
            Ok((Some(id), Some(branch_b)))
        })
        .instrument(trace::finding("record_end"))
        .await?;
    if let Some(id) = touched {
        app.hub.committed(id);
    }
    answer.ok_or_else(resolve::unknown)
}

fn entry(kind: &'static str, mut data: Map<String, Value>, applet: &Applet) -> Entry {
    data.extend(applet.facts.clone());
    let mut marks = Vec::new();
    // A stream ends once, so a second request about its end may come later. What else Exotel repeats, it sends with the
    // same time.
    if data.contains_key("stream_sid") {
        let mut ended = data.clone();
        ended.remove(ASKED_AT);
        marks.push(Value::Object(ended));
    } else if data.contains_key(ASKED_AT) {
        marks.push(Value::Object(data.clone()));
    }
    if let Some(id) = &applet.request_id {
        marks.push(json!({ REQUEST_ID: id }));
        data.insert(REQUEST_ID.to_owned(), id.as_str().into());
    }
    Entry { kind, data, marks }
}

/// Whether the same request was kept before, and the branch that was answered then.
async fn repeated(conn: &mut AsyncPgConnection, id: CallId, entry: &Entry) -> Result<Option<bool>, Error> {
    for mark in &entry.marks {
        let data: Option<Value> = call_events::table
            .filter(call_events::call_id.eq(id.0))
            .filter(call_events::kind.eq(entry.kind))
            .filter(call_events::data.contains(mark))
            .select(call_events::data)
            .first(conn)
            .await
            .optional()?;
        if let Some(data) = data {
            return Ok(Some(data["branch"] == "b"));
        }
    }
    Ok(None)
}

/// Puts the entry onto the timeline and takes the branch off the row: it holds for one Passthru.
async fn write(
    conn: &mut AsyncPgConnection,
    known: Known,
    entry: &Entry,
    branch_b: bool,
    change: Change,
) -> Result<Known, Error> {
    let change = Change {
        call_sid: known.sid.clone(),
        branch_b: branch_b.then_some(false),
        ..change
    };
    let mut note = Note::from("passthru").changing(change);
    note.data.clone_from(&entry.data);
    let note = note.with("branch", if branch_b { "b" } else { "a" });
    let Known { mut call, now, .. } = known;
    (call, _) = record_locked(conn, call, now, Some(&Event::Seen), None, Note::from("passthru")).await?;
    (call, _) = record_locked(conn, call, now, None, Some(entry.kind), note).await?;
    Ok(Known { call, now, sid: None })
}

/// What the request says about a stream.
struct Ending {
    stream_sid: Option<String>,
    by: Party,
    /// Whether the request is about a stream at all: after a Connect applet it is not.
    of_a_stream: bool,
    reason: String,
    recording_url: Option<String>,
}

impl Ending {
    fn read(request: &RecordEndRequest) -> Self {
        let by = Party::from_word(&request.disconnected_by).unwrap_or(Party::Provider);
        let status = word(&request.stream_status);
        Self {
            stream_sid: resolve::sid(&request.stream_sid).map(str::to_owned),
            by,
            of_a_stream: !status.is_empty(),
            reason: if status.is_empty() {
                "stream_ended".to_owned()
            } else {
                format!("stream_{status}")
            },
            recording_url: (!request.recording_url.is_empty()).then(|| bounded(&request.recording_url, URL_CHARS)),
        }
    }

    fn data(&self, request: &RecordEndRequest) -> Map<String, Value> {
        let mut data = Map::new();
        let mut put = |key: &str, value: String| {
            if !value.is_empty() {
                data.insert(key.to_owned(), value.into());
            }
        };
        put("stream_sid", self.stream_sid.clone().unwrap_or_default());
        put("status", word(&request.stream_status));
        put("by", word(&request.disconnected_by));
        put("detail", bounded(&request.detail, DETAIL_CHARS));
        if request.duration_seconds > 0 {
            put("duration_seconds", request.duration_seconds.to_string());
        }
        if request.customer_hung_up {
            put("hung_up_by", Party::Customer.word().to_owned());
        }
        data
    }
}

/// Ends the session of the stream, where the edge has not said how it ended yet.
async fn end_session(conn: &mut AsyncPgConnection, known: Known, ending: &Ending) -> Result<Known, Error> {
    let session = match &ending.stream_sid {
        Some(stream_sid) => sessions::by_stream(conn, stream_sid)
            .await?
            .filter(|session| session.call_id == known.call.id),
        None if ending.of_a_stream => sessions::live(conn, known.call.id()).await?,
        None => None,
    };
    let Some(session) = session else { return Ok(known) };
    if let Some(url) = &ending.recording_url
        && known.call.blanked_at.is_none()
    {
        sessions::set_recording(conn, session.id(), url).await?;
    }
    // A session that is waiting for its start has no end to speak of.
    if session.started_at.is_none() || (session.ended_at.is_some() && !session.end_presumed) {
        return Ok(known);
    }
    let by = ending.by.word();
    if sessions::end(conn, session.id(), by, &ending.reason, session.quality.clone(), false).await? {
        rows::abandon(conn, session.id()).await?;
        let note = Note::from("passthru")
            .with("by", by)
            .with("reason", ending.reason.as_str());
        let call = over(conn, known.call, known.now, session.id(), known.now, ending.by, note).await?;
        return Ok(Known {
            call,
            now: known.now,
            sid: None,
        });
    }
    Ok(known)
}
