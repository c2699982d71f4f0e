//! Connections to agents over gRPC, shared by the streams of several sessions and kept warm for the next ones.
//!
//! Many streams on one connection mean fewer system calls for the same audio; several connections reach several servers behind
//! one name. So a connection gets [`FEW`] streams, and when there are many a part of them. How many at most is a setting; how
//! many are safe the agent's server says by its windows ([`Room`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::transport::Channel;

use super::windows::Room;

/// Streams that share a connection before there are many.
const FEW: usize = 8;
/// When there are many, an endpoint's are on so many connections at least.
const SPREAD: usize = 4;
/// Connections without a stream, for one endpoint and in all, and how long they are kept.
const WARM_EACH: usize = 8;
const WARM_ALL: usize = 64;
const WARM_FOR: Duration = Duration::from_mins(1);
/// Then a connection takes no new streams, and ends with its last one: servers that have come since get their part, and what
/// ended streams have left unread at the other end goes with it.
const YOUNG_FOR: Duration = Duration::from_mins(2);

struct Connection {
    id: u64,
    endpoint: String,
    channel: Channel,
    room: Room,
    streams: usize,
    /// Somebody at the other end has answered, and nothing has been wrong since.
    good: bool,
    since: Instant,
    /// Since when it has no stream.
    idle: Instant,
}

impl Connection {
    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < YOUNG_FOR
    }

    /// Whether it is worth keeping without a stream.
    fn is_warm(&self, now: Instant) -> bool {
        self.good && self.is_young(now) && now.saturating_duration_since(self.idle) < WARM_FOR
    }
}

#[derive(Default)]
struct Connections {
    next_id: u64,
    all: Vec<Connection>,
}

/// The connections of a process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    connections: Arc<Mutex<Connections>>,
    most: usize,
}

impl Pool {
    /// So many streams on a connection at most.
    pub(super) fn new(most: usize) -> Self {
        Self {
            connections: Arc::default(),
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that is known to be good: on the fullest one, so that the others can end.
    pub(super) fn take(&self, endpoint: &str) -> Option<Lease> {
        let mut connections = self.lock();
        let now = Instant::now();
        connections.prune(now);
        let most = self.most.min(connections.share(endpoint));
        let with_room = connections.all.iter_mut().filter(|connection| {
            connection.good
                && connection.is_young(now)
                && connection.endpoint == endpoint
                && connection.streams < connection.room.streams().min(most)
        });
        let fullest = with_room.max_by_key(|connection| connection.streams)?;
        fullest.streams += 1;
        let (id, channel) = (fullest.id, fullest.channel.clone());
        drop(connections);
        Some(self.lease(id, channel))
    }

    /// The first place on a new connection; others follow once it is good.
    pub(super) fn add(&self, endpoint: &str, channel: Channel, room: Room) -> Lease {
        let mut connections = self.lock();
        let now = Instant::now();
        let id = connections.next_id;
        connections.next_id += 1;
        connections.all.push(Connection {
            id,
            endpoint: endpoint.to_owned(),
            channel: channel.clone(),
            room,
            streams: 1,
            good: false,
            since: now,
            idle: now,
        });
        drop(connections);
        self.lease(id, channel)
    }

    fn lease(&self, id: u64, channel: Channel) -> Lease {
        Lease {
            pool: self.clone(),
            id,
            channel,
        }
    }

    /// Nothing that is connected to this endpoint is to be trusted any more.
    pub(super) fn distrust(&self, endpoint: &str) {
        let mut connections = self.lock();
        for connection in connections.all.iter_mut().filter(|c| c.endpoint == endpoint) {
            connection.good = false;
        }
        connections.prune(Instant::now());
    }
}

impl Connections {
    /// How many streams of an endpoint may be on one connection.
    fn share(&self, endpoint: &str) -> usize {
        let those = self.all.iter().filter(|connection| connection.endpoint == endpoint);
        let streams: usize = those.map(|connection| connection.streams).sum();
        (streams / SPREAD).max(FEW)
    }

    fn prune(&mut self, now: Instant) {
        self.all
            .retain(|connection| connection.streams > 0 || connection.is_warm(now));
    }

    fn one(&mut self, id: u64) -> Option<&mut Connection> {
        self.all.iter_mut().find(|connection| connection.id == id)
    }
}

/// A place on a connection, given back when it is dropped.
pub(super) struct Lease {
    pool: Pool,
    id: u64,
    channel: Channel,
}

impl Lease {
    /// The connection.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Whoever is at the other end has answered, or has broken off.
    pub(super) fn is_good(&self, good: bool) {
        if let Some(connection) = self.pool.lock().one(self.id) {
            connection.good = good;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut connections = self.pool.lock();
        let now = Instant::now();
        let Some(connection) = connections.one(self.id) else {
            return;
        };
        connection.streams -= 1;
        if connection.streams > 0 {
            return;
        }
        connection.idle = now;
        let endpoint = connection.endpoint.clone();
        connections.prune(now);
        let idle = connections.all.iter().filter(|connection| connection.streams == 0);
        let (mut all, mut each) = (0, 0);
        for connection in idle {
            all += 1;
            each += usize::from(connection.endpoint == endpoint);
        }
        if all > WARM_ALL || each > WARM_EACH {
            let id = self.id;
            connections.all.retain(|connection| connection.id != id);
        }
    }
}

#[cfg(test)]
mod tests;
