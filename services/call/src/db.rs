//! Connections to Postgres: a bounded pool, limits on every statement, TLS, migrations.

mod error;
mod limits;
mod migrations;
mod read_only;
mod retries;
mod tls;
mod wire;

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
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use self::{
    error::{DbError, is_unique_violation},
    limits::unlimited,
    migrations::{Migrated, ROLES, migrate, migrated, revert_all},
    retries::Retries,
};
use self::{
    read_only::ReadOnly,
    wire::{MakeWire, Wire},
};
use crate::config::Database;

/// A caller would rather hear UNAVAILABLE and retry than wait in a queue for a pool that is stuck.
const WAIT: Duration = Duration::from_secs(1);
/// TCP, TLS and authentication of one new connection.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection from the pool; it goes back when dropped.
pub type Conn = Object<AsyncPgConnection>;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool<AsyncPgConnection>,
    /// For what Exotel and edges tell, and for outcomes of dials.
    reserved: Pool<AsyncPgConnection>,
    connector: Arc<Connector>,
    /// Makes sessions that stay the same one; absent where a pooler is all there is.
    direct: Option<Arc<Connector>>,
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
    pub fn connect(settings: &Database) -> Result<Self, DbError> {
        let through = if settings.pooled { Way::Pooler } else { Way::Limited };
        let connector = Arc::new(Connector::read("DATABASE_URL", settings.url.expose_secret(), through)?);
        let direct = match &settings.direct {
            Some(url) => {
                let direct = Connector::read("DATABASE_DIRECT_URL", url.expose_secret(), Way::Limited)?;
                Some(Arc::new(direct))
            }
            None => (!settings.pooled).then(|| Arc::clone(&connector)),
        };
        let read_only = ReadOnly::default();
        Ok(Self {
            pool: pool(&connector, &read_only, settings.pool_size)?,
            reserved: pool(&connector, &read_only, settings.reserved)?,
            connector,
            direct,
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
    /// same limits, and goes past a pooler where there is a way.
    ///
    /// # Errors
    /// [`DbError::Unreachable`].
    pub async fn copying(&self) -> Result<(tokio_postgres::Client, BoxFuture<'static, ()>), DbError> {
        let connector = self.direct.as_ref().unwrap_or(&self.connector);
        let connecting = timeout(CONNECT, connector.open()).await;
        let opened = connecting
            .unwrap_or_else(|_| Err(ConnectionError::BadConnection("connecting took too long".to_owned())))?;
        Ok(match opened {
            Opened::Local(client, connection) => (client, connection.map(drop).boxed()),
            Opened::Wired(client, connection) => (client, connection.map(drop).boxed()),
        })
    }

    /// Whether there are sessions for LISTEN.
    pub fn can_listen(&self) -> bool {
        self.direct.is_some()
    }

    /// A connection of its own, for LISTEN. It has the same limits, and is closed when dropped. Pending for ever where there is none.
    ///
    /// # Errors
    /// [`DbError::Unreachable`].
    pub async fn dedicated(&self) -> Result<AsyncPgConnection, DbError> {
        match &self.direct {
            Some(direct) => Ok(direct.connect().await?),
            None => std::future::pending().await,
        }
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
        .map_err(|error| DbError::Address("DB_POOL_SIZE", error.to_string()))
}

/// A client and its connection.
enum Opened {
    /// By a Unix socket.
    Local(
        tokio_postgres::Client,
        Box<tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>>,
    ),
    Wired(
        tokio_postgres::Client,
        Box<tokio_postgres::Connection<tokio_postgres::Socket, Wire>>,
    ),
}

/// What is between a connection and its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing, and each session has limits, unless the address has `options` of its own.
    Limited,
    /// Nothing, and there are no limits.
    Unlimited,
    /// A pooler in transaction mode: a session is no longer ours than a transaction, and nothing can be set for it.
    Pooler,
}

/// How a connection is made.
struct Connector {
    config: tokio_postgres::Config,
    /// Absent for Unix sockets.
    wire: Option<MakeWire>,
}

impl Connector {
    /// Reads the address, the value of the named setting.
    fn read(setting: &'static str, address: &str, way: Way) -> Result<Self, DbError> {
        let wrong = |problem: String| DbError::Address(setting, problem);
        let (address, tls) = tls::split(address).map_err(wrong)?;
        // The parser's message never repeats a value, but its source may.
        let mut config: tokio_postgres::Config = address
            .parse()
            .map_err(|error: tokio_postgres::Error| wrong(error.to_string()))?;
        if config.get_application_name().is_none() {
            config.application_name("callbridge call-service");
        }
        if way == Way::Limited && config.get_options().is_none() {
            config.options(limits::OPTIONS);
        }
        config.connect_timeout(CONNECT);
        // Without these a connection whose server vanished stays open for minutes.
        config
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(15));
        let local = config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
        if local && way == Way::Pooler {
            return Err(wrong("a pooler is reached by TCP, not by a Unix socket".to_owned()));
        }
        if config.get_hosts().is_empty() {
            // The name is for TLS alone.
            for address in config.get_hostaddrs().to_vec() {
                config.host(address.to_string());
            }
        }
        let wire = MakeWire {
            tls: tls.client().map_err(wrong)?.map(MakeRustlsConnect::new),
            plain_will_do: tls.mode == tls::Mode::Prefer,
            pooled: way == Way::Pooler,
        };
        // What makes a wire asks for TLS by itself.
        config.ssl_mode(if local { SslMode::Disable } else { SslMode::Require });
        config.ssl_negotiation(SslNegotiation::Direct);
        Ok(Self {
            config,
            wire: (!local).then_some(wire),
        })
    }

    async fn open(&self) -> Result<Opened, ConnectionError> {
        Ok(if let Some(wire) = &self.wire {
            let (client, connection) = self.config.connect(wire.clone()).await.map_err(bad)?;
            Opened::Wired(client, Box::new(connection))
        } else {
            let (client, connection) = self.config.connect(tokio_postgres::NoTls).await.map_err(bad)?;
            Opened::Local(client, Box::new(connection))
        })
    }

    async fn connect(&self) -> Result<AsyncPgConnection, ConnectionError> {
        let attempt = async {
            match self.open().await? {
                Opened::Local(client, connection) => {
                    AsyncPgConnection::try_from_client_and_connection(client, *connection).await
                }
                Opened::Wired(client, connection) => {
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
    // PgBouncer's words, of which 1.20 and later have more.
    let advice = if cause.contains("unsupported startup parameter") {
        "; a pooler is in between, so set DATABASE_POOLED=true"
    } else {
        ""
    };
    ConnectionError::BadConnection(format!("{error}{cause}{advice}"))
}
