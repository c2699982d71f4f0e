//! Tracked tasks and the order of stopping: soft (finish what you do), then hard (drop it), each bounded.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{AbortHandle, Abortable, FutureExt as _};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, Span, info, warn};

/// Spawns tasks that shutdown waits for. Cheap to clone; all clones share the same tasks and tokens.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    soft: CancellationToken,
    impatient: CancellationToken,
    running: Arc<Mutex<Running>>,
}

/// What the hard stop drops. A token of all would be a lock that each task takes whenever it is polled.
#[derive(Debug, Default)]
struct Running {
    next: u64,
    tasks: HashMap<u64, AbortHandle>,
    stopped: bool,
}

/// A task's place among those that run, until it is dropped.
struct Place {
    running: Arc<Mutex<Running>>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.running).tasks.remove(&self.id);
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task in the current span. It should end by itself soon after [`Tasks::stopping`], and is dropped at the hard limit.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn_apart(task.instrument(Span::current()))
    }

    /// Runs a task in no span: for what outlives the request that asked for it.
    pub fn spawn_apart<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let (abort, registration) = AbortHandle::new_pair();
        let place = self.place(abort);
        let placed = Abortable::new(task, registration).map(move |ended| {
            drop(place);
            ended.ok()
        });
        self.tracker.spawn(placed)
    }

    fn drop_all(&self) {
        let mut running = lock(&self.running);
        running.stopped = true;
        running.tasks.values().for_each(AbortHandle::abort);
    }

    fn place(&self, abort: AbortHandle) -> Place {
        let mut running = lock(&self.running);
        if running.stopped {
            abort.abort();
        }
        let id = running.next;
        running.next += 1;
        running.tasks.insert(id, abort);
        Place {
            running: Arc::clone(&self.running),
            id,
        }
    }

    /// Resolves when shutdown was asked for: take no new work, finish what was begun.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.soft.clone().cancelled_owned()
    }

    /// Whether shutdown was asked for.
    pub fn is_stopping(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Asks all tasks to finish.
    pub fn stop(&self) {
        self.soft.cancel();
    }

    /// Resolves when somebody does not want to wait for what is under way: end it in order, but now.
    pub fn hurrying(&self) -> impl Future<Output = ()> + Send + 'static {
        self.impatient.clone().cancelled_owned()
    }

    /// Asks what is under way to end now.
    pub fn cut_short(&self) {
        self.impatient.cancel();
    }

    /// How many tasks have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether all tasks have ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to finish, waits up to `patience`, then drops those that did not. Returns how many were dropped.
    pub async fn shut_down(&self, patience: Duration) -> usize {
        self.stop();
        self.tracker.close();
        if timeout(patience, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.tracker.len();
        warn!(tasks = left, "tasks did not finish in time and are dropped");
        self.drop_all();
        // A dropped future ends at its next await; a task that never awaits must not hold the process.
        let _ = timeout(Duration::from_secs(1), self.tracker.wait()).await;
        left
    }
}

/// SIGTERM and SIGINT, from when it is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen, in place of the signals' ordinary effect.
    ///
    /// # Errors
    /// When the process cannot listen for signals.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the next one.
    pub async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Stops the tasks at the first one, and cuts the drain short at the next. Never ends.
    pub(crate) async fn drive(mut self, tasks: &Tasks) -> Infallible {
        loop {
            self.recv().await;
            if tasks.is_stopping() {
                warn!("told to stop again: what is under way is cut short");
                tasks.cut_short();
            } else {
                info!("told to stop: finishing what is under way");
                tasks.stop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_finish_is_dropped_at_the_limit() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn(stopping);
        tasks.spawn(pending::<()>());
        assert_eq!(tasks.shut_down(Duration::from_secs(5)).await, 1);
        assert!(tasks.is_empty());
        assert!(lock(&tasks.running).tasks.is_empty());
        assert_eq!(tasks.spawn(pending::<()>()).await.unwrap(), None);
    }
}
