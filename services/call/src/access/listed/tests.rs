use chrono::DateTime;
use data_encoding::BASE64URL_NOPAD;

use super::*;

const REFRESH: Duration = Duration::from_secs(30);

fn shown(id: u128, byte: u8) -> String {
    let secret = BASE64URL_NOPAD.encode(&[byte; 32]);
    format!("ck_{}_{secret}", Uuid::from_u128(id).simple())
}

fn row(id: u128, shown: &str, scopes: &str) -> ApiKey {
    ApiKey {
        id: Uuid::from_u128(id),
        name: format!("crm{id}"),
        sha256: digest(&SHA256, shown.as_bytes()).as_ref().to_vec(),
        scopes: scopes.to_owned(),
        created_at: DateTime::UNIX_EPOCH,
        created_by: "ops".to_owned(),
        created_with: None,
        expires_at: None,
        last_used_at: None,
        revoked_at: None,
        revoked_by: None,
        dial_prefixes: None,
        daily_calls: None,
    }
}

fn name(found: &Found) -> Option<&str> {
    match found {
        Found::Key(key) => Some(&key.name),
        Found::Nothing => None,
        Found::Unread => Some("unread"),
    }
}

/// F101.
#[tokio::test(start_paused = true)]
async fn a_key_is_known_by_all_of_it_and_until_it_is_gone() {
    let listed = Listed::new(REFRESH);
    let (one, two) = (shown(1, 7), shown(2, 8));
    assert_eq!(name(&listed.find(&one)), Some("unread"));
    let rows = [row(1, &one, "calls.read+later.scope"), row(2, &two, "media")];
    listed.replace(&rows, listed.turn().await);

    let Found::Key(key) = listed.find(&one) else {
        panic!("it is there")
    };
    assert_eq!((&*key.name, &*key.scopes), ("crm1", &[Scope::CallsRead][..]));
    assert_eq!(name(&listed.find(&two)), Some("crm2"));
    for wrong in [
        // Another key's secret, an unknown kid, and every other form.
        shown(1, 8),
        shown(3, 7),
        one.to_uppercase(),
        one.replace("ck_", "ck-"),
        format!("{one}A"),
        one[..one.len() - 1].to_owned(),
        one.replacen('0', "é", 1),
        String::new(),
    ] {
        assert_eq!(name(&listed.find(&wrong)), None, "{wrong}");
    }
    for at in 0..one.len() {
        let mut flipped = one.clone().into_bytes();
        flipped[at] ^= 1;
        assert_eq!(
            name(&listed.find(&String::from_utf8(flipped).unwrap())),
            None,
            "byte {at}"
        );
    }

    // The other one is revoked: its holders are told, this one's are not.
    let Found::Key(other) = listed.find(&two) else {
        panic!("it is there")
    };
    listed.replace(&rows[..1], listed.turn().await);
    assert_eq!(name(&listed.find(&two)), None);
    assert!(other.ended.is_cancelled() && !key.ended.is_cancelled());

    // Nobody could read the database for long: whether it is revoked is not known.
    tokio::time::advance(REFRESH + Duration::from_millis(1)).await;
    assert_eq!(name(&listed.find(&one)), Some("unread"));
    listed.replace(&rows[..1], listed.turn().await);
    assert_eq!(name(&listed.find(&one)), Some("crm1"));
}

#[tokio::test]
async fn uses_are_told_once() {
    let listed = Listed::new(REFRESH);
    let (one, two) = (shown(1, 7), shown(2, 8));
    let rows = [row(1, &one, "calls.read"), row(2, &two, "media")];
    listed.replace(&rows, listed.turn().await);
    listed.find(&shown(2, 9));
    listed.find(&one);
    listed.find(&one);
    assert_eq!(listed.take_used(), [Uuid::from_u128(1)]);
    assert!(listed.take_used().is_empty());
}
