//! Webhooks, as bytes on the wire.

use std::{collections::HashMap, time::Duration};

use callbridge_proto::ingress::v1::FlowDirection;
use data_encoding::BASE64;
use exotel::token::{Purpose, account_nonce};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    peers::{Asked, Bench, Script, account, call},
    web::{self, get, request},
};

const QUERY: &str = "CallSid=faccc8dce91e426a398475de9fdb1a8p&CallFrom=09440000609&CallTo=08030000588&Direction=incoming\
    &Created=Tue%2C%2025%20Aug%202026%2012:07:08&From=09440000609&To=09513886363&CurrentTime=2026-08-25%2012:07:09";

#[tokio::test]
async fn connect_answers_with_the_socket_whatever_the_method_and_path() {
    let mut bench = Bench::new(Script::default()).await;
    let token = bench.account_token();
    let path = format!("/api/v1/exotel/{token}/voice/connect");
    let legacy = format!("/api/v1/exotel/voice/connect?key={token}?{QUERY}&call_id={}", call());
    for (method, path, body) in [
        ("GET", format!("{path}?{QUERY}"), ""),
        ("HEAD", format!("{path}?{QUERY}"), ""),
        ("POST", path.clone(), QUERY),
        ("GET", legacy, ""),
    ] {
        let answer = request(
            bench.public,
            method,
            &path,
            "application/x-www-form-urlencoded",
            body.as_bytes(),
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/json")),
            "{method}"
        );
        if method != "HEAD" {
            let json: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(
                json,
                json!({ "url": "wss://bridge.example.com/ws/exotel/voice/call_1/secret" })
            );
        }
        let Asked::Connect(asked) = bench.asked().await else {
            panic!()
        };
        assert_eq!(asked.probe, method == "HEAD");
        let applet = asked.applet.unwrap();
        assert_eq!(
            (applet.account_id.as_str(), applet.token_generation),
            (account().to_string().as_str(), 3)
        );
        assert_eq!(applet.call_sid, "faccc8dce91e426a398475de9fdb1a8p");
        assert_eq!(
            (applet.customer_number.as_str(), applet.phone_number.as_str()),
            ("09440000609", "08030000588")
        );
        assert_eq!(applet.direction(), FlowDirection::Incoming);
    }
}

/// The word goes to call-service and back, whatever applet is asked and whatever else it would have answered.
#[tokio::test]
async fn a_probe_comes_back_from_every_applet_by_call_service() {
    let mut bench = Bench::new(Script::default()).await;
    let token = bench.account_token();
    let names = [
        "connect",
        "greeting",
        "greeting.wav",
        "gather",
        "input",
        "transfer",
        "end",
    ];
    let mut paths: Vec<String> = names
        .iter()
        .map(|name| format!("/api/v1/exotel/{token}/voice/{name}?callbridge-probe=w1"))
        .collect();
    paths.push(format!("/api/v1/exotel/voice/connect?key={token}&callbridge-probe=w1"));
    for path in paths {
        let answer = get(bench.public, &path).await;
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        let Asked::Probe(asked) = bench.asked().await else {
            panic!("{path}")
        };
        assert_eq!((answer.status, &json["probe"]), (200, &json!("w1")), "{path}");
        assert_eq!(json["edge"], asked.edge_id);
        assert_eq!(
            (asked.account_id.as_str(), asked.token_generation, asked.word.as_str()),
            (account().to_string().as_str(), 3, "w1")
        );
    }
    // A token of other keys, none, and a word that is none of ours: nothing is asked.
    for (path, status) in [
        (
            "/api/v1/exotel/forged/voice/connect?callbridge-probe=w1".to_owned(),
            404,
        ),
        ("/api/v1/exotel/voice/connect?callbridge-probe=w1".to_owned(), 404),
        (
            format!("/api/v1/exotel/{token}/voice/end?callbridge-probe={}", "w".repeat(65)),
            400,
        ),
    ] {
        assert_eq!(get(bench.public, &path).await.status, status, "{path}");
    }
    // The account's token is revoked.
    bench.set(|script| script.failures.push_back(Status::not_found("")));
    let path = format!("/api/v1/exotel/{token}/voice/connect?callbridge-probe=w2");
    assert_eq!(get(bench.public, &path).await.status, 404);
}

/// F48: a token that was rotated out has a right MAC for ever. Once call-service has said so, it stays before the door on every path;
/// the account's newer token does not.
#[tokio::test]
async fn a_token_that_was_rotated_out_is_asked_about_once() {
    let mut bench = Bench::new(Script::default()).await;
    let ended = ErrorDetails::with_error_info("TOKEN_ENDED", "callbridge", HashMap::new());
    let ended = Status::with_error_details(Code::FailedPrecondition, "", ended);
    bench.set(|script| script.failures.push_back(ended));
    let path = |token: &str, name: &str| format!("/api/v1/exotel/{token}/voice/{name}?CallSid=a");
    let old = bench.account_token();
    assert_eq!(get(bench.public, &path(&old, "connect")).await.status, 404);
    let older_path = format!("/api/v1/exotel/voice/connect?key={old}&CallSid=a");
    for path in [path(&old, "connect"), path(&old, "greeting"), older_path] {
        assert_eq!(get(bench.public, &path).await.status, 404, "{path}");
    }
    let basic = BASE64.encode(format!("{}:{old}", account()).as_bytes());
    let fixed = format!(
        "GET /ws/exotel/voice HTTP/1.1\r\nhost: a\r\nauthorization: Basic {basic}\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(web::raw(bench.public, fixed.as_bytes()).await.status, 401);
    let new = bench.keys.mint(Purpose::Account, account().0, account_nonce(4), 0);
    assert_eq!(get(bench.public, &path(&new, "connect")).await.status, 200);
    let asked = [bench.asked().await, bench.asked().await];
    let generation = |asked: &Asked| match asked {
        Asked::Connect(asked) => asked.applet.as_ref().map(|applet| applet.token_generation),
        _ => None,
    };
    assert_eq!(
        asked.each_ref().map(generation),
        [Some(3), Some(4)],
        "nothing in between"
    );
}

#[tokio::test]
async fn a_custom_field_counts_only_with_its_mac() {
    let mut bench = Bench::new(Script::default()).await;
    let path = format!("/api/v1/exotel/{}/voice/connect", bench.account_token());
    let field = bench.keys.custom_field(&call().to_string());
    for (field, expected) in [
        (field.clone(), call().to_string()),
        (field.replace("call_0", "call_1"), String::new()),
    ] {
        assert_eq!(
            get(
                bench.public,
                &format!("{path}?Direction=outbound-dial&CustomField={field}")
            )
            .await
            .status,
            200
        );
        let Asked::Connect(asked) = bench.asked().await else {
            panic!()
        };
        assert_eq!(asked.applet.unwrap().verified_call_id, expected);
    }
}

#[tokio::test]
async fn the_other_applets_get_their_answers() {
    let mut bench = Bench::new(Script::default()).await;
    let base = format!("/api/v1/exotel/{}/voice", bench.account_token());
    let greeting = get(bench.public, &format!("{base}/greeting?CallSid=a")).await;
    assert_eq!(
        (greeting.status, greeting.header("content-type"), greeting.text()),
        (200, Some("text/plain"), "Namaste")
    );
    let head = request(bench.public, "HEAD", &format!("{base}/greeting?CallSid=a"), "", b"").await;
    assert_eq!(head.headers, greeting.headers);

    let gather: Value =
        serde_json::from_slice(&get(bench.public, &format!("{base}/gather?CallSid=a")).await.body).unwrap();
    let prompt = json!({ "gather_prompt": { "text": "Press one" }, "max_input_digits": 1, "finish_on_key": "#",
        "input_timeout": 6, "repeat_menu": 2 });
    assert_eq!(gather, prompt);
    let transfer: Value =
        serde_json::from_slice(&get(bench.public, &format!("{base}/transfer?CallSid=a")).await.body).unwrap();
    assert_eq!(transfer["destination"]["numbers"], json!(["+919812345678"]));
    assert_eq!(
        (&transfer["outgoing_phone_number"], &transfer["record"]),
        (&json!("08040000155"), &json!(true))
    );
    for _ in 0..4 {
        bench.asked().await;
    }

    assert_eq!(
        get(bench.public, &format!("{base}/input?CallSid=a&digits=%228%22"))
            .await
            .status,
        200
    );
    let Asked::Input(input) = bench.asked().await else {
        panic!()
    };
    assert_eq!(input.digits, "8");
    let before = input.applet.unwrap();
    // The second try of one webhook is the same request, and the next webhook is another.
    bench.set(|script| script.failures.push_back(Status::unavailable("restarting")));
    let path = format!("{base}/input?CallSid=a&digits=%228%22&CurrentTime=2026-08-25%2012:07:09");
    assert_eq!(get(bench.public, &path).await.status, 200);
    let (Asked::Input(one), Asked::Input(two)) = (bench.asked().await, bench.asked().await) else {
        panic!()
    };
    assert_eq!(one, two);
    let applet = one.applet.unwrap();
    assert!(!applet.request_id.is_empty() && applet.request_id != before.request_id);
    assert_eq!(applet.facts["asked_at"], "2026-08-25T06:37:09+00:00");
    bench.set(|script| script.branch_b = true);
    let end = format!(
        "{base}/end?CallSid=a&Stream[StreamSID]=6f&Stream[Status]=cancelled&Stream[Duration]=28&Stream[DisconnectedBy]=user"
    );
    assert_eq!(get(bench.public, &end).await.status, 302);
    let Asked::End(ended) = bench.asked().await else {
        panic!()
    };
    assert_eq!(
        (
            ended.stream_sid.as_str(),
            ended.stream_status.as_str(),
            ended.duration_seconds
        ),
        ("6f", "cancelled", 28)
    );
    assert_eq!(
        (ended.disconnected_by.as_str(), ended.customer_hung_up),
        ("customer", true)
    );
    // HEAD records nothing.
    assert_eq!(request(bench.public, "HEAD", &end, "", b"").await.status, 200);
    assert!(bench.nothing_asked());
}

#[tokio::test]
async fn a_stored_greeting_has_a_url_and_is_served_from_there() {
    let wav = wav(&[1, 2, 3, 4]);
    let sha256 = sha256(&wav);
    let bench = Bench::new(Script {
        greeting: wav.clone(),
        greeting_sha256: sha256.clone(),
        ..Script::default()
    })
    .await;
    let token = bench.account_token();
    let text = get(
        bench.public,
        &format!("/api/v1/exotel/{token}/voice/greeting?CallSid=a"),
    )
    .await;
    let url = format!("https://bridge.example.com/api/v1/exotel/{token}/voice/greeting.wav?sha256={sha256}");
    assert_eq!(text.text(), url);
    let path = url.strip_prefix("https://bridge.example.com").unwrap();
    // As Exotel asks for it, too: with its own query behind ours.
    for path in [
        path.to_owned(),
        format!("{path}?{QUERY}"),
        format!("{path}&{QUERY}"),
        format!("{path}%3F{QUERY}"),
    ] {
        let served = get(bench.public, &path).await;
        assert_eq!(
            (served.status, served.header("content-type")),
            (200, Some("audio/wav")),
            "{path}"
        );
        assert_eq!(served.body, wav, "{path}");
    }
    // A greeting that is not what its name says is nobody's.
    bench.set(|script| script.greeting[44] ^= 1);
    let other = path.replace(&sha256, &"0".repeat(64));
    assert_eq!(get(bench.public, &other).await.status, 404);
    assert_eq!(get(bench.public, path).await.body, wav, "kept in memory");
}

#[tokio::test]
async fn a_status_is_passed_on_as_it_came() {
    let mut bench = Bench::new(Script::default()).await;
    let path = format!("/api/v1/exotel/voice/status/{}", bench.call_token(Purpose::Callback));
    let body = b"CallSid=abc&Status=completed&RecordingUrl=";
    let answer = request(bench.public, "POST", &path, "application/x-www-form-urlencoded", body).await;
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    let Asked::Status(asked) = bench.asked().await else {
        panic!()
    };
    assert_eq!(
        (asked.call_id, asked.content_type.as_str()),
        (call().to_string(), "application/x-www-form-urlencoded")
    );
    assert_eq!(&asked.body[..], body);
    assert!(asked.received_at.is_some());
    for method in ["GET", "HEAD"] {
        assert_eq!(request(bench.public, method, &path, "", b"").await.status, 405);
    }
}

/// F54: the edge tries again inwards, and says 200 only when it is committed.
#[tokio::test]
async fn a_status_waits_for_a_call_service_that_restarts() {
    let failures = [
        Status::unavailable("restarting"),
        Status::internal("lost the database"),
        Status::deadline_exceeded(""),
    ];
    let mut bench = Bench::new(Script {
        failures: failures.into(),
        ..Script::default()
    })
    .await;
    let path = format!("/api/v1/exotel/voice/status/{}", bench.call_token(Purpose::Callback));
    assert_eq!(
        request(bench.public, "POST", &path, "application/json", b"{}")
            .await
            .status,
        200
    );
    for _ in 0..4 {
        assert!(matches!(bench.asked().await, Asked::Status(_)));
    }
}

/// F55: two seconds, then a 503.
#[tokio::test]
async fn a_call_service_that_hangs_costs_two_seconds() {
    let bench = Bench::new(Script {
        hang: true,
        ..Script::default()
    })
    .await;
    let path = format!("/api/v1/exotel/{}/voice/connect?{QUERY}", bench.account_token());
    let begun = Instant::now();
    let answer = get(bench.public, &path).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(1900) && took < Duration::from_secs(4),
        "{took:?}"
    );
}

#[tokio::test]
async fn call_service_s_refusals_have_their_answers() {
    let bench = Bench::new(Script::default()).await;
    let path = format!("/api/v1/exotel/{}/voice/connect?{QUERY}", bench.account_token());
    for (status, expected) in [
        (Status::not_found("unknown number"), 404),
        (Status::invalid_argument("bad"), 400),
        (Status::unauthenticated("key"), 503),
    ] {
        bench.set(|script| script.failures.push_back(status));
        let answer = get(bench.public, &path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (expected, Some("application/json"))
        );
    }
}

/// F47, F48, F62: unknown, forged, expired and misused tokens get one answer, byte for byte, and reach nobody.
#[tokio::test]
async fn all_that_is_not_genuine_looks_the_same() {
    let mut bench = Bench::new(Script::default()).await;
    let account_token = bench.account_token();
    // Its head is genuine; the MAC alone tells.
    let forge = |token: &str| format!("{}{}", &token[..83], if token.ends_with('A') { 'B' } else { 'A' });
    let forged = forge(&account_token);
    let expired = bench.keys.mint(Purpose::Callback, call().0, [0; 8], 1000);
    let socket = bench.call_token(Purpose::Socket);
    let unknown = get(bench.public, "/nothing/here").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        [
            unknown.header("strict-transport-security"),
            unknown.header("cache-control")
        ],
        [Some("max-age=31536000"), Some("no-store")]
    );
    for path in [
        format!("/api/v1/exotel/{forged}/voice/connect?{QUERY}"),
        format!("/api/v1/exotel/{socket}/voice/connect?{QUERY}"),
        "/api/v1/exotel/short/voice/gather".to_owned(),
        format!("/api/v1/exotel/voice/connect?{QUERY}"),
        format!("/api/v1/exotel/voice/end?key={forged}"),
        format!("/api/v1/exotel/{account_token}/voice/connect/"),
        format!("/api/v1/exotel/{account_token}//voice/connect"),
        format!("/ws/exotel/voice/{}/{}", call(), forge(&socket)),
        format!("/ws/exotel/voice/call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2f/{socket}"),
    ] {
        assert_eq!(get(bench.public, &path).await, unknown, "{path}");
    }
    for token in [&expired, &forge(&bench.call_token(Purpose::Callback)), &account_token] {
        let path = format!("/api/v1/exotel/voice/status/{token}");
        assert_eq!(
            request(bench.public, "POST", &path, "application/json", b"{}").await,
            unknown
        );
    }
    let gather = async |method: &str, token: &str| {
        let path = format!("/api/v1/exotel/{token}/voice/gather");
        request(bench.public, method, &path, "", b"").await
    };
    assert_eq!(gather("HEAD", &forged).await.headers, unknown.headers);
    // A method that the path does not have tells nothing of the token.
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        assert_eq!(
            gather(method, &forged).await,
            gather(method, &account_token).await,
            "{method}"
        );
    }
    assert!(bench.nothing_asked());
}

/// F52, F95: sizes.
#[tokio::test]
async fn what_is_too_large_is_refused() {
    let mut bench = Bench::new(Script::default()).await;
    let status = format!("/api/v1/exotel/voice/status/{}", bench.call_token(Purpose::Callback));
    let exact = vec![b'a'; 64 * 1024];
    assert_eq!(
        request(bench.public, "POST", &status, "text/plain", &exact)
            .await
            .status,
        200
    );
    bench.asked().await;
    let over = vec![b'a'; 64 * 1024 + 1];
    assert_eq!(
        request(bench.public, "POST", &status, "text/plain", &over).await.status,
        413
    );
    let connect = format!("/api/v1/exotel/{}/voice/connect", bench.account_token());
    assert_eq!(
        get(bench.public, &format!("{connect}?a={}", "a".repeat(9000)))
            .await
            .status,
        414
    );
    let fields = (0..200).map(|i| format!("f{i}=1")).collect::<Vec<_>>().join("&");
    assert_eq!(get(bench.public, &format!("{connect}?{fields}")).await.status, 413);
    assert_eq!(get(bench.public, &format!("{connect}?a=%zz")).await.status, 400);
    let bomb = format!(
        "GET {connect} HTTP/1.1\r\nhost: edge\r\nx: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    assert_eq!(web::raw(bench.public, bomb.as_bytes()).await.status, 431);
    assert!(bench.nothing_asked());
}

/// F67: a header that comes drop by drop, and a connection that says nothing.
#[tokio::test]
async fn a_slow_header_is_cut_off() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::with(Script::default(), |config| {
        config.header_limit = Duration::from_millis(300);
    })
    .await;
    for first in [&b""[..], b"GET /api/v1/exotel/voice/connect HTTP/1.1\r\nho"] {
        let begun = Instant::now();
        let mut stream = tokio::net::TcpStream::connect(bench.public).await.unwrap();
        stream.write_all(first).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
            .await
            .expect("still open")
            .unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    }
}

/// Liveness at once, readiness once attached, and metrics without a path.
#[tokio::test]
async fn the_internal_listener_tells_the_state() {
    let mut bench = Bench::new(Script::default()).await;
    bench.control().await;
    assert_eq!(get(bench.internal, "/livez").await.status, 200);
    let mut last = 0;
    for _ in 0..200 {
        last = get(bench.internal, "/readyz").await.status;
        if last == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(last, 200);
    assert_eq!(get(bench.public, "/livez").await.status, 404);
    bench.tasks.stop();
    bench.ended.await.unwrap().unwrap().unwrap();
}

pub(crate) fn wav(samples: &[i16]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    for sample in samples {
        writer.write_sample(*sample).unwrap();
    }
    writer.finalize().unwrap();
    file.into_inner()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}
