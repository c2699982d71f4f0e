//! What a stack is made of, and its start.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use exotel_sim::Simulator;
use tempfile::TempDir;

use crate::{
    Keys, Stack,
    stack::{bind, pooled, shared_postgres, start_agent, start_call_service, start_edge},
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
    progress: fn(&str, &str, Duration),
}

impl Default for Builder {
    fn default() -> Self {
        // The defaults are for production, where a drain has calls to save.
        let edge = [("EDGE_DRAIN_SECONDS", "1"), ("EDGE_ACCEPT_SECONDS", "0")];
        let call = [
            ("DRAIN_TIMEOUT", "3s"),
            ("DB_POOL_SIZE", "10"),
            ("DIAL_DAILY_CALLS", "0"),
        ];
        let settings = |pairs: &[(&str, &str)]| {
            let settings = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            settings.collect::<Settings>()
        };
        Self {
            database_url: None,
            keys: None,
            replicas: 1,
            edges: 1,
            ports: Ports::default(),
            simulator: None,
            call_settings: settings(&call),
            edge_settings: settings(&edge),
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

    /// The keys that it will have: new ones, unless some were given.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn its_keys(&mut self) -> anyhow::Result<&Keys> {
        if self.keys.is_none() {
            self.keys = Some(Keys::generate()?);
        }
        self.keys.as_ref().context("there are no keys")
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
    pub fn on_ready(mut self, progress: fn(&str, &str, Duration)) -> Self {
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
        let (postgres, database_url, pooled) = if let Some(url) = self.database_url {
            (None, url, None)
        } else {
            let postgres = shared_postgres().await?;
            let url = postgres.create_database().await?;
            (Some(postgres), url.clone(), pooled(&url).await?)
        };

        // All ports first: each piece's settings hold another's address.
        let mut calls = Vec::new();
        for replica in 0..self.replicas {
            let ports = if replica == 0 {
                (self.ports.grpc, self.ports.call_internal)
            } else {
                (0, 0)
            };
            calls.push((bind(ports.0).await?, bind(ports.1).await?));
        }
        let mut edges = Vec::new();
        for edge in 0..self.edges {
            let ports = if edge == 0 {
                (self.ports.edge, self.ports.edge_internal)
            } else {
                (0, 0)
            };
            edges.push((bind(ports.0).await?, bind(ports.1).await?));
        }
        let agent = bind(self.ports.echo_agent).await?;

        let folder = TempDir::new().context("cannot make a temporary folder")?;
        let mut simulator = self
            .simulator
            .unwrap_or_else(|| exotel_sim::Config::for_tests(folder.path()));
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
        let mut database = vec![("DATABASE_URL", database_url.clone())];
        if let Some(url) = pooled {
            database = vec![
                ("DATABASE_URL", url),
                ("DATABASE_DIRECT_URL", database_url.clone()),
                ("DATABASE_POOLED", "true".to_owned()),
            ];
        }
        let call_settings = with(
            &self.call_settings,
            vec![
                ("CREDENTIAL_KEYS", keys.credential_keys.clone()),
                ("TOKEN_KEYS", keys.token_keys.clone()),
                ("API_KEYS", keys.api_keys()),
            ]
            .into_iter()
            .chain(database)
            .collect(),
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
        (self.progress)("echo-agent", &stack.echo_agent.url(), Duration::ZERO);
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
