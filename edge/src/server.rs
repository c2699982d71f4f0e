//! The public listener: hyper's connection loop, since `axum::serve` has no limit for a request's header (F67).

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use runtime::Tasks;
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::Config;

/// A request's line and headers: beyond, the answer is 431 (F95).
const MAX_HEADER: usize = 16 * 1024;
/// Output that the peer's machine does not acknowledge for this long means that it is gone (F68).
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(10);
/// The wait after a failed accept, for example without file descriptors (F106).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is kept for another request outlives `closing` at most: a request that is on its way already would
/// be lost with it. As long as new work is taken after SIGTERM, but not longer than this.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Of how many descriptors one may be a connection's: a call that records, and has an agent of its own connection, needs two more.
const DESCRIPTORS_PER_CONNECTION: usize = 3;
/// For all that is there once: listeners, the runtime, call-service, the collector.
const OTHER_DESCRIPTORS: usize = 32;

/// How many connections there may be, so that the calls that live have the descriptors they will need (F130). The others wait in
/// the listen queue.
fn most(configured: usize, descriptors: usize) -> usize {
    let most = (descriptors.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION).max(1);
    if most < configured {
        tracing::warn!(
            descriptors,
            connections = most,
            "fewer connections than EDGE_MAX_CONNECTIONS: raise the limit of open files (ulimit -n)"
        );
    }
    most.min(configured)
}

/// Accepts until `closing`; then connections finish the request they are at, or the one that still comes. Sessions are not theirs
/// any more.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    config: &Config,
    connections: &Tasks,
    closing: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(most(
        config.max_connections,
        runtime::descriptors::raise(),
    )));
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
        let stream = match accepted.and_then(|(stream, _)| prepared(stream)) {
            Ok(stream) => stream,
            Err(error) if is_of_the_peer(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = http
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()))
            .with_upgrades();
        let closing = closing.clone();
        let linger = config.accept_window.min(LINGER);
        connections.spawn(async move {
            tokio::pin!(connection);
            // An error is the peer's: it went away or does not speak HTTP.
            tokio::select! {
                _ = connection.as_mut() => {}
                () = async { closing.cancelled().await; sleep(linger).await } => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
            drop(slot);
        });
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
    use super::most;

    #[test]
    fn live_calls_have_the_descriptors_they_will_need() {
        assert_eq!(most(20_000, usize::MAX), 20_000);
        assert_eq!(most(20_000, 1_048_576), 20_000);
        assert_eq!(most(20_000, 1024), 330);
        assert_eq!(most(100, 1024), 100);
        assert_eq!(most(20_000, 10), 1);
    }
}
