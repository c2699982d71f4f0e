//! RFC 6455 to the letter (F81–F83): the cases of the Autobahn test suite by their numbers, against a socket that echoes behind the
//! upgrade, limits, buffers and close of all others; and what breaks the protocol against a call's own socket, too. The suite itself
//! is pointed at `/ws/echo` by `tests/checks/rfc6455.sh`.

mod cases;
mod peer;
mod utf8;

use futures_util::{StreamExt as _, stream};

use crate::{
    peers::{Bench, Script},
    web,
};
use cases::{BINARY, Case, End, FIN, PING, PONG, TEXT};
use peer::{Heard, Peer, frame, handshake};

const ECHO: &str = "/ws/echo";
/// Cases at one time.
const AT_ONCE: usize = 32;

async fn bench() -> Bench {
    Bench::with(Script::default(), |config| config.echo = true).await
}

async fn say(bench: &Bench, path: &str, case: &Case) -> Heard {
    let (peer, answer) = Peer::open(bench.public, &handshake(path)).await;
    assert!(answer.starts_with("http/1.1 101 "), "{}: {answer}", case.number);
    let mut bytes = case.send.clone();
    if case.end == End::Clean {
        bytes.extend(frame(FIN | 8, &1000_u16.to_be_bytes()));
    }
    peer.say(bytes, case.chop).await
}

async fn check(bench: &Bench, cases: Vec<Case>) {
    let wrong = stream::iter(cases)
        .map(async |case| {
            let heard = say(bench, ECHO, &case).await;
            let code = match case.end {
                End::Clean => 1000,
                End::Code(code) => code,
            };
            let right = heard.code() == Some(code) && heard.messages == case.echoed;
            (!right).then(|| {
                format!(
                    "{}: {:?} with {} messages",
                    case.number,
                    heard.code(),
                    heard.messages.len()
                )
            })
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |wrong| wrong);
    let wrong: Vec<_> = wrong.collect().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn messages_of_all_sizes_are_echoed() {
    check(
        &bench().await,
        [cases::sizes(), cases::many(), cases::beyond_the_limit()].concat(),
    )
    .await;
}

#[tokio::test]
async fn pings_are_answered() {
    check(&bench().await, cases::pings()).await;
}

/// F81, F83.
#[tokio::test]
async fn what_is_reserved_is_refused() {
    check(&bench().await, cases::reserved()).await;
}

/// F83.
#[tokio::test]
async fn fragments_are_put_together() {
    check(&bench().await, cases::fragments()).await;
}

/// F83.
#[tokio::test]
async fn text_is_utf_8() {
    check(&bench().await, utf8::cases()).await;
}

/// F92.
#[tokio::test]
async fn closes_are_answered() {
    check(&bench().await, cases::closes()).await;
}

/// F81, F83: a call's socket is closed as the echo is, whatever breaks the protocol, and whatever the peer closes with.
#[tokio::test]
async fn a_calls_socket_keeps_to_the_protocol() {
    let bench = bench().await;
    let all = [
        cases::reserved(),
        cases::fragments(),
        cases::closes(),
        cases::unmasked(),
        utf8::cases(),
    ]
    .concat();
    let wrong = stream::iter(all)
        .filter_map(async |case| {
            if let End::Code(code) = case.end {
                Some((case, code))
            } else {
                None
            }
        })
        .map(async |(case, code)| {
            let heard = say(&bench, &bench.another_socket_path(), &case).await;
            let answers = heard.messages.iter().all(|(opcode, _)| *opcode == PONG);
            (!answers || heard.code() != Some(code)).then(|| format!("{}: {:?}", case.number, heard.code()))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |wrong| wrong);
    let wrong: Vec<_> = wrong.collect().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// F83: RFC 6455 §5.1.
#[tokio::test]
async fn a_frame_without_a_mask_is_refused() {
    check(&bench().await, cases::unmasked()).await;
}

/// F82: 12.* and 13.* are unimplemented: an offer is declined, and what is compressed all the same breaks the protocol (F81).
#[tokio::test]
async fn compression_is_declined() {
    let bench = bench().await;
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits; server_no_context_takeover, x-webkit-deflate-frame",
    ] {
        for path in [ECHO, &bench.socket_path()] {
            let request = format!("{}sec-websocket-extensions: {offer}\r\n", handshake(path));
            let (peer, answer) = Peer::open(bench.public, &request).await;
            assert!(
                answer.starts_with("http/1.1 101 ") && !answer.contains("sec-websocket-extensions"),
                "{answer}"
            );
            // An empty message, compressed (RFC 7692 §7.2.3.6).
            let heard = peer.say(frame(FIN | 0x40 | TEXT, &[0]), 64).await;
            assert_eq!((heard.code(), heard.messages.len()), (Some(1002), 0));
        }
    }
}

/// RFC 6455 §4.2.1: what is no handshake is not upgraded, and told what would be one (§4.4).
#[tokio::test]
async fn only_a_handshake_is_upgraded() {
    let bench = bench().await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    for (what, right, wrong, status) in [
        ("method", "GET", "POST", 405),
        ("version of HTTP", "HTTP/1.1", "HTTP/1.0", 426),
        ("upgrade", "upgrade: websocket", "upgrade: h2c", 426),
        ("connection", "connection: Upgrade", "connection: no-upgrade", 426),
        ("no version", "sec-websocket-version: 13\r\n", "", 426),
        ("version", "version: 13", "version: 8", 426),
        ("no key", "sec-websocket-key", "x-key", 426),
        ("short key", key, "dGhlIHNhbXBsZQ==", 400),
        ("no base64", key, "?GhlIHNhbXBsZSBub25jZQ==", 400),
        (
            "two keys",
            "host: edge",
            "host: edge\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            400,
        ),
    ] {
        let sound = handshake(&bench.another_socket_path());
        let request = format!("{}connection: close\r\n\r\n", sound.replacen(right, wrong, 1));
        let answer = web::raw(bench.public, request.as_bytes()).await;
        assert_eq!(answer.status, status, "{what}");
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{what}");
            assert_eq!(answer.header("upgrade"), Some("websocket"), "{what}");
        }
    }
    // Lists of tokens in any case are sound.
    let sound = handshake(&bench.another_socket_path());
    let listed = sound.replace("connection: Upgrade", "connection: keep-alive, UPGRADE");
    let (_peer, answer) = Peer::open(bench.public, &listed.replace("websocket\r\n", "WebSocket\r\n")).await;
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
}

/// `/ws/echo` is no path of a program without the feature.
#[tokio::test]
async fn nothing_echoes_by_default() {
    if !cfg!(feature = "ws-echo") {
        let bench = Bench::new(Script::default()).await;
        assert_eq!(web::Socket::open(bench.public, ECHO, None).await.err(), Some(404));
    }
}

/// What a message of many frames is made of.
fn pieces(opcode: u8, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = payloads.len() - 1;
    let piece = |(at, payload): (usize, &&[u8])| {
        let first = if at == 0 { opcode } else { 0 };
        frame(if at == last { FIN | first } else { first }, payload)
    };
    payloads.iter().enumerate().map(piece).collect()
}

#[test]
fn frames_are_masked_as_the_standard_shows() {
    // RFC 6455 §5.7.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(frame(FIN | TEXT, b"Hello"), hello);
    assert_eq!((PING, BINARY), (9, 2));
}
