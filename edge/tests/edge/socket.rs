//! Who may open a socket, and what is no AgentStream on it.

use std::time::Duration;

use callbridge_proto::agent::v1::converse_request::Event;
use data_encoding::BASE64;
use edge::source::Sources;
use exotel::token::Purpose;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tonic::Status;

use crate::{
    frames::{self, pcm},
    peers::{Asked, Bench, Manner, Script, account, agent, call, heard, hears, with_agent},
    web::{Socket, begin},
};

/// F62, F66: what call-service refuses is not upgraded, no agent hears of it, and it keeps nobody's place.
#[tokio::test]
async fn a_refused_claim_is_a_404() {
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let bench = Bench::with(script, |config| config.max_pending_sockets = 1).await;
    for _ in 0..3 {
        bench.set(|script| script.failures.push_back(Status::not_found("used")));
        let opened = Socket::open(bench.public, &bench.another_socket_path(), None).await;
        assert_eq!(opened.err(), Some(404));
    }
    assert!(events.try_recv().is_err());
    assert!(
        Socket::open(bench.public, &bench.another_socket_path(), None)
            .await
            .is_ok()
    );
}

/// F62: a token that is missing, forged, expired, or for another call or purpose is refused before call-service is asked, and no agent
/// hears of it.
#[tokio::test]
async fn a_wrong_token_is_asked_about_nowhere() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
    let token = bench.call_token(Purpose::Socket);
    let forged = format!("{}{}", &token[..83], if token.ends_with('A') { 'B' } else { 'A' });
    let hour_ago = u32::try_from(runtime::Clock::system().unix_seconds() - 3600).unwrap();
    let expired = bench.keys.mint(Purpose::Socket, call().0, [0; 8], hour_ago);
    let other = call().to_string().replace("1a2c", "1a2d");
    for path in [
        format!("/ws/exotel/voice/{}/", call()),
        format!("/ws/exotel/voice/{}/{forged}", call()),
        format!("/ws/exotel/voice/{}/{expired}", call()),
        format!("/ws/exotel/voice/{}/{}", call(), bench.call_token(Purpose::Callback)),
        format!("/ws/exotel/voice/{other}/{token}"),
    ] {
        assert_eq!(Socket::open(bench.public, &path, None).await.err(), Some(404), "{path}");
    }
    assert!(bench.nothing_asked());
    assert!(events.try_recv().is_err());
}

/// F63, F65: refused at `start`.
#[tokio::test]
async fn a_refused_start_closes_with_1008() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    bench.asked().await;
    bench.set(|script| script.failures.push_back(Status::failed_precondition("another socket")));
    socket.send(frames::start(8000)).await;
    assert_eq!(socket.closed().await, (1008, "refused".to_owned()));
    assert!(events.try_recv().is_err());
}

/// F63: call-service answers the edge's second try of one `start` as it did the first; another socket's is not that.
#[tokio::test]
async fn a_session_has_one_socket() {
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let mut socket = begin(&bench).await;
    assert_eq!(bench.event().await.sequence, 1);
    let mut second = begin(&bench).await;
    assert_eq!(second.closed().await, (1008, "refused".to_owned()));
    socket.send(frames::media(1, &pcm(vec![7; 160]))).await;
    assert_eq!(socket.listen(160).await, [7; 160]);
}

/// F66.
#[tokio::test]
async fn a_socket_without_start_is_closed() {
    let bench = Bench::with(Script::default(), |config| {
        config.start_limit = Duration::from_millis(300);
    })
    .await;
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    assert_eq!(socket.closed().await, (1008, "no_start".to_owned()));
}

/// F66: sockets without a `start` are bounded, in all and for each address; who says it, or goes, makes place.
#[tokio::test]
async fn sockets_without_start_are_bounded() {
    for (total, per_address) in [(3, 10), (10, 3)] {
        let mut bench = Bench::with(Script::default(), |config| {
            (config.max_pending_sockets, config.max_pending_per_address) = (total, per_address);
        })
        .await;
        let open = async || Socket::open(bench.public, &bench.another_socket_path(), None).await;
        let mut first = open().await.unwrap();
        let (second, _third) = (open().await.unwrap(), open().await.unwrap());
        assert_eq!(open().await.err(), Some(503));
        drop(second);
        let mut again = open().await;
        // The edge may not have seen the end yet.
        while again.is_err() {
            tokio::task::yield_now().await;
            again = open().await;
        }
        assert_eq!(open().await.err(), Some(503));
        first.send(frames::start(8000)).await;
        while !matches!(bench.asked().await, Asked::Start(_)) {}
        let _other = loop {
            if let Ok(other) = Socket::open(bench.public, &bench.another_socket_path(), None).await {
                break other;
            }
        };
    }
}

/// F66: behind a proxy the bound is for its client, and neither for the proxy nor for what a client wrote into the header. Of IPv6 a
/// customer has a whole /64.
#[tokio::test]
async fn a_client_behind_a_proxy_has_a_bound_of_its_own() {
    let bench = Bench::with(Script::default(), |config| {
        config.sources = Sources::parse("", 1).unwrap();
        config.max_pending_per_address = 2;
    })
    .await;
    let open = async |from: &str| {
        let path = bench.another_socket_path();
        Socket::open_with(bench.public, &path, &[("x-forwarded-for", from)]).await
    };
    let mut held = Vec::new();
    for client in ["198.51.100.7", "::ffff:198.51.100.7", "2001:db8::1", "2001:db8::ffff:2"] {
        held.push(open(client).await.unwrap());
    }
    for same in ["198.51.100.7", "203.0.113.5, 198.51.100.7", "2001:db8::3"] {
        assert_eq!(open(same).await.err(), Some(503), "{same}");
    }
    for other in ["198.51.100.8", "198.51.100.7, 198.51.100.9", "2001:db8:0:1::1"] {
        held.push(open(other).await.unwrap());
    }
}

/// F66: pings are no `start`, and neither are AgentStream's other words.
#[tokio::test]
async fn a_socket_that_talks_without_start_is_closed_all_the_same() {
    let bench = Bench::with(Script::default(), |config| {
        config.start_limit = Duration::from_secs(1);
    })
    .await;
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    socket.send(frames::connected()).await;
    let talking = async {
        for chunk in 1.. {
            socket.send_message(WsMessage::Ping(vec![7].into())).await;
            socket
                .send_message(WsMessage::text(frames::media(chunk, &pcm(vec![7; 160]))))
                .await;
            if let Some(closed) = socket.said_anything().await {
                return closed;
            }
        }
        unreachable!("it talks without end")
    };
    let closed = tokio::time::timeout(Duration::from_secs(20), talking).await;
    assert_eq!(closed.expect("still open"), (1008, "no_start".to_owned()));
}

/// F68: a peer that vanished without a word, which acknowledges nothing and answers no ping, is given up after the time without any
/// frame, and its agent hears of it.
#[tokio::test]
async fn a_peer_that_vanished_is_given_up() {
    let (url, mut events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let mut bench = Bench::with(script, |config| config.idle_limit = Duration::from_millis(500)).await;
    // Kept open, and never looked at again: as a peer that was stopped.
    let _vanished = begin(&bench).await;
    let (_, ended) = bench.end().await;
    assert_eq!((ended.ended_by.as_str(), ended.reason.as_str()), ("callbridge", "idle"));
    hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
}

#[tokio::test]
async fn an_applet_with_a_fixed_url_is_known_by_its_credentials() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
    let basic =
        |user: &str, password: &str| format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()));
    let path = "/ws/exotel/voice";
    let wrong = [
        None,
        Some(basic("acct_1", &bench.account_token())),
        // Another account's.
        Some(basic(
            &account().to_string().replace("1a2b", "1a2d"),
            &bench.account_token(),
        )),
        Some(basic(&account().to_string(), "wrong")),
    ];
    for credentials in wrong {
        assert_eq!(
            Socket::open(bench.public, path, credentials.as_deref()).await.err(),
            Some(401)
        );
    }
    let right = basic(&account().to_string(), &bench.account_token());
    let mut socket = Socket::open(bench.public, path, Some(&right)).await.unwrap();
    socket.send(frames::start(8000)).await;
    let Asked::Start(start) = bench.asked().await else {
        panic!()
    };
    assert_eq!(
        (start.account_id, start.token_generation, start.claim),
        (account().to_string(), 3, 0)
    );
    assert!(matches!(heard(&mut events).await, Event::Start(_)));
}

/// F79, F80, F91: what is no AgentStream.
#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_closed() {
    for (messages, code) in [
        (vec![WsMessage::text("x".repeat(70_000))], 1009),
        (vec![WsMessage::binary(vec![0; 320]); 20], 1008),
        (vec![WsMessage::text("[".repeat(10_000)); 20], 1008),
    ] {
        let (url, _events) = agent(Manner::Echo).await;
        let mut bench = Bench::new(Script {
            agents: vec![url],
            ..Script::default()
        })
        .await;
        let mut socket = begin(&bench).await;
        bench.event().await;
        for message in messages {
            socket.send_message(message).await;
        }
        assert_eq!(socket.closed().await, (code, "bad_frames".to_owned()));
        assert_eq!(bench.end().await.1.reason, "bad_frames");
    }
    // No closing handshake at all.
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let socket = begin(&bench).await;
    bench.event().await;
    drop(socket);
    let (_, ended) = bench.end().await;
    assert_eq!(
        (ended.ended_by.as_str(), ended.reason.as_str()),
        ("provider", "socket_closed")
    );
    assert_eq!(bench.keys.mint(Purpose::Socket, call().0, [0; 8], 1).len(), 84);
}

/// F79: a frame's length is a claim, and pieces add up: both are refused before anything is kept of them.
#[tokio::test]
async fn what_is_too_large_is_refused_by_its_length() {
    // RFC 6455 §5.2: final or not, text or a continuation, masked with zeros.
    let claim = |length: u64| [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    let piece = |first: bool| {
        let head = [u8::from(first), 0x80 | 0x7e, 0x40, 0, 0, 0, 0, 0];
        [&head[..], &[b'x'; 0x4000]].concat()
    };
    let pieces = [piece(true), piece(false), piece(false), piece(false), piece(false)].concat();
    for bytes in [claim(1 << 62), claim(64 * 1024 + 1), pieces] {
        let (mut bench, _events) = with_agent(Manner::Echo).await;
        let mut socket = begin(&bench).await;
        bench.event().await;
        socket.send_bytes(&bytes).await;
        assert_eq!(socket.closed().await, (1009, "bad_frames".to_owned()));
        let (_, ended) = bench.end().await;
        assert_eq!((ended.reason.as_str(), ended.quality["too_large"]), ("bad_frames", 1));
    }
}

/// F91: a peer that goes in the middle of a frame, with or without a reset, ends its session and nothing else.
#[tokio::test]
async fn a_peer_that_goes_in_the_middle_of_a_frame_leaves_nothing() {
    let (mut bench, mut events) = with_agent(Manner::Echo).await;
    for reset in [false, true, false, true] {
        let mut socket = begin(&bench).await;
        bench.event().await;
        socket.send_bytes(&[0x81, 0xfe, 0x04]).await;
        if reset {
            socket.reset();
        } else {
            drop(socket);
        }
        let (_, ended) = bench.end().await;
        assert_eq!(
            (ended.ended_by.as_str(), ended.reason.as_str()),
            ("provider", "socket_closed")
        );
        assert_eq!(ended.quality["broken_off"], 1);
        hears(&mut events, |event| matches!(event, Event::Stop(_))).await;
    }
}

/// F92: the close handshake is finished, whoever begins it.
#[tokio::test]
async fn the_close_handshake_is_finished() {
    let (mut bench, _events) = with_agent(Manner::Echo).await;
    let mut socket = begin(&bench).await;
    bench.event().await;
    socket.send_message(WsMessage::Close(None)).await;
    // The edge echoes the close without a code, and then closes the connection (RFC 6455 §5.5.1, §7.1.1).
    assert!(socket.ends_with_a_close().await);
    let (_, ended) = bench.end().await;
    assert_eq!(ended.reason, "socket_closed");
    assert!(!ended.quality.contains_key("broken_off"), "{:?}", ended.quality);
}
