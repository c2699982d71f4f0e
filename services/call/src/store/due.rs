//! Work whose time has come, claimed so that two replicas never take the same row.

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::{
    ExpressionMethods as _, IntoSql as _, NullableExpressionMethods as _, PgExpressionMethods as _, QueryDsl as _,
    QueryResult, SelectableHelper as _, dsl::now, pg::expression::extensions::IntervalDsl as _, sql_types::Timestamptz,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    calls::state::State,
    store::{calls::Call, schema::calls},
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

/// Takes calls that Exotel shall be asked about, and gives them back after `lease` if nothing comes of it. Call it in a
/// transaction.
pub async fn read_backs(conn: &mut AsyncPgConnection, lease: TimeDelta, limit: i64) -> QueryResult<Vec<Call>> {
    let lease = i32::try_from(lease.num_seconds()).unwrap_or(i32::MAX).seconds();
    let due: Vec<Uuid> = calls::table
        .filter(calls::read_back_at.le(now))
        .order(calls::read_back_at)
        .limit(limit)
        .select(calls::id)
        .for_update()
        .skip_locked()
        .load(conn)
        .await?;
    diesel::update(calls::table.filter(calls::id.eq_any(due)))
        .set(calls::read_back_at.eq((now.into_sql::<Timestamptz>() + lease).nullable()))
        .returning(Call::as_returning())
        .get_results(conn)
        .await
}

/// Sets when Exotel is asked next, unless that was changed since the call was taken.
pub async fn set_read_back(
    conn: &mut AsyncPgConnection,
    call: &Call,
    at: Option<DateTime<Utc>>,
    times: i32,
) -> QueryResult<usize> {
    diesel::update(
        calls::table
            .find(call.id)
            .filter(calls::read_back_at.is_not_distinct_from(call.read_back_at)),
    )
    .set((calls::read_back_at.eq(at), calls::read_backs.eq(times)))
    .execute(conn)
    .await
}
