//! A WebSocket, read and written by one task without either waiting for the other: Exotel's of a session, and that of a bot.

use std::{future::poll_fn, ops::Deref, task::Poll, time::Duration};

use axum::extract::ws;
use bytes::Bytes;
use futures_util::{FutureExt as _, Sink, SinkExt as _, Stream, StreamExt as _};
use std::pin::Pin;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, Error as WsError, error::ProtocolError};

/// A peer that says nothing for this long is pinged. In a call with audio that never happens: some paths dislike pings.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(20);
/// How long the closing handshake may take (F92).
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// After a violation the peer's bytes are not read any more; this lets our reason reach it before the reset.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The peer closes without a reason (RFC 6455 §7.4.1).
const NO_CODE: u16 = 1005;

/// What happened on the socket.
#[derive(Debug)]
pub(crate) enum Heard<Text> {
    /// A text message.
    Text(Text),
    /// A binary message.
    Binary(Bytes),
    /// A ping or a pong.
    Alive,
    /// The peer closes it, for this reason (RFC 6455 §7.4).
    Closed(u16),
    /// It is gone without a close, or after one.
    Broken,
    /// The peer broke the protocol; the close code says how.
    Violation(u16),
    /// A message can be sent.
    Writable,
}

/// A message of the library that made the socket: axum's on the server's side, tungstenite's on the client's.
pub(crate) trait Message: Sized {
    /// What a text message holds.
    type Words: Deref<Target = str>;
    /// What breaks the socket.
    type Error;
    /// A text message.
    fn text(text: String) -> Self;
    /// A ping.
    fn ping() -> Self;
    /// The closing handshake.
    fn close(code: u16, reason: &'static str) -> Self;
    /// What a message means.
    fn heard(self) -> Heard<Self::Words>;
    /// The error of the protocol below.
    fn fault(error: Self::Error) -> Option<WsError>;
}

impl Message for ws::Message {
    type Words = ws::Utf8Bytes;
    type Error = axum::Error;

    fn text(text: String) -> Self {
        Self::Text(text.into())
    }

    fn ping() -> Self {
        Self::Ping(Bytes::new())
    }

    fn close(code: u16, reason: &'static str) -> Self {
        let reason = ws::Utf8Bytes::from_static(reason);
        Self::Close(Some(ws::CloseFrame { code, reason }))
    }

    fn heard(self) -> Heard<Self::Words> {
        match self {
            Self::Text(text) => Heard::Text(text),
            Self::Binary(bytes) => Heard::Binary(bytes),
            Self::Ping(_) | Self::Pong(_) => Heard::Alive,
            Self::Close(frame) => Heard::Closed(frame.map_or(NO_CODE, |frame| frame.code)),
        }
    }

    fn fault(error: Self::Error) -> Option<WsError> {
        error.into_inner().downcast().ok().map(|error| *error)
    }
}

impl Message for tungstenite::Message {
    type Words = tungstenite::Utf8Bytes;
    type Error = WsError;

    fn text(text: String) -> Self {
        Self::Text(text.into())
    }

    fn ping() -> Self {
        Self::Ping(Bytes::new())
    }

    fn close(code: u16, reason: &'static str) -> Self {
        let reason = tungstenite::Utf8Bytes::from_static(reason);
        Self::Close(Some(tungstenite::protocol::CloseFrame {
            code: code.into(),
            reason,
        }))
    }

    fn heard(self) -> Heard<Self::Words> {
        match self {
            Self::Text(text) => Heard::Text(text),
            Self::Binary(bytes) => Heard::Binary(bytes),
            // A bare frame is never read.
            Self::Ping(_) | Self::Pong(_) | Self::Frame(_) => Heard::Alive,
            Self::Close(frame) => Heard::Closed(frame.map_or(NO_CODE, |frame| frame.code.into())),
        }
    }

    fn fault(error: Self::Error) -> Option<WsError> {
        Some(error)
    }
}

/// How the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Well, as far as is known.
    Fine,
    /// It has not answered a ping, nor said anything else since (F69). No proof that it is gone where it is Exotel
    /// (exotel.md §5.4).
    NoPong,
    /// It has stopped reading (F70).
    Stalled,
}

/// What a socket waits for, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A peer that takes nothing for this long has stopped reading (F70).
    pub(crate) stall: Duration,
    /// How long a ping may stay unanswered (F69).
    pub(crate) pong: Duration,
}

/// A socket.
#[derive(Debug)]
pub(crate) struct Socket<S> {
    inner: S,
    patience: Patience,
    /// Since when there is something unsent in it.
    unflushed: Option<Instant>,
    heard_at: Instant,
    pinged_at: Option<Instant>,
    /// Reading has ended; the close handshake is over or impossible.
    ended: bool,
}

impl<S, M> Socket<S>
where
    S: Stream<Item = Result<M, M::Error>> + Sink<M, Error = M::Error> + Unpin,
    M: Message,
{
    /// An open socket.
    pub(crate) fn new(inner: S, now: Instant, patience: Patience) -> Self {
        Self {
            inner,
            patience,
            unflushed: None,
            heard_at: now,
            pinged_at: None,
            ended: false,
        }
    }

    /// Waits for what comes, or for room when something is to be sent. Nothing is lost when it is dropped while waiting.
    pub(crate) async fn next(&mut self, want_to_send: bool) -> Heard<M::Words> {
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
                return M::fault(error).map_or(Heard::Broken, |error| violation(&error));
            }
            None => {
                self.ended = true;
                return Heard::Broken;
            }
        };
        (self.heard_at, self.pinged_at) = (Instant::now(), None);
        message.heard()
    }

    /// Whether a message can be sent now. Where it cannot, [`Socket::next`] tells when it can.
    pub(crate) fn is_writable(&mut self) -> bool {
        self.unflushed.is_none()
            && matches!(
                poll_fn(|cx| self.inner.poll_ready_unpin(cx)).now_or_never(),
                Some(Ok(()))
            )
    }

    /// Sends a text message. Only while it is writable.
    pub(crate) fn send(&mut self, now: Instant, text: String) {
        self.start(now, M::text(text));
    }

    /// Sends a message and waits until it has left. False: the peer has stopped reading, or is gone.
    pub(crate) async fn answer(&mut self, message: M) -> bool {
        matches!(timeout(self.patience.stall, self.inner.send(message)).await, Ok(Ok(())))
    }

    /// Begins the closing handshake; reading on completes it. Only while it is writable.
    pub(crate) fn say_goodbye(&mut self, now: Instant) {
        self.start(now, M::close(1000, ""));
    }

    fn start(&mut self, now: Instant, message: M) {
        // An error shows again when the socket is read or flushed.
        let _ = Pin::new(&mut self.inner).start_send(message);
        // What the peer's machine takes at once, as nearly always, needs no waiting.
        if !matches!(self.inner.flush().now_or_never(), Some(Ok(()))) {
            self.unflushed.get_or_insert(now);
        }
    }

    /// When [`Socket::tick`] has something to do.
    pub(crate) fn wake(&self) -> Instant {
        wake(self.patience, self.unflushed, self.heard_at, self.pinged_at)
    }

    /// Pings a silent peer, and says how it does.
    pub(crate) fn tick(&mut self, now: Instant) -> Line {
        if let Some(since) = self.unflushed {
            return if now < since + self.patience.stall {
                Line::Fine
            } else {
                Line::Stalled
            };
        }
        if now < self.wake() {
            return Line::Fine;
        }
        let was_pinged = self.pinged_at.replace(now).is_some();
        self.start(now, M::ping());
        if was_pinged { Line::NoPong } else { Line::Fine }
    }

    /// Closes, and reads until the peer has closed too, for so long at most.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str, limit: Duration) {
        let violated = self.ended;
        let goodbye = async {
            let sent = self.inner.send(M::close(code, reason)).await;
            if violated && sent.is_ok() {
                sleep(LAST_WORD).await;
            }
            while let Some(Ok(_)) = self.inner.next().await {}
        };
        // A peer that does not answer is gone.
        let _ = timeout(limit, goodbye).await;
    }
}

/// While something is unsent there is no ping, so its time is not waited for: once it has passed, that would be no waiting.
fn wake(patience: Patience, unflushed: Option<Instant>, heard_at: Instant, pinged_at: Option<Instant>) -> Instant {
    match (unflushed, pinged_at) {
        (Some(since), _) => since + patience.stall,
        (None, Some(pinged_at)) => pinged_at + patience.pong,
        (None, None) => heard_at + PING_AFTER,
    }
}

fn violation<Text>(error: &WsError) -> Heard<Text> {
    match error {
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

    /// F69, F70: a silent peer that stops reading is waited for, not asked again and again whether its time is up; one that is
    /// pinged has its time to answer.
    #[test]
    fn a_stalled_peer_is_looked_at_when_its_time_is_up() {
        let (stall, pong) = (Duration::from_secs(10), Duration::from_secs(7));
        let patience = Patience { stall, pong };
        let heard_at = Instant::now();
        let pinged_at = heard_at + PING_AFTER;
        assert_eq!(wake(patience, None, heard_at, None), pinged_at);
        assert_eq!(
            wake(patience, Some(pinged_at), heard_at, Some(pinged_at)),
            pinged_at + stall
        );
        assert_eq!(wake(patience, None, heard_at, Some(pinged_at)), pinged_at + pong);
    }
}
