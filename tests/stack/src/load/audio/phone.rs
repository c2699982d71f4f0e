//! A call as Exotel's AgentStream client makes it (`exotel.md` §5), and nothing more than that: the generator must be quick.

use std::{
    cell::RefCell,
    fmt::Write as _,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
};

use anyhow::{Context as _, bail, ensure};
use data_encoding::BASE64;
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    frame::{self, Frames},
    room::{Caller, Room, SILENCE},
};

/// What a server that does not read may leave unsent before the call is given up.
const MAX_BACKLOG: usize = 1024 * 1024;
/// A handshake's answer.
const MAX_HEAD: usize = 16 * 1024;
/// What opens the audio in a media event.
const PAYLOAD: &[u8] = br#""payload":""#;

/// Where calls go, and as whose.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The server.
    pub(super) address: SocketAddr,
    /// The path of its socket.
    pub(super) path: &'static str,
    /// The `Authorization` header's value.
    pub(super) authorization: String,
    /// The account's SID.
    pub(super) account_sid: String,
    /// The number that is called.
    pub(super) to: String,
    /// The number of its first call: Exotel gives no SID twice.
    pub(super) first: usize,
}

/// An open call.
pub(super) struct Phone {
    stream: TcpStream,
    stream_sid: String,
    mask: [u8; 4],
    /// All events, and the audio among them.
    sequence: u64,
    chunk: u64,
    chunk_ms: u128,
    text: String,
    out: Vec<u8>,
    /// The end of `out` that the server had no room for.
    is_late: bool,
    /// What is said and heard.
    pub(super) caller: Caller,
}

impl Phone {
    /// Calls: opens the socket, and says `connected`, `start` and a moment of silence.
    ///
    /// # Errors
    /// When the server does not take the socket.
    pub(super) async fn call(line: &Line, room: &Rc<Room>, number: usize) -> anyhow::Result<Rc<RefCell<Self>>> {
        let mut stream = TcpStream::connect(line.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let key = BASE64.encode(&(number as u128).to_be_bytes());
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: {key}\r\nAuthorization: {}\r\n\r\n",
            line.path, line.address, line.authorization
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        // The server has nothing to say before `start`, so nothing follows the head.
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < MAX_HEAD, "the answer to the handshake does not end");
            ensure!(stream.read_buf(&mut head).await? > 0, "the handshake is not answered");
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
            bail!("the socket is refused: {}", String::from_utf8_lossy(line));
        }
        let caller = Caller::new(Rc::clone(room), number);
        let number = line.first + number;
        let stream_sid = format!("{number:032x}");
        let mut phone = Self {
            stream,
            mask: (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..4].try_into()?,
            sequence: 1,
            chunk: 0,
            chunk_ms: room.chunk.as_millis(),
            text: String::new(),
            out: Vec::new(),
            is_late: false,
            caller,
            stream_sid,
        };
        let start = serde_json::json!({
            "event": "start", "stream_sid": phone.stream_sid, "sequence_number": "1", "start": {
                "stream_sid": phone.stream_sid, "call_sid": format!("{number:031x}c"), "account_sid": line.account_sid,
                "from": format!("070{number:08}"), "to": line.to,
                "media_format": { "encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps" },
            },
        });
        phone.event(r#"{"event":"connected"}"#)?;
        phone.event(&start.to_string())?;
        phone.media(&SILENCE)?;
        Ok(Rc::new(RefCell::new(phone)))
    }

    /// Says the next chunk, if the call is up.
    ///
    /// # Errors
    /// When the socket is broken, or the server does not read.
    pub(super) fn say(&mut self, now: Instant) -> anyhow::Result<bool> {
        let Some(pcm) = self.caller.say(now) else {
            return Ok(false);
        };
        self.media(pcm)?;
        Ok(true)
    }

    /// Says that the person has hung up.
    ///
    /// # Errors
    /// As [`Phone::say`].
    pub(super) fn hang_up(&mut self) -> anyhow::Result<()> {
        self.sequence += 1;
        let stop = serde_json::json!({
            "event": "stop", "stream_sid": self.stream_sid, "sequence_number": self.sequence.to_string(),
            "stop": { "reason": "callended" },
        });
        self.event(&stop.to_string())?;
        self.send(frame::CLOSE, &1_000_u16.to_be_bytes())
    }

    /// Says this, whether the call is up or not.
    ///
    /// # Errors
    /// As [`Phone::say`].
    pub(super) fn media(&mut self, pcm: &[u8]) -> anyhow::Result<()> {
        self.sequence += 1;
        self.chunk += 1;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            r#"{{"event":"media","sequence_number":"{}","stream_sid":"{}","media":{{"chunk":"{}","timestamp":"{}","payload":""#,
            self.sequence,
            self.stream_sid,
            self.chunk,
            u128::from(self.chunk) * self.chunk_ms
        );
        BASE64.encode_append(pcm, &mut text);
        text.push_str(r#""}}"#);
        let sent = self.event(&text);
        self.text = text;
        sent
    }

    fn event(&mut self, text: &str) -> anyhow::Result<()> {
        self.send(frame::TEXT, text.as_bytes())
    }

    fn send(&mut self, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        if !self.is_late {
            self.out.clear();
        }
        frame::put(&mut self.out, opcode, self.mask, payload);
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let sent = match self.stream.try_write(&self.out) {
            Ok(sent) => sent,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error).context("cannot write to the socket"),
        };
        self.is_late = sent < self.out.len();
        if self.is_late {
            self.out.drain(..sent);
            ensure!(self.out.len() < MAX_BACKLOG, "the server does not read");
        }
        Ok(())
    }

    /// What was read.
    fn take(&mut self, frames: &mut Frames, bytes: &[u8], pcm: &mut Vec<u8>) -> anyhow::Result<()> {
        ensure!(!bytes.is_empty(), "the server closed the connection");
        let now = Instant::now();
        frames.take(bytes, |opcode, payload| self.heard(now, opcode, payload, pcm))?;
        if self.is_late { self.flush() } else { Ok(()) }
    }

    /// One event of the server.
    fn heard(&mut self, now: Instant, opcode: u8, payload: &[u8], pcm: &mut Vec<u8>) -> anyhow::Result<()> {
        match opcode {
            frame::TEXT => {
                let Some(at) = find(payload, PAYLOAD) else {
                    return Ok(());
                };
                let (head, rest) = (&payload[..at], &payload[at + PAYLOAD.len()..]);
                ensure!(
                    find(head, self.stream_sid.as_bytes()).is_some(),
                    "audio of another stream came"
                );
                let end = rest
                    .iter()
                    .position(|byte| *byte == b'"')
                    .context("a payload does not end")?;
                pcm.resize(BASE64.decode_len(end)?, 0);
                let length = BASE64.decode_mut(&rest[..end], pcm);
                let length = length.map_err(|error| anyhow::anyhow!("a payload is no base64: {:?}", error.error))?;
                self.caller.hear(now, &pcm[..length]);
                Ok(())
            }
            frame::PING => self.send(frame::PONG, payload),
            frame::CLOSE => {
                let code = payload.first_chunk().map_or(1_005, |code| u16::from_be_bytes(*code));
                bail!("the server closed the socket with {code}")
            }
            _ => Ok(()),
        }
    }
}

/// Listens until the call ends, which nobody asked the server for.
///
/// # Errors
/// Always: how it ended.
pub(super) async fn listen(phone: Rc<RefCell<Phone>>, room: Rc<Room>) -> anyhow::Result<()> {
    let (mut frames, mut pcm) = (Frames::default(), Vec::new());
    loop {
        // Borrowed while bytes are there alone, so that the phone can speak meanwhile.
        poll_fn(|cx| {
            let (mut phone, mut scratch) = (phone.borrow_mut(), room.scratch.borrow_mut());
            let mut bytes = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut phone.stream).poll_read(cx, &mut bytes)).context("cannot read from the socket")?;
            Poll::Ready(phone.take(&mut frames, bytes.filled(), &mut pcm))
        })
        .await?;
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_is_found_in_an_event() {
        let text = br#"{"event":"media","stream_sid":"7","media":{"payload":"AAAA"}}"#;
        let at = find(text, PAYLOAD).unwrap();
        assert_eq!(&text[at + PAYLOAD.len()..][..4], b"AAAA");
        assert_eq!(find(br#"{"event":"clear"}"#, PAYLOAD), None);
    }
}
