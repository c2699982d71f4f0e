//! Turning due contacts into queued calls. What is done at one time does not grow with the campaign: contacts are found zone by
//! zone through an index, and only as many as are to be turned.

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, Bool, Int4, Int8, Jsonb, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid as RawUuid;

use crate::store::{campaigns::Campaign, prepared::Prepared};

#[derive(QueryableByName)]
struct Turn {
    #[diesel(sql_type = Bool)]
    mine: bool,
    #[diesel(sql_type = Int8)]
    due: i64,
    #[diesel(sql_type = Int8)]
    queued: i64,
}

/// What stands in a campaign's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Calls that are due and do not wait for another call of their number.
    pub due: i64,
    /// All of them.
    pub queued: i64,
}

/// Takes the campaign's turn to be filled, until the transaction ends. None: another replica has it.
pub async fn turn(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<Option<Queue>> {
    // The counts are of the snapshot before the lock; one call too many in the queue is no harm.
    let query = sql_query(
        "SELECT pg_try_advisory_xact_lock(hashtext('campaign_fill'), hashtext($1::text)) AS mine,
            count(*) FILTER (WHERE due_at <= clock_timestamp() AND coalesce(waiting_reason, '') NOT IN ('number_busy', 'same_number_unresolved')) AS due, count(*) AS queued
        FROM calls WHERE campaign_id = $1 AND state = 'queued'",
    )
    .bind::<Uuid, _>(campaign.0);
    let turn: Turn = Prepared(query).get_result(conn).await?;
    Ok(turn.mine.then_some(Queue {
        due: turn.due,
        queued: turn.queued,
    }))
}

#[derive(QueryableByName)]
struct Zone {
    #[diesel(sql_type = Text)]
    zone: String,
}

/// The time zones of a campaign's contacts.
pub async fn zones(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<Vec<String>> {
    let query = sql_query("SELECT zone FROM campaign_zones WHERE campaign_id = $1").bind::<Uuid, _>(campaign.0);
    let rows: Vec<Zone> = Prepared(query).load(conn).await?;
    Ok(rows.into_iter().map(|row| row.zone).collect())
}

/// A phone of the pool, and how many more of its calls may wait.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Pooled {
    /// The phone.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// None: it has no cap.
    #[diesel(sql_type = Nullable<Int8>)]
    pub room: Option<i64>,
}

/// A campaign's pool, in order. For a phone with a cap as many calls may wait as it takes at one time, and as many more as it has
/// free: what it cannot take soon would keep the others' calls out of the queue.
pub async fn pool(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<Vec<Pooled>> {
    let query = sql_query(
        "SELECT p.id, CASE WHEN p.max_concurrent_calls > 0 THEN 2 * p.max_concurrent_calls - (
                SELECT count(*) FROM calls c WHERE c.account_id = p.account_id AND c.phone_id = p.id
                    AND c.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')
            ) - (
                SELECT count(*) FROM calls c WHERE c.campaign_id = $1 AND c.phone_id = p.id AND c.state = 'queued'
                    AND c.due_at <= (SELECT clock_timestamp())
            ) END AS room
        FROM campaign_phones o JOIN phones p ON p.id = o.phone_id WHERE o.campaign_id = $1 ORDER BY o.place",
    )
    .bind::<Uuid, _>(campaign.0);
    Prepared(query).load(conn).await
}

/// A contact whose time has come, and how its number stands.
#[derive(Clone, QueryableByName)]
pub struct Due {
    /// Its id.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// E.164.
    #[diesel(sql_type = Text)]
    pub number: String,
    /// Calls that were made for it before.
    #[diesel(sql_type = Int4)]
    pub calls: i32,
    /// Those that were dialled.
    #[diesel(sql_type = Int4)]
    pub attempts: i32,
    /// Its number is on a list.
    #[diesel(sql_type = Bool)]
    pub suppressed: bool,
    /// The dial that has to fall out of the frequency cap's period first.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub blocking: Option<DateTime<Utc>>,
    /// Its number is on another call.
    #[diesel(sql_type = Bool)]
    pub busy: bool,
    /// A call of it came to a conversation, as was learned late.
    #[diesel(sql_type = Bool)]
    pub reached: bool,
}

impl std::fmt::Debug for Due {
    // It holds a number in clear.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Due contacts in these zones, longest due first, locked. `cap` is the frequency cap: so many dials since then.
pub async fn due(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    zones: &[String],
    limit: i64,
    cap: Option<(u32, DateTime<Utc>)>,
) -> QueryResult<Vec<Due>> {
    let query = sql_query(concat!(
        // Each zone's are read in the order of the index: nothing else would stay quick in a list whose statistics are old. Only
        // those that are used are locked, and looked at again.
        "WITH picked AS MATERIALIZED (
            SELECT k.* FROM unnest($2) AS z (zone) CROSS JOIN LATERAL (
                SELECT c.id, c.next_at FROM contacts c
                WHERE c.campaign_id = $1 AND c.zone = z.zone AND c.state = 'pending'
                    AND c.next_at <= (SELECT clock_timestamp())
                ORDER BY c.next_at, c.id LIMIT $3
            ) k ORDER BY k.next_at, k.id LIMIT $3
        ), held AS MATERIALIZED (
            SELECT l.*, number_hash(l.number) AS hash FROM picked p CROSS JOIN LATERAL (
                SELECT c.id, c.number, c.calls, c.attempts, c.call_id FROM contacts c
                WHERE c.campaign_id = $1 AND c.id = p.id AND c.state = 'pending' FOR UPDATE SKIP LOCKED
            ) l
        ) SELECT held.id, held.number, held.calls, held.attempts,
            EXISTS (SELECT 1 FROM suppressions s WHERE s.number IN (held.number, held.hash) AND s.campaign_id IS NULL
                AND (s.expires_at IS NULL OR s.expires_at > (SELECT clock_timestamp())))
            OR EXISTS (SELECT 1 FROM suppressions s WHERE s.number IN (held.number, held.hash) AND s.campaign_id = $1
                AND (s.expires_at IS NULL OR s.expires_at > (SELECT clock_timestamp()))) AS suppressed,
            CASE WHEN $4 IS NOT NULL THEN (
                SELECT d.post_started_at FROM calls d
                WHERE d.customer = held.number AND d.campaign_id IS NOT NULL AND d.post_started_at > $4 AND ",
        maybe_dialled!("d"),
        "
                ORDER BY d.post_started_at DESC OFFSET $5 - 1 LIMIT 1
            ) END AS blocking,
            EXISTS (SELECT 1 FROM calls d WHERE d.customer = held.number
                AND d.state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')) AS busy,
            held.call_id IS NOT NULL AND ",
        was_reached!("held.id"),
        " AS reached
        FROM held ORDER BY held.id"
    ))
    .bind::<Uuid, _>(campaign.0)
    .bind::<Array<Text>, _>(zones)
    .bind::<Int8, _>(limit)
    .bind::<Nullable<Timestamptz>, _>(cap.map(|(_, since)| since))
    .bind::<Int8, _>(cap.map_or(1, |(count, _)| i64::from(count.max(1))));
    Prepared(query).load(conn).await
}

/// A contact's call to be.
#[derive(Debug, Clone)]
pub struct Turned {
    /// The contact.
    pub contact: RawUuid,
    /// The call's id.
    pub call: RawUuid,
    /// The phone that calls.
    pub phone: RawUuid,
    /// Where its trace begins.
    pub traceparent: Option<String>,
}

/// What all calls of a campaign have in common.
#[derive(Debug, Clone)]
pub struct Common {
    /// The agent's version now.
    pub agent_version: i32,
    /// When a call that still waits is given up.
    pub expire_at: DateTime<Utc>,
    /// Of the call's row: larger is sooner.
    pub priority: i32,
    /// What is known of a call that waits.
    pub facts: Value,
}

/// Makes queued calls of locked contacts, with their first events. A contact has at most one call of each number.
pub async fn turn_into_calls(
    conn: &mut AsyncPgConnection,
    campaign: &Campaign,
    common: &Common,
    turned: &[Turned],
) -> QueryResult<usize> {
    let contacts: Vec<RawUuid> = turned.iter().map(|turned| turned.contact).collect();
    let calls: Vec<RawUuid> = turned.iter().map(|turned| turned.call).collect();
    let phones: Vec<RawUuid> = turned.iter().map(|turned| turned.phone).collect();
    let traces: Vec<Option<&str>> = turned.iter().map(|turned| turned.traceparent.as_deref()).collect();
    let query = sql_query(
        "WITH taken AS (
            UPDATE contacts k SET state = 'calling', calls = k.calls + 1, call_id = n.call
            FROM unnest($2, $3, $4, $11) AS n (contact, call, phone, traceparent)
            WHERE k.campaign_id = $1 AND k.id = n.contact AND k.state = 'pending'
            RETURNING k.id, k.number, k.variables, k.calls, n.call, n.phone, n.traceparent
        ), made AS (
            INSERT INTO calls (
                id, version, direction, state, account_id, phone_id, agent_id, agent_version, customer, exophone, caller,
                idempotency_key, dial_mode, ring_timeout_seconds, time_limit_seconds, record, priority, metadata,
                not_before, due_at, expire_at, facts, campaign_id, contact_id, campaign_version, traceparent
            )
            SELECT t.call, 1, 'outbound', 'queued', m.account_id, p.id, m.agent_id, $5, t.number, p.number, $6,
                'contact_' || replace(t.id::text, '-', '') || ':' || t.calls, p.dial_mode, m.ring_timeout_seconds,
                m.time_limit_seconds, m.record, $7, m.metadata || t.variables,
                clock_timestamp(), clock_timestamp(), $8, $9, m.id, t.id, $10, t.traceparent
            FROM taken t JOIN phones p ON p.id = t.phone JOIN campaigns m ON m.id = $1
            RETURNING id, contact_id
        ) INSERT INTO call_events (call_id, version, type, state, source, data)
        SELECT id, 1, 'queued', 'queued', 'campaign',
            jsonb_build_object('contact_id', 'contact_' || replace(contact_id::text, '-', ''))
        FROM made",
    )
    .bind::<Uuid, _>(campaign.id)
    .bind::<Array<Uuid>, _>(contacts)
    .bind::<Array<Uuid>, _>(calls)
    .bind::<Array<Uuid>, _>(phones)
    .bind::<Int4, _>(common.agent_version)
    .bind::<Text, _>(campaign.id().to_string())
    .bind::<Int4, _>(common.priority)
    .bind::<Timestamptz, _>(common.expire_at)
    .bind::<Jsonb, _>(&common.facts)
    // Of what was read: an update meanwhile makes the call one of before.
    .bind::<Int8, _>(campaign.version)
    .bind::<Array<Nullable<Text>>, _>(traces);
    Prepared(query).execute(conn).await
}

/// A contact that is not called now.
#[derive(Debug, Clone, Copy)]
pub struct Aside {
    /// The contact.
    pub contact: RawUuid,
    /// Its state.
    pub state: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Not called before.
    pub next_at: DateTime<Utc>,
}

/// Sets locked contacts aside.
pub async fn set_aside(conn: &mut AsyncPgConnection, campaign: CampaignId, aside: &[Aside]) -> QueryResult<usize> {
    let contacts: Vec<RawUuid> = aside.iter().map(|aside| aside.contact).collect();
    let states: Vec<&str> = aside.iter().map(|aside| aside.state).collect();
    let reasons: Vec<&str> = aside.iter().map(|aside| aside.reason).collect();
    let times: Vec<DateTime<Utc>> = aside.iter().map(|aside| aside.next_at).collect();
    let query = sql_query(
        // A contact that goes on waiting, or has been tried often enough, keeps the word for its last outcome.
        "UPDATE contacts k SET state = n.state, next_at = greatest(k.next_at, n.next_at),
            reason = CASE WHEN n.state IN ('pending', 'exhausted') THEN coalesce(k.reason, n.reason) ELSE n.reason END
        FROM unnest($2, $3, $4, $5) AS n (contact, state, reason, next_at)
        WHERE k.campaign_id = $1 AND k.id = n.contact",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Array<Uuid>, _>(contacts)
    .bind::<Array<Text>, _>(states)
    .bind::<Array<Text>, _>(reasons)
    .bind::<Array<Timestamptz>, _>(times);
    Prepared(query).execute(conn).await
}
