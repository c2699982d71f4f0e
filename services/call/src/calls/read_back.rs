//! Asking Exotel how a call stands: when, and what its answer means. A lost callback costs minutes, never the call.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection as _;
use exotel::{ProviderStatus, rest::CallDetails};
use tokio::time::sleep;
use tracing::{Instrument as _, info_span, warn};

use super::{
    record::{Note, record},
    state::{Direction, End, Event, Facts, Outcome, Presumption, Source, State},
};
use crate::{
    app::App,
    error::Error,
    store::{
        calls,
        calls::{Call, Change},
        due,
    },
};

/// After the last audio session ended, first: Exotel's own record follows within seconds, its callback may be lost. The
/// later steps are a setting.
const AFTER_MEDIA: TimeDelta = TimeDelta::seconds(2);
/// When there is nothing better to go by.
const EVERY: TimeDelta = TimeDelta::minutes(5);
/// Exotel ends a call at its time limit; this much later it is surely over.
const PAST_LIMIT: TimeDelta = TimeDelta::minutes(2);
/// Price and duration lag the end by up to a quarter of an hour.
const LATE_FACTS: [i64; 3] = [60, 300, 900];
/// After a presumed end Exotel is asked every hour for a day: the presumption gives way to what it says.
const PRESUMED: (TimeDelta, usize) = (TimeDelta::hours(1), 24);
/// A replica that dies while asking gives the call back after this; longer than a question may take.
const LEASE: TimeDelta = TimeDelta::seconds(60);
/// Questions at one time in one replica.
const PARALLEL: usize = 8;

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            match run_due(&app).await {
                Ok(asked) if asked == PARALLEL && !app.tasks.is_stopping() => continue,
                Ok(_) => {}
                Err(error) => warn!(%error, "a round of questions to Exotel failed; the next one follows"),
            }
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(app.config.poll_interval) => {}
            }
        }
    });
}

/// When to ask first after a change. None: as it was before.
pub fn schedule(before: &Call, facts: &Facts, state: State, now: DateTime<Utc>) -> Option<Option<DateTime<Utc>>> {
    let known = before.facts().unwrap_or_default();
    if state.is_terminal() {
        let presumed = facts.ending().is_some_and(|ending| ending.presumed);
        let at_exotel = presumed || facts.ends.keys().any(|source| *source != Source::Local);
        let news = !before.state.is_terminal() || before.end_presumed != presumed;
        return news.then(|| at_exotel.then(|| now + TimeDelta::seconds(LATE_FACTS[0])));
    }
    if facts.left != known.left {
        return Some(Some(now + AFTER_MEDIA));
    }
    if facts.media_seen && !known.media_seen {
        return Some(Some(
            now + TimeDelta::seconds(before.time_limit_seconds.into()) + PAST_LIMIT,
        ));
    }
    if state == State::Unconfirmed && before.state != state {
        return Some(Some(now + EVERY));
    }
    let placed = matches!(state, State::Placed | State::Ringing | State::InProgress);
    if placed && matches!(before.state, State::Queued | State::Dialing | State::Unconfirmed) {
        let rings_until = TimeDelta::seconds(i64::from(before.ring_timeout_seconds) + 10);
        return Some(Some(now + rings_until));
    }
    None
}

/// When to ask again after an answer that did not settle the call.
fn next(app: &App, call: &Call, facts: &Facts, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let asked = usize::try_from(call.read_backs).unwrap_or(0);
    if call.state.is_terminal() {
        let complete = call.price.is_some() && call.talk_seconds.is_some();
        let late = LATE_FACTS
            .get(asked + 1)
            .filter(|_| !complete)
            .map(|wait| TimeDelta::seconds(*wait));
        let presumed = Some(PRESUMED.0).filter(|_| call.end_presumed && asked < PRESUMED.1);
        return late.or(presumed).map(|wait| now + wait);
    }
    let after_media = facts
        .left
        .is_some()
        .then(|| app.config.read_back_steps.get(asked))
        .flatten();
    Some(now + after_media.copied().unwrap_or(EVERY))
}

/// Asks about the calls whose time has come. Returns how many there were; trouble with Exotel is logged and tried again later.
async fn run_due(app: &Arc<App>) -> Result<usize, Error> {
    let mut conn = app.db.conn().await?;
    let limit = i64::try_from(PARALLEL).unwrap_or(1);
    let (now, due) = conn
        .transaction::<_, Error, _>(async |conn| {
            Ok((
                calls::database_now(conn).await?,
                due::read_backs(conn, LEASE, limit).await?,
            ))
        })
        .await?;
    drop(conn);
    let questions = due.iter().map(|call| {
        let span = info_span!("call.read_back", call.id = %call.id());
        async move {
            if let Err(error) = ask(app, call, now).await {
                warn!(call.id = %call.id(), %error, "could not read a call back; it is tried again");
            }
        }
        .instrument(span)
    });
    futures_util::future::join_all(questions).await;
    Ok(due.len())
}

/// Asks Exotel about one call and records the answer.
async fn ask(app: &Arc<App>, call: &Call, now: DateTime<Utc>) -> Result<(), Error> {
    let note = Note::from("read_back");
    // A call without an id at Exotel cannot be asked about by it; only time settles it here.
    let Some(sid) = call.call_sid.as_deref() else {
        return write(app, call, now, overdue(app, call, now), note).await;
    };
    match details(app, call, sid).await {
        Ok(details) => {
            let event = match end_of(&details.status) {
                Some(end) => Event::Ended(Source::ReadBack, end),
                // Exotel knows no limit of ours for an inbound call: a person may be talking to it still.
                None if call.direction == Direction::Inbound => Event::Seen,
                None => overdue(app, call, now).unwrap_or(Event::Seen),
            };
            write(app, call, now, Some(event), note.changing(facts_of(&details))).await
        }
        Err(error) => {
            warn!(call.id = %call.id(), %error, "Exotel could not be asked about a call; it is tried again");
            write(app, call, now, overdue(app, call, now), note).await
        }
    }
}

async fn details(app: &App, call: &Call, sid: &str) -> Result<CallDetails, Error> {
    let mut conn = app.db.conn().await?;
    let credentials = app
        .vault
        .open_for_call(&mut conn, call.account_id, call.phone_id)
        .await?
        .credentials;
    drop(conn);
    let details = app.exotel.call(&credentials, sid).await;
    details.map_err(|error| Error::unavailable(format!("Exotel did not answer: {error}")))
}

/// The last resort: a dial of which no trace was found in time was not made, and a call that nobody has ended is over when its
/// time limit is long past.
fn overdue(app: &App, call: &Call, now: DateTime<Utc>) -> Option<Event> {
    let began = call.answered_at.or(call.post_started_at).unwrap_or(call.queued_at);
    if call.state == State::Unconfirmed && call.call_sid.is_none() {
        return (now > began + app.config.settle_window).then_some(Event::Presumed(Presumption::Unconfirmed));
    }
    let longest = TimeDelta::seconds(i64::from(call.time_limit_seconds) + i64::from(call.ring_timeout_seconds));
    let over = !call.state.is_terminal() && now > began + longest + PAST_LIMIT;
    over.then_some(Event::Presumed(Presumption::TimeLimit))
}

/// Records an answer, or only sets the time of the next question.
async fn write(app: &Arc<App>, call: &Call, now: DateTime<Utc>, event: Option<Event>, note: Note) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    let again = next(app, call, &call.facts()?, now);
    let step = call.read_backs + 1;
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
            due::set_read_back(conn, call, again, step).await?;
            Ok(changed)
        })
        .instrument(info_span!("db.transaction", otel.name = "read_back"))
        .await?;
    if changed {
        app.hub.committed(call.id());
    }
    Ok(())
}

/// Exotel's word for an end. None: not over, or a word we do not know.
pub fn end_of(status: &ProviderStatus) -> Option<End> {
    let outcome = match status {
        ProviderStatus::Completed => Outcome::Completed,
        ProviderStatus::Busy => Outcome::Busy,
        ProviderStatus::NoAnswer => Outcome::NoAnswer,
        ProviderStatus::Failed => Outcome::Failed,
        ProviderStatus::Canceled => Outcome::Canceled,
        ProviderStatus::Queued | ProviderStatus::InProgress | ProviderStatus::Ringing | ProviderStatus::Unknown(_) => {
            return None;
        }
    };
    Some(End::new(outcome))
}

fn facts_of(details: &CallDetails) -> Change {
    Change {
        talk_seconds: details.talk_s.and_then(|seconds| i32::try_from(seconds).ok()),
        price: details.price.clone(),
        recording_url: details.recording_url.clone(),
        ..Change::default()
    }
}
