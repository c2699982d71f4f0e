//! The running system of one part: PostgreSQL, simulator, echo-agent and the edge's way in are the driver's; replicas and the
//! edge are processes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use exotel_sim::{Account, Control, Simulator};
use runtime::Tasks;
use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::{
    arguments::{PieceName, What},
    balancer,
    check::Limits,
    live::Service,
    part::Part,
    people, pieces,
    presets::{ACCOUNT_OF_CAMPAIGNS, ACCOUNT_OF_TALK, ACCOUNTS, MANY_STREAMS, PATIENT, PATIENT_CALLS, SHORT},
};
use crate::{
    ApiKey, Clients, Keys, Registered, Registration, Settings,
    child::{Child, Spec},
    poll, port,
    postgres::Postgres,
    stack::start_agent,
};

/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// Clients of one Service: each has a connection of its own.
const CLIENTS_OF_SERVICE: usize = 4;

/// An account that calls are placed with.
#[derive(Debug)]
pub(super) struct Member {
    /// As it was registered.
    pub(super) registered: Registered,
    /// What it allows.
    pub(super) limits: Limits,
}

/// One replica of call-service; between its deaths it has a process.
#[derive(Debug)]
pub(super) struct Replica {
    /// What it is started from.
    pub(super) spec: Spec,
    /// Where it says whether it is ready.
    pub(super) internal: SocketAddr,
}

/// Everything of one part.
pub(super) struct System {
    /// Where all goes.
    pub(super) folder: PathBuf,
    /// Shared by all parts.
    pub(super) postgres: Arc<Postgres>,
    /// The part's database.
    pub(super) database: String,
    /// Steers the simulator.
    pub(super) control: Control,
    /// Clients of each replica.
    pub(super) clients: Vec<Clients>,
    /// The accounts.
    pub(super) members: Vec<Member>,
    /// The replicas.
    pub(super) replicas: Vec<Replica>,
    /// What the edge is started from.
    pub(super) edge: Spec,
    /// The edge's process; who breaks more than a replica holds the lock.
    pub(super) edge_child: Mutex<Option<Child>>,
    /// Where people talk: the Services before the processes, which others start and stop.
    pub(super) front: Option<Front>,
    /// Everything in this process that ends with the part.
    pub(super) tasks: Tasks,
    simulator: Simulator,
    agent: crate::Piece,
}

/// The Services of a system whose processes come and go.
#[derive(Debug)]
pub(super) struct Front {
    /// Before the edges.
    pub(super) edges: Service,
    /// Before the replicas of call-service.
    pub(super) call_services: Service,
}

impl System {
    /// Starts what is this process's, and says how the processes are to be started.
    pub(super) async fn start(folder: &Path, postgres: &Arc<Postgres>, part: &Part) -> anyhow::Result<Self> {
        let seed = part.seed;
        let of_campaigns = part.what == What::Campaign;
        let people = match part.what {
            What::Campaign => people::settings_of_campaign(),
            What::Rolling | What::EdgeDetach => people::settings_of_talk(),
            What::Kills | What::Postgres | What::Callbacks | What::Zombie => people::settings(),
        };
        let url = postgres.create_database().await?;
        let database = url.rsplit('/').next().and_then(|name| name.split('?').next());
        let database = database.context("the database's URL has no name")?.to_owned();
        let keys = Keys::generate()?;
        let tasks = Tasks::new();
        let simulator = Simulator::start(exotel_sim::Config {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            state_dir: folder.to_owned(),
            accounts: Vec::new(),
            settings: people,
            seed,
            ..exotel_sim::Config::default()
        })
        .await?;
        let echo = start_agent(crate::stack::bind(0).await?)?;

        let local = || Ok::<_, std::io::Error>(SocketAddr::from((Ipv4Addr::LOCALHOST, port::lasting()?)));
        let front = if part.what.is_live() {
            Some(Front {
                edges: Service::start(&tasks).await?,
                call_services: Service::start(&tasks).await?,
            })
        } else {
            None
        };
        let edge_at = match &front {
            Some(front) => front.edges.address(),
            None => local()?,
        };
        let common = settings([
            ("WEBHOOK_BASE_URL", format!("http://{edge_at}")),
            ("AGENT_ENDPOINT_ALLOW", "loopback,127.0.0.0/8".to_owned()),
        ]);
        let mut all = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..part.replicas {
            let (address, internal) = (local()?, local()?);
            let mut settings = settings([
                ("DATABASE_URL", url.clone()),
                ("CREDENTIAL_KEYS", keys.credential_keys.clone()),
                ("TOKEN_KEYS", keys.token_keys.clone()),
                ("API_KEYS", keys.api_keys()),
                ("CALL_SERVICE_ADDR", address.to_string()),
                ("CALL_SERVICE_INTERNAL_ADDR", internal.to_string()),
            ]);
            settings.extend(common.clone());
            settings.extend(SHORT.map(|(name, value)| (name.to_owned(), value.to_owned())));
            if front.is_some() {
                settings.extend(PATIENT_CALLS.map(|(name, value)| (name.to_owned(), value.to_owned())));
            }
            if of_campaigns {
                // Nothing there waits for a look: news wakes whoever has to act, and four replicas that look cost a machine much.
                settings.insert("POLL_INTERVAL".to_owned(), "500ms".to_owned());
            }
            addresses.push(address);
            let log = folder.join(format!("call-service-{number}.log"));
            let spec = Spec {
                name: PieceName::CallService.word(),
                program: None,
                arguments: pieces::arguments(PieceName::CallService),
                settings,
                log,
            };
            all.push(Replica { spec, internal });
        }
        let balancer = match &front {
            Some(front) => front.call_services.address(),
            None => balancer::start(&tasks, addresses.clone()).await?,
        };
        let mut of_edge = settings([
            ("CALL_SERVICE_URL", format!("http://{balancer}")),
            ("CALL_SERVICE_API_KEY", keys.edge_api_key.clone()),
            ("EDGE_TOKEN_KEYS", keys.edge_token_keys()?),
            ("EDGE_ADDR", edge_at.to_string()),
            ("EDGE_INTERNAL_ADDR", local()?.to_string()),
            ("EDGE_DRAIN_SECONDS", "1".to_owned()),
            ("EDGE_ACCEPT_SECONDS", "0".to_owned()),
        ]);
        of_edge.extend(common);
        if front.is_some() {
            of_edge.extend(PATIENT.map(|(name, value)| (name.to_owned(), value.to_owned())));
            addresses = vec![balancer; CLIENTS_OF_SERVICE];
        }
        let edge = Spec {
            name: PieceName::Edge.word(),
            program: None,
            arguments: pieces::arguments(PieceName::Edge),
            settings: of_edge,
            log: folder.join("edge.log"),
        };
        let key = ApiKey::new(&keys.api_key);
        Ok(Self {
            folder: folder.to_owned(),
            postgres: Arc::clone(postgres),
            database,
            control: simulator.control(),
            clients: addresses.iter().map(|at| Clients::new(*at, key.clone())).collect(),
            members: Vec::new(),
            replicas: all,
            edge_child: Mutex::new(None),
            edge,
            front,
            tasks,
            simulator,
            agent: echo,
        })
    }

    /// Starts the edge and all replicas, which are ready then; their processes are handed to who breaks them.
    pub(super) async fn raise(&self) -> anyhow::Result<Vec<Child>> {
        *self.edge_child.lock().await = Some(self.edge.start(None)?);
        let mut children = Vec::new();
        for replica in &self.replicas {
            let mut child = replica.spec.start(None)?;
            replica.ready(&mut child).await?;
            children.push(child);
        }
        Ok(children)
    }

    /// Registers the accounts, and lets the people move in whose phones do something of their own.
    pub(super) async fn furnish(&mut self, part: &Part) -> anyhow::Result<()> {
        match part.what {
            // Their people come with their contacts, or call by call.
            What::Campaign => self.register(&ACCOUNT_OF_CAMPAIGNS).await,
            What::Rolling | What::EdgeDetach => self.register(&ACCOUNT_OF_TALK).await,
            What::Kills | What::Postgres | What::Callbacks | What::Zombie => {
                self.register(&ACCOUNTS).await?;
                people::move_in(&self.control, part.seed)
            }
        }
    }

    async fn register(&mut self, accounts: &[(u32, u32)]) -> anyhow::Result<()> {
        let first = self.clients.first().context("there is no replica")?;
        let agent = self.agent.url();
        for &(concurrent, per_minute) in accounts {
            let mut registration = Registration::new("chaos")?;
            if self.front.is_some() {
                // All that is heard is an echo.
                r#"{"greet":false}"#.clone_into(&mut registration.agent.config);
            }
            registration.account.calls_per_minute = i32::try_from(per_minute)?;
            registration.account.max_concurrent_calls = i32::try_from(concurrent)?;
            let simulator = self.simulator.base_url();
            let registered = registration.put(first, &self.control, &simulator, &agent).await?;
            let limits = Limits {
                concurrent: concurrent.into(),
                per_minute: per_minute.into(),
            };
            self.members.push(Member { registered, limits });
        }
        if self.front.is_some() {
            // The calls of people who talk are as many as the command line says.
            for account in self.control.accounts() {
                self.control.put_account(Account {
                    max_streams: MANY_STREAMS,
                    ..account
                })?;
            }
        }
        Ok(())
    }

    /// A session with the part's database.
    pub(super) async fn connect(&self) -> anyhow::Result<Client> {
        Ok(self.postgres.connect(&self.database).await?)
    }

    /// Kills the edge and starts it again.
    pub(super) async fn kill_edge(&self, child: &mut Option<Child>) -> anyhow::Result<()> {
        if let Some(mut child) = child.take() {
            child.kill().await?;
        }
        *child = Some(self.edge.start(None)?);
        Ok(())
    }

    /// Ends everything but PostgreSQL; the simulator's files are complete then.
    pub(super) async fn end(self, mut children: Vec<Child>) -> anyhow::Result<()> {
        children.extend(self.edge_child.into_inner());
        for child in &mut children {
            let early = child.ended_within(Duration::ZERO).await?;
            ensure!(
                early.is_none(),
                "a child ended by itself ({early:?}); see its log in {}",
                self.folder.display()
            );
            child.kill().await?;
        }
        self.tasks.shut_down(Duration::ZERO).await;
        self.simulator.shutdown().await;
        Ok(())
    }
}

impl Replica {
    /// Waits until it serves.
    pub(super) async fn ready(&self, child: &mut Child) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(READY).build()?;
        let url = format!("http://{}/readyz", self.internal);
        let ready = poll("call-service to be ready", READY, async || {
            match child.ended_within(Duration::ZERO).await {
                Ok(None) => {}
                Ok(Some(death)) => return Err(format!("it ended: {death:?}")),
                Err(error) => return Err(error.to_string()),
            }
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(format!("/readyz answers {}", answer.status())),
                Err(error) => Err(format!("/readyz cannot be reached: {error}")),
            }
        });
        ready.await.with_context(|| format!("see {}", self.spec.log.display()))
    }
}

fn settings<const N: usize>(pairs: [(&str, String); N]) -> Settings {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}
