//! Blanking what is too old to be kept. Other replicas take other rows at the same time.

use chrono::TimeDelta;
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, BigInt, Interval, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::sessions::interval;

#[derive(QueryableByName)]
struct Blanked {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// What else is known about persons, by the ids of their calls.
const OF_CALLS: [&str; 5] = [
    "DELETE FROM transcripts WHERE call_id = ANY($1)",
    "DELETE FROM call_commands WHERE call_id = ANY($1)",
    "UPDATE media_sessions SET recording_url = NULL WHERE call_id = ANY($1) AND recording_url IS NOT NULL",
    // The object itself is taken out of its store afterwards: no network within a transaction.
    "UPDATE media_sessions SET recording_state = 'erasing' WHERE call_id = ANY($1) AND recording_state <> 'erased'",
    "UPDATE webhook_inbox SET body = '', content_type = NULL, applied_at = coalesce(applied_at, clock_timestamp())
        WHERE call_id = ANY($1)",
];

/// Blanks the personal columns of calls that ended longer ago than this, with what was said and told in them. The row stays,
/// with its key and its fingerprint. Call it in a transaction.
pub async fn blank(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    let blanked: Vec<Blanked> = sql_query(
        "UPDATE calls SET blanked_at = clock_timestamp(), customer = '', metadata = '{}', recording_url = NULL,
            transfer_to = NULL, calling_hours_override = NULL, traceparent = NULL, read_back_at = NULL
        WHERE id IN (
            SELECT id FROM calls WHERE ended_at < now() - $1 AND ended_at IS NOT NULL AND blanked_at IS NULL
            ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) RETURNING id",
    )
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .get_results(conn)
    .await?;
    let ids: Vec<Uuid> = blanked.into_iter().map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    for statement in OF_CALLS {
        sql_query(statement)
            .bind::<Array<SqlUuid>, _>(&ids)
            .execute(conn)
            .await?;
    }
    Ok(ids.len())
}

/// Deletes webhooks that came longer ago than this and do not wait any more: applied, or set aside for a person.
pub async fn forget_webhooks(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    sql_query(
        "DELETE FROM webhook_inbox WHERE id IN (
            SELECT id FROM webhook_inbox WHERE received_at < now() - $1 AND (applied_at IS NOT NULL OR problem IS NOT NULL)
            ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED
        )",
    )
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}

/// Deletes contacts of campaigns that were over longer ago than this. The counts stay but for those that were never called: they
/// would wait for ever in a campaign that is resumed.
pub async fn forget_contacts(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    sql_query(
        "WITH gone AS (
            DELETE FROM contacts c USING (
                SELECT k.campaign_id, k.id FROM campaigns m CROSS JOIN LATERAL (
                    SELECT campaign_id, id FROM contacts WHERE campaign_id = m.id LIMIT $2
                ) k WHERE m.ended_at < now() - $1 LIMIT $2
            ) old WHERE c.campaign_id = old.campaign_id AND c.id = old.id
            RETURNING c.campaign_id, c.state
        ), counted AS (
            INSERT INTO campaign_deltas (campaign_id, word, n)
            SELECT campaign_id, 'contact.pending', -count(*) FROM gone WHERE state = 'pending' GROUP BY campaign_id
        ) SELECT 1 FROM gone",
    )
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}
