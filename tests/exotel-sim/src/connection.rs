//! One connection of a client: HTTP/1 until it ends, or until a fault ends it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::ServiceExt as _;

/// Time for a request's header: longer than any client of the platform needs.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);

/// Put into a response's extensions: the connection is reset after so many bytes of the answer, its head included. An
/// answer that is not longer comes whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutAt(pub(crate) u64);

/// Put into a response's extensions: the client waits in vain. After the time, if there is one, the connection is reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stall(pub(crate) Option<Duration>);

pub(crate) async fn serve(stream: TcpStream, router: Router) {
    let _ = stream.set_nodelay(true);
    let scissors = Arc::new(Scissors::default());
    let wire = Wire {
        stream,
        scissors: Arc::clone(&scissors),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (router, scissors) = (router.clone(), Arc::clone(&scissors));
        Box::pin(async move {
            scissors.left.store(u64::MAX, Ordering::Relaxed);
            let answered: Result<Response, _> = router.oneshot(request.map(Body::new)).await;
            let Ok(response) = answered;
            if let Some(Stall(time)) = response.extensions().get() {
                match time {
                    Some(time) => tokio::time::sleep(*time).await,
                    // The connection's end, on either side, drops this future.
                    None => std::future::pending().await,
                }
                scissors.left.store(0, Ordering::Relaxed);
            } else if let Some(CutAt(bytes)) = response.extensions().get() {
                scissors.left.store(*bytes, Ordering::Relaxed);
            }
            Ok::<_, std::convert::Infallible>(response)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(wire), service);
    // How it ended is the client's affair.
    let _ = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let stream = connection.into_parts().io.into_inner().stream;
    if scissors.cut.load(Ordering::Relaxed) {
        // An RST instead of a FIN: what a cut looks like on the wire.
        let _ = stream.set_zero_linger();
    }
}

/// Says where a connection is cut.
#[derive(Debug)]
struct Scissors {
    /// Bytes that may still be written.
    left: AtomicU64,
    /// Whether more was to be written.
    cut: AtomicBool,
}

impl Default for Scissors {
    fn default() -> Self {
        Self {
            left: AtomicU64::new(u64::MAX),
            cut: AtomicBool::new(false),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
struct CutOnPurpose;

/// A socket that ends where its scissors say.
struct Wire {
    stream: TcpStream,
    scissors: Arc<Scissors>,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.scissors.left.load(Ordering::Relaxed);
        if left == 0 {
            self.scissors.cut.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::other(CutOnPurpose)));
        }
        let allowed = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, &bytes[..allowed]))?;
        if left != u64::MAX {
            let written = u64::try_from(written).unwrap_or(left);
            self.scissors
                .left
                .store(left.saturating_sub(written), Ordering::Relaxed);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
