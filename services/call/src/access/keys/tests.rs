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
        ..api::CreateKeyRequest::default()
    }
}

/// A caller with a key of the database.
async fn caller(scopes: &str, expires_at: Option<DateTime<Utc>>) -> Caller {
    limited(scopes, expires_at, (None, None)).await
}

/// The same with what it may dial.
async fn limited(
    scopes: &str,
    expires_at: Option<DateTime<Utc>>,
    (prefixes, daily_calls): (Option<&str>, Option<i32>),
) -> Caller {
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
        dial_prefixes: prefixes.map(str::to_owned),
        daily_calls,
    };
    let listed = Listed::new(Duration::from_secs(30));
    listed.replace(&[row], listed.turn().await);
    match listed.find(shown.expose_secret()) {
        Found::Key(key) => key.into(),
        _ => panic!("what is made is recognised"),
    }
}

fn rules(daily_calls: Option<i32>) -> Rules {
    Rules {
        prefixes: Prefixes::parse("+91,+971").unwrap(),
        daily_calls,
        alarms: crate::toll::Thresholds::default(),
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
            refusal(New::read(&endless, now(), &rules(None), &request(scopes, None))),
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
        let read = New::read(&ends, now(), &rules(None), &request(&["keys.write"], expires_at));
        assert_eq!(refusal(read), expected, "{expires_at:?}");
    }
    let mut unnamed = request(&["keys.write"], Some(at(1)));
    for name in ["", "a b", "a:b", "a,b", &"x".repeat(65)] {
        name.clone_into(&mut unnamed.name);
        assert_eq!(refusal(New::read(&ends, now(), &rules(None), &unnamed)), "name");
    }
}

/// F126: nor in whom they may call, and how often. The settings bind those of `API_KEYS` alone.
#[tokio::test]
async fn a_key_dials_no_more_than_the_one_it_is_made_with() {
    const MORE: &str = "DIALS_MORE_THAN_ITS_MAKER";
    let root = Caller::from_settings("root", vec![Scope::KeysWrite]);
    let default = caller("keys.write", None).await;
    let narrow = limited("keys.write", None, (Some("+9198,+97150"), Some(10))).await;
    let unreadable = limited("keys.write", None, (Some("of a later release"), None)).await;
    for (maker, cap, prefixes, daily_calls, expected) in [
        (&root, Some(100), &[][..], 0, "none"),
        (&root, Some(100), &["+91", "+97150"], 1_000, "none"),
        (&root, None, &["+44"], 0, "dial_prefixes"),
        (&root, None, &["+9"], 0, "dial_prefixes"),
        (&root, None, &["+"], 0, "dial_prefixes"),
        (&root, None, &["91"], 0, "dial_prefixes"),
        (&root, None, &[], -1, "daily_calls"),
        (&root, None, &[], 10_000_001, "daily_calls"),
        (&default, Some(100), &[], 0, "none"),
        (&default, Some(100), &[], 100, "none"),
        (&default, Some(100), &[], 101, MORE),
        (&default, None, &[], 101, "none"),
        (&narrow, Some(100), &[], 10, MORE),
        (&narrow, Some(100), &["+91"], 10, MORE),
        (&narrow, Some(100), &["+9198", "+971"], 10, MORE),
        (&narrow, Some(100), &["+9198", "+971501"], 10, "none"),
        (&narrow, Some(100), &["+9198"], 0, MORE),
        (&narrow, Some(100), &["+9198"], 11, MORE),
        (&narrow, Some(5), &["+9198"], 0, "none"),
        (&unreadable, None, &["+9198"], 0, MORE),
    ] {
        let request = api::CreateKeyRequest {
            name: maker.principal.name.to_string(),
            dial_prefixes: prefixes.iter().map(ToString::to_string).collect(),
            daily_calls,
            ..request(&["keys.write"], None)
        };
        let read = New::read(maker, now(), &rules(cap), &request);
        assert_eq!(refusal(read), expected, "{prefixes:?} {daily_calls} {cap:?}");
    }
    // Calls are counted by name: under another one it would have its cap once more.
    let elsewhere = api::CreateKeyRequest {
        name: "elsewhere".to_owned(),
        dial_prefixes: vec!["+9198".to_owned()],
        daily_calls: 10,
        ..request(&["keys.write"], None)
    };
    assert_eq!(refusal(New::read(&narrow, now(), &rules(None), &elsewhere)), MORE);
    assert_eq!(refusal(New::read(&default, now(), &rules(None), &elsewhere)), "none");
}

#[test]
fn no_two_secrets_are_the_same() {
    let id = KeyId(uuid::Uuid::from_u128(1));
    let (one, two) = (presented(id).unwrap(), presented(id).unwrap());
    assert_ne!(one.expose_secret(), two.expose_secret());
    assert_eq!(one.expose_secret().len(), 3 + 32 + 1 + 43);
}
