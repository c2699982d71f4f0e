//! Rows of `rates`: the pace of an account's requests at Exotel, by the database's clock alone.
//!
//! GCRA without a burst: a row holds when the next request is due. A lost or doubled process cannot break a rate that is kept
//! here, and no replica's clock counts.

use callbridge_proto::id::AccountId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Interval, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::{prepared::Prepared, sessions::interval};

/// Which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connects: what Exotel's limit is about.
    Dial,
    /// All others: a fifth of the limit, on top of it.
    Read,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::Read => "read",
        }
    }

    /// The pause between two requests, for an account's limit of connects in a minute. A minute's worth is spread over 65
    /// seconds, so that requests which are late by up to four seconds break the limit in no sliding minute.
    pub fn pause(self, calls_per_minute: i32) -> TimeDelta {
        let of_limit = match self {
            Self::Dial => 1,
            Self::Read => 5,
        };
        TimeDelta::microseconds(65_000_000 * of_limit / i64::from(calls_per_minute.max(1)))
    }
}

/// When the next request is due, by a clock that is the database's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Pace {
    /// The next request may be made then.
    #[diesel(sql_type = Timestamptz)]
    pub next_at: DateTime<Utc>,
    /// The database's time.
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
}

/// Locks the row until the transaction ends: whoever has it decides alone about the account's slots. None: there is no such
/// account.
pub async fn lock(conn: &mut AsyncPgConnection, account: AccountId, kind: Kind) -> QueryResult<Option<Pace>> {
    let query = sql_query(
        // The time is taken after the lock, not before the wait for it.
        "WITH held AS MATERIALIZED (
            SELECT next_at FROM rates WHERE account_id = $1 AND kind = $2 FOR NO KEY UPDATE
        ) SELECT next_at, clock_timestamp() AS now FROM held",
    )
    .bind::<Uuid, _>(account.0)
    .bind::<Text, _>(kind.label());
    Prepared(query).get_result(conn).await.optional()
}

/// How things stand now, without a lock: soon they may stand otherwise.
pub async fn peek(mut conn: &AsyncPgConnection, account: AccountId, kind: Kind) -> QueryResult<Option<Pace>> {
    let query = sql_query("SELECT next_at, clock_timestamp() AS now FROM rates WHERE account_id = $1 AND kind = $2")
        .bind::<Uuid, _>(account.0)
        .bind::<Text, _>(kind.label());
    Prepared(query).get_result(&mut conn).await.optional()
}

/// Sets when the next request is due, on a row that is locked.
pub async fn set(
    mut conn: &AsyncPgConnection,
    account: AccountId,
    kind: Kind,
    next_at: DateTime<Utc>,
) -> QueryResult<usize> {
    let query = sql_query("UPDATE rates SET next_at = $3 WHERE account_id = $1 AND kind = $2")
        .bind::<Uuid, _>(account.0)
        .bind::<Text, _>(kind.label())
        .bind::<Timestamptz, _>(next_at);
    Prepared(query).execute(&mut conn).await
}

/// Makes no request before `wait` is over: Exotel said that there were too many.
pub async fn hold(conn: &mut AsyncPgConnection, account: AccountId, kind: Kind, wait: TimeDelta) -> QueryResult<usize> {
    sql_query(
        "UPDATE rates SET next_at = greatest(next_at, clock_timestamp() + $3) WHERE account_id = $1 AND kind = $2",
    )
    .bind::<Uuid, _>(account.0)
    .bind::<Text, _>(kind.label())
    .bind::<Interval, _>(interval(wait))
    .execute(conn)
    .await
}

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    next_at: Option<DateTime<Utc>>,
}

/// Takes one request's turn. Err: it is not due before then.
pub async fn take(
    conn: &mut AsyncPgConnection,
    account: AccountId,
    kind: Kind,
    pause: TimeDelta,
) -> QueryResult<Result<(), DateTime<Utc>>> {
    let query = sql_query(
        "UPDATE rates SET next_at = clock_timestamp() + $3
        WHERE account_id = $1 AND kind = $2 AND next_at <= clock_timestamp()",
    )
    .bind::<Uuid, _>(account.0)
    .bind::<Text, _>(kind.label())
    .bind::<Interval, _>(interval(pause));
    let taken = Prepared(query).execute(conn).await?;
    if taken == 1 {
        return Ok(Ok(()));
    }
    let due: Due = sql_query("SELECT max(next_at) AS next_at FROM rates WHERE account_id = $1 AND kind = $2")
        .bind::<Uuid, _>(account.0)
        .bind::<Text, _>(kind.label())
        .get_result(conn)
        .await?;
    due.next_at.map(Err).ok_or(diesel::result::Error::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F113: the most requests that a sliding minute can see, each late by up to four seconds.
    #[test]
    fn a_minute_never_sees_more_than_the_limit() {
        for limit in 1..=6_000 {
            let pause = Kind::Dial.pause(limit).num_microseconds().unwrap();
            let window = 60_000_000 + 3_900_000;
            let most = 1 + window / pause;
            assert!(most <= i64::from(limit), "{limit} a minute: {most}");
        }
        assert_eq!(Kind::Read.pause(60), TimeDelta::microseconds(5_416_666));
    }
}
