//! The WebSocket of a session, read and written by one task without either waiting for the other.

use std::{future::poll_fn, task::Poll, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::{Sink as _, Stream as _, StreamExt as _};
use std::pin::Pin;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError};

/// A peer that takes nothing for this long has stopped reading (F70).
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// A peer that says nothing for this long is pinged. In a call with audio that never happens: some paths dislike pings.
const PING_AFTER: Duration = Duration::from_secs(20);
/// How long the closing handshake may take (F92).
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// After a violation the peer's bytes are not read any more; this lets our reason reach it before the reset.
const LAST_WORD: Duration = Duration::from_millis(200);

/// What happened on the socket.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary,
    /// A ping or a pong.
    Alive,
    /// It is closed.
    Closed,
    /// It is gone without a close.
    Broken,
    /// The peer broke the protocol; the close code says how.
    Violation(u16),
    /// A message can be sent.
    Writable,
}

/// How the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Well, as far as is known.
    Fine,
    /// It has not answered a ping, nor said anything else since (F69).
    NoPong,
    /// It has stopped reading (F70).
    Stalled,
}

/// A session's socket.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: WebSocket,
    /// Since when there is something unsent in it.
    unflushed: Option<Instant>,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    /// Reading has ended; the close handshake is over or impossible.
    ended: bool,
}

impl Socket {
    /// An upgraded socket.
    pub(crate) fn new(inner: WebSocket, now: Instant) -> Self {
        Self {
            inner,
            unflushed: None,
            heard_at: now,
            pinged_at: None,
            ended: false,
        }
    }

    /// Waits for what comes, or for room when something is to be sent. Nothing is lost when it is dropped while waiting.
    pub(crate) async fn next(&mut self, want_to_send: bool) -> Heard {
        let heard = poll_fn(|cx| {
            let mut socket = Pin::new(&mut self.inner);
            if self.unflushed.is_some() {
                match socket.as_mut().poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.unflushed = None,
                    Poll::Ready(Err(_)) => return Poll::Ready(None),
                    Poll::Pending => {}
                }
            }
            if want_to_send && self.unflushed.is_none() {
                match socket.as_mut().poll_ready(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Some(Ok(None))),
                    Poll::Ready(Err(_)) => return Poll::Ready(None),
                    Poll::Pending => {}
                }
            }
            socket
                .poll_next(cx)
                .map(|message| message.map(|message| message.map(Some)))
        })
        .await;
        let message = match heard {
            Some(Ok(None)) => return Heard::Writable,
            Some(Ok(Some(message))) => message,
            Some(Err(error)) => {
                self.ended = true;
                return violation(error);
            }
            None => {
                self.ended = true;
                return Heard::Broken;
            }
        };
        (self.heard_at, self.pinged_at) = (Instant::now(), None);
        match message {
            Message::Text(text) => Heard::Text(text),
            Message::Binary(_) => Heard::Binary,
            Message::Ping(_) | Message::Pong(_) => Heard::Alive,
            Message::Close(_) => Heard::Closed,
        }
    }

    /// Sends a text message. Only after [`Heard::Writable`].
    pub(crate) fn send(&mut self, now: Instant, text: String) {
        self.start(now, Message::Text(text.into()));
    }

    fn start(&mut self, now: Instant, message: Message) {
        // An error shows again when the socket is read or flushed.
        let _ = Pin::new(&mut self.inner).start_send(message);
        self.unflushed.get_or_insert(now);
    }

    /// When [`Socket::tick`] has something to do.
    pub(crate) fn wake(&self) -> Instant {
        wake(self.unflushed, self.pinged_at.unwrap_or(self.heard_at))
    }

    /// Pings a silent peer, and says how it does.
    pub(crate) fn tick(&mut self, now: Instant) -> Line {
        if let Some(since) = self.unflushed {
            return if now < since + STALL_LIMIT {
                Line::Fine
            } else {
                Line::Stalled
            };
        }
        if now < self.pinged_at.unwrap_or(self.heard_at) + PING_AFTER {
            return Line::Fine;
        }
        let was_pinged = self.pinged_at.replace(now).is_some();
        self.start(now, Message::Ping(Bytes::new()));
        if was_pinged { Line::NoPong } else { Line::Fine }
    }

    /// Closes, and reads until the peer has closed too.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let violated = self.ended;
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let goodbye = async {
            let sent = self.inner.send(Message::Close(Some(frame))).await;
            if violated && sent.is_ok() {
                sleep(LAST_WORD).await;
            }
            while let Some(Ok(_)) = self.inner.next().await {}
        };
        // A peer that does not answer is gone.
        let _ = timeout(CLOSE_LIMIT, goodbye).await;
    }
}

/// While something is unsent there is no ping, so its time is not waited for: once it has passed, that would be no waiting.
fn wake(unflushed: Option<Instant>, heard_at: Instant) -> Instant {
    unflushed.map_or(heard_at + PING_AFTER, |since| since + STALL_LIMIT)
}

fn violation(error: axum::Error) -> Heard {
    let Ok(error) = error.into_inner().downcast::<WsError>() else {
        return Heard::Broken;
    };
    match *error {
        WsError::Capacity(_) => Heard::Violation(1009),
        WsError::Utf8(_) => Heard::Violation(1007),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Heard::Broken,
        WsError::Protocol(_) => Heard::Violation(1002),
        _ => Heard::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F70: a silent peer that stops reading is waited for, not asked again and again whether its time is up.
    #[test]
    fn a_stalled_peer_is_looked_at_when_its_time_is_up() {
        let heard_at = Instant::now();
        let pinged_at = heard_at + PING_AFTER;
        assert_eq!(wake(None, heard_at), pinged_at);
        assert_eq!(wake(Some(pinged_at), heard_at), pinged_at + STALL_LIMIT);
    }
}
