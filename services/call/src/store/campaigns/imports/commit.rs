//! One batch: COPY into a staging table of the transaction, and from there into `contacts`, with how far the import is in the same
//! commit. The only statements that are not diesel's, which does not speak COPY.

use std::pin::pin;

use bytes::Bytes;
use callbridge_proto::id::CampaignId;
use futures_util::SinkExt as _;
use tokio_postgres::Client;

use super::{Batch, Import, WhenDuplicate, held::held_until};
use crate::db::DbError;

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another stream with the same key was quicker.
    #[error("another stream sends the same import")]
    Raced,
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<tokio_postgres::Error> for CommitError {
    fn from(error: tokio_postgres::Error) -> Self {
        // Only the code: a message can hold what is in a row.
        let code = error.code().map_or("the connection broke", |state| state.code());
        Self::Db(DbError::Unreachable(format!("an import's statement failed: {code}")))
    }
}

/// What came of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// New contacts.
    pub accepted: i64,
    /// Lines whose number was there, the first `told` of them.
    pub duplicates: Vec<i64>,
}

/// Commits a batch, with how far the import is after it: `before` has to be how far it was. `after` is told what came of the batch
/// and says how far that is.
///
/// # Errors
/// [`CommitError`]. After one nothing of the batch is there, or all of it: [`super::begin`] tells.
pub async fn commit(
    client: &mut Client,
    (campaign, key): (CampaignId, &str),
    batch: Batch,
    policy: WhenDuplicate,
    before: &Import,
    told: usize,
    after: impl FnOnce(Committed) -> Import + Send,
) -> Result<Import, CommitError> {
    let transaction = client.transaction().await?;
    let held = transaction
        .query_opt(
            "SELECT line FROM campaign_imports WHERE campaign_id = $1 AND key = $2 AND finished_at IS NULL FOR UPDATE",
            &[&campaign.0, &key],
        )
        .await?;
    if held.is_none_or(|row| row.get::<_, i64>(0) != before.line) {
        return Err(CommitError::Raced);
    }
    let mut committed = Committed::default();
    if batch.contacts > 0 {
        let staged = batch.contacts;
        stage(&transaction, batch.copy).await?;
        // Of a file with a hash.
        let held_for = before.sha256.is_some().then_some(before.id);
        let replaces = policy == WhenDuplicate::Replace;
        let row = transaction
            .query_one(WRITE, &[&campaign.0, &held_for, &replaces])
            .await?;
        committed.accepted = row.get(0);
        if committed.accepted < staged {
            let lines = transaction
                .query(DUPLICATES, &[&campaign.0, &i64::try_from(told).unwrap_or(i64::MAX)])
                .await?;
            committed.duplicates = lines.iter().map(|row| row.get(0)).collect();
        }
        let mut zones: Vec<&str> = batch.zones.iter().map(String::as_str).collect();
        zones.sort_unstable();
        transaction
            .execute(
                "INSERT INTO campaign_zones (campaign_id, zone) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING",
                &[&campaign.0, &zones],
            )
            .await?;
        transaction
            .execute(
                "INSERT INTO campaign_deltas (campaign_id, word, n) VALUES ($1, 'contact.pending', $2)",
                &[&campaign.0, &row.get::<_, i64>(1)],
            )
            .await?;
    }
    let after = after(committed);
    let problems = serde_json::to_string(&after.problems).unwrap_or_else(|_| "[]".to_owned());
    transaction
        .execute(
            "UPDATE campaign_imports SET line = $3, rows = $4, accepted = $5, duplicates = $6, rejected = $7,
                problems = ($8::text)::jsonb, problems_cut = $9, header = $10, updated_at = clock_timestamp()
            WHERE campaign_id = $1 AND key = $2",
            &[
                &campaign.0,
                &key,
                &after.line,
                &after.rows,
                &after.accepted,
                &after.duplicates,
                &after.rejected,
                &problems,
                &after.problems_cut,
                &after.header,
            ],
        )
        .await?;
    transaction.commit().await?;
    Ok(after)
}

/// Whether a contact that is there is held for another import, of which nothing has come for long.
macro_rules! is_held_for_another {
    () => {
        concat!(
            "(c.state = 'pending' AND c.next_at = ",
            held_until!(),
            " AND c.import_id IS DISTINCT FROM excluded.import_id AND c.import_id <> ALL (ARRAY(SELECT id FROM at_work)))"
        )
    };
}

/// $1 the campaign, $2 the import that the contacts are held for, $3 whether those that are there are replaced. Of a number that is
/// there more than once in the batch the first row counts, or the last one when it replaces. A contact that is held for another
/// import becomes this one's when nothing has come of that one for ten minutes: its file may never be whole. In the order of the key: two imports of the same numbers would else wait
/// for each other. Returns the rows that have a contact, and the contacts that are new.
const WRITE: &str = concat!(
    "WITH at_work AS (
        SELECT id FROM campaign_imports
        WHERE campaign_id = $1::uuid AND finished_at IS NULL AND updated_at > clock_timestamp() - interval '10 minutes'
    ), written AS (
        INSERT INTO contacts AS c (campaign_id, id, number, zone, variables, import_id, next_at)
        SELECT DISTINCT ON (number) $1::uuid, id, number, coalesce(zone, ''), variables, $2::uuid,
            CASE WHEN $2::uuid IS NULL THEN 'epoch' ELSE ",
    held_until!(),
    " END
        FROM staging ORDER BY number, CASE WHEN $3::boolean THEN -line ELSE line END
        ON CONFLICT (campaign_id, number) DO UPDATE SET zone = excluded.zone, variables = excluded.variables,
            id = CASE WHEN ",
    is_held_for_another!(),
    " THEN excluded.id ELSE c.id END, import_id = CASE WHEN ",
    is_held_for_another!(),
    " THEN excluded.import_id ELSE c.import_id END, next_at = CASE WHEN ",
    is_held_for_another!(),
    " THEN excluded.next_at ELSE c.next_at END
            WHERE $3::boolean OR ",
    is_held_for_another!(),
    "
        RETURNING c.id, c.xmax = 0 AS new
    ) SELECT count(s.id), count(*) FILTER (WHERE w.new) FROM written w LEFT JOIN staging s ON s.id = w.id"
);
/// A row that made no contact of its own.
const DUPLICATES: &str = "SELECT s.line FROM staging s
    WHERE NOT EXISTS (SELECT 1 FROM contacts c WHERE c.campaign_id = $1 AND c.id = s.id) ORDER BY s.line LIMIT $2";

/// Into a table of the transaction alone: it is written to no log, and nothing is left of it.
async fn stage(transaction: &tokio_postgres::Transaction<'_>, copy: Vec<u8>) -> Result<(), CommitError> {
    transaction
        .batch_execute(
            "CREATE TEMPORARY TABLE staging (line bigint, number text, zone text, variables jsonb, id uuid) ON COMMIT DROP",
        )
        .await?;
    let mut sink = pin!(transaction.copy_in::<_, Bytes>("COPY staging FROM STDIN").await?);
    sink.send(Bytes::from(copy)).await?;
    sink.finish().await?;
    Ok(())
}
