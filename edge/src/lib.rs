#![doc = include_str!("../README.md")]

mod agents;
mod config;
mod control;
mod driver;
mod ended;
mod greeting;
mod http;
mod ingress;
mod live;
mod metrics;
mod pending;
pub mod recording;
mod server;
pub mod session;
mod socket;
pub mod source;
mod tally;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use callbridge_proto::{TOKEN_ENDED, id::EdgeId};
pub use config::{Config, Tls};
pub use runtime::endpoint::Allow;
use runtime::{
    Clock, Tasks,
    internal::{self, Readiness},
    tls::Acceptor,
};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::{
    agents::Agents,
    control::{Control, Reports},
    ended::Ended,
    greeting::Greetings,
    ingress::Client,
    live::Live,
    metrics::Metrics,
    pending::Pending,
    recording::Recorder,
    tally::Tally,
};

/// Forged requests of an address that are traced within a minute; all are counted.
const TRACED_STRANGERS: u16 = 10;
/// Of all addresses together: there is no end of those.
const TRACED_IN_ALL: u16 = 100;
/// How often within a minute a socket's token is asked about from one address: Exotel tries a handshake twice.
const REPLAYS: u16 = 4;
/// Callbacks of one call from one address within a minute: Exotel sends three, and some of them again.
const CALLBACKS: u16 = 120;
/// At the drain limit: how long the closing of what is left may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(7);
/// How long the last reports may take; what is lost shows as a lapsed session.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// How long requests that were begun may take: the longest budget of a route.
const REQUEST_LIMIT: Duration = Duration::from_secs(12);

/// The two listeners of an edge, already bound.
#[derive(Debug)]
pub struct Listeners {
    /// For Exotel.
    pub public: TcpListener,
    /// For the cluster: liveness, readiness and metrics.
    pub internal: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings.
    ///
    /// # Errors
    /// When an address is taken or not ours.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = async |name: &str, addr| {
            TcpListener::bind(addr)
                .await
                .with_context(|| format!("cannot listen on {addr} ({name})"))
        };
        Ok(Self {
            public: bind("EDGE_ADDR", config.addr).await?,
            internal: bind("EDGE_INTERNAL_ADDR", config.internal_addr).await?,
        })
    }
}

/// What requests and sessions share.
struct Edge {
    config: Config,
    clock: Clock,
    id: String,
    ingress: Client,
    greetings: Greetings,
    agents: Agents,
    reports: Reports,
    /// None: this edge has no place for recordings.
    recorder: Option<Recorder>,
    metrics: Metrics,
    live: Live,
    /// Places for sockets that have not said `start`.
    pending: Pending,
    /// Requests without a genuine token, by address.
    strangers: Tally,
    /// Those of them that were traced, whatever their address.
    traced: Tally,
    /// Uses of sockets' genuine tokens, by address and token.
    replays: Tally,
    /// Status callbacks, by address and call.
    callbacks: Tally,
    /// Tokens of accounts that were rotated out.
    ended: Ended,
    /// One task per session; their soft stop is the drain limit.
    sessions: Tasks,
    /// The control stream, and what is prepared ahead of a call.
    background: Tasks,
    /// The process's: while they stop, no connection is kept for another request.
    process: Tasks,
}

impl Edge {
    /// Remembers an account's token if call-service says that it was rotated out.
    fn note_ended(&self, account: Uuid, generation: u16, status: &Status) {
        let info = status.get_details_error_info();
        if info.is_some_and(|info| info.reason == TOKEN_ENDED) {
            self.ended.remember(account, generation, self.clock.unix_seconds());
        }
    }

    /// Tells call-service, beside all else, that a session has no recording.
    fn refuse_recording(&self, session: String, reason: &'static str) {
        let refused = recording::refuse(self.ingress.clone(), self.metrics.clone(), session, reason);
        self.background.spawn(refused);
    }
}

/// Serves until the tasks are stopped and what was live has ended or was drained.
///
/// # Errors
/// When a listener fails or a setting cannot be used.
pub async fn run(config: Config, listeners: Listeners, tasks: Tasks) -> anyhow::Result<()> {
    run_with_clock(config, listeners, tasks, Clock::system()).await
}

/// The same with a clock of one's own, for tests.
///
/// # Errors
/// As [`run`].
pub async fn run_with_clock(config: Config, listeners: Listeners, tasks: Tasks, clock: Clock) -> anyhow::Result<()> {
    // What goes on until the last call is over: during the drain, too.
    let background = Tasks::new();
    let ingress = ingress::client(&config, &background)?;
    let (id, metrics) = (EdgeId(clock.new_uuid()).to_string(), Metrics::new());
    let recorder = match &config.recordings {
        Some(settings) => Some(Recorder::start(settings, &id, ingress.clone(), metrics.clone())?),
        None => None,
    };
    let descriptors = server::Descriptors::share(config.max_connections, runtime::descriptors::raise());
    let edge = Arc::new(Edge {
        id,
        recorder,
        greetings: Greetings::new(ingress.clone()),
        agents: Agents::new(
            config.agent_endpoint_allow.clone(),
            config.agent_streams,
            config.stall_limit,
        ),
        reports: Reports::new(clock.clone()),
        metrics,
        live: Live::new(),
        pending: Pending::new(pending::Limits {
            total: config.max_pending_sockets,
            per_address: config.max_pending_per_address,
            descriptors: descriptors.calls,
        }),
        strangers: Tally::new(TRACED_STRANGERS),
        traced: Tally::new(TRACED_IN_ALL),
        replays: Tally::new(REPLAYS),
        callbacks: Tally::new(CALLBACKS),
        ended: Ended::default(),
        sessions: Tasks::new(),
        background,
        process: tasks.clone(),
        ingress,
        clock,
        config,
    });
    let config = &edge.config;
    let acceptor = config
        .tls
        .as_ref()
        .map(|tls| Acceptor::read_http1(&tls.files))
        .transpose();
    let acceptor = acceptor.context("cannot set up TLS: see EDGE_TLS_CERT and EDGE_TLS_KEY")?;
    if let (Some(acceptor), Some(tls)) = (&acceptor, &config.tls) {
        // During the drain new requests still come.
        acceptor.keep_fresh(&edge.background, tls.refresh);
    }

    // The internal listener outlives the drain: the cluster asks for the metrics of a process that is going, too.
    let (inside, readiness) = (Tasks::new(), Readiness::default());
    let (serving, ready) = (inside.clone(), readiness.clone());
    inside.spawn(async move {
        if let Err(error) = internal::serve(listeners.internal, ready, &serving).await {
            tracing::error!(%error, "the internal listener failed");
        }
    });
    let control = Control {
        client: edge.ingress.clone(),
        reports: edge.reports.clone(),
        readiness: readiness.clone(),
        metrics: edge.metrics.clone(),
        edge_id: edge.id.clone(),
        process: tasks.clone(),
    };
    edge.background.spawn(control.run(edge.background.stopping()));

    let (connections, closing) = (Tasks::new(), CancellationToken::new());
    let router = http::router(Arc::clone(&edge));
    let door = server::Door {
        connections: descriptors.connections,
        acceptor,
        pending: edge.pending.clone(),
    };
    let serving = server::serve(
        listeners.public,
        door,
        router,
        config,
        &connections,
        closing.clone(),
        || edge.metrics.refused("source"),
    );
    let shutting_down = async {
        tasks.stopping().await;
        readiness.set(false);
        // Load balancers still send new work for a moment.
        tokio::select! {
            () = sleep(config.accept_window) => {}
            () = tasks.hurrying() => {}
        }
        closing.cancel();
    };
    tokio::join!(serving, shutting_down);

    tracing::info!(sessions = edge.live.count(), "draining");
    let drained = async {
        connections.shut_down(server::LINGER + REQUEST_LIMIT).await;
        timeout(config.drain, edge.live.none())
            .await
            .map_err(|_| "the drain limit is reached")
    };
    let drained = tokio::select! {
        drained = drained => drained,
        () = tasks.hurrying() => Err("the drain is cut short"),
    };
    if let Err(reason) = drained {
        tracing::warn!(sessions = edge.live.count(), reason, "live sessions are closed");
    }
    tokio::join!(
        edge.sessions.shut_down(CLOSE_LIMIT),
        // Requests are left only of a drain that was cut short.
        connections.shut_down(CLOSE_LIMIT)
    );
    if let Some(recorder) = &edge.recorder {
        recorder.shut_down().await;
    }
    edge.background.shut_down(FLUSH_LIMIT).await;
    inside.shut_down(FLUSH_LIMIT).await;
    Ok(())
}
