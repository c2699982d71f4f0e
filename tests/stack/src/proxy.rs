//! A TCP proxy that breaks connections on request: between call-service and PostgreSQL, between clients and replicas.
//!
//! It knows nothing of what it carries beyond the patterns that it is given. [`Proxy::faults`] hands out the handle that
//! breaks things; dropping the [`Proxy`] resets all connections and frees the port.
//!
//! ```rust,no_run
//! # async fn test(postgres: std::net::SocketAddr) -> std::io::Result<()> {
//! use stack::proxy::{Direction, Proxy, When};
//!
//! let proxy = Proxy::start(([127, 0, 0, 1], 0).into(), [postgres]).await?;
//! // The next commit takes place, and its client never learns of it.
//! proxy.faults().cut_on(Direction::ToClient, b"C\0\0\0\x0bCOMMIT\0", When::Before, 1);
//! # Ok(())
//! # }
//! ```

mod counters;
mod pump;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::counters::Counters;
use self::counters::Counts;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 1_024;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;

/// Time to reach one upstream: on one machine a live one answers at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed accept, so that a lack of file handles does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest pattern: what is kept of the bytes that have passed is one byte less.
pub const MAX_PATTERN: usize = 256;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream.
    ToUpstream,
    /// From the upstream to the client.
    ToClient,
}

/// Where a connection is cut when a pattern comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// What stands before the pattern is forwarded, the whole pattern never.
    Before,
    /// The pattern is forwarded, what follows is not.
    After,
}

/// How one direction of all connections behaves. The default forwards everything at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// How late bytes arrive. At most a mebibyte is on its way at once.
    pub delay: Duration,
    /// The most that passes through each connection.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Whether nothing passes for the time being; what comes meanwhile waits.
    pub stalled: bool,
    /// Each connection is reset when so many bytes have passed.
    pub cut_after: Option<u64>,
}

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    faults: Faults,
}

impl Proxy {
    /// Listens on the address (port 0 takes a free one) and forwards to the upstreams in turn, leaving out those that
    /// cannot be reached.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(listen: SocketAddr, upstreams: impl IntoIterator<Item = SocketAddr>) -> io::Result<Self> {
        let reservation = socket(listen)?;
        let address = reservation.local_addr()?;
        let faults = Faults {
            shared: Arc::new(Shared {
                address,
                _reservation: reservation,
                upstreams: Mutex::new(upstreams.into_iter().collect()),
                turn: AtomicUsize::new(0),
                rules: watch::Sender::default(),
                resets: watch::Sender::default(),
                triggers: Mutex::default(),
                counts: Counts::default(),
                listening: tokio::sync::Mutex::default(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }),
        };
        faults.accept().await?;
        Ok(Self { faults })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.faults.shared.address
    }

    /// The handle that breaks things.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.faults.shared.stop.cancel();
    }
}

/// Breaks and mends what passes through a [`Proxy`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Faults {
    /// Closes the listener: new connections are refused from now on. Open ones go on.
    pub async fn refuse(&self) {
        if let Some(listening) = self.shared.listening.lock().await.take() {
            listening.stop.cancel();
            listening.tasks.wait().await;
        }
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// When the port cannot be listened on, although this proxy holds it.
    pub async fn accept(&self) -> io::Result<()> {
        let mut listening = self.shared.listening.lock().await;
        if listening.is_none() {
            let listener = socket(self.shared.address)?.listen(BACKLOG)?;
            let (tasks, stop) = (TaskTracker::new(), self.shared.stop.child_token());
            tasks.spawn(accept(listener, Arc::clone(&self.shared), stop.clone()));
            tasks.close();
            *listening = Some(Listening { tasks, stop });
        }
        Ok(())
    }

    /// Whether connections are accepted and nothing of theirs is forwarded, either way; it holds for open ones too.
    pub fn set_black_hole(&self, black_hole: bool) {
        self.shared.rules.send_modify(|rules| rules.black_hole = black_hole);
    }

    /// Changes how a direction behaves, for open connections too.
    pub fn change(&self, direction: Direction, change: impl FnOnce(&mut Link)) {
        self.shared.rules.send_modify(|rules| change(rules.link_mut(direction)));
    }

    /// Resets all open connections.
    pub fn reset_all(&self) {
        self.shared
            .resets
            .send_modify(|resets| *resets = resets.wrapping_add(1));
    }

    /// Resets the connection through which this pattern passes, for the next `times` times, whatever pieces it comes in.
    /// Of a pattern longer than [`MAX_PATTERN`] the beginning counts; an empty one never passes.
    pub fn cut_on(&self, direction: Direction, pattern: impl AsRef<[u8]>, when: When, times: u64) {
        let mut pattern = pattern.as_ref().to_vec();
        pattern.truncate(MAX_PATTERN);
        if !pattern.is_empty() && times > 0 {
            locked(&self.shared.triggers).push(Trigger {
                direction,
                pattern,
                when,
                left: times,
            });
        }
    }

    /// Takes all faults back, patterns too, except a closed listener.
    pub fn heal(&self) {
        locked(&self.shared.triggers).clear();
        self.shared.rules.send_replace(Rules::default());
    }

    /// Forwards new connections to these upstreams from now on.
    pub fn set_upstreams(&self, upstreams: impl IntoIterator<Item = SocketAddr>) {
        *locked(&self.shared.upstreams) = upstreams.into_iter().collect();
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.counts.read()
    }
}

/// All rules in force.
#[derive(Clone, Debug, Default)]
struct Rules {
    to_upstream: Link,
    to_client: Link,
    black_hole: bool,
}

impl Rules {
    fn link(&self, direction: Direction) -> &Link {
        match direction {
            Direction::ToUpstream => &self.to_upstream,
            Direction::ToClient => &self.to_client,
        }
    }

    fn link_mut(&mut self, direction: Direction) -> &mut Link {
        match direction {
            Direction::ToUpstream => &mut self.to_upstream,
            Direction::ToClient => &mut self.to_client,
        }
    }

    fn passes(&self, direction: Direction) -> bool {
        !self.black_hole && !self.link(direction).stalled
    }
}

/// A pattern that cuts.
#[derive(Debug)]
struct Trigger {
    direction: Direction,
    pattern: Vec<u8>,
    when: When,
    left: u64,
}

#[derive(Debug)]
struct Listening {
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    /// Bound and never listening: nobody else gets the port while the listener is closed.
    _reservation: TcpSocket,
    upstreams: Mutex<Vec<SocketAddr>>,
    /// Whose turn it is.
    turn: AtomicUsize,
    rules: watch::Sender<Rules>,
    /// Counts resets of all connections.
    resets: watch::Sender<u64>,
    triggers: Mutex<Vec<Trigger>>,
    counts: Counts,
    listening: tokio::sync::Mutex<Option<Listening>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Locks, whatever happened to an earlier holder: all guarded values are valid between statements.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket bound to the address, beside the one that reserves it.
fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Not SO_REUSEADDR, with which everybody else could have the port while nobody listens.
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepting = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let Some(Some((permit, accepted))) = stop.run_until_cancelled(accepting).await else {
            return;
        };
        let client = match accepted {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(error = %error, "the proxy cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        shared.counts.connections.fetch_add(1, Ordering::Relaxed);
        shared.counts.open.fetch_add(1, Ordering::Relaxed);
        shared.tasks.clone().spawn(async move {
            let _permit = permit;
            pump::connection(&shared, client).await;
            shared.counts.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// The next upstream that can be reached.
async fn upstream(shared: &Shared) -> Option<TcpStream> {
    let upstreams = locked(&shared.upstreams).clone();
    let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
    for at in 0..upstreams.len() {
        let address = upstreams[turn.wrapping_add(at) % upstreams.len()];
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            return Some(stream);
        }
    }
    None
}
