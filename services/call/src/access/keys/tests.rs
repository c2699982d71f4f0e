use std::time::Duration;

use prost_types::Timestamp;

use super::*;
use crate::access::listed::{Found, Listed};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    let seconds = now().timestamp() + seconds;
    Timestamp { seconds, nanos: 0 }
}

fn request(scopes: &[&str], expires_at: Option<Timestamp>) -> api::CreateKeyRequest {
    api::CreateKeyRequest {
        name: "crm".to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        expires_at,
    }
}

/// A caller with a key of the database.
async fn caller(scopes: &str, expires_at: Option<DateTime<Utc>>) -> Caller {
    let id = KeyId(uuid::Uuid::from_u128(1));
    let shown = presented(id).unwrap();
    let row = ApiKey {
        id: id.0,
        name: "ops".to_owned(),
        sha256: digest(&SHA256, shown.expose_secret().as_bytes()).as_ref().to_vec(),
        scopes: scopes.to_owned(),
        created_at: now(),
        created_by: "root".to_owned(),
        created_with: None,
        expires_at,
        last_used_at: None,
        revoked_at: None,
        revoked_by: None,
    };
    let listed = Listed::new(Duration::from_secs(30));
    listed.replace(&[row], listed.turn().await);
    match listed.find(shown.expose_secret()) {
        Found::Key(key) => key.into(),
        _ => panic!("what is made is recognised"),
    }
}

fn refusal(read: Result<New, Error>) -> String {
    match read {
        Ok(_) => "none".to_owned(),
        Err(Error::Denied { reason, .. } | Error::Precondition { reason, .. }) => reason.to_owned(),
        Err(Error::Invalid(wrong)) => wrong
            .iter()
            .map(|wrong| wrong.field.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        Err(other) => format!("{other:?}"),
    }
}

/// F101: whoever may make keys cannot give more than they have, in scope or in time.
#[tokio::test]
async fn a_key_is_worth_no_more_than_the_one_it_is_made_with() {
    let endless = caller("keys.write+calls.read", None).await;
    for (scopes, expected) in [
        (&["calls.read"][..], "none"),
        (&["calls.read", "keys.write"], "none"),
        (&["calls.write"], "SCOPE_NOT_HELD"),
        (&["calls.read", "media"], "SCOPE_NOT_HELD"),
        (&[], "scopes"),
        (&["calls.read", "calls.read"], "scopes[1]"),
        (&["all", "calls.read", ""], "scopes[0] scopes[2]"),
    ] {
        assert_eq!(
            refusal(New::read(&endless, now(), &request(scopes, None))),
            expected,
            "{scopes:?}"
        );
    }
    let ends = caller("keys.write", Some(now() + TimeDelta::seconds(100))).await;
    for (expires_at, expected) in [
        (None, "OUTLIVES_ITS_MAKER"),
        (Some(at(101)), "OUTLIVES_ITS_MAKER"),
        (Some(at(100)), "none"),
        (Some(at(1)), "none"),
        (Some(at(0)), "expires_at"),
        (Some(at(-1)), "expires_at"),
        (Some(at(400_000_000)), "expires_at"),
        (
            Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            }),
            "expires_at",
        ),
        (Some(Timestamp { seconds: 1, nanos: -1 }), "expires_at"),
    ] {
        let read = New::read(&ends, now(), &request(&["keys.write"], expires_at));
        assert_eq!(refusal(read), expected, "{expires_at:?}");
    }
    let mut unnamed = request(&["keys.write"], Some(at(1)));
    for name in ["", "a b", "a:b", "a,b", &"x".repeat(65)] {
        name.clone_into(&mut unnamed.name);
        assert_eq!(refusal(New::read(&ends, now(), &unnamed)), "name");
    }
}

#[test]
fn no_two_secrets_are_the_same() {
    let id = KeyId(uuid::Uuid::from_u128(1));
    let (one, two) = (presented(id).unwrap(), presented(id).unwrap());
    assert_ne!(one.expose_secret(), two.expose_secret());
    assert_eq!(one.expose_secret().len(), 3 + 32 + 1 + 43);
}
