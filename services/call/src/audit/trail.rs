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

/// Writes entries of what is shown. Each request leaves one and waits for it; those of requests that are gone are dropped, so there are
/// never many more than requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trail {
    db: Db,
    tasks: Tasks,
    gathered: Arc<Mutex<Gathered>>,
}

#[derive(Debug, Default)]
struct Gathered {
    /// Each with who waits for it.
    entries: Vec<(NewEntry, oneshot::Sender<()>)>,
    is_writing: bool,
}

impl Gathered {
    /// Takes the oldest ones. Who is gone is shown nothing, and its entry is not written.
    fn take(&mut self) -> (Vec<NewEntry>, Vec<oneshot::Sender<()>>) {
        self.entries.retain(|(_, waiter)| !waiter.is_closed());
        let most = self.entries.len().min(MOST);
        self.entries.drain(..most).unzip()
    }
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
            gathered.entries.push((entry, sender));
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
                let (entries, waiting) = gathered.take();
                if entries.is_empty() {
                    gathered.is_writing = false;
                    self.is_done = true;
                    return;
                }
                (entries, waiting)
            };
            match self.write(&entries).await {
                // Who goes while it is written has a row of what it was not shown.
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
