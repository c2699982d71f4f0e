//! Who gets in: addresses, tokens that are not genuine, tokens that come again, and crowds.

use std::collections::HashSet;

use callbridge_proto::id::CallId;
use edge::source::Sources;
use exotel::token::Purpose;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Status;
use uuid::Uuid;

use crate::{
    peers::{Asked, Bench, Script, call},
    web::{self, Answer, get, request},
};

async fn get_with(bench: &Bench, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n{headers}\r\n");
    web::raw(bench.public, request.as_bytes()).await
}

/// An upgrade as Exotel asks for it, with other headers.
async fn upgrade(bench: &Bench, path: &str, headers: &str) -> Answer {
    let upgrade = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: upgrade, close\r\n{upgrade}{headers}\r\n");
    web::raw(bench.public, request.as_bytes()).await
}

async fn listed(list: &str, proxies: usize) -> Bench {
    let sources = Sources::parse(list, proxies).unwrap();
    Bench::with(Script::default(), |config| config.sources = sources).await
}

/// F48: without proxies the connection's own address counts, whatever a header would say: it is closed before it has said anything.
#[tokio::test]
async fn only_listed_addresses_are_taken() {
    let mut bench = listed("198.51.100.0/24, 2001:db8::/32", 0).await;
    let mut stream = TcpStream::connect(bench.public).await.unwrap();
    let path = format!("/api/v1/exotel/{}/voice/connect?CallSid=a", bench.account_token());
    let headers = "host: edge\r\nconnection: close\r\nx-forwarded-for: 198.51.100.7\r\n\r\n";
    let mut answer = Vec::new();
    // It may be closed before all is written, or after.
    let _ = stream
        .write_all(format!("GET {path} HTTP/1.1\r\n{headers}").as_bytes())
        .await;
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    assert!(bench.nothing_asked());
    // The cluster asks at the other listener.
    assert_eq!(get(bench.internal, "/livez").await.status, 200);

    let bench = listed("127.0.0.0/8", 0).await;
    let path = format!("/api/v1/exotel/{}/voice/connect?CallSid=a", bench.account_token());
    assert_eq!(get(bench.public, &path).await.status, 200);
}

/// F48: behind a proxy its entry counts, which is the last; what a client wrote before it does not pass for an address.
#[tokio::test]
async fn a_spoofed_header_does_not_pass() {
    let mut bench = listed("198.51.100.0/24", 1).await;
    let path = format!("/api/v1/exotel/{}/voice/connect?CallSid=a", bench.account_token());
    for headers in [
        "",
        "x-forwarded-for: 198.51.100.7, 203.0.113.5\r\n",
        "x-forwarded-for: 198.51.100.7\r\nx-forwarded-for: 203.0.113.5\r\n",
        "x-forwarded-for: 198.51.100.7,\r\n",
        "x-forwarded-for: 198.51.100.7, unknown\r\n",
        "x-real-ip: 198.51.100.7\r\n",
    ] {
        assert_eq!(get_with(&bench, &path, headers).await.status, 404, "{headers}");
    }
    assert!(bench.nothing_asked());
    for headers in [
        "x-forwarded-for: 198.51.100.7\r\n",
        "X-Forwarded-For: 203.0.113.5, 198.51.100.7\r\n",
        "x-forwarded-for: nonsense \r\nx-forwarded-for: ::ffff:198.51.100.7\r\n",
    ] {
        assert_eq!(get_with(&bench, &path, headers).await.status, 200, "{headers}");
    }
}

/// F48: a crowd of forged tokens reaches nobody, and locks nobody out who shares its address.
#[tokio::test]
async fn a_flood_of_forged_tokens_does_not_lock_out_a_genuine_one() {
    let mut bench = Bench::new(Script::default()).await;
    let genuine = bench.call_token(Purpose::Callback);
    let unknown = request(bench.public, "POST", "/nothing", "application/json", b"{}").await;
    for at in 0..200_usize {
        // Each character in turn is another one: in the head, in the tag, in the last one's spare bits.
        let mut forged = genuine.clone().into_bytes();
        let place = &mut forged[at % genuine.len()];
        *place = if *place == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        let path = format!("/api/v1/exotel/voice/status/{forged}");
        let answer = request(bench.public, "POST", &path, "application/json", b"{}").await;
        assert_eq!(answer, unknown, "{at}");
    }
    assert!(bench.nothing_asked());
    let path = format!("/api/v1/exotel/voice/status/{genuine}");
    assert_eq!(
        request(bench.public, "POST", &path, "application/json", b"{}")
            .await
            .status,
        200
    );
}

/// F63: a token that call-service has refused is asked about a few times more, and then no more; others are.
#[tokio::test]
async fn a_replayed_token_is_limited_by_itself_and_its_address() {
    let sources = Sources::parse("", 1).unwrap();
    let mut bench = Bench::with(Script::default(), |config| config.sources = sources).await;
    let (one, other) = ("x-forwarded-for: 198.51.100.7\r\n", "x-forwarded-for: 198.51.100.8\r\n");
    let path = bench.socket_path();
    let mut asked = 0;
    for _ in 0..20 {
        bench.set(|script| script.failures.push_back(Status::not_found("used")));
        assert_eq!(upgrade(&bench, &path, one).await.status, 404);
        asked += usize::from(!bench.nothing_asked());
        bench.set(|script| script.failures.clear());
    }
    // A minute may end meanwhile.
    assert!((4..=8).contains(&asked), "{asked}");
    assert_eq!(upgrade(&bench, &path, other).await.status, 101, "from another address");
    let expires = u32::try_from(runtime::Clock::system().unix_seconds() + 120).unwrap();
    let newer = bench.keys.mint(Purpose::Socket, call().0, [9; 8], expires);
    let newer = format!("/ws/exotel/voice/{}/{newer}", call());
    assert_eq!(
        upgrade(&bench, &newer, one).await.status,
        101,
        "another token of the call"
    );
}

/// F50, F61: whoever has one callback's URL cannot fill the inbox with it; other calls' callbacks come through.
#[tokio::test]
async fn callbacks_of_one_call_are_limited() {
    let bench = Bench::new(Script::default()).await;
    let path = format!("/api/v1/exotel/voice/status/{}", bench.call_token(Purpose::Callback));
    let mut answers = Vec::new();
    // More than two minutes' worth: one may end meanwhile.
    for _ in 0..300 {
        let answer = request(bench.public, "POST", &path, "application/json", b"{}").await;
        answers.push(answer.status);
    }
    assert!(answers[..120].iter().all(|status| *status == 200), "{answers:?}");
    assert!(answers.contains(&503), "{answers:?}");
    let expires = u32::try_from(runtime::Clock::system().unix_seconds() + 120).unwrap();
    let other = bench.keys.mint(Purpose::Callback, Uuid::from_u128(7), [0; 8], expires);
    let path = format!("/api/v1/exotel/voice/status/{other}");
    assert_eq!(
        request(bench.public, "POST", &path, "application/json", b"{}")
            .await
            .status,
        200
    );
}

/// F61: while call-service hangs, so many callbacks wait and the others are told at once to come again; then all is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_callbacks_is_bounded() {
    const WAITING: usize = 512;
    let mut bench = Bench::new(Script {
        hang: true,
        ..Script::default()
    })
    .await;
    runtime::descriptors::raise();
    let expires = u32::try_from(runtime::Clock::system().unix_seconds() + 120).unwrap();
    let calls: Vec<CallId> = (1..=600).map(|at| CallId(Uuid::from_u128(at))).collect();
    let mut answers: FuturesUnordered<_> = calls
        .iter()
        .map(|call| {
            let token = bench.keys.mint(Purpose::Callback, call.0, [0; 8], expires);
            let (to, path) = (bench.public, format!("/api/v1/exotel/voice/status/{token}"));
            async move { request(to, "POST", &path, "application/json", b"{}").await }
        })
        .collect();
    for _ in WAITING..calls.len() {
        let answer = answers.next().await.unwrap();
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    }
    bench.set(|script| script.hang = false);
    while let Some(answer) = answers.next().await {
        assert_eq!(answer.status, 200);
    }
    let mut kept = HashSet::new();
    while kept.len() < WAITING {
        let Asked::Status(asked) = bench.asked().await else {
            panic!()
        };
        kept.insert(asked.call_id);
    }
}
