//! What a proxy counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Those that are open now.
    pub open: u64,
    /// Bytes forwarded to upstreams.
    pub to_upstream: u64,
    /// Bytes forwarded to clients.
    pub to_client: u64,
    /// Connections that were reset on purpose, for whatever reason.
    pub cuts: u64,
    /// Those that were reset because of a pattern.
    pub pattern_cuts: u64,
    /// Connections for which no upstream was reachable; they were reset too.
    pub unreachable: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) to_upstream: AtomicU64,
    pub(super) to_client: AtomicU64,
    pub(super) cuts: AtomicU64,
    pub(super) pattern_cuts: AtomicU64,
    pub(super) unreachable: AtomicU64,
}

impl Counts {
    pub(super) fn read(&self) -> Counters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            connections: read(&self.connections),
            open: read(&self.open),
            to_upstream: read(&self.to_upstream),
            to_client: read(&self.to_client),
            cuts: read(&self.cuts),
            pattern_cuts: read(&self.pattern_cuts),
            unreachable: read(&self.unreachable),
        }
    }
}
