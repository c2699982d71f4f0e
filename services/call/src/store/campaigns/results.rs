//! Attempts of a campaign, for its results.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Int4, Int8, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use crate::{
    calls::state::State,
    store::{contacts::agent_unavailable, enums::sql::CallState, prepared::Prepared},
};

/// An attempt that was dialled.
#[derive(Clone, QueryableByName)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Attempt {
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    #[diesel(sql_type = Nullable<Uuid>)]
    pub contact_id: Option<RawUuid>,
    #[diesel(sql_type = Text)]
    pub number: String,
    #[diesel(sql_type = Text)]
    pub contact_state: String,
    #[diesel(sql_type = Text)]
    pub exophone: String,
    #[diesel(sql_type = Text)]
    pub call_sid: String,
    #[diesel(sql_type = CallState)]
    pub state: State,
    #[diesel(sql_type = Text)]
    pub end_reason: String,
    #[diesel(sql_type = Text)]
    pub ended_by: String,
    #[diesel(sql_type = Bool)]
    pub agent_unavailable: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub dialed_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub answered_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub ended_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Int4>)]
    pub ring_seconds: Option<i32>,
    #[diesel(sql_type = Nullable<Int4>)]
    pub talk_seconds: Option<i32>,
    #[diesel(sql_type = Text)]
    pub price: String,
}

/// A page of attempts in the order in which their calls were queued, after a call.
pub async fn page(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    after: RawUuid,
    limit: i64,
) -> QueryResult<Vec<Attempt>> {
    let query = sql_query(
        concat!("SELECT c.id, c.contact_id, CASE WHEN c.blanked_at IS NULL THEN c.customer ELSE '' END AS number, coalesce(k.state, '') AS contact_state,
            c.exophone, coalesce(c.call_sid, '') AS call_sid, c.state, coalesce(c.end_reason, '') AS end_reason,
            coalesce(c.ended_by, '') AS ended_by, c.post_started_at AS dialed_at, c.answered_at, c.ended_at, c.ring_seconds,
            c.talk_seconds, coalesce(c.price, '') AS price,
            ", agent_unavailable!("c"), " AS agent_unavailable
        FROM calls c LEFT JOIN contacts k ON k.campaign_id = c.campaign_id AND k.id = c.contact_id
        WHERE c.campaign_id = $1 AND c.id > $2 AND c.attempt > 0
        ORDER BY c.id LIMIT $3"),
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Uuid, _>(after)
    .bind::<Int8, _>(limit);
    Prepared(query).load(conn).await
}
