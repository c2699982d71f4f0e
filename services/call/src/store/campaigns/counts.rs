//! A campaign's counts: deltas that are written with each change, folded into sums by whoever comes by. A count is the sum of both,
//! read in one snapshot, so that it is exact at any moment and no row is fought for.

use std::collections::BTreeMap;

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, Utc};
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Array, Int8, Text, Timestamptz, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid as RawUuid;

use crate::store::prepared::Prepared;

/// What is added to a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// `contact.<state>`, `attempt.<outcome>` or `dial`.
    pub word: String,
    /// How much; negative for what is left.
    pub n: i64,
}

/// Writes deltas, in the transaction of the change.
pub async fn add(conn: &mut AsyncPgConnection, campaign: RawUuid, deltas: &[Delta]) -> QueryResult<usize> {
    let words: Vec<&str> = deltas.iter().map(|delta| delta.word.as_str()).collect();
    let counts: Vec<i64> = deltas.iter().map(|delta| delta.n).collect();
    let query = sql_query(
        "INSERT INTO campaign_deltas (campaign_id, word, n) SELECT $1, d.word, d.n FROM unnest($2, $3) AS d (word, n)",
    )
    .bind::<Uuid, _>(campaign)
    .bind::<Array<Text>, _>(words)
    .bind::<Array<Int8>, _>(counts);
    Prepared(query).execute(conn).await
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = Text)]
    word: String,
    #[diesel(sql_type = Int8)]
    n: i64,
}

/// A campaign's counts of all time, by word.
pub async fn read(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<BTreeMap<String, i64>> {
    let query = sql_query(
        "SELECT word, sum(n)::bigint AS n FROM (
            SELECT word, n FROM campaign_counts WHERE campaign_id = $1 AND bucket = 'epoch'
            UNION ALL
            SELECT word, n FROM campaign_deltas WHERE campaign_id = $1
        ) counted GROUP BY word",
    )
    .bind::<Uuid, _>(campaign.0);
    let rows: Vec<Count> = Prepared(query).load(conn).await?;
    Ok(rows.into_iter().map(|row| (row.word, row.n)).collect())
}

/// A campaign's dials and attempts since a time, to five seconds (to an hour, where that is more than an hour ago), by word.
pub async fn since(
    conn: &mut AsyncPgConnection,
    campaign: CampaignId,
    since: DateTime<Utc>,
) -> QueryResult<BTreeMap<String, i64>> {
    let query = sql_query(
        "SELECT word, sum(n)::bigint AS n FROM (
            SELECT word, n FROM campaign_counts WHERE campaign_id = $1 AND bucket >= greatest($2, 'epoch'::timestamptz + '1 s')
            UNION ALL
            SELECT word, n FROM campaign_deltas WHERE campaign_id = $1 AND at >= $2 AND word NOT LIKE 'contact.%'
        ) counted GROUP BY word",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Timestamptz, _>(since);
    let rows: Vec<Count> = Prepared(query).load(conn).await?;
    Ok(rows.into_iter().map(|row| (row.word, row.n)).collect())
}

#[derive(QueryableByName)]
struct Folded {
    #[diesel(sql_type = Int8)]
    n: i64,
}

/// Folds deltas into sums; returns how many. Only one replica at a time does.
pub async fn fold(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<i64> {
    let query = sql_query(
        "WITH turn AS MATERIALIZED (
            SELECT pg_try_advisory_xact_lock(hashtext('campaign_counts')) AS mine
        ), taken AS (
            DELETE FROM campaign_deltas WHERE id IN (
                SELECT d.id FROM campaign_deltas d WHERE (SELECT mine FROM turn) ORDER BY d.id LIMIT $1
            ) RETURNING campaign_id, word, n, at
        ), sums AS (
            SELECT campaign_id, bucket, word, sum(n) AS n FROM (
                SELECT campaign_id, 'epoch'::timestamptz AS bucket, word, n FROM taken
                UNION ALL
                SELECT campaign_id, date_bin('5 seconds', at, 'epoch'), word, n FROM taken WHERE word NOT LIKE 'contact.%'
            ) parts GROUP BY campaign_id, bucket, word ORDER BY campaign_id, bucket, word
        ), kept AS (
            INSERT INTO campaign_counts AS c (campaign_id, bucket, word, n) SELECT * FROM sums
            ON CONFLICT (campaign_id, bucket, word) DO UPDATE SET n = c.n + excluded.n
        ) SELECT count(*) AS n FROM taken",
    )
    .bind::<Int8, _>(limit);
    let folded: Folded = Prepared(query).get_result(conn).await?;
    Ok(folded.n)
}

/// Folds parts of time that are more than an hour old into hours, and forgets those that no rule looks back at any more.
pub async fn compact(conn: &mut AsyncPgConnection) -> QueryResult<usize> {
    sql_query(
        "WITH turn AS MATERIALIZED (
            SELECT pg_try_advisory_xact_lock(hashtext('campaign_counts')) AS mine
        ), taken AS (
            DELETE FROM campaign_counts WHERE (SELECT mine FROM turn) AND bucket > 'epoch'
                AND bucket < date_trunc('hour', now() - interval '1 hour')
                AND (bucket <> date_trunc('hour', bucket) OR bucket < now() - interval '31 days')
            RETURNING campaign_id, bucket, word, n
        ) INSERT INTO campaign_counts AS c (campaign_id, bucket, word, n)
        SELECT campaign_id, date_trunc('hour', bucket), word, sum(n) FROM taken
        WHERE bucket >= now() - interval '31 days' GROUP BY 1, 2, 3
        ON CONFLICT (campaign_id, bucket, word) DO UPDATE SET n = c.n + excluded.n",
    )
    .execute(conn)
    .await
}
