//! One fresh call of an account at a time, in each process. The account's rate row lets only one pass anyway, and who waits here
//! holds no database connection meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use callbridge_proto::id::AccountId;
use tokio::{sync::OwnedMutexGuard, time::timeout};

use crate::error::Error;

/// A pass takes a few milliseconds; who waits for longer is better told so.
const LIMIT: Duration = Duration::from_secs(5);

/// The turnstiles of all accounts: as many as there are accounts.
#[derive(Debug, Default)]
pub struct Turnstiles(Mutex<HashMap<AccountId, Arc<tokio::sync::Mutex<()>>>>);

impl Turnstiles {
    /// Waits for the account's turn, first come, first served. It is given up when the guard is dropped.
    ///
    /// # Errors
    /// Exhausted (`AT_CAPACITY`) after five seconds.
    pub async fn pass(&self, account: AccountId) -> Result<OwnedMutexGuard<()>, Error> {
        let turnstile = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(account).or_default())
        };
        timeout(LIMIT, turnstile.lock_owned()).await.map_err(|_| {
            Error::exhausted(
                "AT_CAPACITY",
                "too many calls of this account come at one time; the key is not used up: try again",
            )
        })
    }
}
