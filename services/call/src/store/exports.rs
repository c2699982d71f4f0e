//! All rows about one number, as the database shows them.

use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{BigInt, Jsonb, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

/// A row as the database shows it.
#[derive(QueryableByName)]
pub struct Line {
    /// The row.
    #[diesel(sql_type = Jsonb)]
    pub row: Value,
}

/// Calls with a number, in order: their ids, and their rows.
pub async fn calls(
    conn: &mut AsyncPgConnection,
    number: &str,
    after: Uuid,
    limit: i64,
) -> QueryResult<Vec<(Uuid, Value)>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
        #[diesel(sql_type = Jsonb)]
        row: Value,
    }
    let rows: Vec<Row> = sql_query(
        "SELECT c.id, to_jsonb(c) - 'fingerprint' AS row FROM calls c WHERE customer = $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind::<Text, _>(number)
    .bind::<SqlUuid, _>(after)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.row)).collect())
}

/// Kinds of rows of one call.
pub const OF_CALL: [(&str, &str); 5] = [
    (
        "event",
        "SELECT to_jsonb(e) AS row FROM call_events e WHERE call_id = $1 ORDER BY version",
    ),
    (
        "session",
        "SELECT to_jsonb(s) - 'nonce' AS row FROM media_sessions s WHERE call_id = $1 ORDER BY id",
    ),
    (
        "transcript",
        "SELECT to_jsonb(t) AS row FROM transcripts t WHERE call_id = $1 ORDER BY media_session_id, sequence",
    ),
    (
        "command",
        "SELECT to_jsonb(c) || jsonb_build_object('command', encode(command, 'escape')) AS row
            FROM call_commands c WHERE call_id = $1 ORDER BY id",
    ),
    (
        "webhook",
        "SELECT to_jsonb(w) || jsonb_build_object('body', encode(body, 'escape')) AS row
            FROM webhook_inbox w WHERE call_id = $1 ORDER BY id",
    ),
];

/// Kinds of rows of one number.
pub const OF_NUMBER: [(&str, &str); 7] = [
    (
        "erased_call",
        "SELECT to_jsonb(c) - 'fingerprint' AS row FROM calls c WHERE customer_hash = number_hash($1) ORDER BY id",
    ),
    (
        "transfer",
        "SELECT jsonb_build_object('id', c.id, 'transfer_to', c.transfer_to, 'ended_at', c.ended_at) AS row
            FROM calls c WHERE transfer_to = $1 AND customer <> $1 ORDER BY c.id",
    ),
    (
        "hold",
        "SELECT to_jsonb(h) AS row FROM number_holds h WHERE number = $1",
    ),
    (
        "contact",
        "SELECT to_jsonb(k) AS row FROM campaigns m JOIN contacts k ON k.campaign_id = m.id AND k.number = $1
            ORDER BY m.id",
    ),
    (
        "suppression",
        "SELECT to_jsonb(s) AS row FROM suppressions s WHERE number IN ($1, number_hash($1)) ORDER BY id",
    ),
    (
        "suppression_history",
        "SELECT to_jsonb(h) AS row FROM suppression_history h WHERE number IN ($1, number_hash($1)) ORDER BY id",
    ),
    (
        "audit",
        "SELECT to_jsonb(a) AS row FROM audit a WHERE subject = number_hash($1) ORDER BY id",
    ),
];

/// A page of one of [`OF_CALL`].
pub async fn of_call(
    conn: &mut AsyncPgConnection,
    query: &str,
    call: Uuid,
    skip: i64,
    limit: i64,
) -> QueryResult<Vec<Line>> {
    sql_query(format!("{query} LIMIT $2 OFFSET $3"))
        .bind::<SqlUuid, _>(call)
        .bind::<BigInt, _>(limit)
        .bind::<BigInt, _>(skip)
        .load(conn)
        .await
}

/// A page of one of [`OF_NUMBER`].
pub async fn of_number(
    conn: &mut AsyncPgConnection,
    query: &str,
    number: &str,
    skip: i64,
    limit: i64,
) -> QueryResult<Vec<Line>> {
    sql_query(format!("{query} LIMIT $2 OFFSET $3"))
        .bind::<Text, _>(number)
        .bind::<BigInt, _>(limit)
        .bind::<BigInt, _>(skip)
        .load(conn)
        .await
}
