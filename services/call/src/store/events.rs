//! Rows of `call_events`, the timelines.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, Insertable, QueryDsl as _, QueryResult, Queryable,
    QueryableByName, Selectable, SelectableHelper as _, sql_query,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::prepared::Prepared;
use crate::{calls::state::State, store::schema::call_events};

/// One thing that happened to a call.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = call_events, check_for_backend(diesel::pg::Pg))]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Event {
    pub call_id: Uuid,
    pub version: i64,
    pub id: i64,
    pub tx: i64,
    pub kind: String,
    pub state: State,
    pub source: String,
    pub at: DateTime<Utc>,
    pub data: Value,
}

impl Event {
    /// Its place in the order in which events became visible.
    pub fn place(&self) -> Place {
        Place {
            tx: self.tx,
            id: self.id,
        }
    }
}

/// A place in the order of all events: everything before it was visible before anything after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The transaction.
    pub tx: i64,
    /// The event's number.
    pub id: i64,
}

/// An event to be.
#[derive(Debug, Clone, Insertable)]
#[diesel(table_name = call_events)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewEvent {
    pub call_id: Uuid,
    pub version: i64,
    pub kind: String,
    pub state: State,
    pub source: String,
    pub data: Value,
}

/// Appends events.
pub async fn append(mut conn: &AsyncPgConnection, events: &[NewEvent]) -> QueryResult<usize> {
    let insert = diesel::insert_into(call_events::table).values(events);
    Prepared(insert).execute(&mut conn).await
}

/// A page of one call's events after a version, in order.
pub async fn of_call(conn: &mut AsyncPgConnection, call: CallId, after: i64, limit: i64) -> QueryResult<Vec<Event>> {
    call_events::table
        .filter(call_events::call_id.eq(call.0))
        .filter(call_events::version.gt(after))
        .order(call_events::version)
        .limit(limit)
        .select(Event::as_select())
        .load(conn)
        .await
}

#[derive(QueryableByName)]
struct Horizon {
    #[diesel(sql_type = diesel::sql_types::Int8)]
    horizon: i64,
}

/// The oldest transaction that may still commit: events of earlier ones are all visible.
pub async fn horizon(conn: &mut AsyncPgConnection) -> QueryResult<i64> {
    let row: Horizon = sql_query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon")
        .get_result(conn)
        .await?;
    Ok(row.horizon)
}

/// A page of all events after a place and below the horizon, in order.
pub async fn after(conn: &mut AsyncPgConnection, place: Place, horizon: i64, limit: i64) -> QueryResult<Vec<Event>> {
    call_events::table
        .filter(
            call_events::tx
                .gt(place.tx)
                .or(call_events::tx.eq(place.tx).and(call_events::id.gt(place.id))),
        )
        .filter(call_events::tx.ge(place.tx))
        .filter(call_events::tx.lt(horizon))
        .order((call_events::tx, call_events::id))
        .limit(limit)
        .select(Event::as_select())
        .load(conn)
        .await
}
