//! F17–F26: what each misbehaviour means for a dial, and that it is sent once.

use crate::server::{Act, Server, answer};
use crate::{client, credentials, dial, impatient};
use exotel::rest::{DialOutcome, DialReport, Rejection};
use std::time::Duration;

const PLACED: &str =
    r#"{"Call":{"Sid":"c5797dcbaaeed7678c4062a4a3ed2f8a","DateCreated":"2026-11-22 13:30:05","Status":"in-progress"}}"#;

async fn connect(server: &Server) -> DialReport {
    client().connect(&credentials(server.base.clone()), &dial()).await
}

fn unknown(reason: &str) -> DialOutcome {
    DialOutcome::Unknown { reason: reason.into() }
}

#[tokio::test]
async fn the_request_on_the_wire() {
    let server = Server::answering("200 OK", "Date: Sun, 22 Nov 2026 08:00:07 GMT\r\n", PLACED).await;
    let report = connect(&server).await;
    assert_eq!(
        report.outcome,
        DialOutcome::Placed {
            call_sid: "c5797dcbaaeed7678c4062a4a3ed2f8a".into()
        }
    );
    assert_eq!(report.http_status, Some(200));
    assert_eq!(
        report.server_date.map(|d| d.to_rfc3339()).as_deref(),
        Some("2026-11-22T08:00:07+00:00")
    );
    assert_eq!(
        report.date_created.map(|d| d.to_string()).as_deref(),
        Some("2026-11-22 13:30:05")
    );
    let [request] = <[String; 1]>::try_from(server.requests()).expect("one request");
    let request = request.replace(server.base.trim_start_matches("http://"), "HOST");
    let version = env!("CARGO_PKG_VERSION");
    insta::assert_snapshot!(request.replace(version, "VERSION").replace("\r\n", "\n").replace('&', "\n&"), @r"
    POST /v1/Accounts/acme1/Calls/connect.json HTTP/1.1
    content-type: application/x-www-form-urlencoded
    authorization: Basic dGhlLWtleTp0aGUtdG9rZW4=
    accept: */*
    user-agent: callbridge/VERSION
    host: HOST
    content-length: 410

    From=%2B919812345678
    &CallerId=08040000155
    &Url=http%3A%2F%2Fmy.exotel.com%2Facme1%2Fexoml%2Fstart_voice%2F45195
    &CallType=trans
    &TimeLimit=600
    &TimeOut=30
    &CustomField=call_1.ABCDEFGHIJKLMNOP
    &StatusCallback=https%3A%2F%2Fbridge.example.com%2Fapi%2Fv1%2Fexotel%2Fvoice%2Fstatus%2FTOKEN
    &StatusCallbackEvents%5B0%5D=terminal
    &StatusCallbackEvents%5B1%5D=answered
    &StatusCallbackContentType=application%2Fjson
    &Record=true
    ");
}

#[tokio::test]
async fn xml_and_201_are_understood() {
    // F24
    let xml = "<?xml version=\"1.0\"?><TwilioResponse><Call><Sid>faccc8dce91e426a398475de9fdb1a8p</Sid><Status>in-progress</Status></Call></TwilioResponse>";
    let server = Server::answering("200 OK", "content-type: text/xml\r\n", xml).await;
    let placed = DialOutcome::Placed {
        call_sid: "faccc8dce91e426a398475de9fdb1a8p".into(),
    };
    assert_eq!(connect(&server).await.outcome, placed);
    let server = Server::answering("201 Created", "", PLACED).await;
    assert!(matches!(connect(&server).await.outcome, DialOutcome::Placed { .. }));
}

#[tokio::test]
async fn nobody_listening_is_not_sent() {
    // F17
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("address").port()
    };
    let report = client()
        .connect(&credentials(format!("http://127.0.0.1:{port}")), &dial())
        .await;
    assert_eq!(report.outcome, DialOutcome::NotSent { reason: "tcp".into() });
    assert_eq!(report.http_status, None);
}

#[tokio::test]
async fn unusable_settings_are_not_sent() {
    let report = client().connect(&credentials("api.example.com".into()), &dial()).await;
    assert_eq!(
        report.outcome,
        DialOutcome::NotSent {
            reason: "bad_subdomain".into()
        }
    );
}

#[tokio::test]
async fn silence_after_the_request_is_unknown() {
    // F19
    let server = Server::start(Act::Silence).await;
    let report = impatient().connect(&credentials(server.base.clone()), &dial()).await;
    assert_eq!(report.outcome, unknown("timeout"));
    assert!(report.elapsed >= Duration::from_millis(1900), "{:?}", report.elapsed);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_reset_at_any_byte_of_the_answer_is_unknown() {
    // F20
    let whole = answer("200 OK", "", PLACED);
    for at in (0..whole.len()).step_by(7) {
        let server = Server::start(Act::Reset(whole[..at].to_owned())).await;
        let report = connect(&server).await;
        assert_eq!(report.outcome, unknown("connection_lost"), "reset after {at} bytes");
        assert_eq!(server.requests().len(), 1, "reset after {at} bytes");
    }
}

#[tokio::test]
async fn server_errors_are_unknown_and_sent_once() {
    // F21
    for status in [
        "500 Oops",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ] {
        let body = r#"{"RestException":{"Status":503,"Message":"Service Unavailable; ","Code":35008}}"#;
        let server = Server::answering(status, "Retry-After: 1\r\n", body).await;
        assert_eq!(connect(&server).await.outcome, unknown("server_error"), "{status}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn well_formed_refusals_are_rejected() {
    // F22, F23
    let exception =
        |status: u16, text: &str| format!(r#"{{"RestException":{{"Status":{status},"Message":"{text}"}}}}"#);
    for (status, message, kind, code) in [
        (400, "CallerId is not a valid ExoPhone", Rejection::BadParameter, "400"),
        (401, "Authentication failed", Rejection::BadCredentials, "401"),
        (402, "no balance", Rejection::NoBalance, "402"),
        (
            403,
            "Call to [09812345678] can not be made because of TRAI NDNC regulations",
            Rejection::Dnd,
            "403",
        ),
        (403, "Your account is not yet KYC compliant.", Rejection::Kyc, "403"),
        (403, "IP address not allowed", Rejection::Forbidden, "403"),
        (404, "not found", Rejection::NotFound, "404"),
        (429, "too many", Rejection::RateLimited, "429"),
    ] {
        let server = Server::answering(
            &format!("{status} X"),
            "Retry-After: 1000000000\r\n",
            &exception(status, message),
        )
        .await;
        let report = connect(&server).await;
        let retry_after = Some(Duration::from_mins(5));
        assert_eq!(
            report.outcome,
            DialOutcome::Rejected {
                kind,
                provider_code: code.into(),
                retry_after
            },
            "{message}"
        );
        assert!(!format!("{report:?}").contains("9812345678"));
    }
}

#[tokio::test]
async fn answers_that_say_nothing_are_unknown() {
    // F24
    let exception = r#"{"RestException":{"Status":409,"Message":"conflict"}}"#;
    for (status, body, reason) in [
        ("200 OK", "<html><body>It works!</body></html>", "unreadable_answer"),
        ("200 OK", "", "unreadable_answer"),
        ("200 OK", &PLACED[..40], "unreadable_answer"),
        ("200 OK", r#"{"Call":{"Sid":null}}"#, "unreadable_answer"),
        ("200 OK", r#"{"Call":{"Sid":"../../etc/passwd"}}"#, "unreadable_answer"),
        (
            "200 OK",
            r#"{"RestException":{"Status":403,"Message":"KYC"}}"#,
            "unreadable_answer",
        ),
        ("403 Forbidden", "<html>blocked by WAF</html>", "unreadable_refusal"),
        ("429 Too Many Requests", "", "unreadable_refusal"),
        ("409 Conflict", exception, "unexpected_status"),
        ("202 Accepted", PLACED, "unexpected_status"),
    ] {
        let server = Server::answering(status, "", body).await;
        assert_eq!(connect(&server).await.outcome, unknown(reason), "{status} {body}");
    }
}

#[tokio::test]
async fn redirects_are_unknown_and_never_followed() {
    // F25, F26
    let elsewhere = Server::answering("200 OK", "", PLACED).await;
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let server = Server::answering(status, &format!("Location: {}/\r\n", elsewhere.base), "").await;
        assert_eq!(connect(&server).await.outcome, unknown("redirect"), "{status}");
        assert_eq!(server.requests().len(), 1);
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    // F24
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n".to_owned();
    let server = Server::start(Act::Trickle {
        head,
        chunk: vec![b' '; 64 * 1024],
        every: Duration::ZERO,
    })
    .await;
    assert_eq!(connect(&server).await.outcome, unknown("body_too_large"));
    assert!(server.sent() < 32 * 1024 * 1024, "{} bytes were taken", server.sent());
}

#[tokio::test]
async fn a_slow_body_meets_the_total_limit() {
    // F25
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".to_owned();
    let server = Server::start(Act::Trickle {
        head,
        chunk: vec![b'{'],
        every: Duration::from_millis(20),
    })
    .await;
    let report = impatient().connect(&credentials(server.base.clone()), &dial()).await;
    assert_eq!(report.outcome, unknown("timeout"));
    assert_eq!(report.http_status, Some(200));
    assert!(report.elapsed < Duration::from_secs(10), "{:?}", report.elapsed);
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    // F25
    let head = "HTTP/1.1 200 OK\r\n".to_owned();
    let chunk = b"x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(50);
    let server = Server::start(Act::Trickle {
        head,
        chunk,
        every: Duration::ZERO,
    })
    .await;
    assert_eq!(connect(&server).await.outcome, unknown("connection_lost"));
    assert!(server.sent() < 32 * 1024 * 1024, "{} bytes were taken", server.sent());
}

#[tokio::test]
async fn connections_are_never_shared() {
    // F26: a kept connection could be stale, and hyper would send again by itself.
    let keep = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{PLACED}", PLACED.len());
    let server = Server::start(Act::Keep(keep)).await;
    let client = client();
    for sent in 1..=5 {
        let report = client.connect(&credentials(server.base.clone()), &dial()).await;
        assert!(matches!(report.outcome, DialOutcome::Placed { .. }), "{report:?}");
        assert_eq!((server.requests().len(), server.connections()), (sent, sent));
    }
}
