use data_encoding::BASE64;
use proptest::prelude::*;

use super::*;

fn keys(entries: &[(u16, u8)]) -> Keys {
    let text: Vec<String> = entries
        .iter()
        .map(|(id, byte)| format!("{id}:{}", BASE64.encode(&[*byte; 32])))
        .collect();
    Keys::parse(&text.join(",")).unwrap()
}

fn place() -> Place {
    Place {
        table: "credentials",
        column: "sealed",
        row: Uuid::from_u128(42),
        row_version: 7,
    }
}

proptest! {
    #[test]
    fn what_was_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 0..300)) {
        let keys = keys(&[(1, 1), (2, 2)]);
        let blob = seal(&keys, &place(), &plaintext).unwrap();
        prop_assert_eq!(blob.len(), plaintext.len() + OVERHEAD);
        prop_assert_eq!(&*open(&keys, &place(), &blob).unwrap(), &plaintext);
    }

    /// F119.
    #[test]
    fn a_blob_opens_at_its_place_alone(row in any::<u128>(), row_version in any::<i64>()) {
        let keys = keys(&[(1, 1)]);
        let blob = seal(&keys, &place(), b"secret").unwrap();
        for other in [
            Place { row: Uuid::from_u128(row), ..place() },
            Place { row_version, ..place() },
            Place { table: "accounts", ..place() },
            Place { column: "seale", ..place() },
            Place { table: "credential", column: "ssealed", ..place() },
        ] {
            prop_assert_eq!(open(&keys, &other, &blob).is_ok(), other == place());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(blob in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&keys(&[(1, 1)]), &place(), &blob).is_err());
    }

    /// F120.
    #[test]
    fn rotation(plaintext in prop::collection::vec(any::<u8>(), 0..300)) {
        let (old, both, new) = (keys(&[(1, 1)]), keys(&[(2, 2), (1, 1)]), keys(&[(2, 2)]));
        let blob = seal(&old, &place(), &plaintext).unwrap();
        prop_assert_eq!(&*open(&both, &place(), &blob).unwrap(), &plaintext);

        let rewrapped = rewrap(&both, &place(), &blob).unwrap();
        prop_assert_eq!(kek_id(&place(), &rewrapped), Ok(2));
        prop_assert_eq!(&rewrapped[DATA_NONCE..], &blob[DATA_NONCE..]);
        prop_assert_ne!(&rewrapped[..DATA_NONCE], &blob[..DATA_NONCE]);
        for keys in [&both, &new] {
            prop_assert_eq!(&*open(keys, &place(), &rewrapped).unwrap(), &plaintext);
        }
        prop_assert_eq!(
            open(&old, &place(), &rewrapped),
            Err(SealError::UnknownKey { place: place().to_string(), kek_id: 2 })
        );
    }
}

#[test]
fn another_key_with_the_same_id_is_refused() {
    let blob = seal(&keys(&[(1, 1)]), &place(), b"secret").unwrap();
    let error = open(&keys(&[(1, 9)]), &place(), &blob).unwrap_err();
    assert_eq!(
        error,
        SealError::Refused {
            place: place().to_string(),
            kek_id: 1
        }
    );
    assert!(!error.to_string().contains("secret"));
}

#[test]
fn no_two_blobs_of_one_text_share_a_byte_run() {
    let keys = keys(&[(1, 1)]);
    let (a, b) = (
        seal(&keys, &place(), &[0; 64]).unwrap(),
        seal(&keys, &place(), &[0; 64]).unwrap(),
    );
    assert_ne!(a[WRAP_NONCE..WRAPPED], b[WRAP_NONCE..WRAPPED]);
    assert_ne!(a[DATA_NONCE..], b[DATA_NONCE..]);
}

/// Refused by whatever opens, with an error that names the row and the column and shows nothing else of it.
fn assert_refused(keys: &Keys, place: &Place, blob: &[u8], what: &str) {
    for error in [open(keys, place, blob).err(), rewrap(keys, place, blob).err()] {
        let Some(error) = error else {
            panic!("opens although {what}");
        };
        let said = format!("{error} {error:?}");
        assert!(said.contains(&place.to_string()), "{what}: {said}");
        // Ids, and words of ours; the keys of these tests are 0x01… and 0x02….
        for secret in ["AQEB", "AgIC", "0101", "0202", "[1, 1", "[2, 2", SECRET] {
            assert!(!said.contains(secret), "{what}: {said}");
        }
    }
}

const SECRET: &str = "canary-of-a-secret";

fn sealed(keys: &Keys) -> Vec<u8> {
    seal(keys, &place(), SECRET.as_bytes()).unwrap()
}

/// F119: whichever bit is flipped, of the format, the key's id, either nonce, either ciphertext or either tag.
#[test]
fn no_bit_can_be_changed() {
    let keys = keys(&[(1, 1), (2, 2)]);
    let blob = sealed(&keys);
    for at in 0..blob.len() * 8 {
        let mut changed = blob.clone();
        changed[at / 8] ^= 1 << (at % 8);
        assert_refused(&keys, &place(), &changed, &format!("bit {at} is flipped"));
    }
}

/// F119: and whatever a byte is set to.
#[test]
fn no_byte_can_be_changed() {
    let keys = keys(&[(1, 1), (2, 2)]);
    let blob = sealed(&keys);
    for at in 0..blob.len() {
        for value in (0..=u8::MAX).filter(|value| *value != blob[at]) {
            let mut changed = blob.clone();
            changed[at] = value;
            assert!(open(&keys, &place(), &changed).is_err(), "byte {at} is {value}");
        }
    }
}

/// F119.
#[test]
fn nothing_can_be_cut_off_or_added() {
    let keys = keys(&[(1, 1), (2, 2)]);
    let blob = sealed(&keys);
    for cut in 0..blob.len() {
        assert_refused(&keys, &place(), &blob[..cut], &format!("it ends after {cut} bytes"));
        assert_refused(
            &keys,
            &place(),
            &blob[blob.len() - cut..],
            &format!("it begins {cut} bytes before its end"),
        );
        let mut shorter = blob.clone();
        shorter.remove(cut);
        assert_refused(&keys, &place(), &shorter, &format!("byte {cut} is missing"));
        for byte in [0, 0xff] {
            let mut longer = blob.clone();
            longer.insert(cut, byte);
            // A byte beside its like is the same blob with the byte at its end.
            assert_refused(&keys, &place(), &longer, &format!("{byte} is put in before byte {cut}"));
        }
    }
    for more in 1..=300 {
        let mut longer = blob.clone();
        longer.resize(blob.len() + more, 0);
        assert_refused(&keys, &place(), &longer, &format!("{more} bytes follow it"));
    }
}

/// F119: halves of two blobs are none, not even of one row and with one text.
#[test]
fn parts_of_two_blobs_do_not_fit() {
    let both = keys(&[(1, 1), (2, 2)]);
    let (a, b) = (sealed(&both), sealed(&both));
    for cut in 1..a.len() {
        let mixed = [&a[..cut], &b[cut..]].concat();
        if mixed != a && mixed != b {
            assert_refused(
                &both,
                &place(),
                &mixed,
                &format!("its end from byte {cut} is another blob's"),
            );
        }
    }
}

/// F119: neither a row, nor a version, a column or a table takes another one's blob, and no key that of another id.
#[test]
fn blobs_cannot_be_exchanged() {
    let keys_1 = keys(&[(1, 1), (2, 2)]);
    let places = [
        place(),
        Place {
            row: Uuid::from_u128(43),
            ..place()
        },
        Place {
            row_version: 8,
            ..place()
        },
        Place {
            column: "subdomain",
            ..place()
        },
        Place {
            table: "crypto_canary",
            ..place()
        },
    ];
    for from in &places {
        let blob = seal(&keys_1, from, SECRET.as_bytes()).unwrap();
        for to in places.iter().filter(|to| *to != from) {
            assert_refused(&keys_1, to, &blob, &format!("it was at {from:?}"));
        }
    }
    // The same bytes under the other id.
    let twins = keys(&[(1, 1), (2, 1)]);
    let mut blob = sealed(&twins);
    blob[2] = 2;
    assert_refused(&twins, &place(), &blob, "it names another key with the same bytes");
}
