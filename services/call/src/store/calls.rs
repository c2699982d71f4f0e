//! Rows of `calls`.

use std::fmt;

use callbridge_proto::id::{AgentId, CallId, CampaignId, PhoneId};
use chrono::{DateTime, Utc};
use diesel::{
    AsChangeset, ExpressionMethods as _, Insertable, OptionalExtension as _, QueryDsl as _, QueryResult, Queryable,
    Selectable, SelectableHelper as _, declare_sql_function,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::future::join;
use serde_json::Value;
use uuid::Uuid;

use super::prepared::Prepared;
pub use super::unreadable::readable;
use crate::{
    calls::state::{Direction, Facts, State},
    store::{phones::DialMode, schema::calls},
};

#[cfg(test)]
mod sample;

/// A whole row.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = calls, check_for_backend(diesel::pg::Pg))]
#[expect(
    missing_docs,
    clippy::struct_excessive_bools,
    reason = "a row, as documented in the migrations"
)]
pub struct Call {
    pub id: Uuid,
    pub version: i64,
    pub direction: Direction,
    pub state: State,
    pub attempt: i32,
    pub account_id: Uuid,
    pub phone_id: Option<Uuid>,
    pub agent_id: Option<Uuid>,
    pub agent_version: Option<i32>,
    pub customer: String,
    pub exophone: String,
    pub caller: Option<String>,
    pub idempotency_key: Option<String>,
    pub fingerprint: Option<Vec<u8>>,
    pub call_sid: Option<String>,
    pub dial_mode: Option<DialMode>,
    pub ring_timeout_seconds: i32,
    pub time_limit_seconds: i32,
    pub record: bool,
    pub priority: i32,
    pub calling_hours_override: Option<String>,
    pub when_number_busy: i16,
    pub metadata: Value,
    pub not_before: DateTime<Utc>,
    pub expire_at: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    pub waiting_reason: Option<String>,
    pub waiting_for: Option<Uuid>,
    pub facts: Value,
    pub end_requested: bool,
    pub end_reason: Option<String>,
    pub ended_by: Option<String>,
    pub provider_code: Option<String>,
    pub end_presumed: bool,
    pub needs_review: bool,
    pub queued_at: DateTime<Utc>,
    pub post_started_at: Option<DateTime<Utc>>,
    pub answered_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub ring_seconds: Option<i32>,
    pub talk_seconds: Option<i32>,
    pub price: Option<String>,
    pub recording_url: Option<String>,
    pub transfer_to: Option<String>,
    pub branch_b: bool,
    pub read_back_at: Option<DateTime<Utc>>,
    pub read_backs: i32,
    pub traceparent: Option<String>,
    pub settle_polls: i32,
    pub blanked_at: Option<DateTime<Utc>>,
    pub campaign_id: Option<Uuid>,
    pub contact_id: Option<Uuid>,
    pub campaign_version: Option<i64>,
    pub hook_at: Option<DateTime<Utc>>,
}

impl Call {
    /// The typed id.
    pub fn id(&self) -> CallId {
        CallId(self.id)
    }

    /// The typed id of the phone.
    pub fn phone_id(&self) -> Option<PhoneId> {
        self.phone_id.map(PhoneId)
    }

    /// The typed id of the agent.
    pub fn agent_id(&self) -> Option<AgentId> {
        self.agent_id.map(AgentId)
    }

    /// The typed id of the campaign.
    pub fn campaign_id(&self) -> Option<CampaignId> {
        self.campaign_id.map(CampaignId)
    }

    /// What is known about the call's state.
    ///
    /// # Errors
    /// When the column holds something this program does not know; the row is then left alone.
    pub fn facts(&self) -> QueryResult<Facts> {
        serde_json::from_value(self.facts.clone())
            .map_err(|error| diesel::result::Error::DeserializationError(error.into()))
    }
}

/// A row to be.
#[derive(Clone, Insertable)]
#[diesel(table_name = calls)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct NewCall {
    pub id: Uuid,
    pub version: i64,
    pub direction: Direction,
    pub state: State,
    pub attempt: i32,
    pub account_id: Uuid,
    pub phone_id: Option<Uuid>,
    pub agent_id: Option<Uuid>,
    pub agent_version: Option<i32>,
    pub customer: String,
    pub exophone: String,
    pub caller: Option<String>,
    pub idempotency_key: Option<String>,
    pub fingerprint: Option<Vec<u8>>,
    pub call_sid: Option<String>,
    pub dial_mode: Option<DialMode>,
    pub ring_timeout_seconds: i32,
    pub time_limit_seconds: i32,
    pub record: bool,
    pub priority: i32,
    pub calling_hours_override: Option<String>,
    pub when_number_busy: i16,
    pub metadata: Value,
    pub not_before: DateTime<Utc>,
    pub expire_at: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    pub waiting_reason: Option<String>,
    pub waiting_for: Option<Uuid>,
    pub facts: Value,
    pub post_started_at: Option<DateTime<Utc>>,
    pub end_reason: Option<String>,
    pub ended_by: Option<String>,
    pub ended_at: Option<DateTime<Utc>>,
    pub read_back_at: Option<DateTime<Utc>>,
    pub traceparent: Option<String>,
}

impl fmt::Debug for Call {
    // The row holds numbers in clear.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("id", &self.id())
            .field("version", &self.version)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Changes to a row beside its state. `None` leaves a column as it is.
#[derive(Clone, Default, PartialEq, AsChangeset)]
#[diesel(table_name = calls)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Change {
    pub call_sid: Option<String>,
    pub metadata: Option<Value>,
    pub due_at: Option<DateTime<Utc>>,
    pub waiting_reason: Option<Option<String>>,
    pub waiting_for: Option<Option<Uuid>>,
    pub needs_review: Option<bool>,
    pub talk_seconds: Option<i32>,
    pub ring_seconds: Option<i32>,
    pub price: Option<String>,
    pub recording_url: Option<String>,
    pub transfer_to: Option<Option<String>>,
    pub branch_b: Option<bool>,
    pub read_back_at: Option<Option<DateTime<Utc>>>,
    pub read_backs: Option<i32>,
    pub settle_polls: Option<i32>,
}

/// The columns that follow from the facts.
#[derive(Debug, Clone, AsChangeset)]
#[diesel(table_name = calls)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Computed {
    pub version: i64,
    pub state: State,
    pub attempt: i32,
    pub facts: Value,
    pub end_requested: bool,
    pub post_started_at: Option<DateTime<Utc>>,
    pub answered_at: Option<DateTime<Utc>>,
    pub ended_at: Option<Option<DateTime<Utc>>>,
    pub end_reason: Option<Option<String>>,
    pub ended_by: Option<Option<String>>,
    pub provider_code: Option<Option<String>>,
    pub end_presumed: bool,
}

/// The row, if there is one.
pub async fn find(conn: &mut AsyncPgConnection, id: CallId) -> QueryResult<Option<Call>> {
    calls::table
        .find(id.0)
        .select(Call::as_select())
        .first(conn)
        .await
        .optional()
}

/// The row, locked until the transaction ends, and the database's time.
pub async fn lock(mut conn: &AsyncPgConnection, id: CallId) -> QueryResult<Option<(Call, DateTime<Utc>)>> {
    let row = calls::table.find(id.0).select(Call::as_select()).for_update();
    // Sent together, and answered one after the other: the time is that after the wait for the lock.
    let (call, now) = join(row.first(&mut conn), database_now(conn)).await;
    let Some(call) = call.optional()? else { return Ok(None) };
    Ok(Some((call, now?)))
}

/// The database's time: the only clock that decides between replicas.
pub async fn database_now(mut conn: &AsyncPgConnection) -> QueryResult<DateTime<Utc>> {
    diesel::select(clock_timestamp()).get_result(&mut conn).await
}

#[declare_sql_function]
extern "SQL" {
    /// The time now, also within a transaction.
    fn clock_timestamp() -> Timestamptz;
}

/// The call that a caller made with a key.
pub async fn by_key(mut conn: &AsyncPgConnection, caller: &str, key: &str) -> QueryResult<Option<Call>> {
    calls::table
        .filter(calls::caller.eq(caller))
        .filter(calls::idempotency_key.eq(key))
        .select(Call::as_select())
        .first(&mut conn)
        .await
        .optional()
}

/// The call of an account with Exotel's id.
pub async fn by_sid(conn: &mut AsyncPgConnection, account: Uuid, sid: &str) -> QueryResult<Option<Call>> {
    calls::table
        .filter(calls::account_id.eq(account))
        .filter(calls::call_sid.eq(sid))
        .select(Call::as_select())
        .first(conn)
        .await
        .optional()
}

/// Which of these ids of Exotel's calls of an account have.
pub async fn owned_sids(conn: &mut AsyncPgConnection, account: Uuid, sids: &[&str]) -> QueryResult<Vec<String>> {
    let owned: Vec<Option<String>> = calls::table
        .filter(calls::account_id.eq(account))
        .filter(calls::call_sid.eq_any(sids))
        .select(calls::call_sid)
        .load(conn)
        .await?;
    Ok(owned.into_iter().flatten().collect())
}

/// Lets a queued call be looked at later, without more.
pub async fn put_off(mut conn: &AsyncPgConnection, id: CallId, until: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(calls::table.find(id.0))
        .set(calls::due_at.eq(until))
        .execute(&mut conn)
        .await
}

/// Inserts a call that somebody placed. None: the idempotency key is taken.
pub async fn insert_placed(mut conn: &AsyncPgConnection, call: &NewCall) -> QueryResult<Option<Call>> {
    let insert = diesel::insert_into(calls::table)
        .values(call)
        .on_conflict((calls::caller, calls::idempotency_key))
        .do_nothing()
        .returning(Call::as_returning());
    Prepared(insert).get_result(&mut conn).await.optional()
}

/// Inserts a call that came in. None: its CallSid is taken.
pub async fn insert_arrived(conn: &mut AsyncPgConnection, call: &NewCall) -> QueryResult<Option<Call>> {
    let insert = diesel::insert_into(calls::table)
        .values(call)
        .on_conflict((calls::account_id, calls::call_sid))
        .do_nothing()
        .returning(Call::as_returning());
    Prepared(insert).get_result(conn).await.optional()
}

/// Writes a decision, guarded by what it was made from, and returns the row after it. None: the row has moved on.
pub async fn update(
    mut conn: &AsyncPgConnection,
    before: &Call,
    computed: &Computed,
    change: &Change,
) -> QueryResult<Option<Call>> {
    let guard = calls::table
        .filter(calls::id.eq(before.id))
        .filter(calls::version.eq(before.version))
        .filter(calls::attempt.eq(before.attempt));
    let update = diesel::update(guard)
        .set((computed, change))
        .returning(Call::as_returning());
    Prepared(update).get_result(&mut conn).await.optional()
}

/// Sets a row aside without reading it: a person has to look, and no loop comes by it for a day.
pub async fn quarantine_unreadable(conn: &mut AsyncPgConnection, id: CallId) -> QueryResult<usize> {
    let later = diesel::dsl::sql::<diesel::sql_types::Timestamptz>("clock_timestamp() + interval '1 day'");
    let also_later = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>>(
        "clock_timestamp() + interval '1 day'",
    );
    diesel::update(calls::table.find(id.0))
        .set((
            calls::needs_review.eq(true),
            calls::due_at.eq(later),
            calls::read_back_at.eq(also_later),
        ))
        .execute(conn)
        .await
}
