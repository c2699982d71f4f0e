//! Sessions that a fail-over has made read-only are not used again (F34).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use deadpool::managed::{Hook, HookError};
use diesel::{
    connection::{Instrumentation, InstrumentationEvent},
    result::{DatabaseErrorKind, Error},
};
use diesel_async::{AsyncPgConnection, pooled_connection::AsyncDieselConnectionManager};

/// When a session last turned out to be read-only. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadOnly(Arc<Mutex<Option<Instant>>>);

impl ReadOnly {
    /// Drops what was connected before then: the address may lead to another server by now.
    pub(super) fn hook(&self) -> Hook<AsyncDieselConnectionManager<AsyncPgConnection>> {
        let seen = self.clone();
        Hook::sync_fn(move |_, metrics| match seen.last() {
            Some(last) if metrics.created <= last => Err(HookError::message("it may be read-only")),
            _ => Ok(()),
        })
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each session's errors pass by here.
impl Instrumentation for ReadOnly {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::FinishQuery {
            error: Some(Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _)),
            ..
        } = event
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}
