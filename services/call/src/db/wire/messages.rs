//! The messages of one connection (PostgreSQL's frontend/backend protocol 3.0): what is read in them and what is altered.
//!
//! * A commit whose wait for the synchronous standby is cancelled is answered as if nothing were amiss, with a warning beside it: a
//!   fail-over may take it back. Here it ends the connection, so that nobody hears of that commit and nothing follows from it (F27).
//! * A pooler in transaction mode may have another server's session for the next transaction, which knows nothing of statements that
//!   were prepared on this one. Through it each statement is sent without a name, and again with each use, in the same batch (F36).

use std::{
    collections::{HashMap, VecDeque},
    io,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The function of the server that waits for standbys: what it warns of, in any language, is that the wait was given up.
const WAITS_FOR_STANDBY: &[u8] = b"RSyncRepWaitForLSN\0";

/// A message's tag and length.
const HEADER: usize = 5;

/// Watches both directions.
#[derive(Debug)]
pub(super) struct Messages {
    to_server: Splitter,
    to_client: Splitter,
    statements: Option<Statements>,
}

impl Messages {
    /// `pooled`: statements are sent without names.
    pub(super) fn new(pooled: bool) -> Self {
        Self {
            // The first message has no tag.
            to_server: Splitter {
                begun: false,
                ..Splitter::default()
            },
            to_client: Splitter {
                begun: true,
                ..Splitter::default()
            },
            statements: pooled.then(Statements::default),
        }
    }

    /// Takes bytes from the client, and adds what goes to the server.
    pub(super) fn sent(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let Some(statements) = &mut self.statements else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        self.to_server.push(bytes, out, b"PBDCSQ", |tag, body, out| {
            statements.of_client(tag, body, out);
            Ok(())
        })
    }

    /// Takes bytes from the server, and adds what goes to the client.
    ///
    /// # Errors
    /// When the server warns that a commit may not be on its standby.
    pub(super) fn received(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<()> {
        let statements = &mut self.statements;
        self.to_client.push(bytes, out, b"1ZN", |tag, body, out| {
            if tag == b'N' && body.windows(WAITS_FOR_STANDBY.len()).any(|it| it == WAITS_FOR_STANDBY) {
                return Err(io::Error::other(
                    "the wait for the synchronous standby was given up: what is committed may be lost in a fail-over",
                ));
            }
            match statements {
                Some(statements) => statements.of_server(tag, body, out),
                None => put(out, tag, &[body]),
            }
            Ok(())
        })
    }
}

/// Finds the messages in a stream of bytes. Those of some tags are held until they are whole; of others the bytes pass as they come.
#[derive(Debug, Default)]
struct Splitter {
    begun: bool,
    held: BytesMut,
    passing: usize,
}

impl Splitter {
    fn push(
        &mut self,
        bytes: &[u8],
        out: &mut BytesMut,
        tags: &[u8],
        mut see: impl FnMut(u8, &[u8], &mut BytesMut) -> io::Result<()>,
    ) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        loop {
            let n = self.passing.min(self.held.len());
            out.extend_from_slice(&self.held[..n]);
            self.held.advance(n);
            self.passing -= n;
            let tagged = usize::from(self.begun);
            if self.passing > 0 || self.held.len() < tagged + 4 {
                return Ok(());
            }
            let length = (&self.held[tagged..]).get_u32();
            // The length counts itself.
            let length = usize::try_from(length).ok().filter(|length| *length >= 4);
            let whole = tagged + length.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            if !self.begun || !tags.contains(&self.held[0]) {
                self.begun = true;
                self.passing = whole;
            } else if self.held.len() < whole {
                return Ok(());
            } else {
                let message = self.held.split_to(whole);
                see(message[0], &message[HEADER..], out)?;
            }
        }
    }
}

/// What the server is still to answer.
#[derive(Debug, PartialEq, Eq)]
enum Awaited {
    /// A statement of the client, by its name.
    Parsed(Bytes),
    /// A statement that was sent once more, of which the client does not know.
    ParsedAgain,
    /// The end of a batch.
    Ready,
}

/// Statements of which the client thinks that the server keeps them. There are as many as the client has prepared.
#[derive(Debug, Default)]
struct Statements {
    /// By name, what was to be parsed.
    parsed: HashMap<Bytes, Bytes>,
    /// Which of them the server has parsed last, in this batch: there is no other session within it.
    current: Option<Bytes>,
    awaited: VecDeque<Awaited>,
}

impl Statements {
    fn of_client(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) {
        match (tag, body) {
            (b'P', body) => {
                let (name, rest) = text(body);
                let name = Bytes::copy_from_slice(name);
                if !name.is_empty() {
                    self.parsed.insert(name.clone(), Bytes::copy_from_slice(rest));
                }
                put(out, tag, &[b"\0", rest]);
                self.current = Some(name.clone());
                self.awaited.push_back(Awaited::Parsed(name));
            }
            (b'B', body) => {
                let (portal, rest) = text(body);
                let (name, rest) = text(rest);
                if self.make_current(name, out) {
                    put(out, tag, &[portal, b"\0\0", rest]);
                } else {
                    put(out, tag, &[body]);
                }
            }
            (b'D', [b'S', name @ ..]) if self.make_current(text(name).0, out) => put(out, tag, &[b"S\0"]),
            (b'C', [b'S', name @ ..]) => {
                self.parsed.remove(text(name).0);
                self.current = None;
                // Answered as the other one would be.
                put(out, tag, &[b"S\0"]);
            }
            (b'S' | b'Q', body) => {
                self.current = None;
                self.awaited.push_back(Awaited::Ready);
                put(out, tag, &[body]);
            }
            (_, body) => put(out, tag, &[body]),
        }
    }

    /// Lets the server parse the statement of this name again, unless it just has. False: there is none, or it has no name.
    fn make_current(&mut self, name: &[u8], out: &mut BytesMut) -> bool {
        let Some((name, rest)) = self.parsed.get_key_value(name) else {
            return false;
        };
        if self.current.as_ref() != Some(name) {
            put(out, b'P', &[b"\0", rest]);
            self.current = Some(name.clone());
            self.awaited.push_back(Awaited::ParsedAgain);
        }
        true
    }

    fn of_server(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) {
        match tag {
            b'1' if self.awaited.pop_front() == Some(Awaited::ParsedAgain) => return,
            // After an error the rest of the batch is not answered, and the client forgets a statement that failed.
            b'Z' => {
                while let Some(awaited) = self.awaited.pop_front() {
                    match awaited {
                        Awaited::Ready => break,
                        Awaited::Parsed(name) => {
                            self.parsed.remove(&name);
                        }
                        Awaited::ParsedAgain => {}
                    }
                }
            }
            _ => {}
        }
        put(out, tag, &[body]);
    }
}

/// A text that a zero ends, and what follows it.
fn text(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Adds a message.
fn put(out: &mut BytesMut, tag: u8, parts: &[&[u8]]) {
    let length = 4 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.put_u8(tag);
    // A whole message was of that length, or some bytes longer.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests;
