//! Looks for a dial's call in Exotel's list, and writes what [`super::settle`] makes of it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{
    PhoneNumber,
    rest::{CallDetails, CallsQuery, Credentials, Direction as Way, RestError},
};
use tokio::time::sleep;
use tracing::{Instrument as _, info, warn};
use uuid::Uuid;

use super::{
    ask::turn,
    read_back,
    record::{Note, record_locked},
    settle::{self, Decision, NAMED, Sought},
    state::{Event, Source, State},
};
use crate::{
    app::App,
    crash,
    error::Error,
    store::{
        accounts::Account,
        calls::{self, Call, Change},
        due,
    },
    trace,
};

/// Pages that are read: nobody is called 500 times in the time that is looked at.
const PAGES: usize = 5;
const PAGE: u32 = 100;

/// What Exotel listed.
pub(super) struct Listed {
    calls: Vec<CallDetails>,
    server_date: Option<DateTime<Utc>>,
}

/// Reads the list of the calls that can be this one, to its end. The first page's turn is taken.
pub(super) async fn list(
    app: &App,
    account: &Account,
    credentials: &Credentials,
    sought: &Sought<'_>,
) -> Result<Listed, RestError> {
    const INCOMPLETE: RestError = RestError::Unreadable("a list that ends");
    // A row's numbers were parsed when it was made.
    let numbers = PhoneNumber::parse(sought.customer)
        .ok()
        .zip(PhoneNumber::parse(sought.exophone).ok());
    let (customer, exophone) = numbers.ok_or(RestError::Unreadable("a list of calls of an unreadable number"))?;
    let mut query = CallsQuery {
        from: vec![customer],
        phone_number: vec![exophone],
        direction: Some(Way::OutboundApi),
        created: Some(sought.window()),
        page_size: Some(PAGE),
        ..CallsQuery::default()
    };
    let mut listed = Listed {
        calls: Vec::new(),
        server_date: None,
    };
    for _ in 0..PAGES {
        let page = app.exotel.calls(credentials, &query).await?;
        listed.calls.extend(page.calls);
        listed.server_date = page.server_date;
        if page.next.is_none() {
            return Ok(listed);
        }
        query.after = page.next;
        while let Some(wait) = wait_for_turn(app, account).await.map_err(|_| INCOMPLETE)? {
            sleep(wait).await;
        }
    }
    Err(INCOMPLETE)
}

async fn wait_for_turn(app: &App, account: &Account) -> Result<Option<Duration>, Error> {
    let Err(until) = turn(app, account).await? else {
        return Ok(None);
    };
    let now = calls::database_now(&*app.db.conn().await?).await?;
    Ok(Some((until - now).to_std().unwrap_or(Duration::ZERO)))
}

/// Writes what the list says about a call that was taken; None: Exotel could not be asked, and is next at `again`.
pub(super) async fn settle(
    app: &Arc<App>,
    offset_minutes: Option<i32>,
    call: &Call,
    listed: Option<Listed>,
    again: DateTime<Utc>,
) -> Result<(), Error> {
    let id = call.id();
    let mut conn = app.db.conn().await?;
    crash::point(crash::SETTLING);
    let result = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((row, now)) = calls::lock(conn, id).await? else {
                return Ok(None);
            };
            let Some(sought) = Sought::of(&row, offset_minutes) else {
                return Ok(None);
            };
            let found = match &listed {
                Some(listed) => Some(candidates(conn, app, call.account_id, &sought, listed, now).await?),
                None => None,
            };
            let decision = if row.state == State::Unconfirmed {
                let window = app.config.settle_window;
                settle::decide(sought.posted_at, window, row.settle_polls, found.as_deref(), now)
            } else if let Some([found]) = found.as_deref() {
                Decision::Found(found)
            } else {
                return write_open(conn, app, call, row, now).await.map(Some);
            };
            let sids: Vec<&str> = found.iter().flatten().map(|call| call.call_sid.as_str()).collect();
            write(conn, call, row, now, (decision, &sids, again)).await.map(Some)
        })
        .instrument(trace::about("settle", call))
        .await?;
    drop(conn);
    crash::point(crash::SETTLED);
    let Some((result, changed)) = result else { return Ok(()) };
    app.metrics.settled(result);
    match result {
        "found" => info!(call.id = %id, "an unconfirmed dial was found in Exotel's list"),
        "unconfirmed" => warn!(call.id = %id, "no trace of a dial was found in time: it counts as not made"),
        "ambiguous" => {
            warn!(call.id = %id, "more than one call at Exotel can be an unconfirmed dial: a person has to look");
        }
        "given_up" => warn!(call.id = %id, "Exotel could not be asked about a dial for too long: a person has to look"),
        _ => {}
    }
    if changed {
        app.hub.committed(id);
    }
    Ok(())
}

async fn candidates<'a>(
    conn: &mut AsyncPgConnection,
    app: &App,
    account: Uuid,
    sought: &Sought<'_>,
    listed: &'a Listed,
    now: DateTime<Utc>,
) -> Result<Vec<&'a CallDetails>, Error> {
    let sids: Vec<&str> = listed.calls.iter().map(|call| call.call_sid.as_str()).collect();
    let taken: HashSet<String> = calls::owned_sids(conn, account, &sids).await?.into_iter().collect();
    let named = |field: &str| -> Option<CallId> { app.verifier.verify_custom_field(field)?.parse().ok() };
    let skew = listed.server_date.map(|date| date - now);
    Ok(settle::candidates(sought, &listed.calls, &taken, skew, named))
}

/// Returns the result's word, and whether the call has changed.
async fn write(
    conn: &mut AsyncPgConnection,
    taken: &Call,
    row: Call,
    now: DateTime<Utc>,
    (decision, sids, again): (Decision<'_>, &[&str], DateTime<Utc>),
) -> Result<(&'static str, bool), Error> {
    let note = Note::from("read_back");
    match decision {
        Decision::Found(found) => {
            let change = Change {
                call_sid: Some(found.call_sid.clone()),
                ..read_back::facts_of(found)
            };
            let note = note.with("found", "list").changing(change);
            let (row, mut changed) = record_locked(conn, row, now, Some(&Event::Seen), None, note).await?;
            if let Some(end) = read_back::end_of(&found.status) {
                let event = Event::Ended(Source::ReadBack, end);
                let (_, ended) = record_locked(conn, row, now, Some(&event), None, Note::from("read_back")).await?;
                changed |= ended;
            }
            Ok(("found", changed))
        }
        Decision::GiveUp {
            presumption,
            needs_review,
        } => {
            let mut note = note.changing(Change {
                needs_review: needs_review.then_some(true),
                ..Change::default()
            });
            if !sids.is_empty() {
                note = note.with("candidates", sids[..sids.len().min(NAMED)].join(","));
            }
            let event = Event::Presumed(presumption);
            let (_, changed) = record_locked(conn, row, now, Some(&event), None, note).await?;
            let result = match (sids, needs_review) {
                ([], false) => "unconfirmed",
                ([], true) => "given_up",
                _ => "ambiguous",
            };
            Ok((result, changed))
        }
        Decision::Wait { clean, until } => {
            due::polled(conn, taken, clean, until.max(again)).await?;
            let result = match (clean, sids) {
                (true, _) => "none",
                (false, []) => "unasked",
                (false, _) => "several",
            };
            Ok((result, false))
        }
    }
}

/// A call that is known to be at Exotel, or to count as over, and was not found in the list.
async fn write_open(
    conn: &mut AsyncPgConnection,
    app: &App,
    taken: &Call,
    row: Call,
    now: DateTime<Utc>,
) -> Result<(&'static str, bool), Error> {
    let again = read_back::next(&app.config.read_back_steps, &row, &row.facts()?, now);
    let mut changed = false;
    if let Some(event) = read_back::overdue(&row, now) {
        changed = record_locked(conn, row, now, Some(&event), None, Note::from("read_back"))
            .await?
            .1;
    }
    due::set_read_back(conn, taken, again, taken.read_backs + 1).await?;
    Ok(("open", changed))
}
