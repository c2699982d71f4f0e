//! Envelope encryption, pure. Each blob has a data key of its own, sealed with a key-encryption key (KEK).
//!
//! `format:1 | kek_id:2 | wrap_nonce:12 | wrapped_key:32+16 | nonce:12 | ciphertext + tag:16`, numbers big endian. Both layers
//! are AES-256-GCM and are bound to the place of the blob (table, column, row, row version), so that it cannot be moved to
//! another row, nor an older one put back. A data key encrypts once, so its nonce cannot repeat. A re-wrap changes the KEK
//! layer alone.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::keys::{KEY, Keys};

const FORMAT: u8 = 1;
const TAG: usize = 16;
const WRAP_NONCE: usize = 3;
const WRAPPED: usize = WRAP_NONCE + NONCE_LEN;
const DATA_NONCE: usize = WRAPPED + KEY + TAG;
const DATA: usize = DATA_NONCE + NONCE_LEN;
/// Bytes that a blob has more than its plaintext.
pub const OVERHEAD: usize = DATA + TAG;

/// Where a blob is kept; it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The table.
    pub table: &'static str,
    /// The column.
    pub column: &'static str,
    /// The row.
    pub row: Uuid,
    /// Counts the row's changes.
    pub row_version: i64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} of row {}", self.table, self.column, self.row)
    }
}

/// Why a blob does not open. Names its place, never its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Too short, or of a format that this program does not know.
    #[error("{0} is not a sealed value that this program knows")]
    Format(String),
    /// Its KEK is not in `CREDENTIAL_KEYS`.
    #[error("{place} is sealed with key {kek_id}, which CREDENTIAL_KEYS does not have")]
    UnknownKey {
        /// Where it is.
        place: String,
        /// Its key.
        kek_id: u16,
    },
    /// Wrong key, changed, or moved from elsewhere.
    #[error("{place} does not open: key {kek_id} is another one, or the value was changed or moved")]
    Refused {
        /// Where it is.
        place: String,
        /// Its key.
        kek_id: u16,
    },
    /// The column that names its key names another one.
    #[error("{place} is sealed with key {kek_id}, and the kek_id beside it is another one: correct that")]
    Label {
        /// Where it is.
        place: String,
        /// Its key.
        kek_id: u16,
    },
    /// What was sealed is not what belongs there.
    #[error("{0} opens, but is not what belongs there")]
    Content(String),
    /// The system has no randomness, or the value is beyond what AES-GCM can seal.
    #[error("cannot seal a value")]
    Seal,
}

/// Seals with the current KEK and a new data key.
///
/// # Errors
/// [`SealError::Seal`], in theory.
pub fn seal(keys: &Keys, place: &Place, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    let random = SystemRandom::new();
    let mut data_key = Zeroizing::new([0; KEY]);
    random.fill(&mut *data_key).map_err(|_| SealError::Seal)?;
    let nonce = fresh(&random)?;
    let mut data = Zeroizing::new(plaintext.to_vec());
    // Room for the tag now: growing later would leave a copy of the plaintext behind.
    data.reserve_exact(TAG);
    let tag = key(&data_key)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(data_aad(place)),
            &mut data,
        )
        .map_err(|_| SealError::Seal)?;
    let mut blob = wrap(keys, place, &data_key, &random)?;
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&data);
    blob.extend_from_slice(tag.as_ref());
    Ok(blob)
}

/// Opens what [`seal`] made for this place.
///
/// # Errors
/// [`SealError`] when it is not exactly that.
pub fn open(keys: &Keys, place: &Place, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let kek_id = kek_id(place, blob)?;
    let data_key = unwrap(keys, place, blob)?;
    let refused = || SealError::Refused {
        place: place.to_string(),
        kek_id,
    };
    let nonce = nonce_at(blob, DATA_NONCE).ok_or_else(refused)?;
    let mut data = Zeroizing::new(blob[DATA..].to_vec());
    let length = key(&data_key)?
        .open_in_place(nonce, Aad::from(data_aad(place)), &mut data)
        .map_err(|_| refused())?
        .len();
    data.truncate(length);
    Ok(data)
}

/// Seals the same data key with the current KEK. The data layer's bytes stay, and so does the row version.
///
/// # Errors
/// As [`open`]. The data layer is opened too, so that a broken blob is not passed on as good.
pub fn rewrap(keys: &Keys, place: &Place, blob: &[u8]) -> Result<Vec<u8>, SealError> {
    open(keys, place, blob)?;
    let data_key = unwrap(keys, place, blob)?;
    let mut rewrapped = wrap(keys, place, &data_key, &SystemRandom::new())?;
    rewrapped.extend_from_slice(&blob[DATA_NONCE..]);
    Ok(rewrapped)
}

/// The id of the KEK that a blob is sealed with.
///
/// # Errors
/// [`SealError::Format`].
pub fn kek_id(place: &Place, blob: &[u8]) -> Result<u16, SealError> {
    match blob {
        [FORMAT, high, low, ..] if blob.len() >= OVERHEAD => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(SealError::Format(place.to_string())),
    }
}

/// Everything before the data layer.
fn wrap(keys: &Keys, place: &Place, data_key: &[u8; KEY], random: &SystemRandom) -> Result<Vec<u8>, SealError> {
    let (kek_id, kek) = keys.current();
    let nonce = fresh(random)?;
    let mut wrapped = Zeroizing::new(*data_key);
    let tag = kek
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(wrap_aad(place, kek_id)),
            &mut *wrapped,
        )
        .map_err(|_| SealError::Seal)?;
    let mut blob = Vec::with_capacity(OVERHEAD);
    blob.push(FORMAT);
    blob.extend_from_slice(&kek_id.to_be_bytes());
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&*wrapped);
    blob.extend_from_slice(tag.as_ref());
    Ok(blob)
}

fn unwrap(keys: &Keys, place: &Place, blob: &[u8]) -> Result<Zeroizing<[u8; KEY]>, SealError> {
    let kek_id = kek_id(place, blob)?;
    let kek = keys.get(kek_id).ok_or_else(|| SealError::UnknownKey {
        place: place.to_string(),
        kek_id,
    })?;
    let refused = || SealError::Refused {
        place: place.to_string(),
        kek_id,
    };
    let nonce = nonce_at(blob, WRAP_NONCE).ok_or_else(refused)?;
    let mut wrapped = Zeroizing::new(blob[WRAPPED..DATA_NONCE].to_vec());
    let opened = kek
        .open_in_place(nonce, Aad::from(wrap_aad(place, kek_id)), &mut wrapped)
        .map_err(|_| refused())?;
    let mut data_key = Zeroizing::new([0; KEY]);
    data_key.copy_from_slice(opened);
    Ok(data_key)
}

fn key(bytes: &[u8; KEY]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, bytes)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Seal)
}

fn fresh(random: &SystemRandom) -> Result<[u8; NONCE_LEN], SealError> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce).map_err(|_| SealError::Seal)?;
    Ok(nonce)
}

fn nonce_at(blob: &[u8], at: usize) -> Option<Nonce> {
    blob.get(at..at + NONCE_LEN)
        .and_then(|bytes| Nonce::try_assume_unique_for_key(bytes).ok())
}

fn data_aad(place: &Place) -> Vec<u8> {
    let mut aad = Vec::with_capacity(96);
    for part in [
        &b"callbridge"[..],
        &[FORMAT],
        place.table.as_bytes(),
        place.column.as_bytes(),
        place.row.as_bytes(),
        &place.row_version.to_be_bytes(),
    ] {
        field(&mut aad, part);
    }
    aad
}

fn wrap_aad(place: &Place, kek_id: u16) -> Vec<u8> {
    let mut aad = data_aad(place);
    field(&mut aad, &kek_id.to_be_bytes());
    aad
}

/// The length goes first, so that no two lists of fields read the same.
fn field(aad: &mut Vec<u8>, part: &[u8]) {
    let length = u32::try_from(part.len()).expect("names and ids are short");
    aad.extend_from_slice(&length.to_be_bytes());
    aad.extend_from_slice(part);
}

#[cfg(test)]
mod tests;
