//! Erasing a number: in batches, each with its entry on the audit trail, until nothing is left.

use std::time::Duration;

use diesel_async::AsyncConnection as _;
use exotel::PhoneNumber;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::{
    app::App,
    audit::{self, Subject},
    calls::retention,
    error::Error,
    store::{
        audit::Outcome,
        campaigns::numbers,
        privacy::{self, Counts, Standing},
        retention as rows,
    },
};

/// Calls of one transaction.
const BATCH: i64 = 200;
/// A request works for so long, and says that there is more.
const PATIENCE: Duration = Duration::from_secs(8);

/// What was erased, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Erased {
    /// Nothing is left.
    pub(crate) done: bool,
    pub(crate) counts: Counts,
}

/// Counts what there is to erase.
///
/// # Errors
/// As [`erase`].
pub(crate) async fn count(app: &App, number: &PhoneNumber, reason: &str) -> Result<Erased, Error> {
    let subject = Subject::Number(number.expose());
    let mut conn = app.db.conn().await?;
    let standing = privacy::standing(&mut conn, number.expose()).await?;
    let allowed = allowed(app, &standing);
    let (outcome, problem) = match &allowed {
        Ok(()) => (Outcome::Shown, ""),
        Err(problem) => (Outcome::Refused, problem.0),
    };
    let data = json!({ "dry_run": "true", "reason": reason, "problem": problem });
    audit::note(&mut conn, outcome, subject, data).await?;
    allowed.map_err(refusal)?;
    Ok(Erased {
        done: standing.counts == Counts::default(),
        counts: standing.counts,
    })
}

/// Erases a number for some seconds.
///
/// # Errors
/// Precondition (`CALL_ACTIVE`, `LEGAL_HOLD`, `RECORDING_NOT_REACHABLE`).
pub(crate) async fn erase(app: &App, number: &PhoneNumber, reason: &str) -> Result<Erased, Error> {
    let until = Instant::now() + PATIENCE;
    let mut erased = Erased::default();
    while !erased.done && Instant::now() < until {
        let more = batch(app, number, reason).await?;
        erased.done = more.done;
        erased.counts += more.counts;
    }
    if erased.counts.recordings > 0
        && let Some(error) = match timeout(PATIENCE, retention::erase_recordings(app)).await {
            Ok(erased) => erased.err().map(|error| error.to_string()),
            Err(_) => Some("the object store takes too long".to_owned()),
        }
    {
        warn!(
            error,
            "recordings of an erased number are still in the object store; they are tried again"
        );
    }
    Ok(erased)
}

/// One transaction. Claims of campaigns wait for it, or it for them.
async fn batch(app: &App, number: &PhoneNumber, reason: &str) -> Result<Erased, Error> {
    let text = number.expose();
    let mut conn = app.db.conn().await?;
    let erased = conn
        .transaction::<_, Error, _>(async |conn| {
            numbers::lock(conn, text).await?;
            let standing = privacy::standing(conn, text).await?;
            if let Err(problem) = allowed(app, &standing) {
                return Ok(Err(problem));
            }
            let contacts = privacy::forget_contacts(conn, text).await?;
            let suppressions = privacy::hash_suppressions(conn, text).await?;
            let transfers = privacy::forget_transfers(conn, text).await?;
            let calls = privacy::blank_calls(conn, text, BATCH).await?;
            let said = rows::forget_said(conn, &calls).await?;
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let counts = Counts {
                calls: count(calls.len()),
                transcripts: count(said.transcripts),
                recordings: count(said.recordings),
                contacts,
                suppressions: count(suppressions),
                transfers,
            };
            let erased = Erased {
                // What was held in between is looked at again, and refused.
                done: counts.calls >= standing.counts.calls,
                counts,
            };
            let data = json!({
                "reason": reason, "calls": counts.calls, "transcripts": counts.transcripts,
                "recordings": counts.recordings, "contacts": counts.contacts, "suppressions": counts.suppressions,
                "transfers": counts.transfers,
            });
            audit::changed_with(conn, Subject::Number(text), data).await?;
            Ok(Ok(erased))
        })
        .await?;
    match erased {
        Ok(erased) => {
            app.metrics.blanked(usize::try_from(erased.counts.calls).unwrap_or(0));
            Ok(erased)
        }
        Err(problem) => {
            let data = json!({ "reason": reason, "problem": problem.0 });
            audit::note(&mut conn, Outcome::Refused, Subject::Number(text), data).await?;
            Err(refusal(problem))
        }
    }
}

type Problem = (&'static str, &'static str);

fn allowed(app: &App, standing: &Standing) -> Result<(), Problem> {
    if standing.is_active {
        return Err((
            "CALL_ACTIVE",
            "a call with this number waits or goes on: end it, or ask again when it is over",
        ));
    }
    if standing.held > 0 {
        return Err((
            "LEGAL_HOLD",
            "this number or a call with it is held: release it first (ReleaseNumber, ReleaseCall), if the hold is over",
        ));
    }
    if standing.counts.recordings > 0 && app.recordings.is_none() {
        return Err((
            "RECORDING_NOT_REACHABLE",
            "there are recordings, and call-service does not know where: set RECORDING_STORE as at the edge",
        ));
    }
    Ok(())
}

fn refusal((reason, message): Problem) -> Error {
    Error::precondition(reason, message)
}
