use super::*;
use proptest::prelude::*;

fn refusal(status: u16, body: &str) -> Option<(Rejection, String)> {
    let tree = tree(body.as_bytes())?;
    Refusal::read(status, Node::root(&tree)).map(|refusal| (refusal.kind, refusal.provider_code))
}

#[test]
fn refusals_as_seen() {
    // F23
    let kyc = r#"{"RestException":{"Status":403,"Message":"Your account is not yet KYC compliant. This is mandatory by TRAI guidelines to connect outbound voice calls.","Code":340030}}"#;
    let dnd = "<TwilioResponse><RestException><Status>403</Status><Message>Call to [09812345678] can not be made because of TRAI NDNC regulations</Message></RestException></TwilioResponse>";
    let v2 = r#"{"http_code":400,"response":{"code":400,"error_data":{"code":1002,"message":"Invalid parameter"},"status":"failure"}}"#;
    for (status, body, want) in [
        (403, kyc, Some((Rejection::Kyc, "403/340030"))),
        (403, dnd, Some((Rejection::Dnd, "403"))),
        (400, v2, Some((Rejection::BadParameter, "400/1002"))),
        (
            429,
            r#"{"RestException":{"Status":429,"Message":"slow","Code":"RATE_LIMIT_EXCEEDED"}}"#,
            Some((Rejection::RateLimited, "429/RATE_LIMIT_EXCEEDED")),
        ),
        (
            401,
            r#"{"RestException":{"Status":401,"Message":"no"}}"#,
            Some((Rejection::BadCredentials, "401")),
        ),
        (
            402,
            r#"{"RestException":{"Status":402}}"#,
            Some((Rejection::NoBalance, "402")),
        ),
        (
            404,
            r#"{"RestException":{"Message":"x","Code":"09812345678"}}"#,
            Some((Rejection::NotFound, "404/098123")),
        ),
        (409, r#"{"RestException":{"Status":409,"Message":"conflict"}}"#, None),
        (
            503,
            r#"{"RestException":{"Status":503,"Message":"Service Unavailable; ","Code":35008}}"#,
            None,
        ),
        (403, "<html><body>403</body></html>", None),
        (403, r#"{"RestException":{}}"#, None),
        (403, "", None),
    ] {
        assert_eq!(
            refusal(status, body),
            want.map(|(kind, code)| (kind, code.to_owned())),
            "{status} {body}"
        );
    }
}

#[test]
fn retry_after_in_every_form() {
    // F22
    let date = crate::time::parse_http_date("Sun, 22 Nov 2026 08:00:00 GMT");
    for (header, want) in [
        ("30", Some(30)),
        (" 0 ", Some(0)),
        ("1000000000", Some(300)),
        ("99999999999999999999999", Some(300)),
        ("-1", Some(300)),
        ("Sun, 22 Nov 2026 08:00:10 GMT", Some(10)),
        ("Sun, 22 Nov 2026 07:00:00 GMT", Some(0)),
        ("Mon, 23 Nov 2026 08:00:00 GMT", Some(300)),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(retry_after(header, date), want.map(Duration::from_secs), "{header:?}");
    }
    assert_eq!(retry_after("Sun, 22 Nov 2026 08:00:10 GMT", None), None);
}

#[test]
fn lists_in_both_formats() {
    let texts = |body: &str| {
        let tree = tree(body.as_bytes()).unwrap();
        let list = Node::root(&tree).list("Calls", "Call").unwrap();
        list.iter().map(|call| call.text("Sid").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(texts(r#"{"Calls":[{"Sid":"a"},{"Call":{"Sid":"b"}}]}"#), ["a", "b"]);
    assert_eq!(
        texts("<TwilioResponse><Calls><Call><Sid>a</Sid></Call></Calls></TwilioResponse>"),
        ["a"]
    );
    let two = "<TwilioResponse><Calls><Call><Sid>a</Sid></Call><Call><Sid>b</Sid></Call></Calls></TwilioResponse>";
    assert_eq!(texts(two), ["a", "b"]);
    assert_eq!(texts("<TwilioResponse><Calls/></TwilioResponse>"), Vec::<String>::new());
}

#[test]
fn sids() {
    assert!(is_sid("c5797dcbaaeed7678c4062a4a3ed2f8a") && is_sid("faccc8dce91e426a398475de9fdb1a8p"));
    assert!(!is_sid("") && !is_sid("null") && !is_sid(&"a".repeat(65)) && !is_sid("a/../b/c/d"));
}

proptest! {
    #[test]
    fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200), status in 0_u16..1000) {
        if let Some(tree) = tree(&body) {
            let _ = Refusal::read(status, Node::root(&tree));
        }
    }

    #[test]
    fn retry_after_is_bounded(header in "\\PC{0,40}|-?[0-9]{1,30}") {
        prop_assert!(retry_after(&header, None).is_none_or(|wait| wait <= MAX_RETRY_AFTER));
    }
}
