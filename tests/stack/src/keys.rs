//! The secrets of one stack: an API key for its users, one for its edges, and the keys that seal and sign.

use std::{fmt, fs, io, os::unix::fs::OpenOptionsExt as _, path::Path};

use data_encoding::{BASE64, HEXLOWER};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};

/// All that people and services do; what the edge does is not among it.
const SCOPES: &str = "calls.write+calls.read+campaigns.write+credentials.write+keys.write+audit.read+privacy.write";

/// What the edge does.
const EDGE_SCOPES: &str = "ingest+media";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system has none to give.
    #[error("the system gives no random bytes")]
    Random,
    /// `TOKEN_KEYS` is no list of keys.
    #[error("TOKEN_KEYS cannot be used")]
    Tokens(#[source] exotel::token::KeysError),
    /// The file that keeps them.
    #[error("cannot keep the keys in {path}; remove it if it is damaged")]
    File {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The secrets of one stack. They are for one machine and for tests, and written nowhere but where a stack is told to.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keys {
    /// For the users of the API: the name `stack`, with every scope but the edge's.
    pub api_key: String,
    /// `CALL_SERVICE_API_KEY` of the edges.
    pub edge_api_key: String,
    /// `CREDENTIAL_KEYS`.
    pub credential_keys: String,
    /// `TOKEN_KEYS`.
    pub token_keys: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// New random keys.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, Error> {
        let key = |kid: &str| Ok(format!("ck_{kid}_{}", HEXLOWER.encode(&random::<24>()?)));
        let root = || Ok(format!("1:{}", BASE64.encode(&random::<32>()?)));
        Ok(Self {
            api_key: key("stack")?,
            edge_api_key: key("edge")?,
            credential_keys: root()?,
            token_keys: root()?,
        })
    }

    /// The keys in a file that only its owner can read; new ones when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn kept_in(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File {
            path: path.display().to_string(),
            source,
        };
        match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self::generate()?;
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(failed)?;
                serde_json::to_writer_pretty(file, &keys).map_err(|error| failed(error.into()))?;
                Ok(keys)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// `API_KEYS` of call-service: names, scopes and hashes.
    pub fn api_keys(&self) -> String {
        let entry = |name: &str, scopes: &str, key: &str| {
            format!(
                "{name}:{scopes}:{}",
                HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref())
            )
        };
        format!(
            "{},{}",
            entry("stack", SCOPES, &self.api_key),
            entry("edge", EDGE_SCOPES, &self.edge_api_key)
        )
    }

    /// `EDGE_TOKEN_KEYS` of the edges, derived as `call-service derive-edge-keys` does.
    ///
    /// # Errors
    /// When `TOKEN_KEYS` was given and is no list of keys.
    pub fn edge_token_keys(&self) -> Result<String, Error> {
        let keys = exotel::token::TokenKeys::parse(&self.token_keys).map_err(Error::Tokens)?;
        Ok(keys.edge_keys())
    }
}

/// Random bytes.
///
/// # Errors
/// When the system has none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_kept_for_their_owner_alone_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let first = Keys::kept_in(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Keys::kept_in(&path).unwrap();
        assert_eq!((&first.api_key, &first.token_keys), (&again.api_key, &again.token_keys));
        assert_ne!(first.api_key, Keys::generate().unwrap().api_key);
        fs::write(&path, "{").unwrap();
        assert!(Keys::kept_in(&path).unwrap_err().to_string().contains("keys.json"));
    }

    #[test]
    fn the_settings_hold_hashes_and_derived_keys_only() {
        let keys = Keys::generate().unwrap();
        let setting = keys.api_keys();
        assert!(!setting.contains(&keys.api_key) && setting.starts_with("stack:calls.write+"));
        let derived = keys.edge_token_keys().unwrap();
        assert!(derived.starts_with("1:account:") && !derived.contains(keys.token_keys.strip_prefix("1:").unwrap()));
        assert_eq!(format!("{keys:?}"), "Keys { .. }");
    }
}
