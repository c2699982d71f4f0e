//! How many streams a connection can carry without one of them being able to stall the others.
//!
//! HTTP/2 limits what a peer has not read yet, for each stream and for the whole connection (RFC 9113 §5.2). Many servers give
//! room in the connection's window only when the application has read, so agents that stop reading use it up, each at most as
//! much as a stream's window. As many streams as fit into the connection's window are safe. No library tells these windows, so
//! they are learned from the frames that pass; what is in the frames is skipped.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What each connection begins with (RFC 9113 §6.9.2).
const INITIAL_WINDOW: u32 = 65_535;
/// What a client says before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The bit before each stream's number and each increment (RFC 9113 §4.1, §6.9).
const RESERVED: u32 = 1 << 31;

/// How many streams at most, as far as the server has told. Not more than one before it has told anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Streams.
    pub(super) fn streams(&self) -> usize {
        self.0.load(Ordering::Relaxed).max(1)
    }

    fn set(&self, streams: usize) {
        self.0.store(streams, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn of(streams: usize) -> Self {
        let room = Self::default();
        room.set(streams);
        room
    }
}

/// Reads frame headers in a sequence of bytes that is cut anywhere.
#[derive(Debug)]
struct Scanner {
    skip: usize,
    /// The beginning of a header, or of the part of a payload that is looked at.
    held: [u8; HEADER],
    have: usize,
    kind: u8,
    stream: u32,
    /// What is left of a payload that is looked at.
    left: usize,
}

/// What a frame says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Data(u32),
    Settings,
    Setting(u16, u32),
    Window(u32),
}

impl Scanner {
    fn new(skip: usize) -> Self {
        Self {
            skip,
            held: [0; HEADER],
            have: 0,
            kind: DATA,
            stream: 0,
            left: 0,
        }
    }

    fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let want = match (self.left, self.kind) {
                (0, _) => HEADER,
                (_, SETTINGS) => 6,
                _ => 4,
            };
            let taken = (want - self.have).min(bytes.len());
            self.held[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == want {
                self.have = 0;
                self.held(want, &mut seen);
            }
        }
    }

    /// Takes a header, or a part of a payload, of this length.
    fn held(&mut self, length: usize, seen: &mut impl FnMut(Seen)) {
        let held = self.held;
        let short = |at: usize| u16::from_be_bytes([held[at], held[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([held[at], held[at + 1], held[at + 2], held[at + 3]]);
        if self.left > 0 {
            self.left -= length;
            if self.kind == SETTINGS {
                seen(Seen::Setting(short(0), long(2)));
            } else if self.stream == 0 {
                seen(Seen::Window(long(0) & !RESERVED));
            }
            // A frame that is longer or shorter than it may be ends the connection anyway.
            if self.left < length {
                self.skip = std::mem::take(&mut self.left);
            }
            return;
        }
        let (bytes, flags) = (long(0) >> 8, held[4]);
        self.kind = held[3];
        self.stream = long(5) & !RESERVED;
        let length = bytes as usize;
        match self.kind {
            SETTINGS if flags & ACK == 0 => {
                seen(Seen::Settings);
                (self.left, self.skip) = if length >= 6 { (length, 0) } else { (0, length) };
            }
            WINDOW_UPDATE if length == 4 => self.left = length,
            DATA => {
                seen(Seen::Data(bytes));
                self.skip = length;
            }
            _ => self.skip = length,
        }
    }
}

/// The windows that a server gives.
#[derive(Debug)]
struct Windows {
    received: Scanner,
    sent: Scanner,
    told: bool,
    stream: u32,
    max_streams: u32,
    /// What is left of the connection's window, and the most that ever was: its size.
    left: i64,
    size: i64,
}

impl Windows {
    fn new() -> Self {
        Self {
            received: Scanner::new(0),
            sent: Scanner::new(PREFACE),
            told: false,
            stream: INITIAL_WINDOW,
            max_streams: u32::MAX,
            left: INITIAL_WINDOW.into(),
            size: INITIAL_WINDOW.into(),
        }
    }

    /// Bytes of the server.
    fn received(&mut self, bytes: &[u8]) {
        let Self {
            received,
            told,
            stream,
            max_streams,
            left,
            size,
            ..
        } = self;
        received.scan(bytes, |seen| match seen {
            Seen::Settings => *told = true,
            Seen::Setting(INITIAL_WINDOW_SIZE, value) => *stream = value,
            Seen::Setting(MAX_CONCURRENT_STREAMS, value) => *max_streams = value,
            Seen::Window(more) => {
                *left += i64::from(more);
                *size = (*size).max(*left);
            }
            Seen::Data(_) | Seen::Setting(..) => {}
        });
    }

    /// Bytes of ours.
    fn sent(&mut self, bytes: &[u8]) {
        let left = &mut self.left;
        self.sent.scan(bytes, |seen| {
            if let Seen::Data(length) = seen {
                *left -= i64::from(length);
            }
        });
    }

    /// How many streams can stall without another noticing. One place is kept for short requests.
    fn streams(&self) -> usize {
        if !self.told {
            return 1;
        }
        let safe = usize::try_from(self.size / i64::from(self.stream.max(1))).unwrap_or(1);
        safe.min(self.max_streams.saturating_sub(1) as usize).max(1)
    }
}

/// A connection whose frames are looked at while they pass.
#[derive(Debug)]
pub(super) struct Watched<T> {
    io: T,
    windows: Windows,
    room: Room,
}

impl<T> Watched<T> {
    /// From the first byte on.
    pub(super) fn new(io: T, room: Room) -> Self {
        room.set(1);
        Self {
            io,
            windows: Windows::new(),
            room,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.windows.received(&buf.filled()[before..]);
        this.room.set(this.windows.streams());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.windows.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, pieces))?;
        let mut left = written;
        for piece in pieces {
            let sent = left.min(piece.len());
            this.windows.sent(&piece[..sent]);
            left -= sent;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
