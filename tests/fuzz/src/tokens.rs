//! Capability tokens, the MAC of `CustomField`, and the lists of keys.

use data_encoding::BASE64;
use exotel::token::{Purpose, TOKEN_LEN, TokenKeys, Verifier};
use std::sync::LazyLock;
use uuid::Uuid;

const PURPOSES: [Purpose; 3] = [Purpose::Account, Purpose::Callback, Purpose::Socket];
const NOW: u64 = 1_800_000_000;

/// Keys that nobody else has, so whatever the fuzzer makes is forged; and the same in the middle of a rotation.
static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| keys_of([1, 2]));
static ROTATED: LazyLock<TokenKeys> = LazyLock::new(|| keys_of([2, 1]));
static EDGE: LazyLock<Verifier> = LazyLock::new(|| Verifier::parse(&KEYS.edge_keys()).expect("derived keys are keys"));
/// One genuine token of each purpose.
static GENUINE: LazyLock<[String; 3]> =
    LazyLock::new(|| PURPOSES.map(|purpose| KEYS.mint(purpose, Uuid::from_u128(7), [9; 8], 1_800_000_100)));

/// Tokens and `CustomField`s (F48): only what was minted is taken, each byte of it counts, and call-service and the edge agree.
pub fn tokens(data: &[u8]) {
    altered(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    for purpose in PURPOSES {
        let claims = KEYS.verifier().verify(text, purpose, NOW);
        assert_eq!(EDGE.verify(text, purpose, NOW), claims);
        // The corpus has tokens of these keys: they are the only ones that are taken.
        if let Ok(claims) = claims {
            assert_eq!(text.len(), TOKEN_LEN);
            let minted =
                [&*KEYS, &*ROTATED].map(|keys| keys.mint(purpose, claims.id, claims.nonce, claims.expires_unix));
            assert!(minted.iter().any(|token| token == text), "taken, and not minted");
        }
    }
    if let Some(id) = EDGE.verify_custom_field(text) {
        let signed = [&*KEYS, &*ROTATED].map(|keys| keys.custom_field(&id));
        assert!(signed.iter().any(|field| field == text.trim()), "taken, and not signed");
    }
    keys(text);
}

fn keys_of(roots: [u8; 2]) -> TokenKeys {
    let roots = roots.map(|id| format!("{id}:{}", BASE64.encode(&[id; 32])));
    TokenKeys::parse(&roots.join(",")).expect("roots of 32 bytes are keys")
}

/// A genuine token with some characters exchanged: the first byte chooses the token, then pairs of place and character.
fn altered(data: &[u8]) {
    let Some((first, changes)) = data.split_first() else {
        return;
    };
    let at = usize::from(*first) % PURPOSES.len();
    let mut token = GENUINE[at].clone().into_bytes();
    for [place, character] in changes.as_chunks().0.iter().take(8) {
        token[usize::from(*place) % TOKEN_LEN] = *character;
    }
    let Ok(token) = String::from_utf8(token) else { return };
    let verified = EDGE.verify(&token, PURPOSES[at], NOW).is_ok();
    assert_eq!(verified, token == GENUINE[at], "{token}");
}

/// Lists of keys: what one process prints the other one reads, and keys are never shown.
fn keys(text: &str) {
    if let Ok(keys) = TokenKeys::parse(text) {
        let printed = keys.edge_keys();
        assert!(Verifier::parse(&printed).is_ok());
        let token = keys.mint(Purpose::Callback, Uuid::nil(), [0; 8], 1_800_000_100);
        assert!(keys.verifier().verify(&token, Purpose::Callback, NOW).is_ok());
    }
    let _ = Verifier::parse(text);
}
