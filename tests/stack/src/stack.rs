//! All pieces together.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::Context as _;
use exotel_sim::{Control, Simulator};
use runtime::config::Vars;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::OnceCell};

use crate::{
    Keys,
    client::{ApiKey, Clients},
    piece::Piece,
    postgres::Postgres,
};

/// Settings by name, as the environment would have them.
pub type Settings = BTreeMap<String, String>;

/// Ports on the loopback interface; 0 takes a free one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// call-service's gRPC; further replicas take free ones.
    pub grpc: u16,
    /// Its internal listener.
    pub call_internal: u16,
    /// The edge's public listener; further edges take free ones.
    pub edge: u16,
    /// Its internal listener.
    pub edge_internal: u16,
    /// The simulator.
    pub simulator: u16,
    /// The echo agent.
    pub echo_agent: u16,
}

/// The Postgres that all stacks of this process share, each with a database of its own.
///
/// # Errors
/// When none can be found, fetched or started.
pub async fn shared_postgres() -> anyhow::Result<Arc<Postgres>> {
    static SHARED: OnceCell<Arc<Postgres>> = OnceCell::const_new();
    SHARED.get_or_try_init(async || Ok(Arc::new(Postgres::start().await?))).await.cloned()
}

/// How a stack is to be.
#[derive(Debug)]
pub struct Builder {
    database_url: Option<String>,
    keys: Option<Keys>,
    replicas: usize,
    edges: usize,
    ports: Ports,
    simulator: Option<exotel_sim::Config>,
    call_settings: Settings,
    edge_settings: Settings,
    progress: fn(&str, &str, std::time::Duration),
}

impl Default for Builder {
    fn default() -> Self {
        // The defaults are for production, where a drain has calls to save.
        let edge = [("EDGE_DRAIN_SECONDS", "1"), ("EDGE_ACCEPT_SECONDS", "0")];
        let call = [("DRAIN_TIMEOUT", "3s"), ("DB_POOL_SIZE", "10")];
        let settings = |pairs: [(&str, &str); 2]| pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Self {
            database_url: None,
            keys: None,
            replicas: 1,
            edges: 1,
            ports: Ports::default(),
            simulator: None,
            call_settings: settings(call),
            edge_settings: settings(edge),
            progress: |_, _, _| (),
        }
    }
}

impl Builder {
    /// A migrated database to use, instead of a fresh one in the process's shared Postgres.
    #[must_use]
    pub fn database_url(mut self, url: impl Into<String>) -> Self {
        self.database_url = Some(url.into());
        self
    }

    /// Keys to use, instead of random ones.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// How many call-service processes share the database. The edges talk to the first.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas.max(1);
        self
    }

    /// How many edges there are. URLs lead to the first.
    #[must_use]
    pub fn edges(mut self, edges: usize) -> Self {
        self.edges = edges.max(1);
        self
    }

    /// Fixed ports, instead of free ones.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = ports;
        self
    }

    /// The simulator's configuration; its address is the port's. Default: [`exotel_sim::Config::for_tests`] in a folder that
    /// is removed at the end.
    #[must_use]
    pub fn simulator(mut self, config: exotel_sim::Config) -> Self {
        self.simulator = Some(config);
        self
    }

    /// A setting of call-service, such as `SETTLE_WINDOW`.
    #[must_use]
    pub fn call_setting(mut self, name: &str, value: &str) -> Self {
        self.call_settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A setting of the edges, such as `EDGE_IDLE_SECONDS`.
    #[must_use]
    pub fn edge_setting(mut self, name: &str, value: &str) -> Self {
        self.edge_settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Is told when a piece is ready: its name, its address, and how long it took.
    #[must_use]
    pub fn on_ready(mut self, progress: fn(&str, &str, std::time::Duration)) -> Self {
        self.progress = progress;
        self
    }

    /// Starts everything, in this process, and returns when all of it is ready.
    ///
    /// # Errors
    /// Of the piece that could not be started.
    pub async fn start(self) -> anyhow::Result<Stack> {
        runtime::install_crypto_provider();
        let keys = self.keys.map_or_else(Keys::generate, Ok)?;
        let (postgres, database_url) = match self.database_url {
            Some(url) => (None, url),
            None => {
                let postgres = shared_postgres().await?;
                let url = postgres.create_database().await?;
                (Some(postgres), url)
            }
        };

        // All ports first: each piece's settings hold another's address.
        let mut calls = Vec::new();
        for replica in 0..self.replicas {
            let ports = if replica == 0 { (self.ports.grpc, self.ports.call_internal) } else { (0, 0) };
            calls.push((bind(ports.0).await?, bind(ports.1).await?));
        }
        let mut edges = Vec::new();
        for edge in 0..self.edges {
            let ports = if edge == 0 { (self.ports.edge, self.ports.edge_internal) } else { (0, 0) };
            edges.push((bind(ports.0).await?, bind(ports.1).await?));
        }
        let agent = bind(self.ports.echo_agent).await?;

        let folder = TempDir::new().context("cannot make a temporary folder")?;
        let mut simulator = self.simulator.unwrap_or_else(|| exotel_sim::Config::for_tests(folder.path()));
        simulator.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.simulator));
        let begun = Instant::now();
        let simulator = Simulator::start(simulator).await?;
        (self.progress)("simulator", &simulator.base_url(), begun.elapsed());

        let (call_address, edge_address) = (calls[0].0.local_addr()?, edges[0].0.local_addr()?);
        let common = [
            ("WEBHOOK_BASE_URL", format!("http://{edge_address}")),
            ("AGENT_ENDPOINT_ALLOW", "loopback,127.0.0.0/8".to_owned()),
        ];
        let with = |given: &Settings, more: Vec<(&str, String)>| {
            let mut settings: Settings = more.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            settings.extend(common.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            // What was given wins.
            settings.extend(given.clone());
            settings
        };
        let call_settings = with(
            &self.call_settings,
            vec![
                ("DATABASE_URL", database_url.clone()),
                ("CREDENTIAL_KEYS", keys.credential_keys.clone()),
                ("TOKEN_KEYS", keys.token_keys.clone()),
                ("API_KEYS", keys.api_keys()),
            ],
        );
        let edge_settings = with(
            &self.edge_settings,
            vec![
                ("CALL_SERVICE_URL", format!("http://{call_address}")),
                ("CALL_SERVICE_API_KEY", keys.edge_api_key.clone()),
                ("EDGE_TOKEN_KEYS", keys.edge_token_keys()?),
            ],
        );
        let mut stack = Stack {
            database_url,
            keys,
            call_services: Vec::new(),
            edges: Vec::new(),
            echo_agent: start_agent(agent)?,
            simulator,
            call_settings,
            edge_settings,
            _postgres: postgres,
            _folder: folder,
        };
        (self.progress)("echo-agent", &stack.echo_agent.url(), std::time::Duration::ZERO);
        for (grpc, internal) in calls {
            let begun = Instant::now();
            let mut piece = start_call_service(&stack.call_settings, grpc, internal)?;
            piece.ready().await?;
            (self.progress)("call-service", &piece.url(), begun.elapsed());
            stack.call_services.push(piece);
        }
        for (public, internal) in edges {
            let begun = Instant::now();
            let mut piece = start_edge(&stack.edge_settings, public, internal)?;
            piece.ready().await?;
            (self.progress)("edge", &piece.url(), begun.elapsed());
            stack.edges.push(piece);
        }
        Ok(stack)
    }
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
    simulator: Simulator,
    call_settings: Settings,
    edge_settings: Settings,
    /// Kept until the last stack is gone.
    _postgres: Option<Arc<Postgres>>,
    _folder: TempDir,
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
        let pieces = self.edges.iter_mut().chain([&mut self.echo_agent]).chain(&mut self.call_services);
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

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

fn vars(settings: &Settings) -> Vars {
    settings.clone().into_iter().collect()
}

fn start_call_service(settings: &Settings, grpc: TcpListener, internal: TcpListener) -> anyhow::Result<Piece> {
    let config = call_service::Config::read(vars(settings)).context("call-service")?;
    let (address, inside) = (grpc.local_addr()?, internal.local_addr()?);
    let listeners = call_service::Listeners { grpc, internal };
    Ok(Piece::start("call-service", address, Some(inside), |tasks| call_service::run(config, listeners, tasks)))
}

fn start_edge(settings: &Settings, public: TcpListener, internal: TcpListener) -> anyhow::Result<Piece> {
    let config = edge::Config::read(vars(settings)).context("edge")?;
    let (address, inside) = (public.local_addr()?, internal.local_addr()?);
    let listeners = edge::Listeners { public, internal };
    Ok(Piece::start("edge", address, Some(inside), |tasks| edge::run(config, listeners, tasks)))
}

fn start_agent(grpc: TcpListener) -> anyhow::Result<Piece> {
    let config = echo_agent::Config::read([("ECHO_AGENT_DRAIN_SECONDS", "0")].into_iter().collect()).context("echo-agent")?;
    let address = grpc.local_addr()?;
    let listeners = echo_agent::Listeners { grpc };
    Ok(Piece::start("echo-agent", address, None, |tasks| echo_agent::run(config, listeners, tasks)))
}

