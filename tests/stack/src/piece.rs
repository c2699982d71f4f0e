//! One running piece: a process's `run`, in this process.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use runtime::Tasks;
use tokio::task::JoinHandle;
use tracing::{Instrument as _, info_span};

use crate::poll;

/// Migrations are done and ports are bound, so what remains is a first query and a first connection.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Beyond its own drain, which is a setting: sockets and tasks that end at once.
const STOP_LIMIT: Duration = Duration::from_secs(15);

type Running = JoinHandle<Option<anyhow::Result<()>>>;

/// A running piece.
#[derive(Debug)]
pub struct Piece {
    /// Such as `call-service` or `edge`.
    pub name: &'static str,
    /// Where it serves.
    pub address: SocketAddr,
    /// Where health, readiness and metrics are, if it has that.
    pub internal: Option<SocketAddr>,
    tasks: Tasks,
    running: Option<Running>,
}

impl Piece {
    /// Runs a piece with tasks of its own.
    pub(crate) fn start<F>(
        name: &'static str,
        address: SocketAddr,
        internal: Option<SocketAddr>,
        run: impl FnOnce(Tasks) -> F,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = Tasks::new();
        let future = run(tasks.clone()).instrument(info_span!("piece", name, port = address.port()));
        // Apart from the piece's own tasks, whose end it waits for.
        let running = Tasks::new().spawn(future);
        Self {
            name,
            address,
            internal,
            tasks,
            running: Some(running),
        }
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.is_finished())
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// When it ends instead, with its error, or is not ready in time.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let Some(internal) = self.internal else { return Ok(()) };
        let client = reqwest::Client::builder().no_proxy().timeout(READY_LIMIT).build()?;
        let url = format!("http://{internal}/readyz");
        let what = format!("{} to be ready", self.name);
        let ready = poll(&what, READY_LIMIT, async || {
            if !self.is_running() {
                return Ok(false);
            }
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(true),
                Ok(answer) => Err(format!("/readyz answers {}", answer.status())),
                Err(error) => Err(format!("/readyz cannot be reached: {error}")),
            }
        });
        if ready.await? {
            return Ok(());
        }
        match self.ended().await {
            Ok(()) => bail!("{} ended before it was ready", self.name),
            Err(error) => Err(error),
        }
    }

    /// Asks it to stop as SIGTERM does, and waits.
    ///
    /// # Errors
    /// When it ends with an error or does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.tasks.stop();
        if let Ok(ended) = tokio::time::timeout(STOP_LIMIT, self.ended()).await {
            return ended;
        }
        self.kill().await;
        Err(anyhow!("{} did not stop within {} s", self.name, STOP_LIMIT.as_secs()))
    }

    /// Drops it and all its tasks where they are, as nearly as one process can be killed inside another.
    pub async fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
        self.tasks.shut_down(Duration::ZERO).await;
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.as_mut() else {
            return Ok(());
        };
        let ended = running.await;
        self.running = None;
        ended
            .with_context(|| format!("{} panicked", self.name))?
            .unwrap_or(Ok(()))
            .context(self.name)
    }
}
