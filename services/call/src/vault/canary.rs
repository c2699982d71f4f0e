//! A known text sealed with each key: a wrong key is noticed at start, before anything is written with it (F118).

use std::collections::BTreeSet;

use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::warn;
use uuid::Uuid;

use super::{
    Vault,
    seal::{self, Place, SealError},
};
use crate::{
    db::DbError,
    store::credentials::{self as store, KeyUse},
};

/// A key that has sealed as many data keys is to be replaced: far below the 2³² random nonces of NIST SP 800-38D §8.3.
const WORN: i64 = 1 << 28;

const TEXT: &[u8] = b"callbridge canary";

/// Why the keys are not those of the database. Shows ids only.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// A key has the id of another one.
    #[error("key {kek_id} of CREDENTIAL_KEYS is not the key with that id which sealed this database's credentials")]
    WrongKey {
        /// Its id.
        kek_id: u16,
        /// What failed.
        #[source]
        source: SealError,
    },
    /// Credentials need a key that is not there.
    #[error("credentials are sealed with key {0}, which CREDENTIAL_KEYS does not have")]
    MissingKey(i32),
    /// Credentials are there but no canary: it was deleted, or the rows come from elsewhere.
    #[error("credentials are sealed with key {0}, but its canary is gone: restore the crypto_canary table")]
    NoCanary(i32),
    /// None of the keys has sealed anything here.
    #[error("none of the keys of CREDENTIAL_KEYS is known to this database (known: {0:?})")]
    Strangers(Vec<i32>),
    /// A canary cannot be made.
    #[error("cannot make a canary")]
    Seal(#[source] SealError),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<diesel::result::Error> for CanaryError {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

impl Vault {
    /// Checks every key against its canary, and makes the canaries of new keys. A canary is made only for a key that has
    /// sealed nothing yet, and only when the database has none at all or knows one of the other keys.
    ///
    /// # Errors
    /// [`CanaryError`]; then nothing was written.
    pub async fn check_keys(&self, conn: &mut AsyncPgConnection) -> Result<(), CanaryError> {
        conn.transaction::<(), CanaryError, _>(async |conn| {
            store::lock_canaries(conn).await?;
            let canaries = store::canaries(conn).await?;
            let known: BTreeSet<i32> = canaries.iter().map(|canary| canary.kek_id).collect();
            let in_use = store::keys_in_use(conn).await?;
            let used: BTreeSet<i32> = in_use.iter().map(|key| key.kek_id).collect();
            let ours = self.keys.ids();
            for kek_id in &used {
                if !ours.iter().any(|id| i32::from(*id) == *kek_id) {
                    return Err(CanaryError::MissingKey(*kek_id));
                }
                if !known.contains(kek_id) {
                    return Err(CanaryError::NoCanary(*kek_id));
                }
            }
            let (old, new): (Vec<u16>, Vec<u16>) = ours.into_iter().partition(|id| known.contains(&i32::from(*id)));
            for kek_id in &old {
                let canary = canaries.iter().find(|canary| canary.kek_id == i32::from(*kek_id));
                let sealed = canary.map_or(&[][..], |canary| &canary.sealed);
                seal::open(&self.keys, &place(*kek_id), sealed).map_err(|source| CanaryError::WrongKey {
                    kek_id: *kek_id,
                    source,
                })?;
            }
            if old.is_empty() && !known.is_empty() {
                return Err(CanaryError::Strangers(known.into_iter().collect()));
            }
            for kek_id in new {
                let keys = self.keys.starting_with(kek_id);
                let sealed = seal::seal(&keys, &place(kek_id), TEXT).map_err(CanaryError::Seal)?;
                store::add_canary(conn, i32::from(kek_id), &sealed).await?;
            }
            for kek_id in worn(&in_use) {
                warn!(
                    kek_id,
                    "a key has sealed 2^28 data keys or more: put a new one first in CREDENTIAL_KEYS and run `call-service rewrap`"
                );
            }
            Ok(())
        })
        .await
    }
}

/// The keys that have sealed so much that they are to be replaced.
fn worn(in_use: &[KeyUse]) -> impl Iterator<Item = i32> {
    in_use.iter().filter(|key| key.wraps >= WORN).map(|key| key.kek_id)
}

fn place(kek_id: u16) -> Place {
    Place {
        table: "crypto_canary",
        column: "sealed",
        row: Uuid::from_u128(kek_id.into()),
        row_version: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_worn_long_before_its_nonces_may_repeat() {
        let uses = [(1, WORN - 1), (2, WORN), (3, i64::MAX)].map(|(kek_id, wraps)| KeyUse { kek_id, wraps });
        assert_eq!(worn(&uses).collect::<Vec<_>>(), [2, 3]);
    }
}
