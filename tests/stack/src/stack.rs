//! All pieces together.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use exotel_sim::{Control, Simulator};
use runtime::config::Vars;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::OnceCell};

use crate::{
    Builder, Keys, Settings,
    client::{ApiKey, Clients},
    piece::Piece,
    postgres::{Pooler, Postgres},
};

/// The Postgres that all stacks of this process share, each with a database of its own.
///
/// # Errors
/// When none can be found, fetched or started.
pub async fn shared_postgres() -> anyhow::Result<Arc<Postgres>> {
    static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
    SHARED
        .get_or_try_init(async || Ok(Arc::new(Postgres::start().await?)))
        .await
        .cloned()
}

/// A database of the shared Postgres through a PgBouncer in transaction mode, where `TEST_PGBOUNCER` names its program.
pub(crate) async fn pooled(direct: &str) -> anyhow::Result<Option<String>> {
    static SHARED: OnceCell<Pooler> = OnceCell::const_new();
    let Some(program) = Pooler::wanted() else {
        return Ok(None);
    };
    let pooler =
        SHARED.get_or_try_init(async || anyhow::Ok(Pooler::start(&program, &*shared_postgres().await?).await?));
    Ok(Some(pooler.await?.url(direct)))
}

/// Everything, running in this process.
pub struct Stack {
    /// The database of its call-services.
    pub database_url: String,
    /// Its secrets.
    pub keys: Keys,
    /// The replicas.
    pub call_services: Vec<Piece>,
    /// The edges; URLs lead to the first.
    pub edges: Vec<Piece>,
    /// The reference agent.
    pub echo_agent: Piece,
    pub(crate) simulator: Simulator,
    pub(crate) call_settings: Settings,
    pub(crate) edge_settings: Settings,
    /// Kept until the last stack is gone.
    pub(crate) _postgres: Option<Arc<Postgres>>,
    pub(crate) _folder: TempDir,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("call_services", &self.call_services)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// One of everything, on free ports, with a database of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The first replica's address.
    pub fn grpc_address(&self) -> SocketAddr {
        self.call_services[0].address
    }

    /// The base of the URLs that Exotel calls.
    pub fn edge_url(&self) -> String {
        self.edges[0].url()
    }

    /// The endpoint of the echo agent, for agent records.
    pub fn agent_url(&self) -> String {
        self.echo_agent.url()
    }

    /// Steers the simulator.
    pub fn control(&self) -> Control {
        self.simulator.control()
    }

    /// The simulator's URL, which is also the `subdomain` of its accounts.
    pub fn simulator_url(&self) -> String {
        self.simulator.base_url()
    }

    /// Clients of the first replica.
    pub fn clients(&self) -> Clients {
        self.clients_of(0)
    }

    /// Clients of a replica.
    pub fn clients_of(&self, replica: usize) -> Clients {
        Clients::new(self.call_services[replica].address, ApiKey::new(&self.keys.api_key))
    }

    /// Starts a replica again at its old addresses after it was stopped or killed, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_call_service(&mut self, replica: usize) -> anyhow::Result<()> {
        let piece = &mut self.call_services[replica];
        if piece.is_running() {
            piece.stop().await?;
        }
        let (grpc, internal) = (bind(piece.address.port()).await?, bind(port(piece.internal)).await?);
        *piece = start_call_service(&self.call_settings, grpc, internal)?;
        piece.ready().await
    }

    /// The same for an edge.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_edge(&mut self, edge: usize) -> anyhow::Result<()> {
        let piece = &mut self.edges[edge];
        if piece.is_running() {
            piece.stop().await?;
        }
        let (public, internal) = (bind(piece.address.port()).await?, bind(port(piece.internal)).await?);
        *piece = start_edge(&self.edge_settings, public, internal)?;
        piece.ready().await
    }

    /// The same for the echo agent.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart_echo_agent(&mut self) -> anyhow::Result<()> {
        if self.echo_agent.is_running() {
            self.echo_agent.stop().await?;
        }
        self.echo_agent = start_agent(bind(self.echo_agent.address.port()).await?)?;
        Ok(())
    }

    /// Stops everything in the reverse order of its start.
    ///
    /// # Errors
    /// The first piece's that did not end well; all are stopped all the same.
    pub async fn shut_down(mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        let pieces = self
            .edges
            .iter_mut()
            .chain([&mut self.echo_agent])
            .chain(&mut self.call_services);
        for piece in pieces {
            let stopped = piece.stop().await;
            first = first.and(stopped);
        }
        self.simulator.shutdown().await;
        first
    }
}

fn port(address: Option<SocketAddr>) -> u16 {
    address.map_or(0, |address| address.port())
}

pub(crate) async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

fn vars(settings: &Settings) -> Vars {
    settings.clone().into_iter().collect()
}

pub(crate) fn start_call_service(
    settings: &Settings,
    grpc: TcpListener,
    internal: TcpListener,
) -> anyhow::Result<Piece> {
    let config = call_service::Config::read(vars(settings)).context("call-service")?;
    let (address, inside) = (grpc.local_addr()?, internal.local_addr()?);
    let listeners = call_service::Listeners { grpc, internal };
    Ok(Piece::start("call-service", address, Some(inside), |tasks| {
        call_service::run(config, listeners, tasks)
    }))
}

pub(crate) fn start_edge(settings: &Settings, public: TcpListener, internal: TcpListener) -> anyhow::Result<Piece> {
    let config = edge::Config::read(vars(settings)).context("edge")?;
    let (address, inside) = (public.local_addr()?, internal.local_addr()?);
    let listeners = edge::Listeners { public, internal };
    Ok(Piece::start("edge", address, Some(inside), |tasks| {
        edge::run(config, listeners, tasks)
    }))
}

pub(crate) fn start_agent(grpc: TcpListener) -> anyhow::Result<Piece> {
    let config =
        echo_agent::Config::read([("ECHO_AGENT_DRAIN_SECONDS", "0")].into_iter().collect()).context("echo-agent")?;
    let address = grpc.local_addr()?;
    let listeners = echo_agent::Listeners { grpc };
    Ok(Piece::start("echo-agent", address, None, |tasks| {
        echo_agent::run(config, listeners, tasks)
    }))
}
