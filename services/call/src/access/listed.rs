//! The keys of the database as they were when they were last read. No IO.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use callbridge_proto::id::KeyId;
use chrono::{DateTime, Utc};
use ring::{
    digest::{SHA256, digest},
    hmac,
    rand::SystemRandom,
};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    rpc::auth::Scope,
    store::api_keys::ApiKey,
    toll::{Limits, Prefixes},
};

/// Hex digits of a kid.
const KID: usize = 32;
/// Characters of a secret: 32 bytes in base64url.
const SECRET: usize = 43;

/// All keys that work. Cheap to clone.
#[derive(Clone)]
pub struct Listed(Arc<Inner>);

struct Inner {
    /// Random, of this process: ring compares in constant time only while it verifies a MAC.
    compare: hmac::Key,
    /// Of nothing; unknown kids are compared with it, so that they take as long as known ones.
    nothing: hmac::Tag,
    stale_after: Duration,
    list: RwLock<List>,
    turns: Mutex<()>,
}

#[derive(Default)]
struct List {
    read_at: Option<Instant>,
    keys: HashMap<Uuid, Arc<Key>>,
}

/// A key that works.
pub struct Key {
    /// Its id; its digits are the kid.
    pub id: KeyId,
    /// Whom it stands for.
    pub name: Arc<str>,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it may dial.
    pub limits: Limits,
    /// Cancelled when it does not work any more.
    pub ended: CancellationToken,
    tag: hmac::Tag,
    used: AtomicBool,
}

/// What a presented key is.
pub enum Found {
    /// One that works.
    Key(Arc<Key>),
    /// None.
    Nothing,
    /// Perhaps one: the database was not read for too long.
    Unread,
}

impl Listed {
    /// Nothing was read yet.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn new(stale_after: Duration) -> Self {
        let compare = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).expect("the system has randomness");
        Self(Arc::new(Inner {
            nothing: hmac::sign(&compare, &[]),
            compare,
            stale_after,
            list: RwLock::default(),
            turns: Mutex::default(),
        }))
    }

    /// Recognises `ck_<kid>_<secret>`. Asks nobody, whatever is presented.
    pub fn find(&self, presented: &str) -> Found {
        let Some(kid) = kid(presented) else {
            return Found::Nothing;
        };
        let key = {
            let list = self.0.list.read().unwrap_or_else(PoisonError::into_inner);
            if list.read_at.is_none_or(|at| at.elapsed() > self.0.stale_after) {
                return Found::Unread;
            }
            list.keys.get(&kid).cloned()
        };
        let hash = digest(&SHA256, presented.as_bytes());
        let tag = key.as_ref().map_or(&self.0.nothing, |key| &key.tag);
        let same = hmac::verify(&self.0.compare, hash.as_ref(), tag.as_ref()).is_ok();
        match key {
            Some(key) if same && !key.ended.is_cancelled() => {
                key.used.store(true, Ordering::Relaxed);
                Found::Key(key)
            }
            _ => Found::Nothing,
        }
    }

    /// Waits for one's turn to read the database and [replace](Self::replace) the list.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turns.lock().await
    }

    /// Takes what was read. Keys that are not there any more end, with the streams that were opened with them.
    pub(super) fn replace(&self, rows: &[ApiKey], _turn: MutexGuard<'_, ()>) {
        let before = {
            let list = self.0.list.read().unwrap_or_else(PoisonError::into_inner);
            list.keys.clone()
        };
        let keys: HashMap<Uuid, Arc<Key>> = rows
            .iter()
            .map(|row| {
                // A row never changes but to be used and revoked, so it is taken once.
                let known = before.get(&row.id).cloned();
                (row.id, known.unwrap_or_else(|| Arc::new(self.key(row))))
            })
            .collect();
        for (id, key) in &before {
            if !keys.contains_key(id) {
                key.ended.cancel();
            }
        }
        *self.0.list.write().unwrap_or_else(PoisonError::into_inner) = List {
            read_at: Some(Instant::now()),
            keys,
        };
    }

    fn key(&self, row: &ApiKey) -> Key {
        Key {
            id: row.id(),
            name: row.name.as_str().into(),
            scopes: Scope::known(&row.scopes),
            expires_at: row.expires_at,
            limits: limits(row),
            ended: CancellationToken::new(),
            tag: hmac::sign(&self.0.compare, &row.sha256),
            used: AtomicBool::new(false),
        }
    }

    /// What the keys of a caller may dial.
    pub fn limits_of(&self, name: &str) -> Vec<Limits> {
        let list = self.0.list.read().unwrap_or_else(PoisonError::into_inner);
        let of_caller = list.keys.values().filter(|key| &*key.name == name);
        of_caller.map(|key| key.limits.clone()).collect()
    }

    /// The keys that were used since the last time.
    pub(super) fn take_used(&self) -> Vec<Uuid> {
        let list = self.0.list.read().unwrap_or_else(PoisonError::into_inner);
        let used = list
            .keys
            .iter()
            .filter(|(_, key)| key.used.swap(false, Ordering::Relaxed));
        used.map(|(id, _)| *id).collect()
    }
}

/// What a row's key may dial. A list that cannot be read allows nothing rather than everything.
fn limits(row: &ApiKey) -> Limits {
    Limits {
        prefixes: row
            .dial_prefixes
            .as_ref()
            .map(|list| Prefixes::parse(list).unwrap_or_else(|_| Prefixes::none())),
        daily_calls: row.daily_calls,
    }
}

/// The kid of what has a made key's form.
fn kid(presented: &str) -> Option<Uuid> {
    let (kid, secret) = presented.strip_prefix("ck_")?.split_at_checked(KID)?;
    let secret = secret.strip_prefix('_')?;
    let digits = kid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !digits || secret.len() != SECRET || !secret.bytes().all(letters) {
        return None;
    }
    Uuid::try_parse(kid).ok()
}

impl fmt::Debug for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listed").finish_non_exhaustive()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
