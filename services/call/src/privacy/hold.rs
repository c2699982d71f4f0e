//! Calls and numbers that neither retention nor an erasure may touch.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection as _;
use exotel::PhoneNumber;
use serde_json::json;

use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    store::{calls, campaigns::numbers, holds},
};

/// Holds a call, and returns since when it is held.
///
/// # Errors
/// `NotFound`, or Precondition (`CALL_BLANKED`).
pub(crate) async fn hold(app: &App, id: CallId, reason: &str) -> Result<DateTime<Utc>, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        holds::wait_for_purges(conn).await?;
        let Some(at) = holds::hold(conn, id.0, reason).await?.and_then(|held| held.held_at) else {
            calls::find(conn, id)
                .await?
                .ok_or_else(|| Error::not_found("call", id))?;
            return Err(Error::precondition(
                "CALL_BLANKED",
                "retention or an erasure has blanked this call: there is nothing left to hold",
            ));
        };
        audit::changed_with(conn, Subject::Id(&id), json!({ "reason": reason })).await?;
        Ok(at)
    })
    .await
}

/// Releases a call. Returns whether it was held.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn release(app: &App, id: CallId) -> Result<bool, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        calls::find(conn, id)
            .await?
            .ok_or_else(|| Error::not_found("call", id))?;
        let released = holds::release(conn, id.0).await?;
        audit::changed_with(conn, Subject::Id(&id), json!({ "released": released.to_string() })).await?;
        Ok(released)
    })
    .await
}

/// Holds a number, with all its calls to come, and returns since when it is held.
///
/// # Errors
/// Of the database.
pub(crate) async fn hold_number(app: &App, number: &PhoneNumber, reason: &str) -> Result<DateTime<Utc>, Error> {
    let number = number.expose();
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        // What is under way comes to its end first: purges, and an erasure.
        holds::wait_for_purges(conn).await?;
        numbers::lock(conn, number).await?;
        let at = holds::hold_number(conn, number, reason).await?;
        audit::changed_with(conn, Subject::Number(number), json!({ "reason": reason })).await?;
        Ok(at)
    })
    .await
}

/// Releases a number. Returns whether it was held.
///
/// # Errors
/// Of the database.
pub(crate) async fn release_number(app: &App, number: &PhoneNumber) -> Result<bool, Error> {
    let number = number.expose();
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let released = holds::release_number(conn, number).await?;
        let data = json!({ "released": released.to_string() });
        audit::changed_with(conn, Subject::Number(number), data).await?;
        Ok(released)
    })
    .await
}
