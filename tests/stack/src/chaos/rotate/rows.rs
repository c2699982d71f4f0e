//! The credentials that are rotated: what each must say is known, and all of them are opened again and again.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context as _, ensure};
use call_service::{
    db::Db,
    error::Error,
    store::credentials::{self as store, Owner, Sealed},
    vault::{Secrets, Vault},
};
use diesel_async::AsyncConnection as _;
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex;
use tokio_postgres::Client;
use uuid::Uuid;

/// Ids of rows and of the phones that they are of; the rest is the number of the row.
const ROWS: u128 = 0x0197_0000_0000_7000_8000 << 48;
const PHONES: u128 = 0x0198_0000_0000_7000_8000 << 48;
/// Rows in one statement, and in one page.
const PAGE: u64 = 1_000;

/// All rows.
pub(super) struct Rows {
    db: Db,
    client: Client,
    /// How many there are, numbered from 0.
    pub(super) all: u64,
    /// How often other credentials were set since, by number. Whoever compares a row with it, or sets one, holds the lock.
    set: Mutex<HashMap<u64, u64>>,
}

impl Rows {
    /// Makes an account with so many phones, each with credentials of its own, sealed by the vault.
    pub(super) async fn make(db: Db, client: Client, vault: &Vault, all: u64) -> anyhow::Result<Self> {
        let account = Uuid::from_u128(ROWS - 1);
        let phones = format!(
            "INSERT INTO accounts (id, name, sid, subdomain, calls_per_minute, max_concurrent_calls, inbound_reserve, hours_off,
                hours_start_minute, hours_end_minute, hours_time_zone)
            VALUES ('{account}', 'rotate', 'rotate', 'api.exotel.com', 60, 0, 0, true, 0, 1440, 'Asia/Kolkata');
            INSERT INTO phones (id, account_id, number, dial_mode, max_concurrent_calls)
            SELECT ('{}' || lpad(to_hex(n), 12, '0'))::uuid, '{account}', '+9180' || lpad(n::text, 8, '0'), 'flow', 0
            FROM generate_series(0, {all} - 1) AS n",
            &phone(0).to_string()[..24]
        );
        client.batch_execute(&phones).await.context("cannot make phones")?;
        let rows = Self {
            db,
            client,
            all,
            set: Mutex::default(),
        };
        for first in (0..all).step_by(usize::try_from(PAGE)?) {
            rows.insert(vault, first..all.min(first + PAGE)).await?;
        }
        rows.client.batch_execute("ANALYZE credentials").await?;
        Ok(rows)
    }

    async fn insert(&self, vault: &Vault, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let ids: Vec<Uuid> = numbers.clone().map(id).collect();
        let phones: Vec<Uuid> = numbers.clone().map(phone).collect();
        let sealed: Vec<Vec<u8>> = numbers
            .map(|n| vault.seal(id(n), 1, &secrets(n, 0)))
            .collect::<Result<_, _>>()?;
        let statement = "INSERT INTO credentials (id, phone_id, row_version, kek_id, sealed)
            SELECT id, phone, 1, $1, sealed FROM unnest($2::uuid[], $3::uuid[], $4::bytea[]) AS n (id, phone, sealed)";
        self.client
            .execute(statement, &[&vault.sealing_key(), &ids, &phones, &sealed])
            .await
            .context("cannot insert credentials")?;
        Ok(())
    }

    /// How many rows are sealed with another key than the vault's present one, as their column has it.
    pub(super) async fn old(&self, vault: &Vault) -> anyhow::Result<u64> {
        let mut conn = self.db.conn().await?;
        Ok(u64::try_from(
            store::count_other_keys(&mut conn, vault.sealing_key()).await?,
        )?)
    }

    /// Sets new credentials in place of a row's, as `SetPhoneCredentials` does. A batch that holds the row is waited for.
    pub(super) async fn set(&self, vault: &Vault, n: u64) -> anyhow::Result<()> {
        let mut set = self.set.lock().await;
        let times = set.get(&n).copied().unwrap_or_default() + 1;
        let mut conn = self.db.conn().await?;
        let owner = Owner::Phone(phone(n));
        conn.transaction::<_, Error, _>(async |conn| {
            vault.store(conn, Uuid::nil(), owner, &secrets(n, times), None).await
        })
        .await
        .context("cannot set credentials beside the rotation")?;
        set.insert(n, times);
        Ok(())
    }

    /// Opens so many rows from this one on, and compares what they say. Returns the numbers of those that do not open, say something
    /// else, or are gone.
    pub(super) async fn sweep(&self, vault: &Vault, first: u64, most: u64) -> anyhow::Result<BTreeSet<u64>> {
        let end = self.all.min(first + most);
        let mut unreadable = BTreeSet::new();
        for first in (first..end).step_by(usize::try_from(PAGE)?) {
            let numbers = first..end.min(first + PAGE);
            let set = self.set.lock().await;
            let limit = i64::try_from(numbers.end - numbers.start)?;
            let after = Uuid::from_u128(id(first).as_u128() - 1);
            let page = store::page(&mut *self.db.conn().await?, after, limit).await?;
            ensure!(page.len() <= usize::try_from(limit)?, "a page is longer than its limit");
            let found: HashMap<Uuid, Sealed> = page.into_iter().map(|row| (row.id, row)).collect();
            for n in numbers {
                let times = set.get(&n).copied().unwrap_or_default();
                if !found.get(&id(n)).is_some_and(|row| opens(vault, row, n, times)) {
                    unreadable.insert(n);
                }
            }
        }
        Ok(unreadable)
    }
}

/// Whether a row opens and says what it must in the version that it must have.
fn opens(vault: &Vault, row: &Sealed, n: u64, times: u64) -> bool {
    let must = secrets(n, times);
    vault.standing(row).is_ok()
        && vault.secrets(row).is_ok_and(|is| {
            is.key.expose_secret() == must.key.expose_secret() && is.token.expose_secret() == must.token.expose_secret()
        })
        && u64::try_from(row.row_version) == Ok(times + 1)
}

fn id(n: u64) -> Uuid {
    Uuid::from_u128(ROWS | u128::from(n))
}

fn phone(n: u64) -> Uuid {
    Uuid::from_u128(PHONES | u128::from(n))
}

/// As long as Exotel's.
fn secrets(n: u64, times: u64) -> Secrets {
    Secrets {
        key: format!("key-{n:020}-{times:020}").into(),
        token: format!("token-{n:018}-{times:020}").into(),
    }
}
