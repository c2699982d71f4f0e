use super::*;
use futures_util::FutureExt as _;
use proptest::prelude::*;

fn form(text: &str) -> Result<Fields, BodyError> {
    let mut fields = Fields::default();
    fields.read_form(text.as_bytes()).map(|()| fields)
}

fn query(text: &str) -> Fields {
    let mut fields = Fields::default();
    fields.read_query(text).unwrap();
    fields
}

fn body(content_type: Option<&str>, body: &[u8]) -> Result<Fields, BodyError> {
    let mut fields = Fields::default();
    fields
        .read_body(content_type, Bytes::copy_from_slice(body))
        .now_or_never()
        .unwrap()
        .map(|_| fields)
}

#[test]
fn the_first_value_wins() {
    assert_eq!(form("a=1&A=2&a=3").unwrap().get("a"), Some("1"));
    assert_eq!(body(None, br#"{"a":1,"A":2,"a":3}"#).unwrap().get("a"), Some("1"));
}

#[test]
fn appended_queries_are_split_off_our_own_keys_only() {
    let fields = query("key=tok?CallSid=abc&CallFrom=0981");
    assert_eq!((fields.get("key"), fields.get("callsid")), (Some("tok"), Some("abc")));
    let fields = query("call_id=call_1%3FCallSid=abc");
    assert_eq!(
        (fields.get("callid"), fields.get("callsid")),
        (Some("call_1"), Some("abc"))
    );
    let fields = query("Stream[StreamUrl]=wss://h/p?sample-rate=8000&x=1");
    assert_eq!(fields.get("stream[streamurl]"), Some("wss://h/p?sample-rate=8000"));
}

#[test]
fn malformed_text_is_an_error() {
    // F52
    assert_eq!(form("a=%zz"), Err(BodyError::PercentEncoding));
    assert_eq!(form("a=%4"), Err(BodyError::PercentEncoding));
    assert_eq!(form("a=%ff"), Err(BodyError::Charset));
    assert_eq!(form("a=%00"), Err(BodyError::Nul));
    assert_eq!(body(None, br#"{"a":"\u0000"}"#), Err(BodyError::Nul));
    assert_eq!(body(None, br#"{"a":"\ud800"}"#), Err(BodyError::Json));
    assert_eq!(body(None, b"{\"a\":1"), Err(BodyError::Json));
    assert_eq!(body(Some("application/json"), b"[1]"), Err(BodyError::Json));
    assert_eq!(body(Some("application/json"), b"\"x\""), Err(BodyError::Json));
    assert_eq!(body(Some("multipart/form-data"), b"junk"), Err(BodyError::Multipart));
    assert_eq!(body(None, &vec![b'a'; MAX_BODY + 1]), Err(BodyError::TooLarge));
}

#[test]
fn counts_and_depth_are_bounded() {
    // F52
    let many: Vec<String> = (0..5_000).map(|i| format!("k{i}=1")).collect();
    assert_eq!(form(&many.join("&")), Err(BodyError::TooManyFields));
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    assert_eq!(body(None, deep.as_bytes()), Err(BodyError::TooDeep));
    let empties = format!("{{\"a\":[{}{{}}]}}", "{},".repeat(5000));
    assert_eq!(body(None, empties.as_bytes()), Err(BodyError::TooManyFields));
    let deeper = format!("{{\"a\":{}", "[".repeat(10_000));
    assert_eq!(body(None, deeper.as_bytes()), Err(BodyError::TooDeep));
}

#[test]
fn stream_and_legs_may_be_json_text() {
    let fields = form("Stream=%7B%22Status%22%3A%22completed%22%7D&Legs=[{\"Status\":\"busy\"}]").unwrap();
    assert_eq!(fields.get("stream[status]"), Some("completed"));
    assert_eq!(fields.get("legs[0][status]"), Some("busy"));
    assert_eq!(form("Stream={broken").unwrap().get("stream"), Some("{broken"));
}

/// F48: who is not let in does not choose how much is read.
#[test]
fn a_key_behind_too_many_fields_is_not_looked_for() {
    let query = |fields: usize| "a&".repeat(fields) + "key=tok";
    assert_eq!(first_of(&query(MAX_FIELDS - 1), "key").as_deref(), Some("tok"));
    assert_eq!(first_of(&query(MAX_FIELDS), "key"), None);
}

proptest! {
    /// What lets a request in is what is read of it afterwards.
    #[test]
    fn the_first_of_a_query_is_what_is_read_of_it(pairs in proptest::collection::vec("(key|k_EY|%6bey|KE|callid|null)=(null|[a-c?=+]{0,3}|%3Fkey=[ab]|%2[03])", 0..6)) {
        let text = pairs.join("&");
        let read = query(&text);
        if let Some(key) = read.get("key") {
            prop_assert_eq!(first_of(&text, "key"), Some(key.to_owned()));
        } else {
            prop_assert!(first_of(&text, "key").is_none_or(|key| matches!(key.as_str(), "" | "null")));
        }
    }

    #[test]
    fn nothing_panics(
        content_type in proptest::option::of("(application/json|multipart/form-data; boundary=b|multipart/form-data|[a-z/;=]{0,20})"),
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = body(content_type.as_deref(), &bytes);
        let _ = Fields::default().read_query(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn multipart_like_text_never_panics(text in "(--b\r\n)?[-b\r\n:;=\"a-zA-Z ]{0,200}") {
        let _ = body(Some("multipart/form-data; boundary=b"), text.as_bytes());
    }

    #[test]
    fn json_form_reads_back(pairs in proptest::collection::vec(("[a-zA-Z\\[\\]]{1,8}", "[^\0]{0,12}"), 0..20)) {
        let mut fields = Fields::default();
        for (key, value) in pairs {
            fields.push(key, value).unwrap();
        }
        let mut back = Fields::default();
        back.read_json(fields.to_json().to_string().as_bytes()).unwrap();
        prop_assert_eq!(back.to_json(), fields.to_json());
    }
}
