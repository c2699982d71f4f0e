//! A WebSocket client that says exactly what it is told, frame by frame and byte by byte, right or wrong.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The head of the request, without its end.
pub(super) fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: edge\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-key: {KEY}\r\n\
        sec-websocket-version: 13\r\n"
    )
}

/// A frame as a client sends it (RFC 6455 §5.2): the first byte as it is, its payload masked.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame's head, with its mask.
pub(super) fn head(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..0x1_0000 => {
            bytes.push(0x80 | 0x7e);
            bytes.extend(&length.to_be_bytes()[6..]);
        }
        _ => {
            bytes.push(0x80 | 0x7f);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// What the edge said, until it closed the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Heard {
    /// Opcodes and payloads of whole messages, closes apart.
    pub(super) messages: Vec<(u8, Vec<u8>)>,
    /// The payload of its close frame.
    pub(super) close: Option<Vec<u8>>,
}

impl Heard {
    /// The code of its close frame; 1005 is none (RFC 6455 §7.1.5).
    pub(super) fn code(&self) -> Option<u16> {
        let payload = self.close.as_ref()?;
        Some(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)))
    }
}

/// An open socket.
pub(super) struct Peer {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl Peer {
    /// Opens one, and tells the answer's head, in lower case.
    pub(super) async fn open(to: SocketAddr, request: &str) -> (Self, String) {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut read, mut write) = stream.into_split();
        write.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, read.read_u8()).await.expect("no answer").unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        if answer.starts_with("HTTP/1.1 101 ") {
            assert!(answer.contains(ACCEPT), "{answer}");
        }
        (Self { read, write }, answer.to_lowercase())
    }

    /// Says this, in pieces of so many bytes, and hears everything until the edge has closed the connection.
    pub(super) async fn say(mut self, bytes: Vec<u8>, chop: usize) -> Heard {
        let saying = async {
            for piece in bytes.chunks(chop) {
                // Whoever has failed the connection need not read on.
                if self.write.write_all(piece).await.is_err() {
                    break;
                }
            }
        };
        let hearing = async {
            let (mut bytes, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
            while let Ok(read @ 1..) = self.read.read(&mut buffer).await {
                bytes.extend_from_slice(&buffer[..read]);
            }
            bytes
        };
        let both = timeout(PATIENCE, async { tokio::join!(saying, hearing).1 });
        understand(&both.await.expect("the edge does not close the connection"))
    }
}

/// A server's frames: nothing masked, nothing reserved, and nothing after its close.
fn understand(mut bytes: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let mut begun: Option<(u8, Vec<u8>)> = None;
    while let [first, second, rest @ ..] = bytes {
        assert_eq!((first & 0x70, second & 0x80), (0, 0), "reserved bits, or a mask");
        assert!(heard.close.is_none(), "something after the close");
        let (length, rest) = match second {
            126 => (u64::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()), &rest[8..]),
            short => (u64::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length as usize);
        bytes = rest;
        let (is_final, opcode) = (first & 0x80 != 0, first & 0x0f);
        match opcode {
            8 => heard.close = Some(payload.to_vec()),
            9 | 10 => heard.messages.push((opcode, payload.to_vec())),
            _ => {
                let message = begun.get_or_insert((opcode, Vec::new()));
                message.1.extend_from_slice(payload);
                if is_final {
                    heard.messages.extend(begun.take());
                }
            }
        }
    }
    assert!(bytes.is_empty() && begun.is_none(), "it ends in the middle");
    heard
}
