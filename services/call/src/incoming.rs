//! The connections of gRPC: how many there may be, TLS where it is set, and how long their first bytes may take.

use std::{
    future::Future as _,
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use runtime::tls::{self, Acceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tracing::{info, warn};

use crate::rpc::auth::Peer;

/// The wait after a failed accept, for example without file descriptors (F106).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Handshakes of TLS at one time; each ends within seconds.
const HANDSHAKES: usize = 256;
/// What a client of HTTP/2 sends without being asked: the preface, and the head of a SETTINGS frame (RFC 9113 §3.4).
const FIRST_BYTES: usize = 24 + 9;
/// How long it may take for that. Later, keep-alive finds those that are gone.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);

/// The connections that come. Those beyond `limit` wait in the listen queue. tonic asks for the next one as soon as one has failed, and
/// without a pause it would do nothing else.
pub(crate) fn incoming(
    listener: TcpListener,
    limit: NonZeroUsize,
    acceptor: Option<Acceptor>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let permits = Arc::new(Semaphore::new(limit.get()));
    let accepted = stream::unfold((listener, permits), |(listener, permits)| async {
        let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
        let accepted = listener.accept().await;
        if let Err(error) = &accepted
            && !is_of_the_peer(error)
        {
            warn!(%error, "cannot accept a connection; trying again");
            sleep(ACCEPT_PAUSE).await;
        }
        Some((accepted.map(|(tcp, _)| (tcp, permit)), (listener, permits)))
    });
    accepted
        .map(move |accepted| {
            let acceptor = acceptor.clone();
            async move {
                let (tcp, permit) = accepted?;
                tcp.set_nodelay(true)?;
                Connection::open(tcp, acceptor.as_ref(), permit).await
            }
        })
        .buffer_unordered(HANDSHAKES)
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

/// A connection, with or without TLS.
pub(crate) struct Connection {
    io: Io,
    peer: Peer,
    /// None: they have come.
    first: Option<First>,
    _permit: OwnedSemaphorePermit,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

struct First {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    async fn open(tcp: TcpStream, acceptor: Option<&Acceptor>, permit: OwnedSemaphorePermit) -> io::Result<Self> {
        let (io, peer) = match acceptor {
            None => (Io::Plain(tcp), Peer::default()),
            Some(acceptor) => {
                let shaken = acceptor.accept(tcp).await;
                let stream = shaken.inspect_err(|error| info!(%error, "a TLS handshake failed"))?;
                let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let uri = certificate.and_then(tls::uri).map(Arc::from);
                (Io::Tls(Box::new(stream)), Peer { uri })
            }
        };
        Ok(Self {
            io,
            peer,
            first: Some(First {
                missing: FIRST_BYTES,
                deadline: Box::pin(sleep(FIRST_BYTES_WITHIN)),
            }),
            _permit: permit,
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(first) = &mut self.first
            && first.deadline.as_mut().poll(cx).is_ready()
        {
            let late = "the client did not begin to speak HTTP/2 in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, late)));
        }
        let before = buf.filled().len();
        ready!(match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        })?;
        if let Some(first) = &mut self.first {
            first.missing = first.missing.saturating_sub(buf.filled().len() - before);
            if first.missing == 0 {
                self.first = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests;
