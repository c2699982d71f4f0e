//! Queued calls whose campaign's hook has not said yes lately.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid as RawUuid;

use crate::store::prepared::Prepared;

/// A call that the hook is to be asked about.
#[derive(Clone, QueryableByName)]
pub struct Question {
    /// The call.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// The contact.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub contact_id: Option<RawUuid>,
    /// E.164.
    #[diesel(sql_type = Text)]
    pub number: String,
    /// Which call of the contact.
    #[diesel(sql_type = Int4)]
    pub calls: i32,
    /// The contact's.
    #[diesel(sql_type = Jsonb)]
    pub variables: Value,
    /// When its turn was, which it keeps.
    #[diesel(sql_type = Timestamptz)]
    pub was_due: DateTime<Utc>,
}

impl std::fmt::Debug for Question {
    // It holds a number in clear.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Takes calls to ask about, the next ones first. They are not due meanwhile; if nothing comes of it, they are again after five
/// seconds.
pub async fn take(conn: &mut AsyncPgConnection, campaign: CampaignId, limit: i64) -> QueryResult<Vec<Question>> {
    let query = sql_query(
        "WITH next AS MATERIALIZED (
            SELECT id, due_at FROM calls
            WHERE campaign_id = $1 AND state = 'queued' AND due_at <= (SELECT clock_timestamp())
                AND (hook_at IS NULL OR hook_at < (SELECT clock_timestamp() - interval '25 seconds'))
            ORDER BY due_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
        ), taken AS (
            UPDATE calls c SET due_at = clock_timestamp() + interval '5 seconds' FROM next
            WHERE c.id = next.id RETURNING c.id, c.campaign_id, c.contact_id, c.customer, next.due_at AS was_due
        ) SELECT taken.id, taken.contact_id, taken.customer AS number, taken.was_due, coalesce(k.calls, 1) AS calls,
            coalesce(k.variables, '{}'::jsonb) AS variables
        FROM taken LEFT JOIN contacts k ON k.campaign_id = taken.campaign_id AND k.id = taken.contact_id",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Int8, _>(limit);
    Prepared(query).load(conn).await
}

/// The hook said yes: the call is due again, in its place.
pub async fn allow(conn: &mut AsyncPgConnection, call: RawUuid, was_due: DateTime<Utc>) -> QueryResult<usize> {
    let query =
        sql_query("UPDATE calls SET hook_at = clock_timestamp(), due_at = $2 WHERE id = $1 AND state = 'queued'")
            .bind::<Uuid, _>(call)
            .bind::<Timestamptz, _>(was_due);
    Prepared(query).execute(conn).await
}
