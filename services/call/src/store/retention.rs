//! Blanking what is too old to be kept. Other replicas take other rows at the same time.

use chrono::TimeDelta;
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, BigInt, Float8, Interval, Nullable, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{holds::held, sessions::interval};
use crate::config::Retention;

#[derive(QueryableByName)]
struct Blanked {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// A session `s` that ended longer than an age ago, and of which there is a recording.
macro_rules! old_recording {
    ($age:literal) => {
        concat!(
            "s.ended_at < now() - ",
            $age,
            " AND (s.recording_state IN ('pending', 'uploading', 'stored', 'incomplete') OR s.recording_url IS NOT NULL)"
        )
    };
}

/// A call `c` that ended longer than an age ago, and of which Exotel has a recording.
macro_rules! old_address {
    ($age:literal) => {
        concat!(
            "c.ended_at < now() - ",
            $age,
            " AND c.ended_at IS NOT NULL AND c.recording_url IS NOT NULL"
        )
    };
}

const TRANSCRIPTS: &str = "DELETE FROM transcripts WHERE call_id = ANY($1)";
/// The object itself is taken out of its store afterwards: no network within a transaction.
const RECORDINGS: &str = "UPDATE media_sessions SET recording_state = 'erasing'
    WHERE call_id = ANY($1) AND recording_state NOT IN ('erasing', 'erased')";
/// What else is known about persons, by the ids of their calls.
const OF_CALLS: [&str; 3] = [
    "DELETE FROM call_commands WHERE call_id = ANY($1)",
    "UPDATE media_sessions SET recording_url = NULL WHERE call_id = ANY($1) AND recording_url IS NOT NULL",
    "UPDATE webhook_inbox SET body = '', content_type = NULL, applied_at = coalesce(applied_at, clock_timestamp())
        WHERE call_id = ANY($1)",
];

/// Blanks the personal columns of calls that ended longer ago than this, with what was said and told in them. The row stays,
/// with its key and its fingerprint. Call it in a transaction.
pub async fn blank(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    let blanked: Vec<Blanked> = sql_query(concat!(
        "UPDATE calls SET blanked_at = clock_timestamp(), customer = '', metadata = '{}', recording_url = NULL,
            transfer_to = NULL, calling_hours_override = NULL, traceparent = NULL, read_back_at = NULL
        WHERE id IN (
            SELECT c.id FROM calls c
            WHERE c.ended_at < now() - $1 AND c.ended_at IS NOT NULL AND c.blanked_at IS NULL AND NOT ",
        held!("c"),
        "
            ORDER BY c.ended_at LIMIT $2 FOR UPDATE OF c SKIP LOCKED
        ) RETURNING id"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .get_results(conn)
    .await?;
    let ids: Vec<Uuid> = blanked.into_iter().map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    forget_said(conn, &ids).await?;
    Ok(ids.len())
}

/// What went with calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// Pieces of transcripts.
    pub transcripts: usize,
    /// Recordings that are to be taken out of the object store.
    pub recordings: usize,
}

/// Deletes what was said, recorded, told and commanded in these calls. Call it in a transaction.
pub async fn forget_said(conn: &mut AsyncPgConnection, calls: &[Uuid]) -> QueryResult<Said> {
    let run = async |conn: &mut AsyncPgConnection, statement: &'static str| {
        let query = sql_query(statement).bind::<Array<SqlUuid>, _>(calls);
        query.execute(conn).await
    };
    let said = Said {
        transcripts: run(conn, TRANSCRIPTS).await?,
        recordings: run(conn, RECORDINGS).await?,
    };
    for statement in OF_CALLS {
        run(conn, statement).await?;
    }
    Ok(said)
}

/// Deletes webhooks that came longer ago than this and do not wait any more: applied, or set aside for a person.
pub async fn forget_webhooks(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    sql_query(concat!(
        "DELETE FROM webhook_inbox WHERE id IN (
            SELECT w.id FROM webhook_inbox w
            WHERE w.received_at < now() - $1 AND (w.applied_at IS NOT NULL OR w.problem IS NOT NULL)
                AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = w.call_id AND ",
        held!("c"),
        ")
            ORDER BY w.received_at LIMIT $2 FOR UPDATE OF w SKIP LOCKED
        )"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}

/// Deletes contacts of campaigns that were over longer ago than this. The counts stay but for those that were never called: they
/// would wait for ever in a campaign that is resumed.
pub async fn forget_contacts(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    sql_query(concat!(
        "WITH gone AS (
            DELETE FROM contacts c USING (
                SELECT k.campaign_id, k.id FROM campaigns m CROSS JOIN LATERAL (
                    SELECT h.campaign_id, h.id FROM contacts h WHERE h.campaign_id = m.id
                        AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = h.call_id AND ",
        held!("c"),
        ")
                        AND NOT EXISTS (SELECT 1 FROM number_holds n WHERE n.number = h.number) LIMIT $2
                ) k WHERE m.ended_at < now() - $1 LIMIT $2
            ) old WHERE c.campaign_id = old.campaign_id AND c.id = old.id
            RETURNING c.campaign_id, c.state
        ), counted AS (
            INSERT INTO campaign_deltas (campaign_id, word, n)
            SELECT campaign_id, 'contact.pending', -count(*) FROM gone WHERE state = 'pending' GROUP BY campaign_id
        ) SELECT 1 FROM gone"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}

/// Deletes pieces of transcripts that are older than this, but of calls that are held.
pub async fn forget_transcripts(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    sql_query(concat!(
        "DELETE FROM transcripts WHERE (media_session_id, sequence) IN (
            SELECT t.media_session_id, t.sequence FROM transcripts t
            WHERE t.at < now() - $1
                AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = t.call_id AND ",
        held!("c"),
        ")
            ORDER BY t.at LIMIT $2 FOR UPDATE OF t SKIP LOCKED
        )"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}

/// Says of recordings of sessions that ended longer ago than this that they are to be taken out of the object store, and forgets the
/// addresses of Exotel's, of calls too, but of calls that are held. Call it in a transaction.
pub async fn forget_recordings(conn: &mut AsyncPgConnection, kept: TimeDelta, limit: i64) -> QueryResult<usize> {
    // The calls first, then their sessions: the order in which everybody locks.
    let calls: Vec<Blanked> = sql_query(concat!(
        "SELECT c.id FROM media_sessions s JOIN calls c ON c.id = s.call_id WHERE ",
        old_recording!("$1"),
        " AND NOT ",
        held!("c"),
        " ORDER BY s.ended_at LIMIT $2 FOR UPDATE OF c SKIP LOCKED"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .get_results(conn)
    .await?;
    let calls: Vec<Uuid> = calls.into_iter().map(|row| row.id).collect();
    let sessions = sql_query(concat!(
        "UPDATE media_sessions s SET recording_url = NULL, recording_state = CASE
                WHEN s.recording_state IN ('pending', 'uploading', 'stored', 'incomplete') THEN 'erasing'
                ELSE s.recording_state END
        WHERE s.call_id = ANY($2) AND ",
        old_recording!("$1")
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<Array<SqlUuid>, _>(&calls)
    .execute(conn)
    .await?;
    sql_query("UPDATE calls SET recording_url = NULL WHERE id = ANY($1) AND recording_url IS NOT NULL")
        .bind::<Array<SqlUuid>, _>(&calls)
        .execute(conn)
        .await?;
    // Exotel tells of most of its recordings by callbacks, which name no session.
    let addresses = sql_query(concat!(
        "UPDATE calls SET recording_url = NULL WHERE id IN (
            SELECT c.id FROM calls c WHERE ",
        old_address!("$1"),
        " AND NOT ",
        held!("c"),
        " ORDER BY c.ended_at LIMIT $2 FOR UPDATE OF c SKIP LOCKED
        )"
    ))
    .bind::<Interval, _>(interval(kept))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await?;
    Ok(sessions + addresses)
}

/// How far retention is behind with a class.
#[derive(Debug, Clone, PartialEq, QueryableByName)]
pub struct Behind {
    /// The class's word.
    #[diesel(sql_type = Text)]
    pub class: String,
    /// How long ago the oldest of it should have gone, in seconds. 0: nothing is too old.
    #[diesel(sql_type = Float8)]
    pub seconds: f64,
}

/// How far retention is behind, class by class. Each looks at the oldest row that is too old and not held.
pub async fn behind(conn: &mut AsyncPgConnection, kept: &Retention) -> QueryResult<Vec<Behind>> {
    let query = sql_query(concat!(
        "SELECT class, coalesce(extract(epoch FROM now() - kept - min(at)), 0)::float8 AS seconds FROM (
            SELECT 'calls' AS class, $1 AS kept, (
                SELECT c.ended_at FROM calls c
                WHERE c.ended_at < now() - $1 AND c.ended_at IS NOT NULL AND c.blanked_at IS NULL AND NOT ",
        held!("c"),
        " ORDER BY c.ended_at LIMIT 1) AS at
            UNION ALL SELECT 'transcripts', $2, (
                SELECT t.at FROM transcripts t
                WHERE t.at < now() - $2 AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = t.call_id AND ",
        held!("c"),
        ") ORDER BY t.at LIMIT 1)
            UNION ALL SELECT 'recordings', $3, (
                SELECT s.ended_at FROM media_sessions s
                WHERE ",
        old_recording!("$3"),
        " AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = s.call_id AND ",
        held!("c"),
        ") ORDER BY s.ended_at LIMIT 1)
            UNION ALL SELECT 'recordings', $3, (
                SELECT c.ended_at FROM calls c WHERE ",
        old_address!("$3"),
        " AND NOT ",
        held!("c"),
        " ORDER BY c.ended_at LIMIT 1)
            UNION ALL SELECT 'webhooks', $4, (
                SELECT w.received_at FROM webhook_inbox w
                WHERE w.received_at < now() - $4 AND (w.applied_at IS NOT NULL OR w.problem IS NOT NULL)
                    AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = w.call_id AND ",
        held!("c"),
        ") ORDER BY w.received_at LIMIT 1)
            UNION ALL SELECT 'contacts', $5, (
                SELECT m.ended_at FROM campaigns m
                WHERE m.ended_at < now() - $5 AND EXISTS (
                    SELECT 1 FROM contacts h WHERE h.campaign_id = m.id
                        AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = h.call_id AND ",
        held!("c"),
        ")
                        AND NOT EXISTS (SELECT 1 FROM number_holds n WHERE n.number = h.number)
                ) ORDER BY m.ended_at LIMIT 1)
            UNION ALL SELECT 'audit', $6, (SELECT a.at FROM audit a WHERE a.at < now() - $6 ORDER BY a.at LIMIT 1)
        ) classes WHERE kept IS NOT NULL GROUP BY class, kept"
    ));
    let of = |age: Option<TimeDelta>| age.map(interval);
    query
        .bind::<Nullable<Interval>, _>(of(kept.calls))
        .bind::<Nullable<Interval>, _>(of(kept.transcripts))
        .bind::<Nullable<Interval>, _>(of(kept.recordings))
        .bind::<Nullable<Interval>, _>(of(kept.webhooks))
        .bind::<Nullable<Interval>, _>(of(kept.contacts))
        .bind::<Nullable<Interval>, _>(of(kept.audit))
        .load(conn)
        .await
}
