//! How many sessions live, for the drain.

use tokio::sync::watch;

/// Counts live sessions.
#[derive(Debug, Clone)]
pub(crate) struct Live(watch::Sender<usize>);

/// One live session, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(watch::Sender<usize>);

impl Live {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// One more.
    pub(crate) fn enter(&self) -> Guard {
        self.0.send_modify(|count| *count += 1);
        Guard(self.0.clone())
    }

    /// How many live.
    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Resolves when none lives.
    pub(crate) async fn none(&self) {
        // The sender is here, so the channel cannot be closed.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
