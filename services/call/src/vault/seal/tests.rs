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
    /// F119.
    #[test]
    fn what_was_sealed_opens_and_any_change_is_refused(
        plaintext in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let keys = keys(&[(1, 1), (2, 2)]);
        let blob = seal(&keys, &place(), &plaintext).unwrap();
        prop_assert_eq!(blob.len(), plaintext.len() + OVERHEAD);
        prop_assert_eq!(&*open(&keys, &place(), &blob).unwrap(), &plaintext);

        let mut changed = blob.clone();
        changed[at.index(blob.len())] ^= flip;
        prop_assert!(open(&keys, &place(), &changed).is_err());
        prop_assert!(rewrap(&keys, &place(), &changed).is_err());
        prop_assert!(open(&keys, &place(), &blob[..cut.index(blob.len())]).is_err());
        let mut longer = blob;
        longer.push(flip);
        prop_assert!(open(&keys, &place(), &longer).is_err());
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
