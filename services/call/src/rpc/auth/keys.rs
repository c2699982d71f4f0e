//! API keys. Only their SHA-256 is configured, so the settings of a process do not let anybody in.

use std::{fmt, sync::Arc};

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    hmac,
    rand::SystemRandom,
};

use super::{caller::Caller, methods::Scope};

/// Longer keys are not hashed.
const LONGEST: usize = 256;

/// Why `API_KEYS` cannot be used. Never shows the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// An entry has not three parts.
    #[error("entry {0} is not of the form name:scope+scope:sha256hex")]
    Form(usize),
    /// A name is empty, too long or has other characters.
    #[error("the name of entry {0} is not 1 to 64 letters, digits, dots, dashes and underscores")]
    Name(usize),
    /// A scope is unknown.
    #[error("entry {0} has a scope other than {words}", words = Scope::words())]
    Scope(usize),
    /// The hash is not one.
    #[error("entry {0} does not end with the SHA-256 of the key in hex (64 digits)")]
    Hash(usize),
    /// A hash is there twice.
    #[error("entry {0} has the key of an entry before it")]
    Repeated(usize),
    /// The system has no randomness.
    #[error("cannot be prepared: the system has no randomness")]
    Random,
}

/// The keys of `API_KEYS`. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    /// Random, of this process: ring compares in constant time only while it verifies a MAC.
    compare: hmac::Key,
    keys: Vec<Key>,
}

struct Key {
    caller: Caller,
    /// MAC of the key's SHA-256.
    tag: hmac::Tag,
}

/// Whether a caller may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

impl Keys {
    /// Reads `name:scope+scope:sha256hex[,…]`. A name may have several keys, so that a key can be replaced.
    ///
    /// # Errors
    /// [`KeysError`], without the value.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let compare = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).map_err(|_| KeysError::Random)?;
        let mut hashes: Vec<Vec<u8>> = Vec::new();
        let mut keys = Vec::new();
        for (at, part) in text.split(',').enumerate() {
            let entry = at + 1;
            let parts: Vec<&str> = part.trim().split(':').collect();
            let [name, scopes, hash] = parts[..] else {
                return Err(KeysError::Form(entry));
            };
            if !is_name(name) {
                return Err(KeysError::Name(entry));
            }
            let scopes = Scope::read_all(scopes).ok_or(KeysError::Scope(entry))?;
            let hash = HEXLOWER_PERMISSIVE.decode(hash.as_bytes()).unwrap_or_default();
            if hash.len() != SHA256_OUTPUT_LEN {
                return Err(KeysError::Hash(entry));
            }
            if hashes.contains(&hash) {
                return Err(KeysError::Repeated(entry));
            }
            let tag = hmac::sign(&compare, &hash);
            hashes.push(hash);
            keys.push(Key {
                caller: Caller::new(name.into(), scopes),
                tag,
            });
        }
        Ok(Self(Arc::new(Inner { compare, keys })))
    }

    /// Recognises a key of the form `ck_<kid>_<secret>`. Takes as long for a wrong key as for a right one.
    pub(super) fn recognise(&self, presented: &str) -> Option<Caller> {
        let (kid, secret) = presented.strip_prefix("ck_")?.split_once('_')?;
        if presented.len() > LONGEST || kid.is_empty() || secret.is_empty() {
            return None;
        }
        let hash = digest(&SHA256, presented.as_bytes());
        let mut found = None;
        for key in &self.0.keys {
            if hmac::verify(&self.0.compare, hash.as_ref(), key.tag.as_ref()).is_ok() {
                found = Some(key);
            }
        }
        found.map(|key| key.caller.clone())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(
                self.0
                    .keys
                    .iter()
                    .map(|key| (&key.caller.principal.name, &key.caller.scopes)),
            )
            .finish()
    }
}
