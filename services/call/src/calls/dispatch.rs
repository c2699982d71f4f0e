//! The loop that dials queued calls whose time has come, in every replica; any of them may take any call.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::AccountId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection as _;
use exotel::PhoneNumber;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tracing::{Instrument as _, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    dial::{self, Order, Plan},
    place,
    record::{Note, record_locked},
    state::{End, Event, Outcome, Party, Source, State},
};
use crate::{
    app::App,
    error::Error,
    store::{
        accounts,
        calls::{self, Call, Change},
        due, phones,
    },
};

/// Between two rounds at least: every change of any call wakes the loop.
const PACE: Duration = Duration::from_millis(25);
/// Rows looked at in one round.
const ROUND: i64 = 32;
/// How long a call that cannot be dialled for want of a setting waits before it is tried again.
const BLOCKED_FOR: TimeDelta = TimeDelta::seconds(30);

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                // Either way it is time to look.
                _ = timeout(app.config.poll_interval, app.hub.work_waits()) => {}
            }
            for step in [Step::Sweep, Step::Dial] {
                if let Err(error) = step.run(&app).await {
                    warn!(%error, ?step, "a round of the dialler failed; the next one follows");
                }
            }
            sleep(PACE).await;
        }
    });
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Sweep,
    Dial,
}

impl Step {
    async fn run(self, app: &Arc<App>) -> Result<(), Error> {
        match self {
            Self::Sweep => sweep(app).await,
            Self::Dial => dial_due(app).await,
        }
    }
}

/// A dial that has been without an outcome for too long has an unknown one: its worker may be dead.
async fn sweep(app: &Arc<App>) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    for call in due::dialing(&mut conn, app.config.sweep_after, ROUND).await? {
        let note = Note::from("timer").with("reason", "no_outcome_in_time");
        let done = conn
            .transaction::<_, Error, _>(async |conn| {
                Ok(super::record::record(conn, call.id(), &Event::Swept, note).await?)
            })
            .await?;
        if done.is_some_and(|(_, changed)| changed) {
            warn!(call.id = %call.id(), "a dial had no outcome in time; the call is unconfirmed and is not dialled again");
            app.hub.committed(call.id());
        }
    }
    Ok(())
}

async fn dial_due(app: &Arc<App>) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    let waiting = due::queued(&mut conn, ROUND).await?;
    drop(conn);
    for call in waiting {
        let Ok(permit) = Arc::clone(&app.dial_permits).try_acquire_owned() else {
            return Ok(());
        };
        let span = info_span!("call.claim", call.id = %call.id());
        if let Some(parent) = &call.traceparent {
            // Fails only when no exporter is there.
            let _ = span.set_parent(runtime::telemetry::context_of(parent));
        }
        async {
            if let Err(error) = take(app, &call, permit).await {
                warn!(call.id = %call.id(), %error, "a queued call could not be dialled; it is tried again");
            }
        }
        .instrument(span)
        .await;
    }
    Ok(())
}

/// What to do with a call whose time has come.
enum Verdict {
    Dial(Box<Plan>),
    Wait(DateTime<Utc>, &'static str),
    GiveUp(&'static str),
}

async fn take(app: &Arc<App>, call: &Call, permit: OwnedSemaphorePermit) -> Result<(), Error> {
    let verdict = judge(app, call, permit).await?;
    let mut conn = app.db.conn().await?;
    let order = conn
        .transaction::<Option<Order>, Error, _>(async |conn| {
            let Some((row, now)) = calls::lock(conn, call.id()).await? else {
                return Ok(None);
            };
            // Another replica was quicker, or somebody ended the call.
            if row.state != State::Queued || row.version != call.version {
                return Ok(None);
            }
            match verdict {
                Verdict::Dial(plan) => {
                    let attempt = row.attempt + 1;
                    let note = Note::from("dialer")
                        .with("attempt", attempt.to_string())
                        .changing(Change {
                            waiting_reason: Some(None),
                            ..Change::default()
                        });
                    let (_, changed) = record_locked(conn, row, now, Some(&Event::Claimed), None, note).await?;
                    if changed {
                        plan.order(conn, app, attempt, now).await.map(Some)
                    } else {
                        Ok(None)
                    }
                }
                Verdict::Wait(until, why) => {
                    // A call that expires while it waits is looked at then.
                    let due_at = Some(until.min(row.expire_at));
                    let change = Change {
                        due_at,
                        waiting_reason: Some(Some(why.to_owned())),
                        ..Change::default()
                    };
                    let note = Note::from("dialer").with("waits_for", why).changing(change);
                    record_locked(conn, row, now, None, Some("waiting"), note).await?;
                    Ok(None)
                }
                Verdict::GiveUp(reason) => {
                    let end = End {
                        by: Some(Party::Callbridge),
                        reason: Some(reason.to_owned()),
                        ..End::new(Outcome::Failed)
                    };
                    let event = Event::Ended(Source::Local, end);
                    record_locked(conn, row, now, Some(&event), None, Note::from("dialer")).await?;
                    Ok(None)
                }
            }
        })
        .instrument(info_span!("db.transaction", otel.name = "claim"))
        .await?;
    drop(conn);
    if let Some(order) = order {
        dial::spawn(app, order);
    }
    app.hub.committed(call.id());
    Ok(())
}

/// Looks up all that a dial needs. A setting that is missing now may be there later, until the call expires.
async fn judge(app: &Arc<App>, call: &Call, permit: OwnedSemaphorePermit) -> Result<Verdict, Error> {
    let mut conn = app.db.conn().await?;
    let now = calls::database_now(&mut conn).await?;
    if call.expire_at <= now {
        return Ok(Verdict::GiveUp("expired"));
    }
    let phone = match call.phone_id() {
        Some(id) => phones::find(&mut conn, id).await?,
        None => None,
    };
    let Some(phone) = phone else {
        return Ok(Verdict::GiveUp("phone_gone"));
    };
    let account = accounts::find(&mut conn, AccountId(phone.account_id))
        .await?
        .ok_or_else(|| Error::internal("a phone without its account"))?;
    if let Some(hours) = place::hours(&account, call.calling_hours_override.as_deref())? {
        let open = hours.next_open(now);
        if open > now {
            return Ok(Verdict::Wait(open, "calling_hours"));
        }
    }
    let (credentials, app_id) = match dial::credentials(&mut conn, app, &account, &phone).await {
        Ok(found) => found,
        Err(error @ Error::Precondition { .. }) => {
            warn!(call.id = %call.id(), %error, "a queued call waits for its phone's settings");
            return Ok(Verdict::Wait(now + BLOCKED_FOR, "settings"));
        }
        Err(error) => return Err(error),
    };
    let numbers = PhoneNumber::parse(&call.customer)
        .ok()
        .zip(PhoneNumber::parse(&call.exophone).ok());
    let Some((customer, exophone)) = numbers else {
        return Ok(Verdict::GiveUp("number_unreadable"));
    };
    Ok(Verdict::Dial(Box::new(Plan {
        call_id: call.id(),
        customer,
        exophone,
        mode: call.dial_mode.unwrap_or(phone.dial_mode),
        app_id,
        credentials,
        permit,
        ring_timeout: u32::try_from(call.ring_timeout_seconds).unwrap_or(30),
        time_limit: u32::try_from(call.time_limit_seconds).unwrap_or(1800),
        record: call.record,
    })))
}
