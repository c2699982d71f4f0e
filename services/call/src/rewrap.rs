//! `call-service rewrap`: seals what old keys sealed with the first key of `CREDENTIAL_KEYS`, while everything runs. It may be killed
//! at any point and run again, and several may run at one time (F120).

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use runtime::Tasks;
use tokio::time::{Instant, sleep};
use tracing::{error, info};
use uuid::Uuid;

use crate::{
    config::{Environment, Rewrap},
    db::{Db, Migrated, migrated},
    store::credentials as store,
    vault::{
        Vault,
        rotate::{How, Standing},
    },
};

/// Rows that are opened in one go when all are checked.
const PAGE: i64 = 1_000;
/// Between two lines that tell how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Between two looks at rows that somebody else holds.
const AGAIN: Duration = Duration::from_millis(100);
/// How long others may hold the last rows, or go on sealing with an old key, before a person is asked.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a run did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Rows that this run sealed with the present key.
    pub sealed: u64,
    /// Rows that were opened at its end: all.
    pub opened: u64,
}

/// Runs to the end: every row is sealed with the present key, and opens.
///
/// # Errors
/// When the keys or the schema are not the database's, the database fails, rows do not open, or it is stopped. What was done until
/// then stays done.
pub async fn run(settings: Rewrap, how: How, tasks: &Tasks) -> anyhow::Result<Done> {
    let db = Db::connect(&settings.database)?;
    let vault = Vault::new(settings.keys.clone(), Environment::default());
    let mut conn = db.conn().await.context("cannot reach the database")?;
    if let Migrated::Missing(missing) = migrated(&mut conn).await? {
        bail!("the database lacks migrations {missing:?}: run `call-service migrate` first");
    }
    vault
        .check_keys(&mut conn)
        .await
        .context("CREDENTIAL_KEYS are not this database's; nothing was written")?;
    let kek_id = vault.sealing_key();
    let mut progress = Progress::new(store::count_other_keys(&mut conn, kek_id).await?);
    info!(
        kek_id,
        rows = progress.all,
        "rows that other keys sealed are sealed with this one"
    );
    let mut since = Instant::now();
    loop {
        let (mut after, mut sealed, mut broken) = (Uuid::nil(), 0, 0);
        while let Some(batch) = vault.rotate(&mut conn, how, after, settings.batch.get().into()).await? {
            (after, sealed, broken) = (batch.last, sealed + batch.sealed, broken + batch.broken);
            progress.add(batch.sealed);
            ensure!(
                !tasks.is_stopping(),
                "stopped after {} rows: run it again to go on",
                progress.sealed
            );
        }
        let left = store::count_other_keys(&mut conn, kek_id).await?;
        if u64::try_from(left)? <= broken {
            break;
        }
        // Another runner has them, or they were sealed a moment ago by a replica with another first key.
        if sealed > 0 {
            since = Instant::now();
        }
        ensure!(
            since.elapsed() < PATIENCE,
            "{left} rows are sealed with another key than {kek_id} and somebody else holds them: run it again; see whether a \
             replica has another first key, or a session is stuck in a transaction"
        );
        sleep(AGAIN).await;
    }
    let opened = check(&db, &vault, tasks).await?;
    let old: Vec<u16> = settings
        .keys
        .ids()
        .into_iter()
        .filter(|id| i32::from(*id) != kek_id)
        .collect();
    info!(
        kek_id,
        sealed = progress.sealed,
        opened,
        ?old,
        "every row is sealed with the first key and opens: take the old keys out of CREDENTIAL_KEYS and roll out; keep them \
         elsewhere for as long as backups that need them"
    );
    Ok(Done {
        sealed: progress.sealed,
        opened,
    })
}

/// Opens every row.
async fn check(db: &Db, vault: &Vault, tasks: &Tasks) -> anyhow::Result<u64> {
    let (mut after, mut opened, mut old, mut broken) = (Uuid::nil(), 0, 0_u64, 0_u64);
    loop {
        let rows = store::page(&mut *db.conn().await?, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for row in &rows {
            match vault.standing(row) {
                Ok(Standing::Present) => opened += 1,
                Ok(Standing::Old) => old += 1,
                Err(error) => {
                    error!(%error, "a row does not open");
                    broken += 1;
                }
            }
        }
        ensure!(!tasks.is_stopping(), "stopped while all rows were opened: run it again");
    }
    ensure!(
        broken == 0,
        "{broken} rows do not open, see the log: set their credentials again, and keep the old keys until then"
    );
    ensure!(
        old == 0,
        "{old} rows are sealed with another key than {} again: a replica has another first key; roll out and run it again",
        vault.sealing_key()
    );
    Ok(opened)
}

/// How far it is, told now and then.
struct Progress {
    /// When it began.
    all: i64,
    sealed: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn new(all: i64) -> Self {
        let begun = Instant::now();
        Self {
            all,
            sealed: 0,
            begun,
            told: begun,
        }
    }

    fn add(&mut self, sealed: u64) {
        self.sealed += sealed;
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let all = u64::try_from(self.all).unwrap_or_default();
            let seconds_left = left(self.begun.elapsed(), self.sealed, all).as_secs();
            info!(sealed = self.sealed, rows = all, seconds_left, "on the way");
        }
    }
}

/// How long the rest takes at the pace so far. Another runner makes it less.
fn left(elapsed: Duration, sealed: u64, all: u64) -> Duration {
    let rest = u32::try_from(all.saturating_sub(sealed)).unwrap_or(u32::MAX);
    let done = u32::try_from(sealed).unwrap_or(u32::MAX).max(1);
    elapsed.saturating_mul(rest) / done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_by_the_pace_so_far() {
        let ten = Duration::from_secs(10);
        assert_eq!(left(ten, 100, 400), Duration::from_secs(30));
        assert_eq!(left(ten, 500, 400), Duration::ZERO);
        assert_eq!(left(Duration::ZERO, 0, 400), Duration::ZERO);
    }
}
