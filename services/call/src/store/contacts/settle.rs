//! Contacts whose call has ended.

use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, Bool, Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid as RawUuid;

use crate::{
    calls::state::State,
    store::{enums::sql::CallState, prepared::Prepared},
};

/// A contact and how its call ended.
#[derive(Debug, Clone, QueryableByName)]
pub struct Ended {
    /// The campaign.
    #[diesel(sql_type = Uuid)]
    pub campaign_id: RawUuid,
    /// The contact.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// Calls that were made for it.
    #[diesel(sql_type = Int4)]
    pub calls: i32,
    /// Those that were dialled, before this one.
    #[diesel(sql_type = Int4)]
    pub attempts: i32,
    /// How they came out.
    #[diesel(sql_type = Nullable<Jsonb>)]
    pub tries: Option<Value>,
    /// The call's state.
    #[diesel(sql_type = CallState)]
    pub state: State,
    /// Whether it was dialled.
    #[diesel(sql_type = Bool)]
    pub dialled: bool,
    /// Why it ended.
    #[diesel(sql_type = Text)]
    pub end_reason: String,
    /// When.
    #[diesel(sql_type = Timestamptz)]
    pub ended_at: DateTime<Utc>,
    /// When it was to be looked at next, while it was queued.
    #[diesel(sql_type = Timestamptz)]
    pub due_at: DateTime<Utc>,
    /// It ended for want of an agent.
    #[diesel(sql_type = Bool)]
    pub agent_unavailable: bool,
    /// The campaign's rules.
    #[diesel(sql_type = Jsonb)]
    pub rules: Value,
}

/// Contacts whose call has ended, locked. All that have a call are looked at, which are as many as there are calls waiting or
/// active: a campaign's size does not matter.
pub async fn ended(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<Ended>> {
    let query = sql_query(
        concat!("SELECT k.campaign_id, k.id, k.calls, k.attempts, k.tries, c.state, c.attempt > 0 AS dialled,
            coalesce(c.end_reason, '') AS end_reason, c.ended_at, c.due_at, m.rules,
            ", agent_unavailable!("c"), " AS agent_unavailable
        FROM contacts k
        -- OFFSET keeps the planner from beginning with the calls, which are many.
        CROSS JOIN LATERAL (
            SELECT id, state, attempt, end_reason, ended_at, due_at FROM calls
            WHERE id = k.call_id AND ended_at IS NOT NULL OFFSET 0
        ) c
        JOIN campaigns m ON m.id = k.campaign_id
        -- Once more, for a contact that has got another call since the snapshot: only what stands here is looked at again.
        WHERE k.state = 'calling' AND c.id = k.call_id
        -- What became of a conversation is known when its edge has told, if that lives.
        AND NOT (c.state = 'completed' AND c.ended_at > clock_timestamp() - interval '15 seconds' AND EXISTS (
            SELECT 1 FROM media_sessions s WHERE s.call_id = c.id AND s.started_at IS NOT NULL
                AND (s.ended_at IS NULL OR s.quality = '{}')
        ))
        LIMIT $1 FOR UPDATE OF k SKIP LOCKED"),
    )
    .bind::<Int8, _>(limit);
    Prepared(query).load(conn).await
}

/// What became of a contact.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// The campaign.
    pub campaign: RawUuid,
    /// The contact.
    pub contact: RawUuid,
    /// Its state.
    pub state: &'static str,
    /// Why.
    pub reason: String,
    /// Attempts so far.
    pub attempts: i32,
    /// How they came out.
    pub tries: Value,
    /// Not called before.
    pub next_at: DateTime<Utc>,
}

/// Writes what became of locked contacts.
pub async fn write(conn: &mut AsyncPgConnection, settled: &[Settled]) -> QueryResult<usize> {
    let query = sql_query(
        "UPDATE contacts k SET state = n.state, reason = n.reason, attempts = n.attempts, tries = n.tries, next_at = n.next_at
        FROM unnest($1, $2, $3, $4, $5, $6, $7) AS n (campaign, contact, state, reason, attempts, tries, next_at)
        WHERE k.campaign_id = n.campaign AND k.id = n.contact",
    )
    .bind::<Array<Uuid>, _>(settled.iter().map(|s| s.campaign).collect::<Vec<_>>())
    .bind::<Array<Uuid>, _>(settled.iter().map(|s| s.contact).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(settled.iter().map(|s| s.state).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(settled.iter().map(|s| s.reason.as_str()).collect::<Vec<_>>())
    .bind::<Array<Int4>, _>(settled.iter().map(|s| s.attempts).collect::<Vec<_>>())
    .bind::<Array<Jsonb>, _>(settled.iter().map(|s| &s.tries).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(settled.iter().map(|s| s.next_at).collect::<Vec<_>>());
    Prepared(query).execute(conn).await
}
