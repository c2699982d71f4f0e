//! Erasing a number, wherever it is.

use std::ops::AddAssign;

use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, BigInt, Bool, Text, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::holds::held;

/// How much there is to erase, or was erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Counts {
    /// Calls.
    #[diesel(sql_type = BigInt)]
    pub calls: i64,
    /// Pieces of their transcripts.
    #[diesel(sql_type = BigInt)]
    pub transcripts: i64,
    /// Their recordings in the object store, or on their way there.
    #[diesel(sql_type = BigInt)]
    pub recordings: i64,
    /// Contacts of campaigns.
    #[diesel(sql_type = BigInt)]
    pub contacts: i64,
    /// Entries of lists of numbers that are not called.
    #[diesel(sql_type = BigInt)]
    pub suppressions: i64,
    /// Calls of others that were passed on to it.
    #[diesel(sql_type = BigInt)]
    pub transfers: i64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.calls += more.calls;
        self.transcripts += more.transcripts;
        self.recordings += more.recordings;
        self.contacts += more.contacts;
        self.suppressions += more.suppressions;
        self.transfers += more.transfers;
    }
}

/// What stands against an erasure, and what there is to erase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, QueryableByName)]
pub struct Standing {
    /// Calls that wait or go on, sessions that do or whose end an edge may still tell, webhooks that wait, and contacts whose call is
    /// not settled.
    #[diesel(sql_type = Bool)]
    pub is_active: bool,
    /// Calls that are held, and the number itself.
    #[diesel(sql_type = BigInt)]
    pub held: i64,
    /// What there is.
    #[diesel(embed)]
    pub counts: Counts,
}

/// How a number stands.
pub async fn standing(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<Standing> {
    sql_query(concat!(
        "WITH theirs AS MATERIALIZED (SELECT id, state, held_at FROM calls WHERE customer = $1),
        sessions AS MATERIALIZED (
            SELECT s.started_at, s.ended_at, s.end_presumed, s.recording_state FROM theirs t JOIN media_sessions s ON s.call_id = t.id
        ), passed AS MATERIALIZED (
            SELECT c.state, ",
        held!("c"),
        " AS is_held FROM calls c WHERE c.transfer_to = $1 AND c.customer <> $1
        ), people AS MATERIALIZED (
            SELECT k.state FROM campaigns m JOIN contacts k ON k.campaign_id = m.id AND k.number = $1
        ) SELECT
            EXISTS (SELECT 1 FROM theirs WHERE state < 'completed')
                OR EXISTS (SELECT 1 FROM sessions WHERE started_at IS NOT NULL
                    AND (ended_at IS NULL OR end_presumed AND ended_at > now() - interval '1 day'))
                OR EXISTS (SELECT 1 FROM theirs t JOIN webhook_inbox w ON w.call_id = t.id
                    WHERE w.applied_at IS NULL AND w.problem IS NULL)
                OR EXISTS (SELECT 1 FROM passed WHERE state < 'completed')
                OR EXISTS (SELECT 1 FROM people WHERE state = 'calling') AS is_active,
            (SELECT count(*) FROM theirs WHERE held_at IS NOT NULL)
                + (SELECT count(*) FROM passed WHERE is_held)
                + (SELECT count(*) FROM number_holds WHERE number = $1) AS held,
            (SELECT count(*) FROM theirs) AS calls,
            (SELECT count(*) FROM theirs t JOIN transcripts p ON p.call_id = t.id) AS transcripts,
            (SELECT count(*) FROM sessions WHERE recording_state NOT IN ('erasing', 'erased', 'failed')) AS recordings,
            (SELECT count(*) FROM people) AS contacts,
            (SELECT count(*) FROM suppressions WHERE number = $1) AS suppressions,
            (SELECT count(*) FROM passed) AS transfers"
    ))
    .bind::<Text, _>(number)
    .get_result(conn)
    .await
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Blanks calls with a number, as retention would, and their timelines' words too. The number's hash stays, and Exotel is still asked
/// for a price that it has not told. Returns their ids; what was said in them goes by [`super::retention::forget_said`].
pub async fn blank_calls(conn: &mut AsyncPgConnection, number: &str, limit: i64) -> QueryResult<Vec<Uuid>> {
    let blanked: Vec<Id> = sql_query(
        "UPDATE calls SET blanked_at = clock_timestamp(), customer = '', customer_hash = number_hash($1), metadata = '{}',
            recording_url = NULL, transfer_to = NULL, calling_hours_override = NULL, traceparent = NULL
        WHERE id IN (
            SELECT id FROM calls WHERE customer = $1 AND state >= 'completed' AND held_at IS NULL
            ORDER BY id LIMIT $2 FOR UPDATE
        ) RETURNING id",
    )
    .bind::<Text, _>(number)
    .bind::<BigInt, _>(limit)
    .get_results(conn)
    .await?;
    let ids: Vec<Uuid> = blanked.into_iter().map(|row| row.id).collect();
    sql_query("SELECT call_events_untell($1)")
        .bind::<Array<SqlUuid>, _>(&ids)
        .execute(conn)
        .await?;
    Ok(ids)
}

/// Forgets that calls of others were passed on to a number: their timelines have it masked. Returns how many there were.
pub async fn forget_transfers(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Gone {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let gone: Gone = sql_query(concat!(
        "WITH passed AS (
            UPDATE calls c SET transfer_to = NULL
            WHERE c.transfer_to = $1 AND c.customer <> $1 AND c.state >= 'completed' AND NOT ",
        held!("c"),
        " RETURNING c.id
        ), untold AS (
            DELETE FROM call_commands d USING passed p WHERE d.call_id = p.id
        ) SELECT count(*) AS n FROM passed"
    ))
    .bind::<Text, _>(number)
    .get_result(conn)
    .await?;
    Ok(gone.n)
}

/// Deletes contacts with a number that nobody calls at the moment. The counts stay but for those that were never called.
pub async fn forget_contacts(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Gone {
        #[diesel(sql_type = BigInt)]
        n: i64,
    }
    let gone: Gone = sql_query(
        "WITH gone AS (
            DELETE FROM contacts c USING campaigns m
            WHERE c.campaign_id = m.id AND c.number = $1 AND c.state <> 'calling' RETURNING c.campaign_id, c.state
        ), counted AS (
            INSERT INTO campaign_deltas (campaign_id, word, n)
            SELECT campaign_id, 'contact.pending', -count(*) FROM gone WHERE state = 'pending' GROUP BY campaign_id
        ) SELECT count(*) AS n FROM gone",
    )
    .bind::<Text, _>(number)
    .get_result(conn)
    .await?;
    Ok(gone.n)
}

/// Lists keep a number by its hash from now on. Of two entries of one list the one that holds longer stays.
const BY_HASH: [&str; 2] = [
    "UPDATE suppressions s SET expires_at = nullif(
            greatest(coalesce(s.expires_at, 'infinity'), coalesce(h.expires_at, 'infinity')), 'infinity')
        FROM suppressions h WHERE s.number = $1 AND h.number = number_hash($1) AND h.source = s.source
            AND h.campaign_id IS NOT DISTINCT FROM s.campaign_id",
    "DELETE FROM suppressions h USING suppressions s WHERE s.number = $1 AND h.number = number_hash($1)
        AND h.source = s.source AND h.campaign_id IS NOT DISTINCT FROM s.campaign_id",
];

/// Puts the hash in the place of a number on all lists of numbers that are not called. Returns how many entries there were.
pub async fn hash_suppressions(conn: &mut AsyncPgConnection, number: &str) -> QueryResult<usize> {
    for statement in BY_HASH.into_iter().chain(["SELECT suppression_history_hash($1)"]) {
        sql_query(statement).bind::<Text, _>(number).execute(conn).await?;
    }
    sql_query(
        "UPDATE suppressions SET number = number_hash($1), reason = regexp_replace(reason, '[[:digit:]]', '#', 'g')
        WHERE number = $1",
    )
    .bind::<Text, _>(number)
    .execute(conn)
    .await
}
