//! The queue of outbound calls, and who holds the slots. A slot is a row in an active state; nothing is counted twice and
//! nothing can leak.
//!
//! The time is asked for in a sub-select: `clock_timestamp()` by itself is volatile, and no index can be searched by it.

use callbridge_proto::id::{AccountId, CallId, PhoneId};
use diesel::{
    OptionalExtension as _, QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Int4, Int8, Nullable, Text, Uuid},
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

/// A call that waits only for its turn: due, its phone has a slot, and its number is on no call that it waits for. `wants` has
/// the account, and the lowest priority as `behind`.
macro_rules! claimable {
    () => {
        concat!(
            "FROM wants w JOIN calls c ON c.account_id = w.account
            WHERE c.state = 'queued' AND c.priority >= w.behind
              AND c.due_at <= (SELECT clock_timestamp()) AND c.expire_at > (SELECT clock_timestamp())
              AND c.phone_id NOT IN (
                SELECT p.id FROM phones p
                WHERE p.account_id = w.account AND p.max_concurrent_calls > 0 AND p.max_concurrent_calls <= (
                    SELECT count(*) FROM calls a WHERE a.account_id = p.account_id AND a.phone_id = p.id AND a.",
            active!(),
            "))
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
    #[diesel(sql_type = Nullable<Uuid>)]
    rival: Option<RawUuid>,
    #[diesel(sql_type = Nullable<Bool>)]
    unresolved: Option<bool>,
    #[diesel(sql_type = Bool)]
    ahead: bool,
}

/// How things stand, in one snapshot. Call it in a statement of its own after the account's rate row is locked: only then does
/// it see what whoever had the lock before has claimed.
pub async fn standing(conn: &mut AsyncPgConnection, wants: &Wants<'_>) -> QueryResult<Standing> {
    let query = sql_query(concat!(
        "WITH wants (account, behind, phone, customer, of_account, of_phone, in_order) AS (VALUES ($1, $2, $3, $4, $5, $6, $7)),
        used AS (
            SELECT count(*) AS account, count(*) FILTER (WHERE c.direction = 'inbound') AS inbound,
                   count(*) FILTER (WHERE c.phone_id = w.phone) AS phone
            FROM wants w JOIN calls c ON c.account_id = w.account AND (w.of_account OR (w.of_phone AND c.phone_id = w.phone))
            WHERE c.",
        active!(),
        "), rival AS (
            SELECT c.id, c.state IN ('dialing', 'unconfirmed') AND c.account_id = w.account AND c.phone_id = w.phone
                AS unresolved
            FROM wants w JOIN calls c ON c.customer = w.customer
            WHERE c.",
        active!(),
        " ORDER BY unresolved DESC, c.id LIMIT 1
        ) SELECT used.account, used.inbound, used.phone, rival.id AS rival, rival.unresolved,
                 wants.in_order AND EXISTS (SELECT 1 ",
        claimable!(),
        ") AS ahead
        FROM wants CROSS JOIN used LEFT JOIN rival ON true"
    ))
    .bind::<Uuid, _>(wants.account.0)
    .bind::<Int4, _>(wants.behind.unwrap_or_default())
    .bind::<Uuid, _>(wants.phone.0)
    .bind::<Text, _>(wants.customer)
    .bind::<Bool, _>(wants.caps.account > 0)
    .bind::<Bool, _>(wants.caps.phone > 0)
    .bind::<Bool, _>(wants.behind.is_some());
    let row: Row = Prepared(query).get_result(conn).await?;
    Ok(Standing {
        account: row.account,
        inbound: row.inbound,
        phone: row.phone,
        rival: row.rival.map(|id| Rival {
            id: CallId(id),
            unresolved: row.unresolved.unwrap_or_default(),
        }),
        ahead: row.ahead,
    })
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

/// A call that waits for another one, or for a slot of its phone, and does not say so yet.
#[derive(Debug, Clone, Copy, QueryableByName)]
pub struct Unexplained {
    /// The call.
    #[diesel(sql_type = Uuid)]
    pub id: RawUuid,
    /// The call that it waits for. None: it waits for a slot.
    #[diesel(sql_type = Nullable<Uuid>)]
    pub rival: Option<RawUuid>,
    /// Whether that one's dial, from the same phone, has no outcome yet.
    #[diesel(sql_type = Bool)]
    pub unresolved: bool,
}

/// Due calls whose row does not tell yet what they wait for.
pub async fn unexplained(
    conn: &mut AsyncPgConnection,
    account: AccountId,
    limit: i64,
) -> QueryResult<Vec<Unexplained>> {
    sql_query(concat!(
        "SELECT c.id, r.id AS rival, coalesce(r.unresolved, false) AS unresolved
        FROM calls c
        JOIN phones p ON p.id = c.phone_id
        LEFT JOIN LATERAL (
            SELECT r.id, r.state IN ('dialing', 'unconfirmed') AND r.account_id = c.account_id
                AND r.phone_id = c.phone_id AS unresolved
            FROM calls r WHERE r.customer = c.customer AND r.",
        active!(),
        " ORDER BY unresolved DESC, r.id LIMIT 1
        ) r ON c.when_number_busy = 1 OR (c.when_number_busy = 3 AND r.unresolved)
        WHERE c.state = 'queued' AND c.account_id = $1 AND c.due_at <= (SELECT clock_timestamp())
          AND (CASE WHEN r.id IS NOT NULL THEN c.waiting_for IS DISTINCT FROM r.id
               ELSE p.max_concurrent_calls > 0 AND c.waiting_reason IS DISTINCT FROM 'phone_capacity'
                    AND p.max_concurrent_calls <= (
                        SELECT count(*) FROM calls a WHERE a.account_id = $1 AND a.phone_id = p.id AND a.",
        active!(),
        ") END)
        LIMIT $2"
    ))
    .bind::<Uuid, _>(account.0)
    .bind::<Int8, _>(limit)
    .load(conn)
    .await
}
