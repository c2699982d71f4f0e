//! Key rotation: rows that an old key sealed are sealed with the present one. They are taken in batches that other runners skip, each
//! batch in a transaction of its own, so that it can be stopped at any point and begun again (F120).

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::error;
use uuid::Uuid;

use super::{SealError, Vault, credentials::place, seal};
use crate::{
    db::DbError,
    store::credentials::{self as store, Replacement, Sealed},
};

/// What becomes of a row that another key sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Its data key is sealed with the present key. The row's version and data stay as they are.
    Rewrap,
    /// It is sealed anew with a new data key, as its next version: for data keys that somebody may have, who had the old key and a dump.
    Reseal,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The last row that was looked at.
    pub last: Uuid,
    /// Rows that are sealed with the present key now.
    pub sealed: u64,
    /// Rows that do not open; each is named in the log.
    pub broken: u64,
}

/// How a row stands after a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It opens, with the present key.
    Present,
    /// It opens, with another one.
    Old,
}

impl Vault {
    /// Takes the next rows by id that another key sealed and nobody else holds. None: there are no more. Ids only grow from batch to
    /// batch, so a row that does not open is passed by, not met for ever.
    ///
    /// # Errors
    /// When the database fails; then nothing of this batch is done.
    pub async fn rotate(
        &self,
        conn: &mut AsyncPgConnection,
        how: How,
        after: Uuid,
        limit: i64,
    ) -> Result<Option<Batch>, DbError> {
        let kek_id = self.sealing_key();
        let done = conn
            .transaction::<_, diesel::result::Error, _>(async |conn| {
                let rows = store::lock_other_keys(conn, kek_id, after, limit).await?;
                let Some(last) = rows.last().map(|row| row.id) else {
                    return Ok(None);
                };
                let mut done = Batch {
                    last,
                    sealed: 0,
                    broken: 0,
                };
                let mut replacements = Vec::with_capacity(rows.len());
                for row in &rows {
                    match self.replacement(how, row) {
                        Ok(replacement) => {
                            replacements.push(replacement);
                            done.sealed += 1;
                        }
                        Err(error) => {
                            error!(%error, "a row is left with its old key");
                            done.broken += 1;
                        }
                    }
                }
                if !replacements.is_empty() {
                    store::replace(conn, kek_id, &replacements).await?;
                }
                Ok(Some(done))
            })
            .await?;
        Ok(done)
    }

    fn replacement(&self, how: How, row: &Sealed) -> Result<Replacement, SealError> {
        let (row_version, sealed) = match how {
            How::Rewrap => (
                row.row_version,
                seal::rewrap(&self.keys, &place(row.id, row.row_version), &row.sealed)?,
            ),
            How::Reseal => {
                let next = row.row_version + 1;
                (next, self.seal(row.id, next, &self.secrets(row)?)?)
            }
        };
        Ok(Replacement {
            id: row.id,
            row_version,
            sealed,
        })
    }

    /// Opens a row, and tells whether the present key did.
    ///
    /// # Errors
    /// [`SealError`], which names the row; also when the column beside the blob names another key, by which rows are found.
    pub fn standing(&self, row: &Sealed) -> Result<Standing, SealError> {
        self.secrets(row)?;
        let place = place(row.id, row.row_version);
        let kek_id = seal::kek_id(&place, &row.sealed)?;
        if i32::from(kek_id) != row.kek_id {
            let place = place.to_string();
            return Err(SealError::Label { place, kek_id });
        }
        Ok(if row.kek_id == self.sealing_key() {
            Standing::Present
        } else {
            Standing::Old
        })
    }
}
