//! Imports of contacts, and how far they are.

mod commit;
pub mod held;

use std::collections::HashSet;

use callbridge_proto::id::CampaignId;
use diesel::{
    QueryResult, QueryableByName, sql_query,
    sql_types::{Bool, Bytea, Int8, Jsonb, Nullable, Text, Uuid},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid as RawUuid;

pub use self::commit::{CommitError, Committed, commit};

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its line, or its place in a list.
    pub line: i64,
    /// The column, if it is about one.
    pub column: String,
    /// A stable word.
    pub problem: String,
}

/// How far an import is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns are documented in the migrations")]
pub struct Import {
    pub id: RawUuid,
    pub sha256: Option<Vec<u8>>,
    pub replaces: bool,
    pub header: Option<String>,
    pub line: i64,
    pub rows: i64,
    pub accepted: i64,
    pub duplicates: i64,
    pub rejected: i64,
    pub problems: Vec<Problem>,
    pub problems_cut: bool,
    pub finished: bool,
}

impl Import {
    /// Adds a problem, up to `most`.
    pub fn tell(&mut self, problem: Problem, most: usize) {
        if self.problems.len() < most {
            self.problems.push(problem);
        } else {
            self.problems_cut = true;
        }
    }
}

/// Rows that are committed together.
#[derive(Debug, Default)]
pub struct Batch {
    /// In COPY's text format: line, number, zone, variables, id.
    pub copy: Vec<u8>,
    /// How many.
    pub contacts: i64,
    /// The zones of these rows; the empty one is that of the rules.
    pub zones: HashSet<String>,
}

/// Whether the contact that is there gets what a duplicate brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenDuplicate {
    /// It stays as it is.
    Skip,
    /// It does.
    Replace,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Uuid)]
    id: RawUuid,
    #[diesel(sql_type = Nullable<Bytea>)]
    sha256: Option<Vec<u8>>,
    #[diesel(sql_type = Bool)]
    replaces: bool,
    #[diesel(sql_type = Nullable<Text>)]
    header: Option<String>,
    #[diesel(sql_type = Int8)]
    line: i64,
    #[diesel(sql_type = Int8)]
    rows: i64,
    #[diesel(sql_type = Int8)]
    accepted: i64,
    #[diesel(sql_type = Int8)]
    duplicates: i64,
    #[diesel(sql_type = Int8)]
    rejected: i64,
    #[diesel(sql_type = Jsonb)]
    problems: Value,
    #[diesel(sql_type = Bool)]
    problems_cut: bool,
    #[diesel(sql_type = Bool)]
    finished: bool,
}

/// Begins an import with this id, or finds how far it is, and what was sent then.
pub async fn begin(
    conn: &mut AsyncPgConnection,
    (campaign, key): (CampaignId, &str),
    id: RawUuid,
    caller: &str,
    sha256: Option<&[u8]>,
    policy: WhenDuplicate,
) -> QueryResult<Import> {
    let row: Row = sql_query(
        "INSERT INTO campaign_imports AS i (campaign_id, key, caller, sha256, replaces, id) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (campaign_id, key) DO UPDATE
            SET updated_at = clock_timestamp(), sha256 = coalesce(i.sha256, excluded.sha256)
        RETURNING id, sha256, replaces, header, line, rows, accepted, duplicates, rejected, problems, problems_cut,
            finished_at IS NOT NULL AS finished",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Text, _>(key)
    .bind::<Text, _>(caller)
    .bind::<Nullable<Bytea>, _>(sha256)
    .bind::<Bool, _>(policy == WhenDuplicate::Replace)
    .bind::<Uuid, _>(id)
    .get_result(conn)
    .await?;
    Ok(Import {
        id: row.id,
        sha256: row.sha256,
        replaces: row.replaces,
        header: row.header,
        line: row.line,
        rows: row.rows,
        accepted: row.accepted,
        duplicates: row.duplicates,
        rejected: row.rejected,
        problems: serde_json::from_value(row.problems)
            .map_err(|error| diesel::result::Error::DeserializationError(error.into()))?,
        problems_cut: row.problems_cut,
        finished: row.finished,
    })
}

/// Ends an import. False: it had ended before.
pub async fn finish(conn: &mut AsyncPgConnection, campaign: CampaignId, key: &str) -> QueryResult<bool> {
    let ended = sql_query(
        "UPDATE campaign_imports SET finished_at = clock_timestamp(), updated_at = clock_timestamp()
        WHERE campaign_id = $1 AND key = $2 AND finished_at IS NULL",
    )
    .bind::<Uuid, _>(campaign.0)
    .bind::<Text, _>(key)
    .execute(conn)
    .await?;
    Ok(ended == 1)
}

/// Notes that an import goes on, though nothing of it is new.
pub async fn touch(conn: &mut AsyncPgConnection, campaign: CampaignId, key: &str) -> QueryResult<usize> {
    sql_query("UPDATE campaign_imports SET updated_at = clock_timestamp() WHERE campaign_id = $1 AND key = $2")
        .bind::<Uuid, _>(campaign.0)
        .bind::<Text, _>(key)
        .execute(conn)
        .await
}

#[derive(QueryableByName)]
struct Any {
    #[diesel(sql_type = Bool)]
    any: bool,
}

/// Whether contacts are being sent, as far as the last ten minutes tell.
pub async fn any_open(conn: &mut AsyncPgConnection, campaign: CampaignId) -> QueryResult<bool> {
    let row: Any = sql_query(
        "SELECT EXISTS (
            SELECT 1 FROM campaign_imports
            WHERE campaign_id = $1 AND finished_at IS NULL AND updated_at > clock_timestamp() - interval '10 minutes'
        ) AS any",
    )
    .bind::<Uuid, _>(campaign.0)
    .get_result(conn)
    .await?;
    Ok(row.any)
}
