//! AgentStream's start: a session begins, once, on the call that it says it is.

use std::sync::Arc;

use callbridge_proto::{
    agent::v1::{self as agent_api, Start},
    id::{AccountId, CallId, EdgeId, MediaSessionId},
    ingress::v1::StartSessionResponse,
};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::Caller;
use prost_types::Timestamp;
use serde_json::Map;
use tracing::{Instrument as _, warn};

use super::{
    attach,
    inbound::{self, Arrival, Arrived},
    resolve::{self, Applet, Identity, Touched, Way},
    sockets,
};
use crate::{
    app::App,
    calls::{
        record::{Note, record_locked},
        state::{Direction, Event},
    },
    diagnosis::{KeyCase, Query},
    directory::phone::audio,
    error::Error,
    store::{
        accounts::{self, Account},
        calls::{self, Call, Change},
        phones::{self, Phone},
        recordings,
        sessions::{self, Session, Started},
    },
    trace,
};

/// What Exotel says at the start of a stream.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The edge process.
    pub edge: EdgeId,
    /// How the socket was opened.
    pub door: Door,
    /// Exotel's id of the stream.
    pub stream_sid: String,
    /// Exotel's id of the call.
    pub call_sid: Option<String>,
    /// Exotel's name of the account; empty when it says none.
    pub account_sid: String,
    /// One end.
    pub from: Caller,
    /// The other end.
    pub to: Caller,
    /// Our id, out of the custom parameters.
    pub call_id: Option<CallId>,
    /// How the stream is written, for the timeline.
    pub line: Line,
}

/// How a stream is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    /// Samples per second.
    pub sample_rate: u32,
    /// How keys are written.
    pub key_case: Option<KeyCase>,
    /// Where the query of a diagnosis came.
    pub query: Option<Query>,
}

/// How a socket was opened.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    /// With the one-time token of a session, by the claim of this number.
    Claimed(MediaSessionId, i64),
    /// With an account's token of this generation, on the static path.
    Static(AccountId, u32),
}

/// None is a refusal, which is committed with what it left on the row.
type Begun = Option<StartSessionResponse>;

/// Starts a session. A repeat by the same edge for the same stream gets the same answer: the first one may have been lost.
///
/// # Errors
/// `NotFound`, or Precondition with reason `MEDIA_REFUSED`: another socket owns or started the session, the start names another
/// call, or no audio may start on this one.
pub async fn begin(app: &Arc<App>, opening: &Opening) -> Result<StartSessionResponse, Error> {
    let mut conn = app.db.reserved().await?;
    let mut touched = Touched::default();
    let begun = conn
        .transaction::<_, Error, _>(async |conn| match opening.door {
            Door::Claimed(session, claim) => claimed(conn, app, opening, session, claim, &mut touched).await,
            Door::Static(account, generation) => {
                let account = resolve::account(conn, account, generation).await?;
                static_socket(conn, app, opening, &account, &mut touched).await
            }
        })
        .instrument(trace::finding("start_session"))
        .await;
    let begun = match begun {
        Ok(begun) => begun,
        // Two sockets that start the same stream at the same moment: one of them does.
        Err(error) if error.is_unique_violation("media_sessions_stream_sid_key") => return Err(refused()),
        Err(error) => return Err(error),
    };
    touched.tell(app);
    begun.ok_or_else(refused)
}

fn refused() -> Error {
    Error::precondition(
        "MEDIA_REFUSED",
        "the socket is not the one that this call waits for: close it with 1008",
    )
}

async fn claimed(
    conn: &mut AsyncPgConnection,
    app: &App,
    opening: &Opening,
    session: MediaSessionId,
    claim: i64,
    touched: &mut Touched,
) -> Result<Begun, Error> {
    let missing = || Error::not_found("media session", session);
    let id = sessions::find(conn, session).await?.ok_or_else(missing)?.call_id();
    let (call, now) = calls::lock(conn, id).await?.ok_or_else(missing)?;
    trace::follow(&call);
    touched.add(id);
    let account = accounts::find(conn, AccountId(call.account_id))
        .await?
        .ok_or_else(missing)?;
    if let Some(session) = earlier(conn, opening).await? {
        let (phone, record) = (phone_of(conn, &call).await?, session.recording.state.is_some());
        return answer(conn, call, now, session.id(), phone, record).await.map(Some);
    }
    let Some((call, sid)) = checked(conn, call, now, &account, opening).await? else {
        return Ok(None);
    };
    let Some(call) = answered(conn, call, now, sid).await? else {
        return Ok(None);
    };
    let lease = attach::lease(app);
    if !sessions::begin(conn, session, opening.edge, claim, &opening.stream_sid, lease).await? {
        return Ok(None);
    }
    started(conn, call, now, session, opening.line).await.map(Some)
}

async fn static_socket(
    conn: &mut AsyncPgConnection,
    app: &App,
    opening: &Opening,
    account: &Account,
    touched: &mut Touched,
) -> Result<Begun, Error> {
    // Once it has audio, a call may not be found by its numbers again.
    let id = match earlier(conn, opening).await? {
        Some(session) => session.call_id(),
        None => find(conn, app, opening, account, touched)
            .await?
            .ok_or_else(resolve::unknown)?,
    };
    let (call, now) = calls::lock(conn, id).await?.ok_or_else(resolve::unknown)?;
    trace::follow(&call);
    touched.add(id);
    if call.account_id != account.id || resolve::never_dialled(&call) {
        return Err(resolve::unknown());
    }
    // Looked at again under the lock, for which the first try may have made this one wait.
    if let Some(session) = earlier(conn, opening).await? {
        let (phone, record) = (phone_of(conn, &call).await?, session.recording.state.is_some());
        return answer(conn, call, now, session.id(), phone, record).await.map(Some);
    }
    let Some((call, sid)) = checked(conn, call, now, account, opening).await? else {
        return Ok(None);
    };
    let Some(call) = answered(conn, call, now, sid).await? else {
        return Ok(None);
    };
    let session = MediaSessionId(app.clock.new_uuid());
    let row = Started {
        id: session,
        call: id,
        edge: opening.edge,
        stream_sid: &opening.stream_sid,
    };
    sessions::insert_started(conn, &row, attach::lease(app)).await?;
    started(conn, call, now, session, opening.line).await.map(Some)
}

/// Which call a static socket is for: the ids, then a call that we have just dialled between these numbers, then a call of a
/// person to a number of the account.
async fn find(
    conn: &mut AsyncPgConnection,
    app: &App,
    opening: &Opening,
    account: &Account,
    touched: &mut Touched,
) -> Result<Option<CallId>, Error> {
    let clues = Applet {
        account: account.id(),
        generation: 0,
        call_id: opening.call_id,
        verified_call_id: None,
        call_sid: opening.call_sid.clone(),
        customer: opening.from.clone(),
        phone: opening.to.clone(),
        way: Way::Unknown,
        request_id: None,
        facts: Map::new(),
    };
    if let Some(id) = resolve::find(conn, account, &clues).await? {
        return Ok(Some(id));
    }
    let Some(call_sid) = opening.call_sid.as_deref() else {
        return Ok(None);
    };
    let dialled_by_us = inbound::phone(conn, account, &opening.to).await?.is_none()
        && inbound::phone(conn, account, &opening.from).await?.is_some();
    if dialled_by_us {
        return Ok(None);
    }
    let arrival = Arrival {
        call_sid,
        customer: &opening.from,
        phone: &opening.to,
        source: "media",
        facts: &clues.facts,
    };
    match inbound::arrive(conn, app, account, arrival).await? {
        Arrived::Call(id) => Ok(Some(id)),
        // Locked and refused by the caller, which commits its row.
        Arrived::Refused(id) => {
            touched.add(id);
            Ok(Some(id))
        }
    }
}

/// The live session that an earlier try of the same socket began.
async fn earlier(conn: &mut AsyncPgConnection, opening: &Opening) -> Result<Option<Session>, Error> {
    let session = sessions::by_stream(conn, &opening.stream_sid).await?;
    Ok(session.filter(|session| {
        let same_door = match opening.door {
            Door::Claimed(id, claim) => session.id == id.0 && session.claim == claim,
            Door::Static(..) => session.nonce.is_none(),
        };
        same_door && session.edge_id == Some(opening.edge.0) && session.is_live()
    }))
}

/// Compares what the start says with the row. None: it is about another call; that is noted, and the row's own sessions go on.
async fn checked(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    account: &Account,
    opening: &Opening,
) -> Result<Option<(Call, Option<String>)>, Error> {
    let identity = resolve::identity(conn, &call, opening.call_sid.as_deref()).await?;
    let contradiction = if !opening.account_sid.is_empty() && opening.account_sid != account.sid {
        Some("account_sid")
    } else if identity == Identity::Other {
        Some("call_sid")
    } else if opening.call_id.is_some_and(|id| id != call.id()) {
        Some("call_id")
    } else if !resolve::numbers_fit(&call.customer, &call.exophone, &opening.from, &opening.to) {
        Some("numbers")
    } else if sessions::by_stream(conn, &opening.stream_sid).await?.is_some() {
        Some("stream_sid")
    } else {
        None
    };
    if let Some(what) = contradiction {
        warn!(call.id = %call.id(), what, "a socket's start is about another call and is refused");
        if !call.needs_review {
            let review = Change {
                needs_review: Some(true),
                ..Change::default()
            };
            let note = Note::from("media").with("contradiction", what).changing(review);
            record_locked(conn, call, now, None, Some("media_refused"), note).await?;
        }
        return Ok(None);
    }
    let sid = match identity {
        Identity::New(sid) => Some(sid),
        Identity::Fits | Identity::Other => None,
    };
    Ok(Some((call, sid)))
}

/// Keeps that somebody answered, which a start proves even where it is refused. None: no audio may start on the call.
async fn answered(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    sid: Option<String>,
) -> Result<Option<Call>, Error> {
    if !resolve::is_closed(&call) && sid.is_none() {
        return Ok(Some(call));
    }
    let note = Note::from("media").changing(Change {
        call_sid: sid,
        ..Change::default()
    });
    let (call, _) = record_locked(conn, call, now, Some(&Event::Answered), None, note).await?;
    Ok((!resolve::is_closed(&call)).then_some(call))
}

/// Records the start and answers it.
async fn started(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    session: MediaSessionId,
    line: Line,
) -> Result<StartSessionResponse, Error> {
    let mut note = Note::from("media").with("media_session_id", session.to_string());
    if line.sample_rate != 0 {
        note = note.with("sample_rate", line.sample_rate.to_string());
    }
    if let Some(case) = line.key_case {
        note = note.with("key_case", case.word());
    }
    if let Some(query) = line.query {
        note = note.with("query", query.word());
    }
    let (call, _) = record_locked(conn, call, now, Some(&Event::MediaStarted), Some("media_started"), note).await?;
    let phone = phone_of(conn, &call).await?;
    // Of a person who was erased nothing new is kept.
    let record = call.blanked_at.is_none() && phone.as_ref().is_some_and(|phone| phone.record_audio);
    if record {
        recordings::expect(conn, session).await?;
    }
    answer(conn, call, now, session, phone, record).await
}

async fn phone_of(conn: &mut AsyncPgConnection, call: &Call) -> Result<Option<Phone>, Error> {
    Ok(match call.phone_id() {
        Some(id) => phones::find(conn, id).await?,
        None => None,
    })
}

/// All that the session needs.
async fn answer(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    session: MediaSessionId,
    phone: Option<Phone>,
    record_audio: bool,
) -> Result<StartSessionResponse, Error> {
    let agent = sockets::agent(conn, &call).await?;
    let limit = TimeDelta::seconds(call.time_limit_seconds.into());
    let ends_at = call.answered_at.unwrap_or(now) + limit;
    Ok(StartSessionResponse {
        media_session_id: session.to_string(),
        agent_endpoints: sockets::endpoints(&agent)?,
        start: Some(start(&call, session, agent.config.clone())),
        agent_sample_rate: u32::try_from(agent.sample_rate).unwrap_or(8000),
        greeting_sha256: sockets::greeting(&agent),
        traceparent: call.traceparent.unwrap_or_default(),
        ends_at: Some(Timestamp {
            seconds: ends_at.timestamp(),
            nanos: 0,
        }),
        ends_in: Some(prost_types::Duration {
            seconds: (ends_at - now).num_seconds().max(0),
            nanos: 0,
        }),
        audio: phone.and_then(|phone| phone.audio()).map(audio::shown),
        record_audio,
    })
}

fn start(call: &Call, session: MediaSessionId, agent_config: String) -> Start {
    let direction = match call.direction {
        Direction::Outbound => agent_api::Direction::Outbound,
        Direction::Inbound => agent_api::Direction::Inbound,
    };
    let metadata = call.metadata.as_object().into_iter().flatten();
    Start {
        call_id: call.id().to_string(),
        media_session_id: session.to_string(),
        direction: direction.into(),
        customer_number: call.customer.clone(),
        phone_number: call.exophone.clone(),
        agent_config,
        metadata: metadata
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        ..Start::default()
    }
}
