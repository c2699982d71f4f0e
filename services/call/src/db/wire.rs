//! What lies between tokio-postgres and the network: it sees the messages that pass. tokio-postgres lets nobody in but what makes TLS,
//! so that is what this is to it.

mod messages;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_postgres::{
    Socket,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::messages::Messages;

/// Bytes read from the network at one time.
const READ: usize = 8 << 10;
/// `SSLRequest` of the protocol.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

type MakeSecure = MakeRustlsConnect;
type Secure = <MakeSecure as MakeTlsConnect<Socket>>::Stream;

/// Makes wires. tokio-postgres is told that TLS is required and begins without a question; the question is asked here.
#[derive(Clone)]
pub(super) struct MakeWire {
    /// Absent with `sslmode=disable`.
    pub(super) tls: Option<MakeSecure>,
    /// Whether a server without TLS will do.
    pub(super) plain_will_do: bool,
    /// Whether the connection leads through a pooler that has another server's session for each transaction.
    pub(super) pooled: bool,
}

impl MakeTlsConnect<Socket> for MakeWire {
    type Stream = Wire;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Connect> {
        let tls = match &mut self.tls {
            Some(tls) => Some(MakeTlsConnect::<Socket>::make_tls_connect(tls, domain).map_err(io::Error::other)?),
            None => None,
        };
        Ok(Connect {
            tls,
            plain_will_do: self.plain_will_do,
            pooled: self.pooled,
        })
    }
}

/// Makes one wire.
pub(super) struct Connect {
    tls: Option<<MakeSecure as MakeTlsConnect<Socket>>::TlsConnect>,
    plain_will_do: bool,
    pooled: bool,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Wire;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Wire>>;

    fn connect(self, socket: Socket) -> Self::Future {
        async move {
            let carrier = match self.tls {
                Some(tls) => secure(socket, tls, self.plain_will_do).await?,
                None => Carrier::Plain(socket),
            };
            Ok(Wire::new(carrier, self.pooled))
        }
        .boxed()
    }
}

async fn secure<T>(mut socket: Socket, tls: T, plain_will_do: bool) -> io::Result<Carrier>
where
    T: TlsConnect<Socket, Stream = Secure>,
{
    socket.write_all(&TLS_REQUEST).await?;
    match socket.read_u8().await? {
        b'S' => {
            let stream = tls.connect(socket).await;
            Ok(Carrier::Secure(Box::new(
                stream.map_err(|error| io::Error::other(error.into()))?,
            )))
        }
        _ if plain_will_do => Ok(Carrier::Plain(socket)),
        _ => Err(io::Error::other("server does not support TLS")),
    }
}

/// What carries the bytes.
enum Carrier {
    Plain(Socket),
    Secure(Box<Secure>),
}

impl Carrier {
    fn pin(&mut self) -> Pin<&mut dyn Both> {
        match self {
            Self::Plain(socket) => Pin::new(socket),
            Self::Secure(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

/// A connection whose messages are seen.
pub(super) struct Wire {
    carrier: Carrier,
    messages: Messages,
    /// Seen, and not sent yet.
    outgoing: BytesMut,
    /// Seen, and not taken yet.
    incoming: BytesMut,
    read: Box<[u8]>,
}

impl Wire {
    fn new(carrier: Carrier, pooled: bool) -> Self {
        Self {
            carrier,
            messages: Messages::new(pooled),
            outgoing: BytesMut::new(),
            incoming: BytesMut::new(),
            read: vec![0; READ].into_boxed_slice(),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(self.carrier.pin().poll_write(cx, &self.outgoing))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        while wire.incoming.is_empty() {
            let mut read = ReadBuf::new(&mut wire.read);
            ready!(wire.carrier.pin().poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            wire.messages.received(read.filled(), &mut wire.incoming)?;
        }
        let n = wire.incoming.len().min(to.remaining());
        to.put_slice(&wire.incoming[..n]);
        wire.incoming.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        // One piece at a time is held.
        ready!(wire.poll_send(cx))?;
        wire.messages.sent(bytes, &mut wire.outgoing)?;
        // What does not go now goes with the next piece, or with the flush.
        if let Poll::Ready(Err(error)) = wire.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_send(cx))?;
        wire.carrier.pin().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_send(cx))?;
        wire.carrier.pin().poll_shutdown(cx)
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.carrier {
            Carrier::Plain(_) => ChannelBinding::none(),
            Carrier::Secure(stream) => stream.channel_binding(),
        }
    }
}
