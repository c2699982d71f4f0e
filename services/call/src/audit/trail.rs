//! What is shown, written as it comes. Requests of one moment share a statement and its commit: while one is under way the next
//! entries gather, so that a crowd of readers costs the database a few commits, and a single one waits for its own alone.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use runtime::Tasks;
use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    db::Db,
    error::Error,
    store::audit::{self, NewEntry},
};

/// Entries of one statement.
const MOST: usize = 500;

/// Writes entries of what is shown. Each request leaves one and waits for it, so there are never more than requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trail {
    db: Db,
    tasks: Tasks,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Debug, Default)]
struct Gathered {
    entries: Vec<NewEntry>,
    /// Who waits for the entry in the same place.
    waiting: Vec<oneshot::Sender<()>>,
    is_writing: bool,
}

impl Trail {
    /// Nothing is written yet.
    pub fn new(db: Db, tasks: Tasks) -> Self {
        Self {
            db,
            tasks,
            gathered: Arc::default(),
        }
    }

    /// Returns when the entry is committed.
    ///
    /// # Errors
    /// Unavailable: it is not, or nobody knows.
    pub async fn write(&self, entry: NewEntry) -> Result<(), Error> {
        let (sender, written) = oneshot::channel();
        let is_first = {
            let mut gathered = self.gathered();
            gathered.entries.push(entry);
            gathered.waiting.push(sender);
            !mem::replace(&mut gathered.is_writing, true)
        };
        if is_first {
            let writing = Writing {
                trail: self.clone(),
                is_done: false,
            };
            self.tasks.spawn_apart(writing.all());
        }
        written.await.map_err(|_| {
            Error::unavailable("what is shown could not be noted on the audit trail, so it is not shown: try again")
        })
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one task that writes. If it is dropped half-way, whoever waits is told, and the next one begins anew.
struct Writing {
    trail: Trail,
    is_done: bool,
}

impl Writing {
    async fn all(mut self) {
        loop {
            let (entries, waiting) = {
                let mut gathered = self.trail.gathered();
                if gathered.entries.is_empty() {
                    gathered.is_writing = false;
                    self.is_done = true;
                    return;
                }
                let most = gathered.entries.len().min(MOST);
                let entries: Vec<_> = gathered.entries.drain(..most).collect();
                let waiting: Vec<_> = gathered.waiting.drain(..most).collect();
                (entries, waiting)
            };
            match self.write(&entries).await {
                // Who has gone meanwhile has a row of what it was not shown.
                Ok(_) => {
                    for waiter in waiting {
                        let _ = waiter.send(());
                    }
                }
                Err(error) => warn!(%error, entries = entries.len(), "entries of the audit trail could not be written"),
            }
        }
    }

    async fn write(&self, entries: &[NewEntry]) -> Result<usize, Error> {
        let mut conn = self.trail.db.conn().await?;
        Ok(audit::append(&mut conn, entries).await?)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.is_done {
            *self.trail.gathered() = Gathered::default();
        }
    }
}
