//! Keys: the roots, what is derived from them, and the two lists they are configured by.

use super::{HEAD, KeySet, Purpose, TAG, VERSION, Verifier, field_tag};
use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, BASE64URL_NOPAD};
use ring::{hkdf, hmac};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

const KEY: usize = 32;
/// Roots that may be live at once. Rotation needs two.
const MAX_ROOTS: usize = 8;

const ROOT_FORM: &str = "`id:base64[,id:base64]` with ids 0 to 255";
const EDGE_FORM: &str =
    "`id:purpose:base64,…` with purposes account, callback, socket and custom_field, as `derive-edge-keys` prints it";

/// Why a list of keys is not usable. Never contains any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// No keys.
    #[error("no keys given: expected {0}")]
    Empty(&'static str),
    /// An entry is not made of the expected parts.
    #[error("entry {entry} is malformed: expected {form}")]
    Form {
        /// Which entry, from 1.
        entry: usize,
        /// What was expected.
        form: &'static str,
    },
    /// A key is not base64.
    #[error("entry {0} is not base64")]
    Encoding(usize),
    /// A key is too short.
    #[error("entry {0} is shorter than 32 bytes: make one with `openssl rand -base64 32`")]
    Short(usize),
    /// The same id (and purpose) twice.
    #[error("entry {0} repeats an id")]
    Repeated(usize),
    /// Too many.
    #[error("more than 8 key ids given: remove the ones that were rotated out")]
    TooMany,
}

/// The roots, which can sign. For call-service alone.
pub struct TokenKeys {
    derived: Vec<Derived>,
    verifier: Verifier,
    /// By key id, the first signs. Never given to anyone else.
    fingerprints: Vec<(u8, hmac::Key)>,
}

struct Derived {
    kid: u8,
    purpose: Purpose,
    key: Zeroizing<[u8; KEY]>,
}

impl TokenKeys {
    /// Reads `id:base64[,id:base64]` (`TOKEN_KEYS`): roots of at least 32 bytes; the first signs, all verify.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut derived: Vec<Derived> = Vec::new();
        let mut fingerprints = Vec::new();
        for (entry, part) in entries(text, ROOT_FORM)? {
            let form = KeysError::Form { entry, form: ROOT_FORM };
            let (kid, root) = part.split_once(':').ok_or(form)?;
            let kid = kid.trim().parse().map_err(|_| form)?;
            if derived.iter().any(|other| other.kid == kid) {
                return Err(KeysError::Repeated(entry));
            }
            let root = read_key(root, entry)?;
            derived.extend(Purpose::ALL.map(|purpose| Derived {
                kid,
                purpose,
                key: derive(&root, purpose.word()),
            }));
            let key = derive(&root, "fingerprint");
            fingerprints.push((kid, hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())));
        }
        let verifier = Verifier::new(&derived)?;
        Ok(Self {
            derived,
            verifier,
            fingerprints,
        })
    }

    /// Makes a token of 84 characters.
    pub fn mint(&self, purpose: Purpose, id: Uuid, nonce: [u8; 8], expires_unix: u32) -> String {
        let (kid, key) = self.signing(purpose);
        let mut token = [0; HEAD + TAG];
        token[0] = VERSION;
        token[1] = kid;
        token[2] = purpose.byte();
        token[3..7].copy_from_slice(&expires_unix.to_be_bytes());
        token[7..23].copy_from_slice(id.as_bytes());
        token[23..HEAD].copy_from_slice(&nonce);
        let tag = hmac::sign(key, &token[..HEAD]);
        token[HEAD..].copy_from_slice(tag.as_ref());
        BASE64URL_NOPAD.encode(&token)
    }

    /// Makes a `CustomField` value of a call's id as people see it.
    pub fn custom_field(&self, shown_id: &str) -> String {
        let (_, key) = self.signing(Purpose::CustomField);
        format!("{shown_id}.{}", BASE32_NOPAD.encode(&field_tag(key, shown_id)))
    }

    /// A keyed hash of a request, to tell later whether another one is the same: the key's id and an HMAC-SHA256.
    pub fn fingerprint(&self, request: &[u8]) -> Vec<u8> {
        let (kid, key) = &self.fingerprints[0];
        let mut fingerprint = vec![*kid];
        fingerprint.extend_from_slice(hmac::sign(key, request).as_ref());
        fingerprint
    }

    /// Whether a fingerprint was made of this request. One made with a root that was rotated out cannot be checked any
    /// more, and counts as the same: its request must never be taken for a new one.
    pub fn fingerprint_matches(&self, fingerprint: &[u8], request: &[u8]) -> bool {
        let Some((kid, tag)) = fingerprint.split_first() else {
            return false;
        };
        let known = self.fingerprints.iter().find(|(other, _)| other == kid);
        known.is_none_or(|(_, key)| hmac::verify(key, request, tag).is_ok())
    }

    /// The keys to verify with.
    pub fn verifier(&self) -> Verifier {
        self.verifier.clone()
    }

    /// The derived keys as `id:purpose:base64,…` (`EDGE_TOKEN_KEYS`). Secret.
    pub fn edge_keys(&self) -> String {
        let entries = self.derived.iter().map(|derived| {
            format!(
                "{}:{}:{}",
                derived.kid,
                derived.purpose.word(),
                BASE64.encode(derived.key.as_ref())
            )
        });
        entries.collect::<Vec<_>>().join(",")
    }

    fn signing(&self, purpose: Purpose) -> (u8, &hmac::Key) {
        let first = &self.verifier.keys[0];
        (
            first.kid,
            first.key(purpose).expect("every root has a key for every purpose"),
        )
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKeys")
            .field("ids", &self.verifier.ids())
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// Reads `id:purpose:base64,…` (`EDGE_TOKEN_KEYS`), as [`TokenKeys::edge_keys`] prints it.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut derived: Vec<Derived> = Vec::new();
        for (entry, part) in entries(text, EDGE_FORM)? {
            let form = KeysError::Form { entry, form: EDGE_FORM };
            let mut parts = part.splitn(3, ':').map(str::trim);
            let (Some(kid), Some(word), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(form);
            };
            let kid = kid.parse().map_err(|_| form)?;
            let purpose = Purpose::ALL
                .into_iter()
                .find(|purpose| purpose.word() == word)
                .ok_or(form)?;
            if derived.iter().any(|other| other.kid == kid && other.purpose == purpose) {
                return Err(KeysError::Repeated(entry));
            }
            let key = Zeroizing::new(<[u8; KEY]>::try_from(read_key(key, entry)?.as_slice()).map_err(|_| form)?);
            derived.push(Derived { kid, purpose, key });
        }
        Self::new(&derived)
    }

    fn new(derived: &[Derived]) -> Result<Self, KeysError> {
        let mut keys: Vec<KeySet> = Vec::new();
        for part in derived {
            let at = keys.iter().position(|set| set.kid == part.kid).unwrap_or_else(|| {
                keys.push(KeySet {
                    kid: part.kid,
                    keys: [None, None, None, None],
                });
                keys.len() - 1
            });
            let slot = usize::from(part.purpose.byte()) - 1;
            keys[at].keys[slot] = Some(hmac::Key::new(hmac::HMAC_SHA256, part.key.as_ref()));
        }
        if keys.len() > MAX_ROOTS {
            return Err(KeysError::TooMany);
        }
        Ok(Self { keys })
    }
}

fn derive(root: &[u8], purpose: &str) -> Zeroizing<[u8; KEY]> {
    let info = format!("exotel/{purpose}/v1");
    let info = [info.as_bytes()];
    let mut key = Zeroizing::new([0; KEY]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(root)
        .expand(&info, hmac::HMAC_SHA256)
        .and_then(|okm| okm.fill(key.as_mut()))
        .expect("32 bytes are within what HKDF-SHA256 can give");
    key
}

fn entries<'a>(text: &'a str, form: &'static str) -> Result<Vec<(usize, &'a str)>, KeysError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parts: Vec<_> = parts.enumerate().map(|(index, part)| (index + 1, part)).collect();
    if parts.is_empty() {
        Err(KeysError::Empty(form))
    } else {
        Ok(parts)
    }
}

fn read_key(text: &str, entry: usize) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let text = text.trim().trim_end_matches('=');
    let bytes = BASE64_NOPAD
        .decode(text.as_bytes())
        .or_else(|_| BASE64URL_NOPAD.decode(text.as_bytes()))
        .map_err(|_| KeysError::Encoding(entry))?;
    if bytes.len() < KEY {
        Err(KeysError::Short(entry))
    } else {
        Ok(Zeroizing::new(bytes))
    }
}
