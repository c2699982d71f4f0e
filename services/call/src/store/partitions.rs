//! The months of `call_events`. Functions of the database make and drop them with its owner's rights: the role that serves may do neither.

use chrono::TimeDelta;
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{BigInt, Bool, Int4, Interval, Text},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};

use super::sessions::interval;

/// Who makes or drops partitions does so alone: two at once would trip over each other's tables.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtext('call_events_partitions'))";

/// Makes those of this month and the three that follow. Returns how many were missing. Call it in a transaction.
pub async fn make(conn: &mut AsyncPgConnection) -> QueryResult<i32> {
    #[derive(QueryableByName)]
    struct Made {
        #[diesel(sql_type = Int4)]
        made: i32,
    }
    sql_query(ALONE).execute(conn).await?;
    let made: Made = sql_query("SELECT call_events_partitions(3) AS made")
        .get_result(conn)
        .await?;
    Ok(made.made)
}

/// The partitions of months that were over longer ago than this, oldest first.
pub async fn old(conn: &mut AsyncPgConnection, kept: TimeDelta) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Partition {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let partitions: Vec<Partition> = sql_query(
        "SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'call_events'::regclass AND c.relname ~ '^call_events_[0-9]{4}_[0-9]{2}$'
            AND to_timestamp(right(c.relname, 7), 'YYYY_MM') + interval '1 month' < now() - $1 ORDER BY 1",
    )
    .bind::<Interval, _>(interval(kept))
    .load(conn)
    .await?;
    Ok(partitions.into_iter().map(|row| row.name).collect())
}

/// Whether all calls of a partition's month are blanked, which they stay. Reads the month's calls until one is not: call it in a
/// transaction of its own, in which it may take minutes.
pub async fn is_blank(conn: &mut AsyncPgConnection, partition: &str) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Blank {
        #[diesel(sql_type = Bool)]
        blank: bool,
    }
    conn.batch_execute("SET LOCAL statement_timeout = '5min'").await?;
    let blank: Blank = sql_query(
        "WITH month AS (SELECT to_timestamp(right($1, 7), 'YYYY_MM') AS begins)
        SELECT NOT EXISTS (
            SELECT 1 FROM calls WHERE id >= (SELECT uuid_v7_floor(begins) FROM month)
                AND id < (SELECT uuid_v7_floor(begins + interval '1 month') FROM month) AND blanked_at IS NULL
        ) AS blank",
    )
    .bind::<Text, _>(partition)
    .get_result(conn)
    .await?;
    Ok(blank.blank)
}

/// Drops a partition. It needs the whole timeline's lock for a moment, and everybody queues behind whoever waits for that one: it
/// waits a fifth of a second at most. Call it in a transaction of its own.
pub async fn drop(conn: &mut AsyncPgConnection, partition: &str) -> QueryResult<()> {
    sql_query(ALONE).execute(conn).await?;
    // It looks itself whether the month may go, which may take as long as `is_blank`.
    conn.batch_execute("SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '5min'")
        .await?;
    sql_query("SELECT call_events_drop($1)")
        .bind::<Text, _>(partition)
        .execute(conn)
        .await
        .map(|_| ())
}

/// Deletes what came late, after its month was dropped, of calls that are blanked.
pub async fn forget_late(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    #[derive(QueryableByName)]
    struct Forgotten {
        #[diesel(sql_type = BigInt)]
        forgotten: i64,
    }
    let gone: Forgotten = sql_query("SELECT call_events_forget_late($1, $2) AS forgotten")
        .bind::<Interval, _>(interval(kept))
        .bind::<BigInt, _>(limit)
        .get_result(conn)
        .await?;
    Ok(usize::try_from(gone.forgotten).unwrap_or_default())
}
