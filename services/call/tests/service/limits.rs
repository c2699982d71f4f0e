//! What one peer may ask of the server: HTTP/2 written by hand, as no client of ours would.

use std::io;

use callbridge_proto::directory::v1::{self as api, UploadGreetingRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tonic::{Code, Request};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::service::{ADMIN, PATIENCE, Service, reason};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types, flags and error codes of RFC 9113 §6 and §7.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// Whether it begins with `:status: 200`, as every answer of gRPC does (RFC 7541 appendix A).
    fn is_of_a_method(&self) -> bool {
        self.kind == HEADERS && self.payload.starts_with(&[0x88])
    }

    /// The error code of RST_STREAM and GOAWAY.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is not indexed (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // An integer with a prefix of seven bits (§5.1).
        if text.len() < 127 {
            bytes.push(u8::try_from(text.len()).unwrap());
        } else {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            bytes.push(u8::try_from(rest).unwrap());
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn head(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let key = format!("Bearer {ADMIN}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &key),
    ];
    fields
        .iter()
        .chain(more)
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const UPLOAD: &str = "/callbridge.directory.v1.AgentService/UploadGreeting";

/// A connection that says whatever it is told to.
struct Raw(TcpStream);

impl Raw {
    async fn open(service: &Service) -> Self {
        let mut raw = Self(TcpStream::connect(service.grpc).await.unwrap());
        raw.send(PREFACE).await.unwrap();
        raw.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        raw
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// None: the server has closed.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff,
            payload,
        })
    }

    /// The first frame that is wanted.
    async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let found = timeout(PATIENCE, async {
            loop {
                match self.next().await {
                    Some(frame) if wanted(&frame) => return Some(frame),
                    Some(_) => {}
                    None => return None,
                }
            }
        });
        found.await.expect("the server says it or closes")
    }

    /// Sends frames again and again, until it was `bytes` or the server has closed, and reads whatever is answered. The process has
    /// less than `kib` more memory afterwards.
    async fn flood(self, frames: &[u8], bytes: usize, kib: u64) {
        let before = resident();
        let (mut read, mut write) = self.0.into_split();
        let flood = frames.repeat(1000);
        let mut sent = 0;
        let writing = async {
            while sent < bytes && write.write_all(&flood).await.is_ok() {
                sent += flood.len();
            }
        };
        let mut nowhere = tokio::io::sink();
        tokio::select! {
            () = writing => {}
            _ = tokio::io::copy(&mut read, &mut nowhere) => {}
        }
        let after = resident();
        assert!(
            after.saturating_sub(before) < kib,
            "{before} KiB, then {after} KiB after {sent} bytes"
        );
    }
}

/// What is sent again and again makes the server close the connection, and say why; others notice nothing.
async fn calmed(service: &Service, mut more: impl FnMut(u32) -> Vec<u8>) {
    let raw = Raw::open(service).await;
    let (read, mut write) = raw.0.into_split();
    let flood = async {
        // Ends when the server has closed.
        for turn in 0..u32::MAX {
            if write.write_all(&more(turn)).await.is_err() {
                return;
            }
        }
    };
    let watch = async {
        let mut read = read;
        let mut seen = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = read.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            seen.extend_from_slice(&buffer[..count]);
        }
        seen
    };
    let ((), seen) = timeout(PATIENCE, async { tokio::join!(flood, watch) })
        .await
        .expect("the server closes the connection");
    let mut rest = &seen[..];
    let mut said = None;
    while rest.len() >= 9 {
        let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
        let Some(payload) = rest.get(9..9 + length) else { break };
        if rest[3] == GOAWAY {
            said = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &rest[9 + length..];
    }
    assert!(matches!(said, None | Some(ENHANCE_YOUR_CALM)), "{said:?}");
    assert_eq!(service.health("").await, ServingStatus::Serving);
}

/// F98: CVE-2023-44487.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let service = Service::start(&[]).await;
    let mut raw = Raw::open(&service).await;
    let mut burst = Vec::new();
    for at in 0..400_u32 {
        let stream = 2 * at + 1;
        burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(HEALTH, &[])));
        burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    // A part of it may be refused already.
    let _ = raw.send(&burst).await;
    let said = raw
        .until(|frame| frame.kind == GOAWAY)
        .await
        .expect("the server says why");
    assert_eq!(said.code(), ENHANCE_YOUR_CALM);
    assert!(raw.until(|_| false).await.is_none(), "and closes");
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

/// F98: CVE-2024-27316 and its like.
#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let service = Service::start(&[]).await;
    calmed(&service, |turn| match turn {
        0 => frame(HEADERS, 0, 1, &head(HEALTH, &[])),
        _ => frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(8000))),
    })
    .await;
    calmed(&service, |turn| match turn {
        0 => frame(HEADERS, 0, 1, &head(HEALTH, &[])),
        _ => frame(CONTINUATION, 0, 1, &[]).repeat(100),
    })
    .await;
    service.stop().await;
}

/// F97: the request is refused, by whatever it is too large; its connection goes on.
#[tokio::test]
async fn a_head_beyond_sixteen_kibibytes_is_refused() {
    let service = Service::start(&[]).await;
    let large = "y".repeat(15 * 1024);
    let small: Vec<_> = (0..400).map(|at| (format!("x-{at}"), "y".repeat(30))).collect();
    let small: Vec<(&str, &str)> = small
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut raw = Raw::open(&service).await;
    for (stream, more) in [(1, &[("x", large.as_str()), ("y", &large)][..]), (3, &small)] {
        let block = head(HEALTH, more);
        let (first, rest) = block.split_at(16_384.min(block.len()));
        raw.send(&frame(HEADERS, END_STREAM, stream, first)).await.unwrap();
        for (at, piece) in rest.chunks(16_384).enumerate() {
            let last = (at + 1) * 16_384 >= rest.len();
            let flags = if last { END_HEADERS } else { 0 };
            raw.send(&frame(CONTINUATION, flags, stream, piece)).await.unwrap();
        }
        if rest.is_empty() {
            raw.send(&frame(CONTINUATION, END_HEADERS, stream, &[])).await.unwrap();
        }
        let answer = raw.until(|frame| frame.stream == stream).await.expect("an answer");
        // 431 (RFC 6585 §5), or a reset: no method was asked.
        assert!(!answer.is_of_a_method(), "{}: {:?}", answer.kind, answer.payload);
    }
    // Junk that is small enough is no error of the server's.
    for (stream, more) in [
        (5, ("x-bin", "!!!")),
        (7, ("grpc-timeout", "soon")),
        (9, ("grpc-encoding", "lzma")),
    ] {
        let block = head(HEALTH, &[more]);
        raw.send(&frame(HEADERS, END_HEADERS, stream, &block)).await.unwrap();
        raw.send(&frame(DATA, END_STREAM, stream, &[0; 5])).await.unwrap();
        let answer = raw.until(|frame| frame.stream == stream).await.expect("an answer");
        assert!(answer.is_of_a_method(), "{more:?}");
    }
    service.stop().await;
}

/// F99.
#[tokio::test]
async fn a_connection_has_a_thousand_streams() {
    let service = Service::start(&[]).await;
    let mut raw = Raw::open(&service).await;
    let settings = raw
        .until(|frame| frame.kind == SETTINGS && frame.flags & ACK == 0)
        .await;
    let settings = settings.expect("the server's settings").payload;
    let streams = settings
        .chunks(6)
        .find(|setting| setting[..2] == [0, 3])
        .expect("a limit");
    assert_eq!(streams[2..], 1000_u32.to_be_bytes());
    let mut burst = Vec::new();
    // Each waits for what is never sent.
    for at in 0..1001_u32 {
        burst.extend(frame(HEADERS, END_HEADERS, 2 * at + 1, &head(UPLOAD, &[])));
    }
    raw.send(&burst).await.unwrap();
    let reset = raw.until(|frame| frame.kind == RST_STREAM).await.expect("a reset");
    assert_eq!((reset.stream, reset.code()), (2001, REFUSED_STREAM));
    // The connection is as good as before.
    raw.send(&frame(PING, 0, 0, &[7; 8])).await.unwrap();
    let pong = raw.until(|frame| frame.kind == PING && frame.flags & ACK != 0).await;
    assert_eq!(pong.expect("an answer").payload, [7; 8]);
    service.stop().await;
}

/// F98: whatever has to be answered is answered as it comes, and nothing piles up.
#[tokio::test]
async fn pings_and_settings_take_no_room() {
    let service = Service::start(&[]).await;
    let raw = Raw::open(&service).await;
    let pair = [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])].concat();
    raw.flood(&pair, 64 * 1024 * 1024, 64 * 1024).await;
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

/// F98: data without any bytes costs no window, and takes no room either.
#[tokio::test]
async fn empty_data_takes_no_room() {
    let service = Service::start(&[]).await;
    let mut raw = Raw::open(&service).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head(UPLOAD, &[])))
        .await
        .unwrap();
    // A million of them: the head of a frame is all there is.
    raw.flood(&frame(DATA, 0, 1, &[]), 9_000_000, 32 * 1024).await;
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

/// F98: whoever lets no answer through keeps a thousand small ones waiting, and no more.
#[tokio::test]
async fn a_window_of_nothing_holds_little() {
    let service = Service::start(&[]).await;
    let mut raw = Raw::open(&service).await;
    // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
    raw.until(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0)
        .await
        .expect("the settings are taken");
    let before = resident();
    let mut answered = 0;
    for at in 0..2000_u32 {
        let stream = 2 * at + 1;
        let mut ask = frame(HEADERS, END_HEADERS, stream, &head(HEALTH, &[]));
        ask.extend(frame(DATA, END_STREAM, stream, &[0; 5]));
        raw.send(&ask).await.unwrap();
        let answer = raw.until(|frame| frame.stream == stream).await.expect("an answer");
        if answer.kind == HEADERS {
            answered += 1;
        } else {
            assert_eq!((answer.kind, answer.code()), (RST_STREAM, REFUSED_STREAM));
        }
    }
    assert_eq!(answered, 1000);
    let after = resident();
    assert!(
        after.saturating_sub(before) < 32 * 1024,
        "{before} KiB, then {after} KiB"
    );
    assert_eq!(service.health("").await, ServingStatus::Serving);
    service.stop().await;
}

/// F100: a client that was stopped, or whose network is gone, answers no ping. It loses its connection, and what its request held.
#[tokio::test]
async fn a_client_that_answers_no_ping_loses_its_slot() {
    let service = Service::start(&[("CALL_SERVICE_MAX_REQUESTS", "1")]).await;
    let mut raw = Raw::open(&service).await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &head(UPLOAD, &[])))
        .await
        .unwrap();
    let accounts = async || {
        let answer = service
            .accounts(ADMIN)
            .list_accounts(api::ListAccountsRequest::default())
            .await;
        answer.map(drop).map_err(|status| reason(&status))
    };
    stack::poll("the only slot is taken", PATIENCE, async || match accounts().await {
        Err(reason) if reason == "OVERLOADED" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    // Two intervals of pings at most, and the wait for an answer.
    let mut pinged = false;
    let closing = timeout(3 * PATIENCE, async {
        while let Some(frame) = raw.next().await {
            assert_ne!((frame.kind, frame.stream), (HEADERS, 1), "the request ended by itself");
            pinged |= frame.kind == PING;
        }
    });
    closing.await.expect("the server closes the connection");
    assert!(pinged, "it was never asked");
    stack::poll("the slot", PATIENCE, accounts).await.unwrap();
    service.stop().await;
}

/// KiB of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// F99: what is too much is refused at once; who asks for health still hears.
#[tokio::test]
async fn requests_beyond_the_limit_are_shed() {
    let service = Service::start(&[("CALL_SERVICE_MAX_REQUESTS", "1")]).await;
    let (pieces, waiting) = mpsc::channel::<UploadGreetingRequest>(1);
    let mut agents = service.agents();
    let upload = agents.upload_greeting(Request::new(tokio_stream::wrappers::ReceiverStream::new(waiting)));
    tokio::pin!(upload);
    let refused = stack::poll("a refusal", PATIENCE, async || {
        tokio::select! {
            biased;
            ended = &mut upload => panic!("it ended before its pieces: {ended:?}"),
            answer = async { service.accounts(ADMIN).list_accounts(api::ListAccountsRequest::default()).await } => {
                answer.err().ok_or("none")
            }
        }
    });
    let refused = refused.await.unwrap();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    assert_eq!(service.health("").await, ServingStatus::Serving);
    drop(pieces);
    assert_eq!(upload.await.unwrap_err().code(), Code::InvalidArgument);
    let answer = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    service.stop().await;
}

/// F96: on both kinds of methods; health, which anybody may ask, takes the least.
#[tokio::test]
async fn messages_have_limits() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let service = Service::start(&[]).await;
    let piece = |bytes: usize| {
        let chunk = vec![0_u8; bytes].into();
        tokio_stream::once(UploadGreetingRequest { chunk })
    };
    let refused = service.agents().upload_greeting(piece(257 * 1024)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let request = HealthCheckRequest {
        service: "x".repeat(5 * 1024),
    };
    let refused = HealthClient::new(service.channel.clone())
        .check(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    service.stop().await;
}

/// F99: whoever has no key holds no more than its share: health streams that never end are bounded, and callers with keys go on.
#[tokio::test]
async fn strangers_hold_so_many_requests_and_no_more() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let service = Service::start(&[]).await;
    let mut streams = Vec::new();
    let refused = loop {
        let other = tonic::transport::Endpoint::from_shared(format!("http://{}", service.grpc)).unwrap();
        let mut health = HealthClient::new(other.connect_lazy());
        let mut refused = None;
        for _ in 0..600 {
            match health.watch(HealthCheckRequest::default()).await {
                Ok(stream) => streams.push(stream.into_inner()),
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        if let Some(refused) = refused {
            break refused;
        }
        assert!(streams.len() <= 2000, "there is no bound");
    };
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    let answer = service
        .accounts(ADMIN)
        .list_accounts(api::ListAccountsRequest::default())
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    // Their places come back.
    drop(streams);
    stack::poll("health", PATIENCE, async || {
        let asked = HealthClient::new(service.channel.clone())
            .check(HealthCheckRequest::default())
            .await;
        asked.map(drop).map_err(|status| status.to_string())
    })
    .await
    .unwrap();
    service.stop().await;
}
