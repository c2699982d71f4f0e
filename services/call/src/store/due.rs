//! Work whose time has come, claimed so that two replicas never take the same row.

use std::collections::HashMap;

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    ExpressionMethods as _, IntoSql as _, NullableExpressionMethods as _, PgExpressionMethods as _, QueryDsl as _,
    QueryResult,
    dsl::now,
    pg::expression::extensions::IntervalDsl as _,
    sql_query,
    sql_types::{Array, Nullable, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::prepared::Prepared;
use crate::{
    calls::state::State,
    store::{
        calls::{Call, readable},
        schema::calls,
    },
};

/// Calls whose dial has had no outcome for `older_than`.
pub async fn dialing(conn: &mut AsyncPgConnection, older_than: TimeDelta, limit: i64) -> QueryResult<Vec<CallId>> {
    let age = i32::try_from(older_than.num_milliseconds())
        .unwrap_or(i32::MAX)
        .milliseconds();
    let ids: Vec<Uuid> = calls::table
        .filter(calls::state.eq(State::Dialing))
        .filter(calls::post_started_at.lt((now.into_sql::<Timestamptz>() - age).nullable()))
        // One that cannot be read is set aside by this column.
        .filter(calls::due_at.le(now))
        .order(calls::post_started_at)
        .limit(limit)
        .select(calls::id)
        .load(conn)
        .await?;
    Ok(ids.into_iter().map(CallId).collect())
}

/// A call that Exotel shall be asked about.
#[derive(Debug)]
pub struct Taken {
    /// The row; its `read_back_at` is when the call is given back.
    pub call: Call,
    /// When its time came.
    pub was_due: DateTime<Utc>,
}

/// Takes calls that Exotel shall be asked about, longest due first, and gives them back after `lease` if nothing comes of it.
/// Also the ids of those that cannot be read. Call it in a transaction.
pub async fn read_backs(
    conn: &mut AsyncPgConnection,
    lease: TimeDelta,
    limit: i64,
) -> QueryResult<(Vec<Taken>, Vec<Uuid>)> {
    let lease = i32::try_from(lease.num_seconds()).unwrap_or(i32::MAX).seconds();
    let due: Vec<(Uuid, Option<DateTime<Utc>>)> = calls::table
        .filter(calls::read_back_at.le(now))
        .order(calls::read_back_at)
        .limit(limit)
        .select((calls::id, calls::read_back_at))
        .for_update()
        .skip_locked()
        .load(conn)
        .await?;
    if due.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let ids: Vec<Uuid> = due.iter().map(|(id, _)| *id).collect();
    diesel::update(calls::table.filter(calls::id.eq_any(&ids)))
        .set(calls::read_back_at.eq((now.into_sql::<Timestamptz>() + lease).nullable()))
        .execute(conn)
        .await?;
    let read = readable(conn, &ids).await?;
    let times: HashMap<Uuid, Option<DateTime<Utc>>> = due.into_iter().collect();
    let mut taken: Vec<Taken> = read
        .calls
        .into_iter()
        .map(|call| Taken {
            was_due: times.get(&call.id).copied().flatten().unwrap_or_default(),
            call,
        })
        .collect();
    taken.sort_by_key(|taken| taken.was_due);
    Ok((taken, read.unreadable))
}

/// Sets when Exotel is asked next, unless that was changed since the call was taken.
pub async fn set_read_back(
    conn: &mut AsyncPgConnection,
    call: &Call,
    at: Option<DateTime<Utc>>,
    times: i32,
) -> QueryResult<usize> {
    let update = diesel::update(
        calls::table
            .find(call.id)
            .filter(calls::read_back_at.is_not_distinct_from(call.read_back_at)),
    )
    .set((calls::read_back_at.eq(at), calls::read_backs.eq(times)));
    Prepared(update).execute(conn).await
}

/// Asks later about calls that were taken and not asked about, each at its time, unless that was changed since. One statement,
/// however many they are.
pub async fn postpone<'a>(
    conn: &mut AsyncPgConnection,
    later: impl IntoIterator<Item = (&'a Call, DateTime<Utc>)>,
) -> QueryResult<usize> {
    let (mut ids, mut leases, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for (call, at) in later {
        ids.push(call.id);
        leases.push(call.read_back_at);
        times.push(at);
    }
    if ids.is_empty() {
        return Ok(0);
    }
    let update = sql_query(
        "UPDATE calls SET read_back_at = l.at
        FROM unnest($1, $2, $3) AS l (id, lease, at)
        WHERE calls.id = l.id AND calls.read_back_at IS NOT DISTINCT FROM l.lease",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<Array<Nullable<Timestamptz>>, _>(leases)
    .bind::<Array<Timestamptz>, _>(times);
    Prepared(update).execute(conn).await
}

/// Counts a look at Exotel's list that did not settle a call which was taken, and sets the time of the next one.
pub async fn polled(conn: &mut AsyncPgConnection, call: &Call, clean: bool, at: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(
        calls::table
            .find(call.id)
            .filter(calls::read_back_at.is_not_distinct_from(call.read_back_at)),
    )
    .set((
        calls::read_back_at.eq(at),
        calls::read_backs.eq(calls::read_backs + 1),
        calls::settle_polls.eq(calls::settle_polls + i32::from(clean)),
    ))
    .execute(conn)
    .await
}
