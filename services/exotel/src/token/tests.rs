use super::*;
use data_encoding::BASE64;
use proptest::prelude::*;

const NOW: u64 = 1_800_000_000;
const LATER: u32 = 1_800_000_100;

fn root(id: u8) -> String {
    format!("{id}:{}", BASE64.encode(&[id; 32]))
}

fn keys() -> TokenKeys {
    TokenKeys::parse(&root(1)).unwrap()
}

#[test]
fn the_format_is_stable() {
    let token = keys().mint(Purpose::Callback, Uuid::from_u128(7), [9; 8], LATER);
    assert_eq!(token.len(), TOKEN_LEN);
    // Computed once with Python's hmac and hashlib, independently of this code.
    insta::assert_snapshot!(token, @"AQECa0nSZAAAAAAAAAAAAAAAAAAAAAcJCQkJCQkJCbd_0_Ao9UnCpee9f7Ucft0-nbobaUZNP7omUpk7sERc");
    insta::assert_snapshot!(keys().custom_field("call_0"), @"call_0.X7YHLT7CNL4WXWB2");
    insta::assert_snapshot!(keys().edge_keys(), @"1:account:gelkik5rUXLRSRH27EP65Lz9FHsk+owgo1n9hVCTHKI=,1:callback:oSQl3pLQiyRKPu7J/T4L9SrlW1xWD+aUkBnttqym6Mc=,1:socket:Zg7EugRBrqLa7Aj9waR6RfJWr+h+ZzoOX7mXBHVRFvE=,1:custom_field:NwdW4TXcx7yjTZWNCIJezMQ1VBkjBSHuNBd50RFmIa8=");
}

#[test]
fn edge_keys_verify_what_the_roots_sign() {
    let edge = Verifier::parse(&keys().edge_keys()).unwrap();
    let id = Uuid::from_u128(42);
    for purpose in [Purpose::Account, Purpose::Callback, Purpose::Socket] {
        let token = keys().mint(purpose, id, [3; 8], LATER);
        let claims = Claims {
            id,
            nonce: [3; 8],
            expires_unix: LATER,
        };
        assert_eq!(edge.verify(&token, purpose, NOW), Ok(claims));
    }
    let field = keys().custom_field("call_1");
    assert_eq!(edge.verify_custom_field(&field).as_deref(), Some("call_1"));
}

#[test]
fn refusals_name_their_reason() {
    let verifier = keys().verifier();
    let token = keys().mint(Purpose::Callback, Uuid::nil(), [0; 8], LATER);
    let check = |token: &str| verifier.verify(token, Purpose::Callback, NOW);
    assert_eq!(check(""), Err(TokenError::Length));
    assert_eq!(check(&format!("{token}A")), Err(TokenError::Length));
    assert_eq!(check(&token.replace(&token[..2], "!!")), Err(TokenError::Encoding));
    assert_eq!(check(&format!("Ag{}", &token[2..])), Err(TokenError::Version));
    assert_eq!(verifier.verify(&token, Purpose::Socket, NOW), Err(TokenError::Purpose));
    assert_eq!(
        verifier.verify(&token, Purpose::Callback, u64::from(LATER)),
        Err(TokenError::Expired)
    );
    assert_eq!(check(&format!("{}A", &token[..83])), Err(TokenError::Signature));
    let other = TokenKeys::parse(&root(2))
        .unwrap()
        .mint(Purpose::Callback, Uuid::nil(), [0; 8], LATER);
    assert_eq!(check(&other), Err(TokenError::UnknownKey));
    let same_id = TokenKeys::parse(&format!("1:{}", BASE64.encode(&[7; 32]))).unwrap();
    assert_eq!(
        check(&same_id.mint(Purpose::Callback, Uuid::nil(), [0; 8], LATER)),
        Err(TokenError::Signature)
    );
}

#[test]
fn only_account_tokens_live_for_ever() {
    let verifier = keys().verifier();
    let account = keys().mint(Purpose::Account, Uuid::nil(), account_nonce(0x0102), 0);
    assert_eq!(
        verifier
            .verify(&account, Purpose::Account, u64::MAX)
            .map(|c| c.generation()),
        Ok(0x0102)
    );
    let socket = keys().mint(Purpose::Socket, Uuid::nil(), [0; 8], 0);
    assert_eq!(verifier.verify(&socket, Purpose::Socket, NOW), Err(TokenError::Expired));
}

#[test]
fn rotation_keeps_old_tokens_and_signs_with_the_first() {
    let old = keys();
    let both = TokenKeys::parse(&format!("{},{}", root(2), root(1))).unwrap();
    let token = old.mint(Purpose::Socket, Uuid::nil(), [0; 8], LATER);
    assert!(both.verifier().verify(&token, Purpose::Socket, NOW).is_ok());
    let token = both.mint(Purpose::Socket, Uuid::nil(), [0; 8], LATER);
    assert_eq!(
        old.verifier().verify(&token, Purpose::Socket, NOW),
        Err(TokenError::UnknownKey)
    );
    assert!(
        both.verifier()
            .verify_custom_field(&old.custom_field("call_1"))
            .is_some()
    );
}

#[test]
fn key_lists_are_checked() {
    let short = format!("1:{}", BASE64.encode(&[1; 16]));
    let error = |text: &str| TokenKeys::parse(text).unwrap_err();
    assert!(matches!(error(""), KeysError::Empty(_)));
    assert!(matches!(error("nonsense"), KeysError::Form { entry: 1, .. }));
    assert!(matches!(error("256:AAAA"), KeysError::Form { entry: 1, .. }));
    assert_eq!(error("1:*"), KeysError::Encoding(1));
    assert_eq!(error(&short), KeysError::Short(1));
    assert_eq!(error(&format!("{},{}", root(1), root(1))), KeysError::Repeated(2));
    let many: Vec<_> = (0..9).map(root).collect();
    assert_eq!(error(&many.join(",")), KeysError::TooMany);
    assert!(Verifier::parse(&keys().edge_keys().replace("socket", "sockets")).is_err());
}

#[test]
fn debug_shows_ids_only() {
    assert_eq!(
        format!("{:?} {:?}", keys(), keys().verifier()),
        "TokenKeys { ids: [1], .. } Verifier { ids: [1], .. }"
    );
}

proptest! {
    #[test]
    fn any_flipped_bit_is_refused(at in 0_usize..63, bit in 0_u8..8, id in any::<u128>(), nonce in any::<[u8; 8]>()) {
        let token = keys().mint(Purpose::Account, Uuid::from_u128(id), nonce, LATER);
        let mut bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
        bytes[at] ^= 1 << bit;
        let forged = BASE64URL_NOPAD.encode(&bytes);
        prop_assert!(keys().verifier().verify(&forged, Purpose::Account, NOW).is_err());
    }

    #[test]
    fn any_changed_custom_field_is_refused(at in 0_usize..23, byte in 0x21_u8..0x7f) {
        let mut field = keys().custom_field("call_1").into_bytes();
        prop_assume!(field[at] != byte);
        field[at] = byte;
        let field = String::from_utf8(field).unwrap();
        prop_assert_eq!(keys().verifier().verify_custom_field(&field), None);
    }

    #[test]
    fn verify_never_panics(text in "\\PC{0,100}", token in "[A-Za-z0-9_-]{84}") {
        let verifier = keys().verifier();
        prop_assert!(verifier.verify(&text, Purpose::Account, NOW).is_err());
        prop_assert!(verifier.verify(&token, Purpose::Account, NOW).is_err());
        let _ = verifier.verify_custom_field(&text);
        let _ = Verifier::parse(&text);
        let _ = TokenKeys::parse(&text);
    }
}

#[test]
fn a_fingerprint_tells_requests_apart_and_outlives_a_rotation() {
    let root = |byte: u8| BASE64.encode(&[byte; 32]);
    let old = TokenKeys::parse(&format!("1:{}", root(1))).unwrap();
    let both = TokenKeys::parse(&format!("2:{},1:{}", root(2), root(1))).unwrap();
    let new = TokenKeys::parse(&format!("2:{}", root(2))).unwrap();
    let made = old.fingerprint(b"one request");
    assert!(old.fingerprint_matches(&made, b"one request") && both.fingerprint_matches(&made, b"one request"));
    assert!(!old.fingerprint_matches(&made, b"another") && !both.fingerprint_matches(&made, b"another"));
    assert!(
        new.fingerprint_matches(&made, b"another"),
        "it cannot be checked any more"
    );
    assert!(!old.fingerprint_matches(&[], b"one request"));
}
