//! Keys are rotated, and rows that somebody changed are told (F119, F120).

use std::num::NonZeroU16;

use call_service::{
    config::{Environment, Rewrap},
    rewrap,
    store::credentials::{self as store, KeyUse, Owner, Sealed},
    vault::{Keys, Secrets, UNREADABLE, Vault, rotate::How},
};
use callbridge_proto::id::AccountId;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use runtime::{Tasks, config::Vars};
use secrecy::ExposeSecret as _;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::service::{client, database, key};

fn vault(keys: &str) -> Vault {
    Vault::new(Keys::parse(keys).unwrap(), Environment::default())
}

fn old() -> String {
    format!("1:{}", key(1))
}

fn both() -> String {
    format!("2:{},{}", key(2), old())
}

fn new() -> String {
    format!("2:{}", key(2))
}

/// Accounts with credentials that key 1 sealed.
struct Rows {
    url: String,
    db: Client,
    conn: AsyncPgConnection,
    accounts: Vec<Uuid>,
}

impl Rows {
    async fn make(count: u128) -> Self {
        let url = database().await;
        let db = client(&url).await;
        let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
        let vault = vault(&old());
        vault.check_keys(&mut conn).await.unwrap();
        let mut accounts = Vec::new();
        for n in 1..=count {
            let account = Uuid::from_u128(n);
            db.execute(
                "INSERT INTO accounts (id, name, sid, subdomain, calls_per_minute, max_concurrent_calls, inbound_reserve,
                    hours_off, hours_start_minute, hours_end_minute, hours_time_zone)
                VALUES ($1, 'a', $2, 'api.exotel.com', 60, 0, 0, true, 0, 1440, 'Asia/Kolkata')",
                &[&account, &format!("sid{n}")],
            )
            .await
            .unwrap();
            vault
                .store(
                    &mut conn,
                    Uuid::from_u128(100 + n),
                    Owner::Account(account),
                    &secrets(n),
                    None,
                )
                .await
                .unwrap();
            accounts.push(account);
        }
        Self {
            url,
            db,
            conn,
            accounts,
        }
    }

    /// As `call-service rewrap` with these keys.
    async fn rewrap(&self, keys: &str, how: How) -> anyhow::Result<rewrap::Done> {
        let settings: Vars = [
            ("DATABASE_URL", self.url.as_str()),
            ("CREDENTIAL_KEYS", keys),
            ("REWRAP_BATCH", "2"),
        ]
        .into_iter()
        .collect();
        let settings = Rewrap::read(settings).unwrap();
        assert_eq!(settings.batch, NonZeroU16::new(2).unwrap());
        rewrap::run(settings, how, &Tasks::new()).await
    }

    async fn rows(&mut self) -> Vec<Sealed> {
        store::page(&mut self.conn, Uuid::nil(), 1_000).await.unwrap()
    }

    async fn in_use(&mut self) -> Vec<i32> {
        let used = store::keys_in_use(&mut self.conn).await.unwrap();
        used.iter().map(|key| key.kek_id).collect()
    }

    /// What each account's credentials say with these keys: the key, or the reason of the refusal.
    async fn opened(&mut self, keys: &str) -> Vec<String> {
        let vault = vault(keys);
        let mut opened = Vec::new();
        for account in self.accounts.clone() {
            opened.push(match vault.open_account(&mut self.conn, AccountId(account)).await {
                Ok(set) => set.key.expose_secret().to_owned(),
                Err(
                    call_service::error::Error::Precondition { reason, .. }
                    | call_service::error::Error::Unavailable { reason, .. },
                ) => reason.to_owned(),
                Err(error) => panic!("{error}"),
            });
        }
        opened
    }
}

fn secrets(n: u128) -> Secrets {
    Secrets {
        key: format!("key{n}").into(),
        token: format!("token{n}").into(),
    }
}

/// Where the data layer begins: after the format, the key's id, and the wrapped data key with its nonce and tag.
const DATA: usize = 1 + 2 + 12 + 32 + 16;

/// F120.
#[tokio::test]
async fn keys_are_rotated_while_both_are_known() {
    let mut rows = Rows::make(5).await;
    let says = ["key1", "key2", "key3", "key4", "key5"];
    let before = rows.rows().await;
    assert_eq!(rows.opened(&both()).await, says);
    // A replica that is not rolled out yet says that another one may do it.
    vault(&both()).check_keys(&mut rows.conn).await.unwrap();
    assert_eq!(rows.opened(&new()).await, ["CREDENTIAL_KEY_MISSING"; 5]);
    assert!(vault(&new()).check_keys(&mut rows.conn).await.is_err());

    let done = rows.rewrap(&both(), How::Rewrap).await.unwrap();
    assert_eq!((done.sealed, done.opened), (5, 5));
    let after = rows.rows().await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((after.id, after.row_version), (before.id, before.row_version));
        assert_eq!((before.kek_id, after.kek_id), (1, 2));
        assert_eq!(before.sealed[DATA..], after.sealed[DATA..]);
        assert_ne!(before.sealed[..DATA], after.sealed[..DATA]);
    }
    assert_eq!(rows.opened(&new()).await, says);
    assert_eq!(rows.opened(&old()).await, ["CREDENTIAL_KEY_MISSING"; 5]);
    vault(&new()).check_keys(&mut rows.conn).await.unwrap();

    // Once more there is nothing to do.
    let done = rows.rewrap(&both(), How::Rewrap).await.unwrap();
    assert_eq!((done.sealed, done.opened), (0, 5));
    assert_eq!(rows.rows().await, after);

    // What is set from now on is sealed with the new key.
    let owner = Owner::Account(rows.accounts[0]);
    vault(&both())
        .store(&mut rows.conn, Uuid::nil(), owner, &secrets(9), None)
        .await
        .unwrap();
    assert_eq!(rows.opened(&new()).await[0], "key9");
    assert_eq!(
        store::keys_in_use(&mut rows.conn).await.unwrap(),
        [KeyUse { kek_id: 2, wraps: 6 }]
    );
}

/// F120: two at one time share the rows; what a third one holds is waited for.
#[tokio::test]
async fn runners_at_one_time_share_the_rows() {
    let mut rows = Rows::make(9).await;
    let mut holder = client(&rows.url).await;
    let held = holder.transaction().await.unwrap();
    held.execute(
        "SELECT 1 FROM credentials WHERE account_id = $1 FOR UPDATE",
        &[&rows.accounts[4]],
    )
    .await
    .unwrap();
    let (keys, watch) = (both(), client(&rows.url).await);
    let release = async {
        stack::poll(
            "all rows but the one that is held",
            crate::service::PATIENCE,
            async || {
                let left = watch
                    .query_one("SELECT count(*) FROM credentials WHERE kek_id = 1", &[])
                    .await;
                match left.unwrap().get::<_, i64>(0) {
                    1 => Ok(()),
                    left => Err(left),
                }
            },
        )
        .await
        .unwrap();
        held.commit().await.unwrap();
    };
    let (a, b, ()) = tokio::join!(
        rows.rewrap(&keys, How::Rewrap),
        rows.rewrap(&keys, How::Rewrap),
        release
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.sealed + b.sealed, a.opened, b.opened), (9, 9, 9));
    assert_eq!(rows.in_use().await, [2]);
}

/// After a leak: nothing of a blob is left, and an older one cannot be put back.
#[tokio::test]
async fn a_reseal_leaves_no_data_key() {
    let mut rows = Rows::make(3).await;
    let before = rows.rows().await;
    let done = rows.rewrap(&both(), How::Reseal).await.unwrap();
    assert_eq!((done.sealed, done.opened), (3, 3));
    for (before, after) in before.iter().zip(rows.rows().await) {
        assert_eq!((after.kek_id, after.row_version), (2, before.row_version + 1));
        assert_ne!(before.sealed[DATA..], after.sealed[DATA..]);
    }
    assert_eq!(rows.opened(&new()).await, ["key1", "key2", "key3"]);
    rows.db
        .execute(
            "UPDATE credentials SET kek_id = 1, sealed = $1 WHERE id = $2",
            &[&before[0].sealed, &before[0].id],
        )
        .await
        .unwrap();
    assert_eq!(rows.opened(&both()).await, [UNREADABLE, "key2", "key3"]);
}

/// F119, F120: the others are rotated, the command fails, and says which row it is.
#[tokio::test]
async fn a_row_that_does_not_open_is_told_and_holds_up_nobody() {
    let mut rows = Rows::make(5).await;
    rows.db
        .execute(
            "UPDATE credentials SET sealed = set_byte(sealed, 100, get_byte(sealed, 100) # 1) WHERE account_id = $1",
            &[&rows.accounts[1]],
        )
        .await
        .unwrap();
    let error = rows.rewrap(&both(), How::Rewrap).await.unwrap_err();
    assert!(error.to_string().contains("1 rows do not open"), "{error}");
    assert_eq!(rows.in_use().await, [1, 2]);
    assert_eq!(rows.opened(&both()).await, ["key1", UNREADABLE, "key3", "key4", "key5"]);

    // A column that lies about its key does not hide a row.
    rows.db.execute("UPDATE credentials SET kek_id = 2", &[]).await.unwrap();
    let error = rows.rewrap(&both(), How::Rewrap).await.unwrap_err();
    assert!(error.to_string().contains("1 rows do not open"), "{error}");
}

/// F120: a column that names the new key does not hide a row of the old one, which would be lost with it.
#[tokio::test]
async fn a_row_beside_which_another_key_stands_is_told() {
    let mut rows = Rows::make(2).await;
    vault(&both()).check_keys(&mut rows.conn).await.unwrap();
    let lie = "UPDATE credentials SET kek_id = 2 WHERE account_id = $1";
    rows.db.execute(lie, &[&rows.accounts[0]]).await.unwrap();
    let error = rows.rewrap(&both(), How::Rewrap).await.unwrap_err();
    assert!(error.to_string().contains("1 rows do not open"), "{error}");
    assert_eq!(rows.opened(&new()).await, ["CREDENTIAL_KEY_MISSING", "key2"]);
}

/// F118: nothing is written with keys that are not the database's.
#[tokio::test]
async fn wrong_keys_rotate_nothing() {
    let mut rows = Rows::make(2).await;
    let before = rows.rows().await;
    for keys in [format!("2:{},1:{}", key(2), key(9)), new(), format!("1:{}", key(9))] {
        let error = rows.rewrap(&keys, How::Rewrap).await.unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.contains("nothing was written") && !said.contains(&key(9)) && !said.contains(&key(2)),
            "{said}"
        );
    }
    assert_eq!(rows.rows().await, before);
}

/// F119: every byte of a row counts, its version too, and rows cannot be exchanged.
#[tokio::test]
async fn every_byte_of_a_row_counts() {
    let mut rows = Rows::make(2).await;
    let original = rows.rows().await;
    let set = "UPDATE credentials SET sealed = $1, row_version = $2 WHERE id = $3";
    let row = &original[0];
    for at in 0..row.sealed.len() {
        let mut changed = row.sealed.clone();
        changed[at] ^= 0x10;
        rows.db
            .execute(set, &[&changed, &row.row_version, &row.id])
            .await
            .unwrap();
        let opened = rows.opened(&old()).await;
        // A flipped id of the key is one that is not there.
        let refused = if matches!(at, 1 | 2) {
            "CREDENTIAL_KEY_MISSING"
        } else {
            UNREADABLE
        };
        assert_eq!(opened, [refused, "key2"], "byte {at}");
    }
    for length in (0..row.sealed.len()).chain(row.sealed.len() + 1..row.sealed.len() + 40) {
        let mut changed = row.sealed.clone();
        changed.resize(length, 0);
        rows.db
            .execute(set, &[&changed, &row.row_version, &row.id])
            .await
            .unwrap();
        assert_eq!(rows.opened(&old()).await, [UNREADABLE, "key2"], "{length} bytes");
    }
    for version in [0, 2, i64::MAX] {
        rows.db.execute(set, &[&row.sealed, &version, &row.id]).await.unwrap();
        assert_eq!(rows.opened(&old()).await, [UNREADABLE, "key2"], "version {version}");
    }
    for (to, from) in [(0, 1), (1, 0)] {
        let (to, from) = (&original[to], &original[from]);
        rows.db
            .execute(set, &[&from.sealed, &from.row_version, &to.id])
            .await
            .unwrap();
    }
    assert_eq!(rows.opened(&old()).await, [UNREADABLE, UNREADABLE]);
    for row in &original {
        rows.db
            .execute(set, &[&row.sealed, &row.row_version, &row.id])
            .await
            .unwrap();
    }
    assert_eq!(rows.opened(&old()).await, ["key1", "key2"]);
}
