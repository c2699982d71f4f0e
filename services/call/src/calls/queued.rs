//! What becomes of a call that waits: it is put off, or ended without a dial. Each is one transaction, and a call that has left the
//! queue meanwhile, or of which `still` is not true any more, stays as it is.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::Instrument as _;

use super::{
    dispatch::waiting,
    record::{Note, record_locked},
    state::{End, Event, Outcome, Party, Source, State},
};
use crate::{
    app::App,
    error::Error,
    store::calls::{self, Call},
    trace,
};

/// The end of a call that callbridge does not dial; `reason` is a stable word.
pub(crate) fn undialled(outcome: Outcome, reason: &str) -> End {
    End {
        by: Some(Party::Callbridge),
        reason: Some(reason.to_owned()),
        ..End::new(outcome)
    }
}

/// Ends a call, by the locked row and the database's time.
///
/// # Errors
/// Of the database, or when the row cannot be read.
pub(crate) async fn end(
    app: &App,
    conn: &mut AsyncPgConnection,
    id: CallId,
    (end, note): (End, Note),
    still: impl Fn(&Call, DateTime<Utc>) -> bool + Send + Sync,
) -> Result<(), Error> {
    let event = Event::Ended(Source::Local, end);
    let changed = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, id).await? else {
                return Ok(false);
            };
            if call.state != State::Queued || !still(&call, now) {
                return Ok(false);
            }
            trace::follow(&call);
            Ok(record_locked(conn, call, now, Some(&event), None, note).await?.1)
        })
        .instrument(trace::transaction("end"))
        .await?;
    if changed {
        app.hub.committed(id);
    }
    Ok(())
}

/// Lets a call wait until a time; `word` says for what.
///
/// # Errors
/// As [`end`].
pub(crate) async fn put_off(
    app: &App,
    conn: &mut AsyncPgConnection,
    id: CallId,
    (until, word): (DateTime<Utc>, &str),
    still: impl Fn(&Call, DateTime<Utc>) -> bool + Send + Sync,
) -> Result<(), Error> {
    let changed = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, id).await? else {
                return Ok(false);
            };
            if call.state != State::Queued || !still(&call, now) {
                return Ok(false);
            }
            // Said once: a wait that goes on is no news.
            if call.waiting_reason.as_deref() == Some(word) {
                calls::put_off(conn, id, until).await?;
                return Ok(false);
            }
            trace::follow(&call);
            record_locked(conn, call, now, None, Some("waiting"), waiting(word, None, Some(until))).await?;
            Ok(true)
        })
        .instrument(trace::transaction("put_off"))
        .await?;
    if changed {
        app.hub.committed(id);
    }
    Ok(())
}
