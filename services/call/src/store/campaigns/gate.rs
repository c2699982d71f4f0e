//! What a claim of a campaign's call must know of its campaign, under the campaign's lock.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::store::{calls::Call, prepared::Prepared};

/// A campaign as a claim sees it.
#[derive(Debug, Clone, QueryableByName)]
pub struct Gate {
    /// Where it stands.
    #[diesel(sql_type = Text)]
    pub state: String,
    /// Who made it.
    #[diesel(sql_type = Text)]
    pub caller: String,
    /// Its rules.
    #[diesel(sql_type = Jsonb)]
    pub rules: Value,
    /// Its cap; 0 is none.
    #[diesel(sql_type = Int4)]
    pub max_concurrent_calls: i32,
    /// Its rate; 0 is none.
    #[diesel(sql_type = Int4)]
    pub calls_per_minute: i32,
    /// When its next dial is due.
    #[diesel(sql_type = Timestamptz)]
    pub next_at: DateTime<Utc>,
    /// The contact's zone; empty is that of the rules. None: the contact is gone, or has another call.
    #[diesel(sql_type = Nullable<Text>)]
    pub zone: Option<String>,
    /// The campaign makes other calls than when this one was made.
    #[diesel(sql_type = Bool)]
    pub changed: bool,
    /// The campaign has a hook that has not said yes to this call lately.
    #[diesel(sql_type = Bool)]
    pub unasked: bool,
    /// The database's time.
    #[diesel(sql_type = Timestamptz)]
    pub now: DateTime<Utc>,
}

/// Locks the campaign until the transaction ends, so that no pause comes between this look and the commit, and reads it as it
/// stands then. Its pace is only ever changed under the account's lock, which the caller has.
pub async fn lock(conn: &mut AsyncPgConnection, campaign: CampaignId, call: &Call) -> QueryResult<Option<Gate>> {
    let query = sql_query(
        "WITH held AS MATERIALIZED (
            SELECT state, caller, rules, max_concurrent_calls, calls_per_minute, calls_since, hook_endpoint FROM campaigns WHERE id = $1 FOR NO KEY UPDATE
        ) SELECT held.*, coalesce($4 < held.calls_since, false) AS changed,
            held.hook_endpoint IS NOT NULL AND coalesce($5 < clock_timestamp() - interval '30 seconds', true) AS unasked, t.next_at, k.zone, clock_timestamp() AS now
        FROM held JOIN campaign_paces t ON t.campaign_id = $1
        LEFT JOIN contacts k ON k.campaign_id = $1 AND k.id = $2 AND k.call_id = $3 AND k.state = 'calling'",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Nullable<Uuid>, _>(call.contact_id)
    .bind::<Uuid, _>(call.id)
    .bind::<Nullable<Int8>, _>(call.campaign_version)
    .bind::<Nullable<Timestamptz>, _>(call.hook_at);
    Prepared(query).get_result(conn).await.optional()
}

/// Writes down a dial of a locked campaign: it is counted, and its next one is due then, if it has a rate.
pub async fn dialled(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    next_at: Option<DateTime<Utc>>,
) -> QueryResult<usize> {
    if let Some(next_at) = next_at {
        let query = sql_query("UPDATE campaign_paces SET next_at = $2 WHERE campaign_id = $1")
            .bind::<Uuid, _>(campaign.0)
            .bind::<Timestamptz, _>(next_at);
        Prepared(query).execute(conn).await?;
    }
    let query = sql_query("INSERT INTO campaign_deltas (campaign_id, word, n) VALUES ($1, 'dial', 1)")
        .bind::<Uuid, _>(campaign.0);
    Prepared(query).execute(conn).await
}
