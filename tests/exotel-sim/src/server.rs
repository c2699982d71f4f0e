//! Starts and stops the simulator and serves its connections.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, RwLock},
    time::Duration,
};

use axum::Router;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Control,
    chance::Chance,
    connection::serve,
    control_http,
    journal::{self, Journal},
    rest,
    world::World,
};

/// Connections served at once; more wait in the listener's backlog. Enough for a load test on one machine.
const CONNECTIONS: usize = 4_096;

/// Keep the draws for connects, for reads and for everything else apart, so that none changes the others.
const CONNECTS: u64 = 0xC0;
const READS: u64 = 0x4EAD;

/// How long a stop waits for calls to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that a lack of file handles does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An account makes no sense.
    #[error("{0}")]
    Account(String),
    /// The address cannot be used.
    #[error("cannot listen on {address}; is another simulator running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state folder cannot be made.
    #[error("cannot create the state folder {path}")]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A journal cannot be opened.
    #[error("cannot open the journals")]
    Journal(#[from] journal::Error),
    /// The extra roots cannot be read.
    #[error("cannot read root certificates from {path}; it must be a PEM file")]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// A running simulator. Dropping it stops it without waiting; [`Simulator::shutdown`] waits.
pub struct Simulator {
    address: SocketAddr,
    world: Arc<World>,
}

impl Simulator {
    /// Starts a simulator and returns when it listens.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // Whoever came first has installed the same provider: there is only one in this workspace.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if let Some(problem) = config.accounts.iter().find_map(crate::Account::problem) {
            return Err(StartError::Account(problem));
        }
        let path = config.state_dir.clone();
        tokio::fs::create_dir_all(&path)
            .await
            .map_err(|source| StartError::StateDir { path, source })?;
        let listen = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let roots = extra_roots(&config).await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let journal = |name: &str, durable| Journal::open(&config.state_dir.join(name), durable, &tasks, stop.clone());
        let world = Arc::new(World {
            base_url: OnceLock::from(format!("http://{address}")),
            settings: RwLock::new(Arc::new(config.settings.clone())),
            accounts: RwLock::default(),
            outcomes: Mutex::default(),
            calls: Mutex::default(),
            connections: Arc::new(()),
            changes: tokio::sync::watch::Sender::new(0),
            ledger: journal("ledger.jsonl", true)?,
            arrivals: journal("arrivals.jsonl", true)?,
            events: journal("events.jsonl", false)?,
            http: http_client(&roots)?,
            tls: Arc::new(tls_client(roots)?),
            seed: config.seed,
            chance: Chance::new(config.seed),
            connects: Chance::new(config.seed ^ CONNECTS),
            reads: Chance::new(config.seed ^ READS),
            speech: config.speech.clone(),
            clips: Mutex::default(),
            state_dir: config.state_dir.clone(),
            tasks,
            stop,
        });
        for account in config.accounts {
            world.put_account(account);
        }
        let router = control_http::router(Arc::clone(&world)).fallback_service(rest::router(Arc::clone(&world)));
        world.tasks.spawn(accept(listener, router, Arc::clone(&world)));
        tracing::info!(listen.address = %address, "simulator listens");
        Ok(Self { address, world })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The base of its URLs, such as `http://127.0.0.1:8090`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The handle to steer it.
    pub fn control(&self) -> Control {
        Control {
            world: Arc::clone(&self.world),
        }
    }

    /// Ends all calls and stops; waits at most 5 s.
    pub async fn shutdown(self) {
        self.world.stop.cancel();
        self.world.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.world.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks.left = self.world.tasks.len(),
                "simulator stopped with tasks still running"
            );
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.world.stop.cancel();
        self.world.tasks.close();
    }
}

async fn extra_roots(config: &Config) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let Some(path) = config.root_certificates.clone() else {
        return Ok(Vec::new());
    };
    let error = |source| StartError::Roots {
        path: path.clone(),
        source,
    };
    let pem = tokio::fs::read(&path)
        .await
        .map_err(|source| error(rustls::pki_types::pem::Error::Io(source)))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(error)
}

/// No redirects, no proxies: the platform follows none. A machine without roots of its own trusts the extra ones alone.
fn http_client(roots: &[CertificateDer<'static>]) -> Result<reqwest::Client, StartError> {
    let mut certificates = Vec::new();
    for root in roots {
        certificates.push(reqwest::Certificate::from_der(root).map_err(StartError::Http)?);
    }
    let builder = || {
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
    };
    let client = builder().tls_certs_merge(certificates.clone()).build();
    client
        .or_else(|_| builder().tls_certs_only(certificates).build())
        .map_err(StartError::Http)
}

fn tls_client(roots: Vec<CertificateDer<'static>>) -> Result<rustls::ClientConfig, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(StartError::Tls)?;
    let builder = match rustls_platform_verifier::Verifier::new_with_extra_roots(roots.clone(), provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no roots of the operating system"
            );
            let mut store = rustls::RootCertStore::empty();
            store.add_parsable_certificates(roots);
            builder.with_root_certificates(store)
        }
    };
    Ok(builder.with_no_client_auth())
}

async fn accept(listener: TcpListener, router: Router, world: Arc<World>) {
    let (tasks, stop) = (world.tasks.clone(), world.stop.clone());
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (router, stop, counted) = (router.clone(), stop.clone(), Arc::clone(&world.connections));
        tasks.spawn(async move {
            let _held = (permit, counted);
            let _ = stop.run_until_cancelled(serve(stream, router)).await;
        });
    }
}
