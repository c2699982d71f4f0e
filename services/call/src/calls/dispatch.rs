//! The loop that dials queued calls whose turn has come, in every replica; any of them may take any call.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::{AccountId, CallId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection as _;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument as _, warn};

use super::{
    claim::{self, Claimed},
    queued::{self, undialled},
    record::{Note, record_locked},
    state::{Event, Outcome, State},
};
use crate::{
    app::App,
    crash,
    error::Error,
    store::{
        calls::{self, Call, Change},
        due, queue,
    },
    trace,
};

/// Between two rounds at least: every change of any call wakes the loop.
const PACE: Duration = Duration::from_millis(25);
/// Rows swept, expired or explained in one round.
const ROUND: i64 = 32;
/// Accounts whose queues are worked on at one time.
const ACCOUNTS: usize = 4;
/// Calls of one account dialled in one round: a busy account must not hold up the others.
const OF_ACCOUNT: usize = 64;
/// How often it is written onto calls what they wait for.
const EXPLAIN: Duration = Duration::from_secs(1);

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut wake = Instant::now();
        let mut explained = Instant::now();
        loop {
            tokio::select! {
                () = &mut stopping => return,
                // Either way it is time to look.
                _ = timeout_at(wake, app.hub.work_waits()) => {}
            }
            wake = Instant::now() + app.config.poll_interval;
            let explain = explained.elapsed() >= EXPLAIN;
            if explain {
                explained = Instant::now();
            }
            for step in [Step::Sweep, Step::Expire, Step::Dial { explain }] {
                match step.run(&app).await {
                    Ok(turn) => wake = wake.min(turn.unwrap_or(wake)),
                    Err(error) => warn!(%error, ?step, "a round of the dialler failed; the next one follows"),
                }
            }
            sleep(PACE).await;
        }
    });
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Sweep,
    Expire,
    Dial { explain: bool },
}

impl Step {
    /// Returns when to look again, if it is known to be sooner than the next poll.
    async fn run(self, app: &Arc<App>) -> Result<Option<Instant>, Error> {
        match self {
            Self::Sweep => sweep(app).await.map(|()| None),
            Self::Expire => expire(app).await.map(|()| None),
            Self::Dial { explain } => dial_due(app, explain).await,
        }
    }
}

/// A dial that has been without an outcome for too long has an unknown one: its worker may be dead.
async fn sweep(app: &Arc<App>) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    for id in due::dialing(&mut conn, app.config.sweep_after, ROUND).await? {
        let note = Note::from("timer").with("reason", "no_outcome_in_time");
        let done = conn
            .transaction::<_, Error, _>(async |conn| {
                let Some((call, now)) = calls::lock(conn, id).await? else {
                    return Ok(false);
                };
                trace::follow(&call);
                let (_, changed) = record_locked(conn, call, now, Some(&Event::Swept), None, note).await?;
                crash::point(crash::SWEEPING);
                Ok(changed)
            })
            .instrument(trace::transaction("sweep"))
            .await;
        match done {
            Ok(true) => {
                crash::point(crash::SWEPT);
                app.metrics.dial_swept();
                warn!(call.id = %id, "a dial had no outcome in time; the call is unconfirmed and is not dialled again");
                app.hub.committed(id);
            }
            Ok(false) => {}
            Err(error) => claim::unreadable(app, &mut conn, id, error).await?,
        }
    }
    Ok(())
}

/// Gives up calls that wait past their time, whatever they wait for.
async fn expire(app: &Arc<App>) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    for id in queue::expired(&mut conn, ROUND).await? {
        let end = (undialled(Outcome::Failed, "expired"), Note::from("dialer"));
        let still = |call: &Call, now| call.expire_at <= now;
        if let Err(error) = queued::end(app, &mut conn, id, end, still).await {
            claim::unreadable(app, &mut conn, id, error).await?;
        }
    }
    Ok(())
}

async fn dial_due(app: &Arc<App>, explain: bool) -> Result<Option<Instant>, Error> {
    let accounts = queue::accounts_due(&mut *app.db.conn().await?).await?;
    let turns = stream::iter(accounts)
        .map(|account| async move {
            if explain && let Err(error) = explain_waits(app, account).await {
                warn!(account.id = %account, %error, "what calls wait for could not be written");
            }
            dial_account(app, account).await.unwrap_or_else(|error| {
                warn!(account.id = %account, %error, "an account's queue could not be worked on; the next round follows");
                None
            })
        })
        .buffer_unordered(ACCOUNTS)
        .collect::<Vec<_>>()
        .await;
    Ok(turns.into_iter().flatten().min())
}

/// Dials what may be dialled. Returns when the account's next turn is, if its queue waits for that.
async fn dial_account(app: &Arc<App>, account: AccountId) -> Result<Option<Instant>, Error> {
    for _ in 0..OF_ACCOUNT {
        let Ok(permit) = Arc::clone(&app.dial_permits).try_acquire_owned() else {
            return Ok(None);
        };
        match claim::next(app, account, permit).await? {
            Claimed::Done => {}
            Claimed::Nothing => return Ok(None),
            Claimed::NotBefore(wait) => return Ok(Some(Instant::now() + wait)),
        }
    }
    Ok(Some(Instant::now()))
}

/// Writes onto calls that wait for another call, for a slot or for their campaign, that they do: nobody comes by them otherwise.
async fn explain_waits(app: &Arc<App>, account: AccountId) -> Result<(), Error> {
    let mut conn = app.db.conn().await?;
    for waits in queue::unexplained(&mut conn, account, ROUND).await? {
        let id = CallId(waits.id);
        let note = waiting(&waits.word, waits.rival.map(CallId), None);
        let done = conn
            .transaction::<_, Error, _>(async |conn| {
                let Some((call, now)) = calls::lock(conn, id).await? else {
                    return Ok(false);
                };
                if call.state != State::Queued {
                    return Ok(false);
                }
                record_locked(conn, call, now, None, Some("waiting"), note).await?;
                Ok(true)
            })
            .await;
        match done {
            Ok(true) => app.hub.committed(id),
            Ok(false) => {}
            Err(error) => claim::unreadable(app, &mut conn, id, error).await?,
        }
    }
    Ok(())
}

/// What goes onto the row and the timeline of a call that waits.
pub(crate) fn waiting(word: &str, for_call: Option<CallId>, due_at: Option<DateTime<Utc>>) -> Note {
    let note = Note::from("dialer").with("waits_for", word).changing(Change {
        due_at,
        waiting_reason: Some(Some(word.to_owned())),
        waiting_for: Some(for_call.map(|id| id.0)),
        ..Change::default()
    });
    match for_call {
        Some(id) => note.with("call_id", id.to_string()),
        None => note,
    }
}

/// A wait as a span of this process's time; what has passed already is no wait.
pub(super) fn until(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (at - now).max(TimeDelta::zero()).to_std().unwrap_or_default()
}
