use std::time::Duration;

use callbridge_proto::DESCRIPTORS;
use data_encoding::HEXLOWER;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use ring::digest::{SHA256, digest};

use super::{
    audited::{Audited, audited},
    caller::{Caller, Peer},
    certificates::{Certificates, CertificatesError},
    keys::{Keys, KeysError},
    layer::{AuthLayer, Gate},
    methods::{Access, Rule, Scope, rule},
};
use crate::{access::listed::Listed, error::Error};

const KEY: &str = "ck_1_0123456789abcdef";

fn hash(key: &str) -> String {
    HEXLOWER.encode(digest(&SHA256, key.as_bytes()).as_ref())
}

const URI: &str = "spiffe://cluster.local/ns/callbridge/sa/edge";

fn layer(scopes: &str) -> AuthLayer {
    let gate = Gate::default();
    gate.open();
    gated(scopes, gate)
}

fn gated(scopes: &str, gate: Gate) -> AuthLayer {
    AuthLayer::new(
        Keys::parse(&format!("crm:{scopes}:{}", hash(KEY))).unwrap(),
        Listed::new(Duration::from_secs(30)),
        Certificates::parse(&format!("{URI}=edge:{scopes}")).unwrap(),
        gate,
        1,
    )
}

fn admit(layer: &AuthLayer, path: &str, headers: &HeaderMap) -> Result<(Rule, Option<Caller>), Error> {
    layer.admit(path, headers, &Peer::default())
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

/// A new method says whether it leaves an entry on the audit trail; what changes nothing and shows nobody is said to leave none.
#[test]
fn every_method_says_whether_it_is_audited() {
    for (path, _) in served() {
        let said = audited(&path).unwrap_or_else(|| panic!("{path} does not say whether it is audited"));
        let writes = match rule(&path).unwrap().access {
            Access::Scope(Scope::CampaignsWrite | Scope::KeysWrite | Scope::PrivacyWrite) => {
                !path.ends_with("/ListKeys")
            }
            Access::Scope(Scope::CredentialsWrite) => !path.contains("/Verify"),
            _ => false,
        };
        assert!(said != Audited::No || !writes, "{path} leaves no entry");
    }
    assert_eq!(audited("/callbridge.call.v1.CallService/Nope"), None);
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
    let words = Scope::ALL.map(Scope::word);
    for (path, _) in served() {
        let access = rule(&path).unwrap().access;
        for word in words {
            let admitted = admit(&layer(word), &path, &headers(&format!("Bearer {KEY}")));
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
            let admitted = admit(&layer(&words.join("+")), &path, &stranger);
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
    let admitted = admit(&layer("calls.read"), "/callbridge.call.v1.CallService/GetCall", &two);
    assert!(matches!(admitted, Err(Error::Unauthenticated { .. })));
}

#[test]
fn a_stranger_does_not_learn_which_methods_there_are() {
    let unknown = "/callbridge.call.v1.CallService/Nope";
    assert!(matches!(
        admit(&layer("media"), unknown, &HeaderMap::new()),
        Err(Error::Unauthenticated { .. })
    ));
    assert!(matches!(
        admit(&layer("media"), unknown, &headers(&format!("bearer {KEY}"))),
        Err(Error::UnknownMethod)
    ));
}

#[test]
fn before_the_start_is_over_only_health_answers() {
    let closed = gated("calls.read", Gate::default());
    let with_key = headers(&format!("Bearer {KEY}"));
    let refused = admit(&closed, "/callbridge.call.v1.CallService/GetCall", &with_key);
    assert!(matches!(refused, Err(Error::Unavailable { reason: "STARTING", .. })));
    assert!(admit(&closed, "/grpc.health.v1.Health/Check", &HeaderMap::new()).is_ok());
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

/// F101: a certificate is somebody where it is named, whole; a key counts before it, and a wrong key is not made good by it.
#[test]
fn a_certificate_stands_for_its_caller_alone() {
    let path = "/callbridge.ingress.v1.IngressService/RecordStatus";
    let admit = |uri: Option<&str>, headers: &HeaderMap| {
        let peer = Peer {
            uri: uri.map(Into::into),
        };
        let admitted = layer("ingest").admit(path, headers, &peer);
        admitted.map(|(_, caller)| caller.unwrap().principal.name.to_string())
    };
    let nothing = HeaderMap::new();
    assert_eq!(admit(Some(URI), &nothing).unwrap(), "edge");
    assert_eq!(admit(Some(URI), &headers(&format!("Bearer {KEY}"))).unwrap(), "crm");
    for (uri, headers) in [
        (None, &nothing),
        (Some("spiffe://cluster.local/ns/callbridge/sa/edge2"), &nothing),
        (Some("spiffe://cluster.local/ns/callbridge/sa/edg"), &nothing),
        (Some("SPIFFE://cluster.local/ns/callbridge/sa/edge"), &nothing),
        (Some(""), &nothing),
        (Some(URI), &headers("Bearer ck_1_wrong")),
        (Some(URI), &headers("")),
    ] {
        assert!(
            matches!(admit(uri, headers), Err(Error::Unauthenticated { .. })),
            "{uri:?}"
        );
    }
}

#[test]
fn certificates_are_read() {
    let read = Certificates::parse("spiffe://a/b?c=d:e=edge:ingest+media, https://x.example/y=crm:calls.read").unwrap();
    assert!(read.find("spiffe://a/b?c=d:e").unwrap().may(Scope::Media));
    assert!(!read.find("https://x.example/y").unwrap().may(Scope::Media));
    assert!(Certificates::parse(" ").unwrap().is_empty());
    for (text, error) in [
        ("spiffe://a/b", CertificatesError::Form(1)),
        ("spiffe://a/b=edge", CertificatesError::Form(1)),
        ("edge=edge:media", CertificatesError::Uri(1)),
        ("spiffe://a/b=:media", CertificatesError::Name(1)),
        ("spiffe://a/b=edge:all", CertificatesError::Scope(1)),
        (
            "spiffe://a/b=edge:media,spiffe://a/b=x:media",
            CertificatesError::Repeated(2),
        ),
    ] {
        assert_eq!(Certificates::parse(text).err(), Some(error), "{text}");
    }
}

/// F122: nothing behind the layer can show the key, not even of methods that need none.
#[tokio::test]
async fn no_handler_sees_the_key() {
    use std::convert::Infallible;
    use tonic::body::Body;
    use tower::{Layer as _, ServiceExt as _};

    for path in [
        "/callbridge.directory.v1.AccountService/ListAccounts",
        "/grpc.health.v1.Health/Check",
    ] {
        let handler = tower::service_fn(|request: http::Request<Body>| async move {
            let mut answer = http::Response::new(Body::empty());
            *answer.headers_mut() = request.headers().clone();
            Ok::<_, Infallible>(answer)
        });
        let request = http::Request::builder()
            .uri(path)
            .header("x-other", "1")
            .header(AUTHORIZATION, format!("Bearer {KEY}"))
            .body(Body::empty())
            .unwrap();
        let answer = layer("calls.read").layer(handler).oneshot(request).await.unwrap();
        let seen: Vec<&str> = answer.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(seen, ["x-other"], "{path}");
    }
}

/// F96: a handler that hangs is given up after ten seconds; `PlaceCall` has a limit of its own.
#[tokio::test(start_paused = true)]
async fn an_answer_that_takes_too_long_is_given_up() {
    use std::{convert::Infallible, future::pending};
    use tonic::{Code, Status, body::Body};
    use tower::{Layer as _, ServiceExt as _};

    let asked = async |path: &str| {
        let hanging = tower::service_fn(|_: http::Request<Body>| pending::<Result<http::Response<Body>, Infallible>>());
        let request = http::Request::builder()
            .uri(path)
            .header(AUTHORIZATION, format!("Bearer {KEY}"))
            .body(Body::empty())
            .unwrap();
        let begun = tokio::time::Instant::now();
        let answer = layer("calls.write+calls.read").layer(hanging).oneshot(request);
        let answer = tokio::time::timeout(Duration::from_secs(100), answer)
            .await
            .ok()?
            .unwrap();
        let code = Status::from_header_map(answer.headers()).unwrap().code();
        Some((code, begun.elapsed().as_secs()))
    };
    assert_eq!(
        asked("/callbridge.call.v1.CallService/GetCall").await,
        Some((Code::DeadlineExceeded, 10))
    );
    assert_eq!(asked("/callbridge.call.v1.CallService/PlaceCall").await, None);
}

/// F101: while the keys of the database are not known, nobody learns which methods there are, nor names one for us to count.
#[test]
fn a_method_that_is_not_there_is_refused_before_keys_are_read() {
    let layer = layer("calls.read");
    let key = headers(&format!("Bearer ck_{}_{}", "0".repeat(32), "a".repeat(43)));
    let known = admit(&layer, "/callbridge.call.v1.CallService/GetCall", &key);
    let unknown = admit(&layer, "/callbridge.call.v1.CallService/+919812345678", &key);
    assert!(matches!(known, Err(Error::Unavailable { .. })), "{known:?}");
    assert!(matches!(unknown, Err(Error::Unauthenticated { .. })), "{unknown:?}");
    assert!(!super::is_known("/callbridge.call.v1.CallService/+919812345678"));
}
