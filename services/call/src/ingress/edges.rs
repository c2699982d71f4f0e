//! The edges whose control streams are attached to this replica.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use callbridge_proto::id::EdgeId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The attached edges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    attached: Mutex<HashMap<EdgeId, Place>>,
    counter: AtomicU64,
}

#[derive(Debug)]
struct Place {
    number: u64,
    /// Commands wait in the database.
    commands: Arc<Notify>,
    /// A newer stream of the same edge took over.
    replaced: CancellationToken,
}

/// One edge's place. Dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Attachment {
    edges: Edges,
    edge: EdgeId,
    number: u64,
    commands: Arc<Notify>,
    replaced: CancellationToken,
}

impl Edges {
    /// Says that there is a command for an edge. Nothing happens when it is not attached here: its replica looks every second.
    pub fn wake(&self, edge: EdgeId) {
        if let Some(place) = self.lock().get(&edge) {
            place.commands.notify_one();
        }
    }

    /// How many edges are attached here.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether no edge is attached here.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes the edge's place. The stream that had it, if any, is half dead: it is told to end.
    pub(super) fn attach(&self, edge: EdgeId) -> Attachment {
        let number = self.shared.counter.fetch_add(1, Ordering::Relaxed);
        let commands = Arc::new(Notify::new());
        let replaced = CancellationToken::new();
        let place = Place {
            number,
            commands: Arc::clone(&commands),
            replaced: replaced.clone(),
        };
        if let Some(before) = self.lock().insert(edge, place) {
            before.replaced.cancel();
        }
        Attachment {
            edges: self.clone(),
            edge,
            number,
            commands,
            replaced,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EdgeId, Place>> {
        self.shared.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attachment {
    /// Resolves when a command was committed for the edge.
    pub(super) async fn command_waits(&self) {
        self.commands.notified().await;
    }

    /// Resolves when a newer stream of the edge took the place.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut attached = self.edges.lock();
        if attached
            .get(&self.edge)
            .is_some_and(|place| place.number == self.number)
        {
            attached.remove(&self.edge);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_newest_stream_of_an_edge_has_its_place() {
        let edges = Edges::default();
        let edge = EdgeId(Uuid::from_u128(1));
        let old = edges.attach(edge);
        let new = edges.attach(edge);
        assert!(old.replaced().now_or_never().is_some());
        edges.wake(edge);
        assert!(old.command_waits().now_or_never().is_none());
        assert!(new.command_waits().now_or_never().is_some());
        drop(old);
        assert_eq!(edges.len(), 1);
        drop(new);
        assert!(edges.is_empty());
        edges.wake(edge);
    }
}
