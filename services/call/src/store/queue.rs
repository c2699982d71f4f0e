//! The queue of outbound calls, and who holds the slots. A slot is a row in an active state; nothing is counted twice and
//! nothing can leak.
//!
//! The time is asked for in a sub-select: `clock_timestamp()` by itself is volatile, and no index can be searched by it.

use callbridge_proto::id::{AccountId, CallId, PhoneId};
use chrono::{DateTime, Utc};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Int4, Int8, Nullable, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use super::prepared::Prepared;
use crate::calls::capacity::{Caps, Rival, Standing};

/// The states that hold a slot, as the indexes of the migrations spell them.
macro_rules! active {
    () => {
        "state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')"
    };
}

/// A call that waits only for its turn: due, its phone and its agent have a slot, its number is on no call that it waits for, and
/// its campaign, if it has one, runs, has a slot and a turn, and its hook has said yes lately. $1 is the account, and `wants` has
/// the lowest priority as `behind`.
macro_rules! claimable {
    () => {
        concat!(
            "FROM wants w JOIN calls c ON c.account_id = w.account
            WHERE c.state = 'queued' AND c.priority >= w.behind
              AND c.due_at <= (SELECT clock_timestamp()) AND c.expire_at > (SELECT clock_timestamp())
              AND c.phone_id NOT IN (
                SELECT p.id FROM phones p
                WHERE p.account_id = $1 AND p.max_concurrent_calls > 0 AND p.max_concurrent_calls <= (
                    SELECT count(*) FROM calls a WHERE a.account_id = p.account_id AND a.phone_id = p.id AND a.",
            active!(),
            "))
              AND (c.agent_id IS NULL OR c.agent_id NOT IN (
                SELECT g.id FROM agents g WHERE g.max_concurrent_calls > 0 AND g.max_concurrent_calls <= (
                    SELECT count(*) FROM calls a WHERE a.agent_id = g.id AND a.",
            active!(),
            ")))
              AND (c.campaign_id IS NULL OR c.campaign_id IN (
                SELECT m.id FROM campaigns m JOIN campaign_paces t ON t.campaign_id = m.id
                WHERE m.account_id = $1 AND m.state = 'running'
                  AND t.next_at <= (SELECT clock_timestamp() + interval '250 milliseconds')
                  AND (m.max_concurrent_calls = 0 OR m.max_concurrent_calls > (
                    SELECT count(*) FROM calls a WHERE a.campaign_id = m.id AND a.",
            active!(),
            "))) AND (c.hook_at > (SELECT clock_timestamp() - interval '30 seconds') OR c.campaign_id NOT IN (
                SELECT m.id FROM campaigns m
                WHERE m.account_id = $1 AND m.state = 'running' AND m.hook_endpoint IS NOT NULL)))
              AND NOT EXISTS (
                SELECT 1 FROM calls r WHERE r.customer = c.customer AND r.",
            active!(),
            " AND (c.when_number_busy = 1 OR (c.when_number_busy = 3 AND r.state IN ('dialing', 'unconfirmed')
                AND r.account_id = c.account_id AND r.phone_id = c.phone_id)))"
        )
    };
}

/// Which call, from which phone, with which claim to a slot.
#[derive(Debug, Clone, Copy)]
pub struct Wants<'a> {
    /// The account.
    pub account: AccountId,
    /// The phone.
    pub phone: PhoneId,
    /// The agent.
    pub agent: Option<RawUuid>,
    /// The campaign.
    pub campaign: Option<RawUuid>,
    /// The number to call, E.164.
    pub customer: &'a str,
    /// Calls of this priority and above that are due come first. None: the call is the first one itself.
    pub behind: Option<i32>,
    /// What is not capped is not counted.
    pub caps: Caps,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Int8)]
    account: i64,
    #[diesel(sql_type = Int8)]
    inbound: i64,
    #[diesel(sql_type = Int8)]
    phone: i64,
    #[diesel(sql_type = Int8)]
    agent: i64,
    #[diesel(sql_type = Int8)]
    campaign: i64,
    #[diesel(sql_type = Nullable<Uuid>)]
    rival: Option<RawUuid>,
    #[diesel(sql_type = Nullable<Bool>)]
    unresolved: Option<bool>,
    #[diesel(sql_type = Bool)]
    ahead: bool,
}

/// How things stand, in one snapshot. Call it in a statement of its own after the account's rate row is locked: only then does
/// it see what whoever had the lock before has claimed.
pub async fn standing(mut conn: &AsyncPgConnection, wants: &Wants<'_>) -> QueryResult<Standing> {
    let query = sql_query(concat!(
        "WITH wants (account, behind, phone, customer, of_account, of_phone, in_order, agent, campaign)
            AS (VALUES ($1::uuid, $2::int4, $3::uuid, $4, $5::bool, $6::bool, $7::bool, $8::uuid, $9::uuid)),
        used AS (
            SELECT count(*) AS account, count(*) FILTER (WHERE c.direction = 'inbound') AS inbound,
                   count(*) FILTER (WHERE c.phone_id = w.phone) AS phone
            FROM wants w JOIN calls c ON c.account_id = w.account AND (w.of_account OR (w.of_phone AND c.phone_id = w.phone))
            WHERE c.",
        active!(),
        "), agent AS (
            SELECT count(*) AS used FROM wants w JOIN calls c ON c.agent_id = w.agent WHERE c.",
        active!(),
        "), campaign AS (
            SELECT count(*) AS used FROM wants w JOIN calls c ON c.campaign_id = w.campaign WHERE c.",
        active!(),
        "), rival AS (
            SELECT c.id, c.state IN ('dialing', 'unconfirmed') AND c.account_id = w.account AND c.phone_id = w.phone
                AS unresolved
            FROM wants w JOIN calls c ON c.customer = w.customer
            WHERE c.",
        active!(),
        " ORDER BY unresolved DESC, c.id LIMIT 1
        ) SELECT used.account, used.inbound, used.phone, agent.used AS agent, campaign.used AS campaign,
                 rival.id AS rival, rival.unresolved,
                 wants.in_order AND EXISTS (SELECT 1 ",
        claimable!(),
        ") AS ahead
        FROM wants CROSS JOIN used CROSS JOIN agent CROSS JOIN campaign LEFT JOIN rival ON true"
    ))
    .bind::<Uuid, _>(wants.account.0)
    .bind::<Int4, _>(wants.behind.unwrap_or_default())
    .bind::<Uuid, _>(wants.phone.0)
    .bind::<Text, _>(wants.customer)
    .bind::<Bool, _>(wants.caps.account > 0)
    .bind::<Bool, _>(wants.caps.phone > 0)
    .bind::<Bool, _>(wants.behind.is_some())
    .bind::<Nullable<Uuid>, _>(wants.agent.filter(|_| wants.caps.agent > 0))
    .bind::<Nullable<Uuid>, _>(wants.campaign.filter(|_| wants.caps.campaign > 0));
    let row: Row = Prepared(query).get_result(&mut conn).await?;
    Ok(Standing {
        account: row.account,
        inbound: row.inbound,
        phone: row.phone,
        agent: row.agent,
        campaign: row.campaign,
        rival: row.rival.map(|id| Rival {
            id: CallId(id),
            unresolved: row.unresolved.unwrap_or_default(),
        }),
        ahead: row.ahead,
    })
}

#[derive(QueryableByName)]
struct Used {
    #[diesel(sql_type = Int4)]
    account_cap: i32,
    #[diesel(sql_type = Int4)]
    inbound_reserve: i32,
    #[diesel(sql_type = Int4)]
    phone_cap: i32,
    #[diesel(sql_type = Int4)]
    agent_cap: i32,
    #[diesel(sql_type = Int4)]
    campaign_cap: i32,
    #[diesel(sql_type = Int8)]
    account: i64,
    #[diesel(sql_type = Int8)]
    inbound: i64,
    #[diesel(sql_type = Int8)]
    phone: i64,
    #[diesel(sql_type = Int8)]
    agent: i64,
    #[diesel(sql_type = Int8)]
    campaign: i64,
    #[diesel(sql_type = Timestamptz)]
    next_at: DateTime<Utc>,
}

/// Whose caps bind a call.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The account.
    pub account: RawUuid,
    /// The phone, if it is one phone.
    pub phone: Option<RawUuid>,
    /// The agent.
    pub agent: Option<RawUuid>,
    /// The campaign.
    pub campaign: Option<RawUuid>,
}

/// The caps and what is used of them now, without a lock, and when the account's next dial is due. None: no such account. What is
/// not capped is not counted.
pub async fn used(mut conn: &AsyncPgConnection, bound: Bound) -> QueryResult<Option<(Caps, Standing, DateTime<Utc>)>> {
    let query = sql_query(concat!(
        "SELECT a.max_concurrent_calls AS account_cap, a.inbound_reserve, coalesce(p.max_concurrent_calls, 0) AS phone_cap,
            coalesce(g.max_concurrent_calls, 0) AS agent_cap, coalesce(m.max_concurrent_calls, 0) AS campaign_cap,
            of_account.n AS account, of_account.inbound, of_account.phone, of_agent.n AS agent, of_campaign.n AS campaign,
            t.next_at
        FROM accounts a JOIN rates t ON t.account_id = a.id AND t.kind = 'dial'
        LEFT JOIN phones p ON p.id = $2 LEFT JOIN agents g ON g.id = $3 LEFT JOIN campaigns m ON m.id = $4
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, count(*) FILTER (WHERE c.direction = 'inbound') AS inbound,
                count(*) FILTER (WHERE c.phone_id = p.id) AS phone
            FROM calls c WHERE c.account_id = a.id
                AND (a.max_concurrent_calls > 0 OR (p.max_concurrent_calls > 0 AND c.phone_id = p.id)) AND c.",
        active!(),
        ") of_account CROSS JOIN LATERAL (
            SELECT count(*) AS n FROM calls c WHERE g.max_concurrent_calls > 0 AND c.agent_id = g.id AND c.",
        active!(),
        ") of_agent CROSS JOIN LATERAL (
            SELECT count(*) AS n FROM calls c WHERE m.max_concurrent_calls > 0 AND c.campaign_id = m.id AND c.",
        active!(),
        ") of_campaign WHERE a.id = $1"
    ))
    .bind::<Uuid, _>(bound.account)
    .bind::<Nullable<Uuid>, _>(bound.phone)
    .bind::<Nullable<Uuid>, _>(bound.agent)
    .bind::<Nullable<Uuid>, _>(bound.campaign);
    let row: Option<Used> = Prepared(query).get_result(&mut conn).await.optional()?;
    Ok(row.map(|row| {
        let caps = Caps {
            account: row.account_cap.into(),
            inbound_reserve: row.inbound_reserve.into(),
            phone: row.phone_cap.into(),
            agent: row.agent_cap.into(),
            campaign: row.campaign_cap.into(),
        };
        let standing = Standing {
            account: row.account,
            inbound: row.inbound,
            phone: row.phone,
            agent: row.agent,
            campaign: row.campaign,
            ..Standing::default()
        };
        (caps, standing, row.next_at)
    }))
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = Uuid)]
    id: RawUuid,
}

/// Accounts that have calls which are due.
pub async fn accounts_due(conn: &mut AsyncPgConnection) -> QueryResult<Vec<AccountId>> {
    let rows: Vec<Id> = sql_query(
        "SELECT a.id FROM accounts a WHERE EXISTS (
            SELECT 1 FROM calls c WHERE c.state = 'queued' AND c.account_id = a.id AND c.due_at <= (SELECT clock_timestamp())
        )",
    )
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| AccountId(row.id)).collect())
}

/// The call of an account whose turn is next. Nothing is locked, and the row is not read: it may be one that this program
/// cannot read.
pub async fn next(conn: &mut AsyncPgConnection, account: AccountId) -> QueryResult<Option<CallId>> {
    let query = sql_query(concat!(
        "WITH wants (account, behind) AS (VALUES ($1, $2)) SELECT c.id ",
        claimable!(),
        " ORDER BY c.priority DESC, c.due_at, c.id LIMIT 1"
    ))
    .bind::<Uuid, _>(account.0)
    .bind::<Int4, _>(i32::MIN);
    let row: Option<Id> = Prepared(query).get_result(conn).await.optional()?;
    Ok(row.map(|row| CallId(row.id)))
}

#[derive(QueryableByName)]
struct Turn {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

/// When the next campaign of an account has a turn for a call that waits for nothing else, and the time now. None: none waits for
/// its campaign's turn.
pub async fn campaign_turn(
    conn: &mut AsyncPgConnection,
    account: AccountId,
) -> QueryResult<Option<(DateTime<Utc>, DateTime<Utc>)>> {
    let query = sql_query(
        "SELECT min(t.next_at) AS at, clock_timestamp() AS now
        FROM campaigns m JOIN campaign_paces t ON t.campaign_id = m.id
        WHERE m.account_id = $1 AND m.state = 'running' AND t.next_at > (SELECT clock_timestamp())
          AND EXISTS (SELECT 1 FROM calls c WHERE c.campaign_id = m.id AND c.state = 'queued'
            AND c.due_at <= (SELECT clock_timestamp()))",
    )
    .bind::<Uuid, _>(account.0);
    let turn: Turn = Prepared(query).get_result(conn).await?;
    Ok(turn.at.map(|at| (at, turn.now)))
}

/// Queued calls whose time is over, in any account.
pub async fn expired(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<CallId>> {
    let rows: Vec<Id> = sql_query(
        "SELECT id FROM calls WHERE state = 'queued' AND expire_at <= (SELECT clock_timestamp())
            AND NOT (needs_review AND due_at > (SELECT clock_timestamp()))
        ORDER BY expire_at LIMIT $1",
    )
    .bind::<Int8, _>(limit)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| CallId(row.id)).collect())
}

/// A call that waits for another one, for a slot or for its campaign, and does not say so yet.
#[derive(Debug, Clone, QueryableByName)]
pub struct Unexplained {
    /// The call.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// The call that it waits for.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub rival: Option<RawUuid>,
    /// The word for what it waits for.
    #[diesel(sql_type = Text)]
    pub word: String,
}

/// Due calls whose row does not tell yet what they wait for.
pub async fn unexplained(
    conn: &mut AsyncPgConnection,
    account: AccountId,
    limit: i64,
) -> QueryResult<Vec<Unexplained>> {
    sql_query(concat!(
        "SELECT c.id, r.id AS rival, why.word
        FROM calls c
        JOIN phones p ON p.id = c.phone_id
        LEFT JOIN agents g ON g.id = c.agent_id
        LEFT JOIN campaigns m ON m.id = c.campaign_id
        LEFT JOIN LATERAL (
            SELECT r.id, r.state IN ('dialing', 'unconfirmed') AND r.account_id = c.account_id
                AND r.phone_id = c.phone_id AS unresolved
            FROM calls r WHERE r.customer = c.customer AND r.",
        active!(),
        " ORDER BY unresolved DESC, r.id LIMIT 1
        ) r ON c.when_number_busy = 1 OR (c.when_number_busy = 3 AND r.unresolved)
        CROSS JOIN LATERAL (SELECT CASE
            WHEN m.state <> 'running' THEN 'campaign_paused'
            WHEN r.unresolved THEN 'same_number_unresolved'
            WHEN r.id IS NOT NULL THEN 'number_busy'
            WHEN p.max_concurrent_calls > 0 AND p.max_concurrent_calls <= (
                SELECT count(*) FROM calls a WHERE a.account_id = $1 AND a.phone_id = p.id AND a.",
        active!(),
        ") THEN 'phone_capacity'
            WHEN g.max_concurrent_calls > 0 AND g.max_concurrent_calls <= (
                SELECT count(*) FROM calls a WHERE a.agent_id = g.id AND a.",
        active!(),
        ") THEN 'agent_capacity'
            WHEN m.max_concurrent_calls > 0 AND m.max_concurrent_calls <= (
                SELECT count(*) FROM calls a WHERE a.campaign_id = m.id AND a.",
        active!(),
        ") THEN 'campaign_capacity' END AS word) why
        WHERE c.state = 'queued' AND c.account_id = $1 AND c.due_at <= (SELECT clock_timestamp())
          AND why.word IS NOT NULL
          AND (c.waiting_reason IS DISTINCT FROM why.word OR (r.id IS NOT NULL AND c.waiting_for IS DISTINCT FROM r.id))
        LIMIT $2"
    ))
    .bind::<Uuid, _>(account.0)
    .bind::<Int8, _>(limit)
    .load(conn)
    .await
}
