//! The public listener, with TLS or behind an ingress that ends it: hyper's connection loop, since `axum::serve` has no limit for a request's header (F67).

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use runtime::{Tasks, tls::Acceptor};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    Config,
    pending::{DESCRIPTORS_PER_CALL, Pending},
};

/// A request's line and headers: beyond, the answer is 431 (F95).
const MAX_HEADER: usize = 16 * 1024;
/// Output that the peer's machine does not acknowledge for this long means that it is gone (F68).
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(10);
/// The wait after a failed accept, for example without file descriptors (F106).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is kept for another request outlives `closing` at most: a request that is on its way already would
/// be lost with it. As long as new work is taken after SIGTERM, but not longer than this.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// For all that is there once: listeners, the runtime, call-service, the collector.
const OTHER_DESCRIPTORS: usize = 32;

/// How the process's descriptors are shared out, so that the calls that live have those they will need (F130).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptors {
    /// Connections that are no sockets yet; the others wait in the listen queue.
    pub(crate) connections: usize,
    /// Live calls, and in what they leave the sockets that have not said `start`.
    pub(crate) calls: usize,
}

impl Descriptors {
    /// Of so many descriptors.
    pub(crate) fn share(configured: usize, descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(OTHER_DESCRIPTORS);
        let most = (free / DESCRIPTORS_PER_CALL).max(1);
        if most < configured {
            tracing::warn!(
                descriptors,
                connections = most,
                "fewer connections than EDGE_MAX_CONNECTIONS: raise the limit of open files (ulimit -n)"
            );
        }
        let connections = most.min(configured);
        Self {
            connections,
            calls: free.saturating_sub(connections),
        }
    }
}

/// Who is let in, and who goes where there is no room.
pub(crate) struct Door {
    /// How many connections at once.
    pub(crate) connections: usize,
    /// TLS, where no ingress ends it.
    pub(crate) acceptor: Option<Acceptor>,
    /// The sockets that have not said `start`.
    pub(crate) pending: Pending,
}

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Accepts until `closing`, but nobody who may not ask, who is counted by `refused`; then connections finish the request they are at, or the one that still comes. Sessions are not theirs
/// any more.
pub(crate) async fn serve(
    listener: TcpListener,
    door: Door,
    router: Router,
    config: &Config,
    connections: &Tasks,
    closing: CancellationToken,
    refused: impl Fn(),
) {
    let slots = Arc::new(Semaphore::new(door.connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.header_limit)
        .max_buf_size(MAX_HEADER);
    loop {
        // The semaphore is never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let (stream, peer) = match accepted.and_then(|(stream, peer)| Ok((prepared(stream)?, peer))) {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                // For want of descriptors, nearly always.
                door.pending.shed();
                tracing::warn!(%error, "cannot accept a connection; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Before it has cost a handshake, or stands in others' way.
        if !config.sources.permits_peer(peer.ip()) {
            refused();
            continue;
        }
        let connection = Connection {
            http: http.clone(),
            router: router.clone(),
            peer: Peer(peer.ip()),
            closing: closing.clone(),
            linger: config.accept_window.min(LINGER),
        };
        let acceptor = door.acceptor.clone();
        connections.spawn(async move {
            match acceptor {
                None => connection.serve(stream).await,
                // Apart, so that connections without TLS are no larger for it.
                Some(acceptor) => Box::pin(connection.serve_tls(stream, acceptor)).await,
            }
            drop(slot);
        });
    }
}

/// What one connection needs.
struct Connection {
    http: http1::Builder,
    router: Router,
    peer: Peer,
    closing: CancellationToken,
    linger: Duration,
}

impl Connection {
    /// The handshake has a limit of its own; after it, that of the header begins.
    async fn serve_tls(self, stream: TcpStream, acceptor: Acceptor) {
        match acceptor.accept(stream).await {
            Ok(stream) => self.serve(stream).await,
            // The peer's: strangers who scan come every minute.
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        }
    }

    async fn serve(self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let peer = self.peer;
        let service = self.router.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let connection = self
            .http
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(service))
            .with_upgrades();
        tokio::pin!(connection);
        // An error is the peer's: it went away or does not speak HTTP.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = async { self.closing.cancelled().await; sleep(self.linger).await } => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))?;
    Ok(stream)
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn live_calls_have_the_descriptors_they_will_need() {
        for (configured, descriptors, connections, calls) in [
            (20_000, 1_048_576, 20_000, 1_028_544),
            (20_000, 20_000, 6_656, 13_312),
            (20_000, 1024, 330, 662),
            (100, 1024, 100, 892),
            (20_000, 10, 1, 0),
        ] {
            assert_eq!(
                Descriptors::share(configured, descriptors),
                Descriptors { connections, calls }
            );
        }
        assert_eq!(Descriptors::share(20_000, usize::MAX).connections, 20_000);
    }

    /// F68: the system gives up a peer that acknowledges nothing.
    #[tokio::test]
    async fn a_peer_that_acknowledges_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = prepared(listener.accept().await.unwrap().0).unwrap();
        let limit = SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(
            (limit, stream.nodelay().unwrap()),
            (Some(Duration::from_secs(10)), true)
        );
    }
}
