//! What no Exotel sends: strange methods, paths and bodies.

use std::time::Duration;

use exotel::token::Purpose;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    peers::{Asked, Bench, Script},
    web::{self, Answer, get, request},
};

const FORM: &str = "application/x-www-form-urlencoded";
const PATIENCE: Duration = Duration::from_secs(20);

/// F53: the documented methods are answered, and no others; near misses of a path are not there.
#[tokio::test]
async fn each_path_has_its_methods() {
    let bench = Bench::new(Script::default()).await;
    let (account, callback) = (bench.account_token(), bench.call_token(Purpose::Callback));
    let base = format!("/api/v1/exotel/{account}/voice");
    let old = |name: &str| format!("/api/v1/exotel/voice/{name}?key={account}");
    for (path, methods) in [
        (format!("{base}/connect"), "GET HEAD POST"),
        (format!("{base}/greeting"), "GET HEAD"),
        (format!("{base}/gather"), "GET HEAD"),
        (format!("{base}/input"), "GET HEAD POST"),
        (format!("{base}/transfer"), "GET HEAD"),
        (format!("{base}/end"), "GET HEAD POST"),
        (old("connect"), "GET HEAD POST"),
        (old("greeting"), "GET HEAD"),
        (old("gather"), "GET HEAD"),
        (old("input"), "GET HEAD POST"),
        (old("transfer"), "GET HEAD"),
        (old("end"), "GET HEAD POST"),
        (format!("/api/v1/exotel/voice/status/{callback}"), "POST"),
    ] {
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW",
        ] {
            let body: &[u8] = if method == "POST" { b"CallSid=a" } else { b"" };
            let answer = request(bench.public, method, &path, FORM, body).await;
            let expected = if methods.split(' ').any(|known| known == method) {
                200
            } else {
                405
            };
            assert_eq!(answer.status, expected, "{method} {path}");
        }
    }
    let unknown = get(bench.public, "/nothing").await;
    for path in [
        format!("{base}/connect/"),
        format!("{base}//connect"),
        format!("/{base}/connect"),
        format!("{base}/%2e%2e/connect"),
        format!("{base}/x/%2e%2e/connect"),
        format!("{base}/../voice/connect"),
        format!("{base}%2fconnect"),
        format!("{base}/Connect"),
        format!("{base}/connect%00"),
        format!("{base}/connect;a=b"),
        format!("/api/v1/exotel/voice/status/{callback}/"),
        format!("/api/v1/exotel/voice//status/{callback}"),
        format!("/api/v1/exotel/voice/status/%2e%2e/{callback}"),
        format!("/ws/exotel/voice/{callback}"),
        "/".to_owned(),
        "/%ff%fe".to_owned(),
        "/api/v1/exotel/%ff/voice/connect".to_owned(),
        "/ws/exotel/voice/call_1/%ff".to_owned(),
    ] {
        assert_eq!(get(bench.public, &path).await, unknown, "{path}");
    }
}

/// A POST to the connect URL.
async fn post(bench: &Bench, content_type: &str, body: &[u8]) -> Answer {
    let path = format!("/api/v1/exotel/{}/voice/connect", bench.account_token());
    request(bench.public, "POST", &path, content_type, body).await
}

/// F52: the first value of a key counts, in each of the encodings.
#[tokio::test]
async fn the_first_value_of_a_key_counts() {
    let mut bench = Bench::new(Script::default()).await;
    let part = |value: &str| format!("--b\r\ncontent-disposition: form-data; name=\"CallSid\"\r\n\r\n{value}\r\n");
    let multipart = format!("{}{}--b--\r\n", part("first"), part("second"));
    for (content_type, body) in [
        (FORM, "CallSid=first&callsid=second&call_sid=third"),
        ("text/plain", "CallSid=first&CallSid=second"),
        ("application/json", r#"{"CallSid":"first","CallSid":"second"}"#),
        (
            "application/json; charset=utf-8",
            r#"{"callSid":"first","CallSid":"second"}"#,
        ),
        ("multipart/form-data; boundary=b", &multipart),
        ("multipart/form-data", &multipart),
    ] {
        assert_eq!(post(&bench, content_type, body.as_bytes()).await.status, 200, "{body}");
        let Asked::Connect(asked) = bench.asked().await else {
            panic!()
        };
        assert_eq!(asked.applet.unwrap().call_sid, "first", "{body}");
    }
    // The query comes before the body.
    let path = format!("/api/v1/exotel/{}/voice/connect?CallSid=first", bench.account_token());
    assert_eq!(
        request(bench.public, "POST", &path, FORM, b"CallSid=second")
            .await
            .status,
        200
    );
    let Asked::Connect(asked) = bench.asked().await else {
        panic!()
    };
    assert_eq!(asked.applet.unwrap().call_sid, "first");
}

/// F52: what cannot be read is refused, and nobody is asked.
#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused() {
    let mut bench = Bench::new(Script::default()).await;
    let fields = |count: usize| (0..count).map(|at| format!("f{at}=1")).collect::<Vec<_>>().join("&");
    let json = |count: usize| {
        let members: Vec<String> = (0..count).map(|at| format!(r#""f{at}":1"#)).collect();
        format!("{{{}}}", members.join(","))
    };
    let part = |at| format!("--b\r\ncontent-disposition: form-data; name=\"f{at}\"\r\n\r\n1\r\n");
    let parts = (0..101).map(part).collect::<Vec<_>>().concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        (FORM, b"a=%zz".to_vec(), 400),
        (FORM, b"a=%4".to_vec(), 400),
        (FORM, b"a=%".to_vec(), 400),
        (FORM, b"a=%00".to_vec(), 400),
        (FORM, b"a\0b=1".to_vec(), 400),
        (FORM, b"a=%e9".to_vec(), 400),
        (FORM, b"a=caf\xe9".to_vec(), 400),
        (
            "application/x-www-form-urlencoded; charset=utf-16",
            "CallSid=ä".encode_utf16().flat_map(u16::to_le_bytes).collect(),
            400,
        ),
        (FORM, fields(101).into_bytes(), 413),
        (FORM, fields(6_000).into_bytes(), 413),
        ("application/json", b"[]".to_vec(), 400),
        ("application/json", b"null".to_vec(), 400),
        ("application/json", b"{\"a\":".to_vec(), 400),
        ("application/json", b"{\"a\":1}{\"a\":2}".to_vec(), 400),
        ("application/json", b"{\"a\":\"\\u0000\"}".to_vec(), 400),
        ("application/json", b"{\"a\":\"\\ud800\"}".to_vec(), 400),
        ("application/json", b"{\"a\":\"\xff\"}".to_vec(), 400),
        (
            "application/json",
            [b"{\"a\":".repeat(40), b"1".to_vec(), b"}".repeat(40)].concat(),
            400,
        ),
        ("application/json", b"[".repeat(60_000), 400),
        ("application/json", json(101).into_bytes(), 413),
        ("multipart/form-data; boundary=b", b"no part".to_vec(), 400),
        ("multipart/form-data", b"no boundary".to_vec(), 400),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nno end".to_vec(),
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--b--\r\n".to_vec(),
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            format!("{parts}--b--\r\n").into_bytes(),
            413,
        ),
        (FORM, vec![b'a'; 64 * 1024 + 1], 413),
    ];
    for (content_type, body, expected) in cases {
        let answer = post(&bench, content_type, &body).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(answer.status, expected, "{content_type}: {shown}");
    }
    assert!(bench.nothing_asked());
    assert_eq!(post(&bench, FORM, fields(100).as_bytes()).await.status, 200);
}

/// F52: ten megabytes are refused at their first 64 KiB, with their length told or in pieces.
#[tokio::test]
async fn ten_megabytes_are_not_waited_for() {
    let mut bench = Bench::new(Script::default()).await;
    for path in [
        format!("/api/v1/exotel/{}/voice/connect", bench.account_token()),
        format!("/api/v1/exotel/voice/status/{}", bench.call_token(Purpose::Callback)),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-type: {FORM}\r\n");
        let piece = [&b"8000\r\n"[..], vec![b'a'; 0x8000].as_slice(), b"\r\n"].concat();
        for body in [
            [
                b"content-length: 10485760\r\n\r\n",
                vec![b'a'; 64 * 1024 + 1].as_slice(),
            ]
            .concat(),
            [b"transfer-encoding: chunked\r\n\r\n", piece.repeat(3).as_slice()].concat(),
        ] {
            let answer = web::raw(bench.public, &[head.as_bytes(), &body].concat()).await;
            assert_eq!(answer.status, 413, "{path}");
        }
    }
    assert!(bench.nothing_asked());
}

/// F67: a body that does not come to its end is given up when the route's time is over, and so is its connection.
#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let mut bench = Bench::new(Script::default()).await;
    let path = format!("/api/v1/exotel/{}/voice/connect", bench.account_token());
    let mut stream = TcpStream::connect(bench.public).await.unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: edge\r\ncontent-length: 1000\r\n\r\nCallSid=");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("still open")
        .unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 503"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(bench.nothing_asked());
}

/// F127: tricks for databases, formats and shells are text like any other.
#[tokio::test]
async fn tricks_are_passed_on_as_they_are() {
    let mut bench = Bench::new(Script::default()).await;
    for trick in [
        "'; DROP TABLE calls; --",
        "' OR '1'='1",
        "\\'; SELECT pg_sleep(9); --",
        "$1 {} {0} %s %n ${jndi:ldap://x} {{7*7}}",
        "$(reboot) `reboot` | reboot",
        "<script>alert(1)</script>",
        "..\r\nset-cookie: a=b",
        "\u{202e}\u{feff}\u{1f600}",
    ] {
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("CallSid", trick)
            .append_pair("CallFrom", trick)
            .append_pair("CallTo", trick)
            .append_pair("CustomField", &format!("{trick}.AAAAAAAAAAAAAAAA"))
            .append_pair("call_id", trick)
            .finish();
        let answer = post(&bench, FORM, form.as_bytes()).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "{trick}");
        let Asked::Connect(asked) = bench.asked().await else {
            panic!()
        };
        let applet = asked.applet.unwrap();
        assert_eq!(applet.call_sid, trick);
        assert_eq!(
            (applet.customer_number.as_str(), applet.verified_call_id.as_str()),
            (trick, "")
        );
    }
}
