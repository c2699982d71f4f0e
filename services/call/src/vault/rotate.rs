//! Key rotation: the data keys of old rows are sealed again with the current key. Rows are taken in batches that other
//! runners skip, each batch in a transaction of its own, so that it can be stopped at any point and begun again (F120).

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::error;

use super::{Vault, credentials::place, seal};
use crate::{db::DbError, store::credentials as store};

/// Rows in one transaction: some 10 ms of work.
const BATCH: i64 = 500;

/// What a rotation did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// Rows that are sealed with the current key now.
    pub rewrapped: usize,
    /// Rows that do not open; each is named in the log.
    pub broken: usize,
}

impl Vault {
    /// Seals every row's data key with the current key. Row versions and data stay as they are.
    ///
    /// # Errors
    /// When the database fails; what was done until then stays done.
    pub async fn rotate(&self, conn: &mut AsyncPgConnection) -> Result<Rotated, DbError> {
        let (kek_id, _) = self.keys.current();
        let mut total = Rotated::default();
        // Ids only grow, so a row that does not open is passed by, not met for ever.
        let mut after = uuid::Uuid::nil();
        loop {
            let rows = conn
                .transaction::<_, diesel::result::Error, _>(async |conn| {
                    let rows = store::lock_other_keys(conn, i32::from(kek_id), after, BATCH).await?;
                    let mut done = Rotated::default();
                    for row in &rows {
                        match seal::rewrap(&self.keys, &place(row.id, row.row_version), &row.sealed) {
                            Ok(sealed) => {
                                store::rewrap(conn, row.id, i32::from(kek_id), &sealed).await?;
                                done.rewrapped += 1;
                            }
                            Err(error) => {
                                error!(%error, "a credential cannot be re-wrapped");
                                done.broken += 1;
                            }
                        }
                    }
                    Ok(rows.last().map(|row| (row.id, done)))
                })
                .await?;
            let Some((last, done)) = rows else { return Ok(total) };
            after = last;
            total.rewrapped += done.rewrapped;
            total.broken += done.broken;
        }
    }
}
