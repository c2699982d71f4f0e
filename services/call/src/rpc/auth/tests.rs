use callbridge_proto::DESCRIPTORS;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use ring::digest::{SHA256, digest};

use super::{
    keys::{Keys, KeysError},
    layer::{AuthLayer, Gate},
    methods::{Access, Scope, rule},
};
use crate::error::Error;

const KEY: &str = "ck_1_0123456789abcdef";

fn hash(key: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref())
}

fn layer(scopes: &str) -> AuthLayer {
    let gate = Gate::default();
    gate.open();
    AuthLayer::new(Keys::parse(&format!("crm:{scopes}:{}", hash(KEY))).unwrap(), gate)
}

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
}

/// Paths, and whether the method is a stream on either side.
fn served() -> Vec<(String, bool)> {
    let sets = [
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = Vec::new();
    for file in sets
        .iter()
        .flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file)
    {
        // Implemented by agents, not here.
        if file.package() == "callbridge.agent.v1" {
            continue;
        }
        for service in &file.service {
            for method in &service.method {
                let streams = method.client_streaming() || method.server_streaming();
                paths.push((
                    format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                    streams,
                ));
            }
        }
    }
    assert!(paths.len() > 35, "the descriptors are not all there: {paths:?}");
    paths
}

/// F101: a method that is missing in the table fails here before it fails its first caller.
#[test]
fn every_method_is_in_the_table_and_only_health_is_open() {
    for (path, streams) in served() {
        let rule = rule(&path).unwrap_or_else(|| panic!("{path} is not in the table"));
        let health = path.starts_with("/grpc.health.");
        assert_eq!(rule.access == Access::Open, health, "{path}");
        assert_eq!(
            rule.access == Access::AnyKey,
            path.starts_with("/grpc.reflection."),
            "{path}"
        );
        let unlimited = health || (streams && !path.ends_with("/UploadGreeting")) || path.ends_with("/PlaceCall");
        assert_eq!(rule.limit.is_none(), unlimited, "{path}");
    }
    for unlisted in [
        "/callbridge.call.v1.CallService/Nope",
        "/x/y",
        "/",
        "",
        "callbridge.call.v1.CallService/GetCall",
    ] {
        assert_eq!(rule(unlisted), None, "{unlisted}");
    }
}

/// F101: methods × identities.
#[test]
fn each_method_wants_its_own_scope() {
    let words = [
        "calls.write",
        "calls.read",
        "campaigns.write",
        "credentials.write",
        "ingest",
        "media",
    ];
    for (path, _) in served() {
        let access = rule(&path).unwrap().access;
        for word in words {
            let admitted = layer(word).admit(&path, &headers(&format!("Bearer {KEY}")));
            match access {
                Access::Open | Access::AnyKey => assert!(admitted.is_ok(), "{path} {word}"),
                Access::Scope(scope) if scope.word() == word => {
                    assert_eq!(&*admitted.unwrap().1.unwrap().principal.name, "crm");
                }
                Access::Scope(scope) => {
                    assert!(
                        matches!(admitted, Err(Error::Forbidden { scope: said }) if said == scope.word()),
                        "{path}"
                    );
                }
            }
        }
        for stranger in [
            HeaderMap::new(),
            headers(KEY),
            headers(&format!("Basic {KEY}")),
            headers("Bearer ck_1_0123456789abcdee"),
            headers("Bearer 0123456789abcdef"),
            headers("Bearer ck_1_"),
            headers("Bearer "),
            headers(&format!("Bearer {}", hash(KEY))),
        ] {
            let admitted = layer(&words.join("+")).admit(&path, &stranger);
            match access {
                Access::Open => assert!(admitted.is_ok()),
                _ => assert!(matches!(admitted, Err(Error::Unauthenticated { .. })), "{path}"),
            }
        }
    }
}

#[test]
fn two_headers_are_refused_even_when_one_is_right() {
    let mut two = headers("Bearer ck_1_x");
    two.append(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap());
    let admitted = layer("calls.read").admit("/callbridge.call.v1.CallService/GetCall", &two);
    assert!(matches!(admitted, Err(Error::Unauthenticated { .. })));
}

#[test]
fn a_stranger_does_not_learn_which_methods_there_are() {
    let unknown = "/callbridge.call.v1.CallService/Nope";
    assert!(matches!(
        layer("media").admit(unknown, &HeaderMap::new()),
        Err(Error::Unauthenticated { .. })
    ));
    assert!(matches!(
        layer("media").admit(unknown, &headers(&format!("bearer {KEY}"))),
        Err(Error::UnknownMethod)
    ));
}

#[test]
fn before_the_start_is_over_only_health_answers() {
    let closed = AuthLayer::new(
        Keys::parse(&format!("crm:calls.read:{}", hash(KEY))).unwrap(),
        Gate::default(),
    );
    let with_key = headers(&format!("Bearer {KEY}"));
    let refused = closed.admit("/callbridge.call.v1.CallService/GetCall", &with_key);
    assert!(matches!(refused, Err(Error::Unavailable { reason: "STARTING", .. })));
    assert!(closed.admit("/grpc.health.v1.Health/Check", &HeaderMap::new()).is_ok());
}

#[test]
fn api_keys_are_read_and_never_shown() {
    let (one, two) = (hash("ck_1_a"), hash("ck_2_b"));
    let keys = Keys::parse(&format!(
        "crm:calls.write+calls.read:{one}, edge:ingest+media:{}",
        two.to_uppercase()
    ))
    .unwrap();
    let caller = keys.recognise("ck_2_b").unwrap();
    assert_eq!(&*caller.principal.name, "edge");
    assert!(caller.may(Scope::Media) && !caller.may(Scope::CallsRead));
    assert!(keys.recognise("ck_3_b").is_none());
    assert!(keys.recognise(&format!("ck_1_{}", "a".repeat(300))).is_none());
    assert!(!format!("{keys:?}").contains(&one[..8]));
    for (text, error) in [
        (String::new(), KeysError::Form(1)),
        (format!("crm:{one}"), KeysError::Form(1)),
        (format!(":media:{one}"), KeysError::Name(1)),
        (format!("c m:media:{one}"), KeysError::Name(1)),
        (format!("crm::{one}"), KeysError::Scope(1)),
        (format!("crm:medium:{one}"), KeysError::Scope(1)),
        (format!("crm:media:{}", &one[1..]), KeysError::Hash(1)),
        (format!("crm:media:{one},b:media:{one}"), KeysError::Repeated(2)),
    ] {
        assert_eq!(Keys::parse(&text).err(), Some(error), "{text}");
    }
}
