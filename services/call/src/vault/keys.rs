//! The key-encryption keys (KEKs) of `CREDENTIAL_KEYS`.

use std::{fmt, sync::Arc};

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use zeroize::Zeroizing;

/// Bytes of a key (AES-256).
pub(super) const KEY: usize = 32;

/// Why `CREDENTIAL_KEYS` cannot be used. Never shows the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// An entry is not `id:base64`.
    #[error("entry {0} is not of the form id:base64, id from 1 to 65535")]
    Form(usize),
    /// A key has not 32 bytes.
    #[error("the key of entry {0} is not 32 bytes in base64 (make one with: openssl rand -base64 32)")]
    Length(usize),
    /// An id is there twice.
    #[error("entry {0} has the id of an entry before it")]
    Repeated(usize),
}

/// The keys that seal the data keys. The first seals, all open. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    /// Never empty.
    all: Arc<Vec<(u16, LessSafeKey)>>,
    /// Which one seals.
    sealing: usize,
}

impl Keys {
    /// Reads `id:base64[,id:base64]`.
    ///
    /// # Errors
    /// [`KeysError`], without the value.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<(u16, LessSafeKey)> = Vec::new();
        for (at, part) in text.split(',').enumerate() {
            let entry = at + 1;
            let (id, key) = part.trim().split_once(':').ok_or(KeysError::Form(entry))?;
            let id: u16 = id
                .trim()
                .parse()
                .ok()
                .filter(|id| *id > 0)
                .ok_or(KeysError::Form(entry))?;
            if keys.iter().any(|(other, _)| *other == id) {
                return Err(KeysError::Repeated(entry));
            }
            let key = Zeroizing::new(
                BASE64
                    .decode(key.trim().as_bytes())
                    .map_err(|_| KeysError::Length(entry))?,
            );
            let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| KeysError::Length(entry))?;
            keys.push((id, LessSafeKey::new(key)));
        }
        Ok(Self {
            all: Arc::new(keys),
            sealing: 0,
        })
    }

    /// The key that seals.
    pub(super) fn current(&self) -> (u16, &LessSafeKey) {
        let (id, key) = &self.all[self.sealing];
        (*id, key)
    }

    /// The same keys, with this one sealing.
    pub(super) fn starting_with(&self, wanted: u16) -> Self {
        let sealing = self
            .all
            .iter()
            .position(|(id, _)| *id == wanted)
            .unwrap_or(self.sealing);
        Self {
            all: self.all.clone(),
            sealing,
        }
    }

    /// The key with this id.
    pub(super) fn get(&self, wanted: u16) -> Option<&LessSafeKey> {
        self.all.iter().find(|(id, _)| *id == wanted).map(|(_, key)| key)
    }

    /// The ids, as they were given.
    pub fn ids(&self) -> Vec<u16> {
        self.all.iter().map(|(id, _)| *id).collect()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_never_shown() {
        let text = format!("7:{}, 1:{}", BASE64.encode(&[7; 32]), BASE64.encode(&[1; 32]));
        let keys = Keys::parse(&text).unwrap();
        assert_eq!((keys.ids(), keys.current().0), (vec![7, 1], 7));
        assert_eq!(format!("{keys:?}"), "Keys([7, 1])");
        let ok = BASE64.encode(&[1; 32]);
        for (text, error) in [
            (String::new(), KeysError::Form(1)),
            (ok.clone(), KeysError::Form(1)),
            (format!("0:{ok}"), KeysError::Form(1)),
            (format!("65536:{ok}"), KeysError::Form(1)),
            (format!("1:{}", BASE64.encode(&[1; 31])), KeysError::Length(1)),
            ("1:???".to_owned(), KeysError::Length(1)),
            (format!("1:{ok},"), KeysError::Form(2)),
            (format!("1:{ok},1:{ok}"), KeysError::Repeated(2)),
        ] {
            assert_eq!(Keys::parse(&text).err(), Some(error), "{text}");
        }
    }
}
