//! Tracked tasks and the order of stopping: soft (finish what you do), then hard (drop it), each bounded.

use std::{future::Future, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, Span, info, warn};

/// Spawns tasks that shutdown waits for. Cheap to clone; all clones share the same tasks and tokens.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    soft: CancellationToken,
    hard: CancellationToken,
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
        let hard = self.hard.clone();
        let tracked = async move { hard.run_until_cancelled_owned(task).await };
        self.tracker.spawn(tracked.instrument(Span::current()))
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
        self.hard.cancel();
        // A dropped future ends at its next await; a task that never awaits must not hold the process.
        let _ = timeout(Duration::from_secs(1), self.tracker.wait()).await;
        left
    }
}

/// Resolves at SIGTERM or SIGINT.
///
/// # Errors
/// When the process cannot listen for signals.
pub async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: shutting down"),
        _ = interrupt.recv() => info!("interrupted: shutting down"),
    }
    Ok(())
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
    }
}
