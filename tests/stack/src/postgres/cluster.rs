//! One running cluster, and its databases.

use std::{
    fs::File,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_postgres::{Client, error::SqlState};

use super::{
    Binaries, Error,
    guard::Guard,
    launch::{Prepared, connect, file, tail},
};

/// A cold machine under load takes a second or two.
pub(super) const START_LIMIT: Duration = Duration::from_mins(1);

/// Pause between two tries to reach a server that starts.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// The same where the time until it answers is measured.
const REVIVAL: Duration = Duration::from_millis(5);

/// An immediate stop takes milliseconds; the folder's removal a little more.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A free port can be taken by another process before the server has it.
const PORT_TRIES: u32 = 5;

/// The superuser, and the only one.
pub(super) const USER: &str = "callbridge";

/// What committed data survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// An orderly stop alone.
    #[default]
    Nothing,
    /// The death of the server's processes, as by [`Postgres::crash`].
    Process,
    /// A crash of the machine too, as in production.
    Machine,
}

/// How a cluster is to run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What data survives. Tests are faster with less.
    pub durability: Durability,
    /// Where the data goes, in a folder of its own; the system's temporary folder when absent, or when root's PostgreSQL
    /// cannot reach it.
    pub parent: Option<PathBuf>,
    /// Where the server's log goes; nowhere when absent.
    pub log: Option<PathBuf>,
}

/// A running cluster, reachable at 127.0.0.1 without a password. Dropping it stops it and removes its data, as the end of this
/// process does, however it comes about.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    guard: Mutex<Guard>,
    log: File,
    /// Removed after the server has stopped.
    folder: TempDir,
    template: OnceCell<String>,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a cluster for throw-away data.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(&Binaries::find().await?, Options::default()).await
    }

    /// Starts a cluster.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn start_with(binaries: &Binaries, options: Options) -> Result<Self, Error> {
        let blocking = {
            let (binaries, options) = (binaries.clone(), options.clone());
            tokio::task::spawn_blocking(move || Prepared::new(&binaries, &options))
        };
        let prepared = blocking
            .await
            .map_err(|error| file("prepare", Path::new("the cluster"), std::io::Error::other(error)))??;
        let mut tries = 1;
        loop {
            match prepared.launch(binaries, options.durability).await {
                Ok((port, guard)) => {
                    return Ok(Self::of(prepared, port, guard));
                }
                // Its guard removed the data, so each try begins with initdb.
                Err(Error::Program { tail, .. }) if tail.contains("Address already in use") && tries < PORT_TRIES => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn of(prepared: Prepared, port: u16, guard: Guard) -> Self {
        Self {
            port,
            guard: Mutex::new(guard),
            log: prepared.log,
            folder: prepared.folder,
            template: OnceCell::new(),
            databases: AtomicU32::new(0),
        }
    }

    /// Starts another server that follows this one (streaming replication) until it is promoted, and answers queries meanwhile.
    /// Whether commits here wait for it is for `synchronous_standby_names` to say.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn standby(&self, binaries: &Binaries, options: Options) -> Result<Self, Error> {
        let prepared = Prepared::new(binaries, &options)?;
        let (port, guard) = prepared.follow(binaries, self, options.durability).await?;
        Ok(Self::of(prepared, port, guard))
    }

    /// Where its data is.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The URL of a database of this cluster.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn create_empty_database(&self) -> Result<String, Error> {
        self.create("template0").await
    }

    /// Makes a database with callbridge's schema and returns its URL. The schema is made once; each database is a copy.
    ///
    /// # Errors
    /// When the migration fails or the server does not answer.
    pub async fn create_database(&self) -> Result<String, Error> {
        self.create_database_with(async |url| call_service::migrate(&url).await.map(drop).map_err(Into::into))
            .await
    }

    /// As [`Postgres::create_database`], with a migration of one's own. Only the first one given is used.
    ///
    /// # Errors
    /// When the migration fails or the server does not answer.
    pub async fn create_database_with<F, R>(&self, migrate: F) -> Result<String, Error>
    where
        F: FnOnce(String) -> R,
        R: Future<Output = anyhow::Result<()>>,
    {
        let template = self.template.get_or_try_init(async || {
            let url = self.create("template0").await?;
            migrate(url.clone()).await.map_err(Error::Migrate)?;
            Ok::<_, Error>(name(&url).to_owned())
        });
        self.create(template.await?).await
    }

    async fn create(&self, template: &str) -> Result<String, Error> {
        let attempt = "create a database";
        let name = format!("callbridge_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let client = self.connect("postgres").await?;
        let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
        let begun = Instant::now();
        loop {
            match client.batch_execute(&statement).await {
                Ok(()) => return Ok(self.url(&name)),
                // The migration's session is closed, but the server may not have noticed.
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && begun.elapsed() < STOP_LIMIT => {
                    tokio::time::sleep(POLL).await;
                }
                Err(source) => return Err(Error::Statement { attempt, source }),
            }
        }
    }

    /// Connects to a database of this cluster, for statements of one's own.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self, database: &str) -> Result<Client, Error> {
        let failed = |source| Error::Statement {
            attempt: "open a session",
            source,
        };
        connect(self.port, database).await.map_err(failed)
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Stops the server as a crash does: nothing is finished, nobody is waited for. The data stays, for [`Postgres::revive`];
    /// what is committed is in it if [`Durability`] says so.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn crash(&self) -> Result<(), Error> {
        self.tell(Guard::crash)?;
        let begun = Instant::now();
        // The port is closed when its process is gone.
        while TcpStream::connect(self.address()).await.is_ok() {
            if begun.elapsed() > STOP_LIMIT {
                let tail = self.log_tail();
                return Err(Error::Slow {
                    seconds: STOP_LIMIT.as_secs(),
                    tail,
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Starts the server again after [`Postgres::crash`], with the same data at the same address, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn revive(&self) -> Result<(), Error> {
        self.tell(Guard::revive)?;
        let begun = Instant::now();
        while connect(self.port, "postgres").await.is_err() {
            let ended = self.guard.lock().unwrap_or_else(PoisonError::into_inner).has_ended();
            if ended || begun.elapsed() > START_LIMIT {
                return Err(Error::Program {
                    program: "postgres",
                    tail: self.log_tail(),
                });
            }
            tokio::time::sleep(REVIVAL).await;
        }
        Ok(())
    }

    fn tell(&self, word: impl FnOnce(&mut Guard) -> std::io::Result<()>) -> Result<(), Error> {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        word(&mut guard).map_err(|source| file("talk to", Path::new("PostgreSQL's guard"), source))
    }

    /// Stops it and removes its data.
    pub async fn stop(self) {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).dismiss();
        let begun = Instant::now();
        while begun.elapsed() < STOP_LIMIT {
            if self.guard.lock().unwrap_or_else(PoisonError::into_inner).has_ended() {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
        tracing::warn!("PostgreSQL did not stop in time");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let guard = self.guard.get_mut().unwrap_or_else(PoisonError::into_inner);
        guard.dismiss();
        // Waits for the guard, so that the folder can be removed and no zombie is left: some milliseconds.
        let begun = Instant::now();
        while begun.elapsed() < STOP_LIMIT && !guard.has_ended() {
            std::thread::sleep(POLL);
        }
    }
}

/// Host, port and database of a URL, without user and password; empty when it is no URL.
pub fn address(url: &str) -> String {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('?').next().unwrap_or_default().to_owned()
}

fn name(url: &str) -> &str {
    let path = url.rsplit_once('/').map_or(url, |(_, path)| path);
    path.split('?').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_shows_no_password() {
        assert_eq!(
            address("postgres://user:p@ss@db.example:5432/callbridge?sslmode=require"),
            "db.example:5432/callbridge"
        );
        assert_eq!(address("host=x password=y"), "");
        assert_eq!(
            name("postgres://callbridge@127.0.0.1:1/callbridge_7?sslmode=disable"),
            "callbridge_7"
        );
    }
}
