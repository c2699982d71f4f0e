//! Writes what came of asking Exotel about calls, or that nothing did.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection as _;
use exotel::rest::CallDetails;
use tracing::{Instrument as _, warn};

use super::{
    read_back,
    record::{Note, record},
    search,
    state::{Direction, Event, State},
};
use crate::{
    app::App,
    error::Error,
    ingress::resolve,
    store::{
        calls::{self, Call, Change},
        due,
    },
    trace,
};

/// Writes what Exotel's record of a call says.
pub(super) async fn answered(
    app: &Arc<App>,
    call: &Call,
    details: &CallDetails,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let ended = read_back::end_of(&details.status).is_some();
    app.metrics.read_back(if ended { "ended" } else { "open" }, 1);
    let note = Note::from("read_back").changing(read_back::facts_of(details));
    let event = read_back::event(call, details, now);
    let again = read_back::after_answer(&app.config.read_back_steps, call, &call.facts()?, now);
    write(app, call, Some(event), note, again).await
}

/// Marks an inbound call that Exotel does not know for a person to look at: whoever told of it had the account's token, and nothing
/// else (F48). Of an outbound call the dial's answer is the proof.
pub(super) async fn unknown(app: &Arc<App>, call: &Call) -> Result<(), Error> {
    if call.direction != Direction::Inbound || call.state.is_terminal() {
        return Ok(());
    }
    warn!(call.id = %call.id(), "Exotel does not know an inbound call: look who has the account's token, and rotate it");
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        if let Some((row, now)) = calls::lock(conn, call.id()).await? {
            let note = Note::from("read_back").with("contradiction", "unknown_at_exotel");
            resolve::quarantine(conn, row, now, note, Change::default()).await?;
        }
        Ok(())
    })
    .instrument(trace::about("read_back", call))
    .await?;
    app.hub.committed(call.id());
    Ok(())
}

/// Records an answer, or only sets the time of the next question.
async fn write(
    app: &Arc<App>,
    call: &Call,
    event: Option<Event>,
    note: Note,
    again: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    let changed = conn
        .transaction::<bool, Error, _>(async |conn| {
            let mut changed = false;
            if let Some(event) = &event {
                let Some((_, news)) = record(conn, call.id(), event, note).await? else {
                    return Ok(false);
                };
                changed = news;
            }
            // What the news, or somebody else meanwhile, set stands.
            due::set_read_back(conn, call, again, call.read_backs + 1).await?;
            Ok(changed)
        })
        .instrument(trace::about("read_back", call))
        .await?;
    if changed {
        app.hub.committed(call.id());
    }
    Ok(())
}

/// Writes what only time says about calls that there is no answer about, and asks again after `wait`; where that is zero, as
/// if there were one. Only those that were `asked` about are counted.
pub(super) async fn in_vain(
    app: &Arc<App>,
    asked: bool,
    calls: &[Call],
    now: DateTime<Utc>,
    wait: Duration,
) -> Result<(), Error> {
    let at = now + signed(wait);
    let mut later = Vec::new();
    for call in calls {
        let event = read_back::overdue(call, now);
        let result = if call.state == State::Unconfirmed && call.call_sid.is_none() {
            search::settle(app, None, call, None, at).await
        } else if event.is_none() && !asked && read_back::is_given_up(call, now) {
            due::set_read_back(&mut *app.db.conn().await?, call, None, call.read_backs)
                .await
                .map(|_| ())
                .map_err(Error::from)
        } else if event.is_none() && !asked {
            later.push(call);
            Ok(())
        } else {
            let next = read_back::next(&app.config.read_back_steps, call, &call.facts()?, now);
            let again = if call.state.is_terminal() || wait.is_zero() {
                next.map(|next| next.max(at))
            } else {
                Some(at)
            };
            write(app, call, event, Note::from("read_back"), again).await
        };
        if let Err(error) = result {
            warn!(call.id = %call.id(), %error, "could not write about a call that was asked about in vain");
        }
    }
    due::postpone(&mut *app.db.conn().await?, later.into_iter().map(|call| (call, at))).await?;
    Ok(())
}

/// For arithmetic with the time of day.
pub(super) fn signed(wait: Duration) -> TimeDelta {
    TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX)
}
