//! Reads: calls, ExoPhones, streams, and the attempt to hang up.

use crate::server::{Act, Server};
use crate::{client, credentials, impatient};
use exotel::PhoneNumber;
use exotel::rest::{CallsQuery, HangUp, Ownership, ProviderStatus, Rejection, RestError};

const CALL: &str = r#"{"Call":{"Sid":"c5797dcbaaeed7678c4062a4a3ed2f8a","Status":"busy","From":"09812345678"}}"#;

#[tokio::test]
async fn one_call_is_read() {
    let server = Server::answering("200 OK", "", CALL).await;
    let call = client()
        .call(&credentials(server.base.clone()), "c5797dcb")
        .await
        .expect("call");
    assert_eq!(call.status, ProviderStatus::Busy);
    let request = &server.requests()[0];
    assert!(
        request.starts_with("GET /v1/Accounts/acme1/Calls/c5797dcb.json?details=true HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(!request.lines().next().is_some_and(|line| line.contains("the-key")));
}

#[tokio::test]
async fn a_call_sid_cannot_leave_its_place() {
    let server = Server::answering("200 OK", "", CALL).await;
    let read = client().call(&credentials(server.base.clone()), "../Calls").await;
    assert!(matches!(read, Err(RestError::Endpoint(_))), "{read:?}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn lists_take_large_answers_and_xml() {
    let call = r#"{"Sid":"c5797dcbaaeed7678c4062a4a3ed2f8a","Status":"completed","From":"09812345678"}"#;
    let body = format!(r#"{{"Calls":[{}]}}"#, vec![call; 1000].join(","));
    let server = Server::answering("200 OK", "", &body).await;
    let page = client()
        .calls(&credentials(server.base.clone()), &CallsQuery::default())
        .await
        .expect("page");
    assert_eq!(page.calls.len(), 1000);
    let xml = "<TwilioResponse><Calls><Call><Sid>c5797dcbaaeed7678c4062a4a3ed2f8a</Sid><Status>failed</Status></Call></Calls></TwilioResponse>";
    let server = Server::answering("200 OK", "", xml).await;
    let page = client()
        .calls(&credentials(server.base.clone()), &CallsQuery::default())
        .await
        .expect("page");
    assert_eq!(page.calls[0].status, ProviderStatus::Failed);
}

#[tokio::test]
async fn ids_that_cannot_be_ids_do_not_list_every_call() {
    let server = Server::answering("200 OK", "", r#"{"Calls":[]}"#).await;
    let query = CallsQuery {
        sids: vec!["../x".into(), String::new()],
        ..CallsQuery::default()
    };
    let page = client()
        .calls(&credentials(server.base.clone()), &query)
        .await
        .expect("page");
    assert!(page.calls.is_empty() && page.next.is_none());
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn ownership_tells_wrong_credentials_apart() {
    let number = PhoneNumber::parse("+918040000155").expect("number");
    let list = |listed: &str| format!(r#"{{"incoming_phone_numbers":[{{"phone_number":"{listed}"}}]}}"#);
    for (status, body, want) in [
        ("200 OK", list("08040000155"), Ownership::Owned),
        ("200 OK", list("08040000156"), Ownership::NotOwned),
        ("200 OK", r#"{"incoming_phone_numbers":[]}"#.into(), Ownership::NotOwned),
        (
            "401 Unauthorized",
            r#"{"RestException":{"Status":401,"Message":"no"}}"#.into(),
            Ownership::BadCredentials,
        ),
        ("401 Unauthorized", "<html></html>".into(), Ownership::BadCredentials),
    ] {
        let server = Server::answering(status, "", &body).await;
        let owns = client()
            .owns_number(&credentials(server.base.clone()), &number)
            .await
            .expect("answer");
        assert_eq!(owns, want, "{status} {body}");
        assert!(server.requests()[0].starts_with("GET /v2_beta/Accounts/acme1/IncomingPhoneNumbers HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn hanging_up_is_best_effort() {
    for (status, want) in [
        ("200 OK", HangUp::Accepted),
        ("404 Not Found", HangUp::NotSupported { http_status: 404 }),
        ("405 Method Not Allowed", HangUp::NotSupported { http_status: 405 }),
    ] {
        let server = Server::answering(status, "", CALL).await;
        let hang_up = client()
            .hang_up(&credentials(server.base.clone()), "c5797dcb")
            .await
            .expect("answer");
        assert_eq!(hang_up, want);
        assert!(server.requests()[0].ends_with("\r\n\r\nStatus=completed"));
    }
}

#[tokio::test]
async fn errors_are_told_apart_and_show_no_secrets() {
    let exception =
        r#"{"RestException":{"Status":429,"Message":"slow down 09812345678","Code":"RATE_LIMIT_EXCEEDED"}}"#;
    let server = Server::answering("429 Too Many Requests", "Retry-After: 30\r\n", exception).await;
    let error = client()
        .active_streams(&credentials(server.base.clone()))
        .await
        .expect_err("refused");
    assert!(
        matches!(&error, RestError::Refused { kind: Rejection::RateLimited, retry_after: Some(wait), .. } if wait.as_secs() == 30),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "Exotel refused the request: rate_limited (429/RATE_LIMIT_EXCEEDED)"
    );

    let server = Server::answering("500 Oops", "", "").await;
    let error = client()
        .active_streams(&credentials(server.base.clone()))
        .await
        .expect_err("status");
    assert!(matches!(error, RestError::Status(500)), "{error:?}");

    let server = Server::start(Act::Silence).await;
    let error = impatient()
        .active_streams(&credentials(server.base.clone()))
        .await
        .expect_err("silence");
    assert!(matches!(error, RestError::Transport { reason: "timeout" }), "{error:?}");
    let shown = format!("{error:?} {error} {:?}", credentials(server.base.clone()));
    assert!(!shown.contains("the-key") && !shown.contains("the-token"), "{shown}");
}
