//! What neither retention nor an erasure touches: calls that are held, and numbers with all their calls.

use chrono::{DateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// Whether a row of `calls` is held, itself or by its number.
macro_rules! held {
    ($calls:literal) => {
        concat!(
            "(",
            $calls,
            ".held_at IS NOT NULL OR EXISTS (SELECT 1 FROM number_holds n WHERE n.number = ",
            $calls,
            ".customer))"
        )
    };
}

pub(crate) use held;

/// Key of what a purge shares, and a hold waits for.
const PURGES: &str = "hashtext('callbridge purges')";

/// Until the transaction's end no hold is answered: what a purge has found to be free stays free while it goes.
pub async fn purge(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
    sql_query(format!("SELECT pg_advisory_xact_lock_shared({PURGES})"))
        .execute(conn)
        .await
}

/// Waits for purges that are under way. Call it in a hold's transaction, first.
pub async fn wait_for_purges(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
    sql_query(format!("SELECT pg_advisory_xact_lock({PURGES})"))
        .execute(conn)
        .await
}

/// What a hold found.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Held {
    /// Since when the call is held.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub held_at: Option<DateTime<Utc>>,
}

/// Holds a call that is not blanked. None: there is no such call, or nothing left of it.
pub async fn hold(conn: &mut AsyncPgConnection, call: Uuid, reason: &str) -> QueryResult<Option<Held>> {
    sql_query(
        "UPDATE calls SET held_at = coalesce(held_at, clock_timestamp()), hold_reason = $2
        WHERE id = $1 AND blanked_at IS NULL RETURNING held_at",
    )
    .bind::<SqlUuid, _>(call)
    .bind::<Text, _>(reason)
    .get_result(conn)
    .await
    .optional()
}

/// Releases a call. Returns whether it was held.
pub async fn release(conn: &mut AsyncPgConnection, call: Uuid) -> QueryResult<bool> {
    let released =
        sql_query("UPDATE calls SET held_at = NULL, hold_reason = NULL WHERE id = $1 AND held_at IS NOT NULL")
            .bind::<SqlUuid, _>(call)
            .execute(conn)
            .await?;
    Ok(released > 0)
}

/// Holds a number: nothing about it is purged or erased. Returns since when it is held. Call it with the number's lock.
pub async fn hold_number(conn: &mut AsyncPgConnection, number: &str, reason: &str) -> QueryResult<DateTime<Utc>> {
    #[derive(QueryableByName)]
    struct Since {
        #[diesel(sql_type = Timestamptz)]
        held_at: DateTime<Utc>,
    }
    let since: Since = sql_query(
        "INSERT INTO number_holds (number, reason) VALUES ($1, $2)
        ON CONFLICT (number) DO UPDATE SET reason = excluded.reason RETURNING held_at",
    )
    .bind::<Text, _>(number)
    .bind::<Text, _>(reason)
    .get_result(conn)
    .await?;
    Ok(since.held_at)
}

/// Releases a number. Returns whether it was held.
pub async fn release_number(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<bool> {
    let released = sql_query("DELETE FROM number_holds WHERE number = $1")
        .bind::<Text, _>(number)
        .execute(conn)
        .await?;
    Ok(released > 0)
}
