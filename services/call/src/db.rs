//! Connections to Postgres: a bounded pool, limits on every statement, TLS, migrations.

mod error;
mod migrations;
mod read_only;
mod retries;
mod tls;

use std::{sync::Arc, time::Duration};

use deadpool::{Runtime, managed::Timeouts};
use diesel::ConnectionError;
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
};
use futures_util::{FutureExt as _, future::BoxFuture};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use self::read_only::ReadOnly;
pub use self::{
    error::{DbError, is_unique_violation},
    migrations::{Migrated, migrate, migrated, revert_all},
    retries::Retries,
};
use crate::config::Config;

/// A caller would rather hear UNAVAILABLE and retry than wait in a queue for a pool that is stuck.
const WAIT: Duration = Duration::from_secs(1);
/// TCP, TLS and authentication of one new connection.
const CONNECT: Duration = Duration::from_secs(3);
/// A statement of a request never takes longer; those that may are run on connections of their own.
/// A commit that a crash can take back would let a dial be made twice. Statements here take a millisecond: compiling one first takes
/// a hundred.
const LIMITS: &str = "-c statement_timeout=5s -c lock_timeout=1s -c idle_in_transaction_session_timeout=10s -c synchronous_commit=on -c jit=off";

/// A connection from the pool; it goes back when dropped.
pub type Conn = Object<AsyncPgConnection>;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    /// For what Exotel and edges tell, and for outcomes of dials.
    reserved: Pool<AsyncPgConnection>,
    connector: Arc<Connector>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("status", &self.pool.status())
            .finish_non_exhaustive()
    }
}

impl Db {
    /// Prepares the pool. Nothing is connected yet, so that a process can start while the database is away.
    ///
    /// # Errors
    /// When the address or the TLS roots cannot be read.
    pub fn connect(config: &Config) -> Result<Self, DbError> {
        let connector = Arc::new(Connector::read(config.database.url.expose_secret(), Some(LIMITS))?);
        let read_only = ReadOnly::default();
        Ok(Self {
            pool: pool(&connector, &read_only, config.database.pool_size)?,
            reserved: pool(&connector, &read_only, config.database.reserved)?,
            connector,
        })
    }

    /// A connection from the pool, within a second when the pool is full.
    ///
    /// # Errors
    /// [`DbError::Unreachable`] or [`DbError::Busy`].
    pub async fn conn(&self) -> Result<Conn, DbError> {
        Ok(self.pool.get().await?)
    }

    /// The same from a pool of its own, for facts that are told once and must be kept: callbacks, sessions, outcomes of dials. No
    /// number of requests can use it up.
    ///
    /// # Errors
    /// [`DbError::Unreachable`] or [`DbError::Busy`].
    pub async fn reserved(&self) -> Result<Conn, DbError> {
        Ok(self.reserved.get().await?)
    }

    /// The pools and how they stand, by name.
    pub fn pools(&self) -> [(&'static str, deadpool::Status); 2] {
        [("requests", self.pool.status()), ("reserved", self.reserved.status())]
    }

    /// A connection of its own for COPY, which diesel does not speak, and what drives it: it ends when the client is dropped. It has the
    /// same limits.
    ///
    /// # Errors
    /// [`DbError::Unreachable`].
    pub async fn copying(&self) -> Result<(tokio_postgres::Client, BoxFuture<'static, ()>), DbError> {
        let connecting = timeout(CONNECT, self.connector.open()).await;
        let opened = connecting
            .unwrap_or_else(|_| Err(ConnectionError::BadConnection("connecting took too long".to_owned())))?;
        Ok(match opened {
            Opened::Plain(client, connection) => (client, connection.map(drop).boxed()),
            Opened::Tls(client, connection) => (client, connection.map(drop).boxed()),
        })
    }

    /// A connection of its own, for LISTEN. It has the same limits, and is closed when dropped.
    ///
    /// # Errors
    /// [`DbError::Unreachable`].
    pub async fn dedicated(&self) -> Result<AsyncPgConnection, DbError> {
        Ok(self.connector.connect().await?)
    }
}

fn pool(connector: &Arc<Connector>, read_only: &ReadOnly, size: usize) -> Result<Pool<AsyncPgConnection>, DbError> {
    let mut manager = ManagerConfig::default();
    // A closed connection is noticed without a query; a half-dead one fails its statement and is dropped then.
    manager.recycling_method = RecyclingMethod::Fast;
    let (to_connect, watch) = (Arc::clone(connector), read_only.clone());
    manager.custom_setup = Box::new(move |_| {
        let (connector, watch) = (to_connect.clone(), watch.clone());
        async move {
            let mut conn = connector.connect().await?;
            conn.set_instrumentation(watch);
            Ok(conn)
        }
        .boxed()
    });
    Pool::builder(AsyncDieselConnectionManager::new_with_config(String::new(), manager))
        .max_size(size)
        .pre_recycle(read_only.hook())
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(WAIT),
            create: Some(CONNECT),
            recycle: Some(WAIT),
        })
        .build()
        .map_err(|error| DbError::Address(error.to_string()))
}

/// A client and its connection.
enum Opened {
    Plain(
        tokio_postgres::Client,
        Box<tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>>,
    ),
    Tls(
        tokio_postgres::Client,
        Box<
            tokio_postgres::Connection<
                tokio_postgres::Socket,
                <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream,
            >,
        >,
    ),
}

/// How a connection is made.
struct Connector {
    config: tokio_postgres::Config,
    /// Absent with `sslmode=disable`.
    tls: Option<MakeRustlsConnect>,
}

impl Connector {
    /// Reads the address. `limits` are the server settings of each connection, unless the address has its own `options`.
    fn read(address: &str, limits: Option<&str>) -> Result<Self, DbError> {
        let (address, tls) = tls::split(address)?;
        // The parser's message never repeats a value, but its source may.
        let mut config: tokio_postgres::Config = address
            .parse()
            .map_err(|error: tokio_postgres::Error| DbError::Address(error.to_string()))?;
        if config.get_application_name().is_none() {
            config.application_name("callbridge call-service");
        }
        if let Some(limits) = limits
            && config.get_options().is_none()
        {
            config.options(limits);
        }
        config.connect_timeout(CONNECT);
        // Without these a connection whose server vanished stays open for minutes.
        config
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(15));
        config.ssl_mode(match tls.mode {
            tls::Mode::Disable => SslMode::Disable,
            tls::Mode::Prefer => SslMode::Prefer,
            tls::Mode::Require | tls::Mode::VerifyCa | tls::Mode::VerifyFull => SslMode::Require,
        });
        Ok(Self {
            config,
            tls: tls.client()?.map(MakeRustlsConnect::new),
        })
    }

    async fn open(&self) -> Result<Opened, ConnectionError> {
        Ok(if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await.map_err(bad)?;
            Opened::Tls(client, Box::new(connection))
        } else {
            let (client, connection) = self.config.connect(tokio_postgres::NoTls).await.map_err(bad)?;
            Opened::Plain(client, Box::new(connection))
        })
    }

    async fn connect(&self) -> Result<AsyncPgConnection, ConnectionError> {
        let attempt = async {
            match self.open().await? {
                Opened::Plain(client, connection) => {
                    AsyncPgConnection::try_from_client_and_connection(client, *connection).await
                }
                Opened::Tls(client, connection) => {
                    AsyncPgConnection::try_from_client_and_connection(client, *connection).await
                }
            }
        };
        timeout(CONNECT, attempt)
            .await
            .unwrap_or_else(|_| Err(ConnectionError::BadConnection("connecting took too long".to_owned())))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
fn bad(error: tokio_postgres::Error) -> ConnectionError {
    let cause = std::error::Error::source(&error)
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    ConnectionError::BadConnection(format!("{error}{cause}"))
}
