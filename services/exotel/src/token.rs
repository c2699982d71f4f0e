//! Capability tokens: what makes a URL that Exotel calls unguessable, and who it is about.
//!
//! A token is 84 characters of base64url (RFC 4648 §5, no padding) over 63 bytes:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | key id: two roots may be live while one is rotated out |
//! | 1 | purpose: 1 account, 2 callback, 3 socket |
//! | 4 | expiry, Unix seconds, big endian; 0 is never, for account tokens alone |
//! | 16 | id: the account's or the call's UUID |
//! | 8 | nonce; an account token has its generation in the first two bytes |
//! | 32 | HMAC-SHA256 over the 31 bytes before, whole, so that `ring::hmac::verify` compares in constant time |
//!
//! The key of a purpose is HKDF-SHA256 (RFC 5869) of the root with no salt and the info `exotel/<purpose>/v1`. Whoever
//! only verifies is given derived keys, never a root, and cannot compute one purpose's key from another's. Length,
//! version, purpose and expiry are checked before the MAC, everything before any IO.
//!
//! `CustomField` holds `<shown call id>.<16 characters>`: base32 of the first ten bytes of an HMAC over the id. Exotel's
//! dashboard shows it, so it names a call and grants nothing.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use ring::hmac;
use std::fmt;
use uuid::Uuid;

mod keys;

pub use keys::{KeysError, TokenKeys};

const VERSION: u8 = 1;
const HEAD: usize = 31;
const TAG: usize = 32;
/// Characters of a token.
pub const TOKEN_LEN: usize = 84;
/// Bytes of the tag that fit beside an id in Exotel's 128 characters with room to spare: 80 bits.
const FIELD_TAG: usize = 10;
/// What a token is for. Each purpose has its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The fixed URLs in an account's flows.
    Account,
    /// One call's status callbacks.
    Callback,
    /// One media session's WebSocket.
    Socket,
    /// The MAC on `CustomField`; never the purpose of an 84-character token.
    CustomField,
}

impl Purpose {
    const ALL: [Self; 4] = [Self::Account, Self::Callback, Self::Socket, Self::CustomField];

    fn byte(self) -> u8 {
        match self {
            Self::Account => 1,
            Self::Callback => 2,
            Self::Socket => 3,
            Self::CustomField => 4,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Callback => "callback",
            Self::Socket => "socket",
            Self::CustomField => "custom_field",
        }
    }
}

/// Why a text is not a valid token. The answer to the outside is the same for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not 84 characters.
    #[error("token has a wrong length")]
    Length,
    /// Not base64url.
    #[error("token is not base64url")]
    Encoding,
    /// Made by another version of the format.
    #[error("token has an unknown version")]
    Version,
    /// Made for something else.
    #[error("token is for another purpose")]
    Purpose,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// Its key was rotated out, or never existed.
    #[error("token is signed with a key that is not configured")]
    UnknownKey,
    /// Forged or damaged.
    #[error("token signature does not match")]
    Signature,
}

/// What a valid token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claims {
    /// The account or the call.
    pub id: Uuid,
    /// Makes two tokens of one call differ.
    pub nonce: [u8; 8],
    /// When it expires, in Unix seconds; 0 is never.
    pub expires_unix: u32,
}

impl Claims {
    /// An account token's generation.
    pub fn generation(&self) -> u16 {
        u16::from_be_bytes([self.nonce[0], self.nonce[1]])
    }
}

/// The nonce of an account token: its generation and zeros, so that the same generation is the same token.
pub fn account_nonce(generation: u16) -> [u8; 8] {
    let [high, low] = generation.to_be_bytes();
    [high, low, 0, 0, 0, 0, 0, 0]
}

/// Derived keys, which verify. Cheap enough to clone per task, but meant to be shared.
#[derive(Clone)]
pub struct Verifier {
    /// Never empty; the first signs.
    keys: Vec<KeySet>,
}

#[derive(Clone)]
struct KeySet {
    kid: u8,
    /// In the order of [`Purpose::ALL`].
    keys: [Option<hmac::Key>; 4],
}

impl KeySet {
    fn key(&self, purpose: Purpose) -> Option<&hmac::Key> {
        self.keys[usize::from(purpose.byte()) - 1].as_ref()
    }
}

impl Verifier {
    /// Checks a token. `now_unix` is the caller's clock; a token is over in the second it names.
    pub fn verify(&self, token: &str, purpose: Purpose, now_unix: u64) -> Result<Claims, TokenError> {
        if token.len() != TOKEN_LEN {
            return Err(TokenError::Length);
        }
        let mut bytes = [0; HEAD + TAG];
        BASE64URL_NOPAD
            .decode_mut(token.as_bytes(), &mut bytes)
            .map_err(|_| TokenError::Encoding)?;
        let (head, tag) = bytes.split_at(HEAD);
        if head[0] != VERSION {
            return Err(TokenError::Version);
        }
        if head[2] != purpose.byte() {
            return Err(TokenError::Purpose);
        }
        let expires_unix = u32::from_be_bytes(head[3..7].try_into().expect("four bytes"));
        let endless = expires_unix == 0 && purpose == Purpose::Account;
        if !endless && now_unix >= u64::from(expires_unix) {
            return Err(TokenError::Expired);
        }
        let set = self
            .keys
            .iter()
            .find(|set| set.kid == head[1])
            .ok_or(TokenError::UnknownKey)?;
        let key = set.key(purpose).ok_or(TokenError::UnknownKey)?;
        hmac::verify(key, head, tag).map_err(|_| TokenError::Signature)?;
        Ok(Claims {
            id: Uuid::from_bytes(head[7..23].try_into().expect("sixteen bytes")),
            nonce: head[23..HEAD].try_into().expect("eight bytes"),
            expires_unix,
        })
    }

    /// The call's shown id in a `CustomField`, if its MAC is ours. Takes the same time wherever the MAC differs.
    pub fn verify_custom_field(&self, field: &str) -> Option<String> {
        let (shown_id, given) = field.trim().rsplit_once('.')?;
        let given = BASE32_NOPAD.decode(given.as_bytes()).ok()?;
        if given.len() != FIELD_TAG || shown_id.is_empty() {
            return None;
        }
        let matches = self
            .keys
            .iter()
            .filter_map(|set| set.key(Purpose::CustomField))
            .any(|key| {
                // ring compares whole tags only: both sides are signed again, and those tags compared.
                let expected = field_tag(key, shown_id);
                hmac::verify(key, &expected, hmac::sign(key, &given).as_ref()).is_ok()
            });
        matches.then(|| shown_id.to_owned())
    }

    fn ids(&self) -> Vec<u8> {
        self.keys.iter().map(|set| set.kid).collect()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("ids", &self.ids())
            .finish_non_exhaustive()
    }
}

fn field_tag(key: &hmac::Key, shown_id: &str) -> [u8; FIELD_TAG] {
    let tag = hmac::sign(key, shown_id.as_bytes());
    tag.as_ref()[..FIELD_TAG]
        .try_into()
        .expect("a SHA-256 tag is longer than ten bytes")
}

#[cfg(test)]
mod tests;
