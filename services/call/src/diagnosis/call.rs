//! Places one call and watches what becomes of it. It decides only when it has seen enough.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use callbridge_proto::id::{AccountId, CallId, PhoneId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use exotel::PhoneNumber;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::{
    MARK, Request,
    check::{Agent, Audio, End, Placed, Seen},
    turn,
};
use crate::{
    app::App,
    calls::{end, place, read_back, request, state::State},
    error::Error,
    store::{
        calls::{self, Call},
        events::{self, Event},
        phones::{DialMode, Phone},
        sessions::{self, Session},
    },
};

/// A person needs so long to get to the phone, in seconds.
const RING: u32 = 40;
/// Beyond what is looked at; ends a call that nothing else ends, in seconds.
const TIME_LIMIT: u32 = 60;
/// How long a call may wait for its turn to be dialled.
const QUEUE: TimeDelta = TimeDelta::seconds(60);
/// From the placing until there is audio, or an end.
const UNTIL_AUDIO: Duration = Duration::from_secs(150);
/// From the audio until the agent has answered: the edge tries for eight seconds (`EDGE_AGENT_SECONDS`).
const UNTIL_AGENT: Duration = Duration::from_secs(10);
/// How long the audio is listened to.
const LISTEN: Duration = Duration::from_secs(3);
/// From our leave until the session's counters are there.
const COUNTERS: Duration = Duration::from_secs(10);
/// From our leave until the call's end is known: callbridge asks Exotel after 2 and 10 seconds itself.
const UNTIL_END: Duration = Duration::from_secs(15);
/// How long a callback may be late.
const CALLBACK: Duration = Duration::from_secs(5);
/// The rows are looked at so often even when nothing wakes us.
const POLL: Duration = Duration::from_secs(1);
/// A diagnosis's timeline is shorter.
const EVENTS: i64 = 200;

/// Places the call, watches it, and ends it, whatever happens: when nobody watches any more, which `gone` tells, and when the
/// database failed in between.
///
/// # Errors
/// Of the database, and that of `gone`.
pub(super) async fn make(
    app: &Arc<App>,
    request: &Request,
    phone: &Phone,
    to: PhoneNumber,
    gone: impl Future<Output = Error>,
) -> Result<Seen, Error> {
    let mut seen = Seen {
        id: None,
        flow: phone.dial_mode == DialMode::Flow,
        placed: Placed::Silent,
        audio: None,
        end: End::Unseen,
        callback: None,
    };
    // By the database's clock, by which the call expires.
    let now = calls::database_now(&*app.db.conn().await?).await?;
    let wanted = wanted(app, request, phone.id(), to, now);
    let call = match place::place(app, &request.caller, &wanted).await {
        Ok(placed) => placed.call,
        Err(error @ (Error::Db(_) | Error::Internal { .. } | Error::Unavailable { .. })) => return Err(error),
        Err(error) => {
            seen.placed = Placed::Refused(error.to_string());
            return Ok(seen);
        }
    };
    let id = call.id();
    seen.id = Some(id);
    let watched = tokio::select! {
        error = gone => Err(error),
        watched = watch(app, request, id, seen) => watched,
    };
    if watched.is_err()
        && let Err(error) = end::end(app, &request.caller.name, id, "the diagnosis was given up").await
    {
        warn!(call.id = %id, %error, "a diagnosis's call could not be ended; its time limit is a minute");
    }
    watched
}

fn wanted(app: &App, request: &Request, phone: PhoneId, to: PhoneNumber, now: DateTime<Utc>) -> request::Request {
    request::Request {
        key: format!("diagnosis-{}", app.clock.new_uuid()),
        to,
        from: request::From::Phone(phone),
        agent: None,
        ring_timeout: RING,
        time_limit: TIME_LIMIT,
        not_before: None,
        expire_at: Some(now + QUEUE),
        priority: 100,
        hours_override: request.hours_override.clone(),
        metadata: BTreeMap::from([(MARK.to_owned(), "1".to_owned())]),
        record: false,
        // Nobody wants a second call on top of the one that is going on.
        when_number_busy: 2,
        when_at_capacity: 1,
    }
}

async fn watch(app: &Arc<App>, request: &Request, id: CallId, mut seen: Seen) -> Result<Seen, Error> {
    let opened = |rows: &Rows| rows.sessions.iter().any(|session| session.started_at.is_some());
    let settled = |rows: &Rows| opened(rows) || rows.call.state.is_terminal() || rows.waits_for_hours();
    let rows = until(app, id, UNTIL_AUDIO, settled).await?;
    seen.placed = placed(&rows.call);
    if !opened(&rows) {
        // Where somebody holds a silent phone, this ends it as far as it can be ended.
        end::end(app, &request.caller.name, id, "diagnosis: no audio").await?;
        return Ok(seen);
    }
    let quiet = |rows: &Rows| rows.call.state.is_terminal() || !rows.is_live();
    until(app, id, UNTIL_AGENT, |rows| rows.agent_answered() || quiet(rows)).await?;
    let rows = until(app, id, LISTEN, quiet).await?;
    // The agent may have left by itself.
    let left_by_us = !rows.call.state.is_terminal() && !rows.left_by_the_person();
    end::end(app, &request.caller.name, id, "diagnosis").await?;
    let left = Instant::now();
    // The Passthru may tell of the end first; the counters come from the edge.
    let counted = |rows: &Rows| rows.sessions.iter().all(Session::is_counted);
    let rows = until(app, id, COUNTERS, counted).await?;
    seen.audio = Some(audio(&rows));
    let over = |rows: &Rows| rows.call.state.is_terminal() && !rows.call.end_presumed;
    let rows = until(app, id, UNTIL_END, over).await?;
    seen.end = match (left_by_us, over(&rows)) {
        (false, _) => End::Unseen,
        (true, true) => End::Ended(left.elapsed()),
        (true, false) => ask(app, &rows.call).await,
    };
    if over(&rows) {
        let rows = until(app, id, CALLBACK, |rows| rows.callback().is_some()).await?;
        seen.callback = rows.callback();
    }
    Ok(seen)
}

/// The rows of a call.
struct Rows {
    call: Call,
    sessions: Vec<Session>,
    events: Vec<Event>,
}

impl Rows {
    fn is_live(&self) -> bool {
        self.sessions.iter().any(Session::is_live)
    }

    fn agent_answered(&self) -> bool {
        self.events.iter().any(|event| event.kind == "agent_connected")
    }

    fn left_by_the_person(&self) -> bool {
        let is_theirs = |session: &Session| session.ended_by.as_deref() == Some("customer");
        self.sessions.iter().any(is_theirs)
    }

    /// The hours open later than anybody waits here.
    fn waits_for_hours(&self) -> bool {
        self.call.state == State::Queued && self.call.waiting_reason.as_deref() == Some("calling_hours")
    }

    /// How a callback came, in words.
    fn callback(&self) -> Option<String> {
        let event = self.events.iter().find(|event| event.source == "callback")?;
        let fact = |name: &str| {
            event
                .data
                .get(name)
                .and_then(serde_json::Value::as_str)
                .unwrap_or("unknown")
        };
        Some(format!("{}, {}", fact("encoding"), fact("fields")))
    }
}

/// The call's rows as soon as they are as wanted, or as they are when the time is up.
async fn until(app: &App, id: CallId, limit: Duration, wanted: impl Fn(&Rows) -> bool) -> Result<Rows, Error> {
    let mut waiter = app.hub.wait(id);
    let end = Instant::now() + limit;
    loop {
        let mut conn = app.db.conn().await?;
        let call = calls::find(&mut conn, id)
            .await?
            .ok_or_else(|| Error::not_found("call", id))?;
        let (events, sessions, _) = rows(&mut conn, id).await?;
        drop(conn);
        let rows = Rows { call, sessions, events };
        let left = end.saturating_duration_since(Instant::now());
        if wanted(&rows) || left.is_zero() {
            return Ok(rows);
        }
        // A timeout only means that nothing happened, as far as this replica knows.
        let _ = timeout(POLL.min(left), waiter.changed()).await;
    }
}

/// A call's timeline, its sessions that started, and the database's time.
pub(super) async fn rows(
    conn: &mut AsyncPgConnection,
    id: CallId,
) -> Result<(Vec<Event>, Vec<Session>, DateTime<Utc>), Error> {
    let events = events::of_call(conn, id, 0, EVENTS).await?;
    let mut sessions = sessions::of_call(conn, id).await?;
    sessions.retain(|session| session.started_at.is_some());
    let now = calls::database_now(conn).await?;
    Ok((events, sessions, now))
}

fn placed(call: &Call) -> Placed {
    let answered = call.answered_at.zip(call.post_started_at);
    if let Some((answered, dialled)) = answered {
        return Placed::Answered((answered - dialled).to_std().unwrap_or_default());
    }
    let reason = call.end_reason.clone().unwrap_or_default();
    match call.state {
        // Somebody answered, or Exotel would not say `completed`.
        State::Failed if reason == "media_never_opened" => Placed::Answered(Duration::ZERO),
        State::Completed | State::NoAnswer | State::Busy | State::Failed | State::Canceled => Placed::Unanswered(
            call.state.label(),
            reason,
            call.provider_code.clone().unwrap_or_default(),
        ),
        State::Queued => Placed::Waits(call.waiting_reason.clone().unwrap_or_else(|| "queue".to_owned())),
        State::Unconfirmed => Placed::Unconfirmed,
        State::Dialing | State::Placed | State::Ringing | State::InProgress => Placed::Silent,
    }
}

fn audio(rows: &Rows) -> Audio {
    let count = |name: &str| {
        let counts = rows
            .sessions
            .iter()
            .filter_map(|session| session.quality.get(name)?.as_u64());
        counts.sum()
    };
    Audio {
        frames: count("frames_in"),
        bytes: count("bytes_in"),
        agent: if rows.agent_answered() {
            Agent::Answered {
                frames: count("frames_out"),
            }
        } else if rows.left_by_the_person() {
            Agent::Unseen
        } else {
            Agent::Silent
        },
    }
}

/// Asks Exotel whether a call that should be over is.
async fn ask(app: &App, call: &Call) -> End {
    let Some(sid) = &call.call_sid else { return End::Unknown };
    let asked = async {
        let mut conn = app.db.conn().await?;
        let opened = app
            .vault
            .open_for_call(&mut conn, call.account_id, call.phone_id)
            .await?;
        drop(conn);
        turn(app, AccountId(call.account_id)).await?;
        Ok::<_, Error>(app.exotel.call(&opened, sid).await)
    };
    match asked.await {
        Ok(Ok(details)) if read_back::end_of(&details.status).is_none() => End::Open,
        _ => End::Unknown,
    }
}
