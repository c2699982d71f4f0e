//! Settings of `call-service rewrap`.

use std::num::NonZeroU16;

use runtime::config::{ConfigError, Vars};

use super::{Database, database, secret};
use crate::vault;

/// A statement on more rows may meet its time limit.
const MOST: u16 = 5_000;
const BATCH: NonZeroU16 = NonZeroU16::MIN.saturating_add(499);

/// What `rewrap` needs. `Debug` shows no secret.
#[derive(Debug)]
pub struct Rewrap {
    /// Where the rows are.
    pub database: Database,
    /// The first one seals, all open.
    pub keys: vault::Keys,
    /// Rows in one transaction, whose credentials cannot be set meanwhile: some 10 ms for 500.
    pub batch: NonZeroU16,
}

impl Rewrap {
    /// Reads `DATABASE_URL` and its like, `CREDENTIAL_KEYS` and `REWRAP_BATCH`.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(mut vars: Vars) -> Result<Self, ConfigError> {
        let database = database(&mut vars);
        let keys = secret(
            &mut vars,
            "CREDENTIAL_KEYS",
            "1:<base64 of 32 random bytes>",
            vault::Keys::parse,
        );
        let batch = vars.parsed_or("REWRAP_BATCH", "a number from 1 to 5000", BATCH);
        if batch.get() > MOST {
            vars.problem("REWRAP_BATCH", "does not read as a number from 1 to 5000");
        }
        match keys {
            Some(keys) => vars.finish(Self { database, keys, batch }),
            None => Err(vars.finish(()).err().unwrap_or_else(|| ConfigError(Vec::new()))),
        }
    }
}
