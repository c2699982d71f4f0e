//! A campaign's waiting contacts by what they wait for. Reads all of them: for a dry run, not for a loop.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Double, Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use crate::store::campaigns::imports::held::held_until;

/// Contacts that wait for the same thing.
#[derive(Debug, Clone, QueryableByName)]
pub struct Group {
    /// Their zone; empty is that of the rules.
    #[diesel(sql_type = Text)]
    pub zone: String,
    /// Not called before, to the hour.
    #[diesel(sql_type = Timestamptz)]
    pub next_at: DateTime<Utc>,
    /// What became of them.
    #[diesel(sql_type = Nullable<Jsonb>)]
    pub tries: Option<Value>,
    /// How many.
    #[diesel(sql_type = Int8)]
    pub contacts: i64,
}

/// The groups.
pub async fn waiting(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<Vec<Group>> {
    sql_query(concat!(
        "SELECT zone, at AS next_at, tries, count(*) AS contacts FROM (
            SELECT zone, tries, date_trunc('hour', greatest(next_at, now())) AS at
            FROM contacts WHERE campaign_id = $1 AND state = 'pending' AND next_at < ",
        held_until!(),
        "
        ) waiting GROUP BY zone, at, tries"
    ))
    .bind::<Uuid, _>(campaign.0)
    .load(conn)
    .await
}

/// What bounds a campaign's calls beside its own rules.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Bounds {
    /// The account's cap, its inbound reserve left out; 0 is none.
    #[diesel(sql_type = Int4)]
    pub account: i32,
    /// The agent's cap; 0 is none.
    #[diesel(sql_type = Int4)]
    pub agent: i32,
    /// The phones' caps together; 0 is none.
    #[diesel(sql_type = Int8)]
    pub phones: i64,
    /// The account's rate.
    #[diesel(sql_type = Int4)]
    pub calls_per_minute: i32,
    /// How many seconds the latest calls took.
    #[diesel(sql_type = Nullable<Double>)]
    pub seconds: Option<f64>,
}

/// Reads them.
pub async fn bounds(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<Bounds> {
    sql_query(
        "SELECT CASE WHEN a.max_concurrent_calls > 0
                THEN greatest(a.max_concurrent_calls - a.inbound_reserve, 1) ELSE 0 END AS account,
            g.max_concurrent_calls AS agent, a.calls_per_minute,
            (SELECT CASE WHEN bool_and(p.max_concurrent_calls > 0) THEN sum(p.max_concurrent_calls)::bigint ELSE 0 END
                FROM campaign_phones f JOIN phones p ON p.id = f.phone_id WHERE f.campaign_id = m.id) AS phones,
            (SELECT avg(extract(epoch FROM ended_at - post_started_at))::double precision FROM (
                SELECT ended_at, post_started_at FROM calls
                WHERE campaign_id = m.id AND ended_at IS NOT NULL AND post_started_at IS NOT NULL
                ORDER BY id DESC LIMIT 200
            ) latest) AS seconds
        FROM campaigns m JOIN accounts a ON a.id = m.account_id JOIN agents g ON g.id = m.agent_id WHERE m.id = $1",
    )
    .bind::<Uuid, _>(campaign.0)
    .get_result(conn)
    .await
}
