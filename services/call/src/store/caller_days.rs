//! How many calls callers have made in a day. The row's lock is the last one that a transaction takes, so that those who wait for it
//! wait for a commit alone.

use chrono::{DateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Int4, Int8, Text, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use super::prepared::Prepared;

/// Rows of calls that are looked at for alarms, at most.
const LOOKED_AT: i64 = 50_000;

#[derive(QueryableByName)]
struct Calls {
    #[diesel(sql_type = Int8)]
    calls: i64,
}

/// Counts a call of a caller, if it has had fewer than `most` today; the day is that of India. False: it has had them, and nothing is
/// counted. What is counted is undone with its transaction.
pub async fn count(mut conn: &AsyncPgConnection, caller: &str, most: i32) -> QueryResult<bool> {
    let query = sql_query(
        "INSERT INTO caller_days AS d (caller, day, calls)
        VALUES ($1, (clock_timestamp() AT TIME ZONE 'Asia/Kolkata')::date, 1)
        ON CONFLICT (caller, day) DO UPDATE SET calls = d.calls + 1 WHERE d.calls < $2
        RETURNING d.calls",
    )
    .bind::<Text, _>(caller)
    .bind::<Int4, _>(most);
    let row: Option<Calls> = Prepared(query).get_result(&mut conn).await.optional()?;
    Ok(row.is_some())
}

/// How many calls a caller has had today.
pub async fn today(mut conn: &AsyncPgConnection, caller: &str) -> QueryResult<i64> {
    let query = sql_query(
        "SELECT calls FROM caller_days
        WHERE caller = $1 AND day = (clock_timestamp() AT TIME ZONE 'Asia/Kolkata')::date",
    )
    .bind::<Text, _>(caller);
    let row: Option<Calls> = Prepared(query).get_result(&mut conn).await.optional()?;
    Ok(row.map_or(0, |row| row.calls))
}

/// Forgets days that are over for more than a year.
pub async fn forget(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
    sql_query("DELETE FROM caller_days WHERE day < (clock_timestamp() AT TIME ZONE 'Asia/Kolkata')::date - 400")
        .execute(conn)
        .await
}

/// What a caller has done in the last hour.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Lately {
    /// Its name.
    #[diesel(sql_type = Text)]
    pub caller: String,
    /// Calls that were made for it in the last minute.
    #[diesel(sql_type = Int8)]
    pub minute: i64,
    /// In the last hour.
    #[diesel(sql_type = Int8)]
    pub hour: i64,
    /// Those that are over.
    #[diesel(sql_type = Int8)]
    pub ended: i64,
    /// Of these, those that failed.
    #[diesel(sql_type = Int8)]
    pub failed: i64,
}

/// What callers have done in the last hour, by the newest calls; a campaign's count for the caller that made it. Ids begin with the
/// time, so the primary key finds them.
pub async fn lately(conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> QueryResult<Vec<Lately>> {
    let since = |seconds: i64| id_of(now.timestamp_millis() - seconds * 1_000);
    let query = sql_query(
        "SELECT coalesce(m.caller, c.caller) AS caller, count(*) FILTER (WHERE c.id >= $2) AS minute, count(*) AS hour,
            count(c.ended_at) AS ended, count(*) FILTER (WHERE c.state = 'failed') AS failed
        FROM (
            SELECT id, caller, campaign_id, ended_at, state FROM calls
            WHERE id >= $1 AND direction = 'outbound' ORDER BY id DESC LIMIT $3
        ) c LEFT JOIN campaigns m ON m.id = c.campaign_id
        WHERE coalesce(m.caller, c.caller) IS NOT NULL GROUP BY 1",
    )
    .bind::<Uuid, _>(since(3_600))
    .bind::<Uuid, _>(since(60))
    .bind::<Int8, _>(LOOKED_AT);
    Prepared(query).load(conn).await
}

/// The least id of that time (RFC 9562 §5.7).
fn id_of(unix_ms: i64) -> RawUuid {
    RawUuid::from_u128(u128::try_from(unix_ms).unwrap_or(0) << 80)
}
