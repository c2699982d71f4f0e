//! The process: two listeners, the checks before the first request, and the end.

use std::sync::Arc;

use anyhow::Context as _;
use runtime::{
    Clock, Tasks,
    internal::{self, Readiness},
    rpc::SpanLayer,
    tls::Acceptor,
};
use tokio::{net::TcpListener, time::sleep};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::{
    app::App,
    config::Config,
    incoming::incoming,
    rpc::{
        self,
        auth::{AuthLayer, Gate},
    },
    startup,
};

/// The bound listeners, so that tests can use port 0.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For health, readiness and metrics.
    pub internal: TcpListener,
}

impl Listeners {
    /// Binds what the settings name.
    ///
    /// # Errors
    /// When an address is taken.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let grpc = TcpListener::bind(config.addr)
            .await
            .context("cannot listen on CALL_SERVICE_ADDR")?;
        let internal = TcpListener::bind(config.internal_addr)
            .await
            .context("cannot listen on CALL_SERVICE_INTERNAL_ADDR")?;
        Ok(Self { grpc, internal })
    }
}

/// Serves until the tasks are stopped and what was under way is done, or `DRAIN_TIMEOUT` is over.
///
/// # Errors
/// When a part cannot be set up or the listener fails. A database that is away is no error: the process waits for it.
pub async fn run(config: Config, listeners: Listeners, tasks: Tasks) -> anyhow::Result<()> {
    run_with_clock(config, listeners, tasks, Clock::system()).await
}

/// The same with a clock of one's own, for tests.
///
/// # Errors
/// As [`run`].
pub async fn run_with_clock(config: Config, listeners: Listeners, tasks: Tasks, clock: Clock) -> anyhow::Result<()> {
    let drain = config.drain_timeout;
    let app = App::new(config, clock, tasks.clone())?;
    let readiness = Readiness::default();
    let gate = Gate::default();
    let health = HealthReporter::new();
    report(&health, ServingStatus::NotServing).await;

    let (at_internal, of_internal, beside) = (listeners.internal, readiness.clone(), tasks.clone());
    tasks.spawn(async move {
        if let Err(error) = internal::serve(at_internal, of_internal, &beside).await {
            error!(%error, "the internal listener failed");
        }
    });
    tasks.spawn(begin(app.clone(), gate.clone(), readiness.clone(), health.clone()));

    let (stopping, ending) = (tasks.stopping(), health.clone());
    tasks.spawn(async move {
        stopping.await;
        readiness.set(false);
        report(&ending, ServingStatus::NotServing).await;
    });

    let routes = rpc::services(&app, &health)?;
    let tls = app.config.tls.as_ref();
    let auth = AuthLayer::new(
        app.config.api_keys.clone(),
        app.keys.clone(),
        tls.map(|tls| tls.clients.clone()).unwrap_or_default(),
        gate,
        app.config.max_requests.get(),
    );
    let acceptor = tls.map(|tls| Acceptor::read(&tls.files)).transpose();
    let acceptor = acceptor.context("cannot set up TLS: see CALL_SERVICE_TLS_CERT, _KEY and _CLIENT_CA")?;
    if let (Some(acceptor), Some(tls)) = (&acceptor, tls) {
        acceptor.keep_fresh(&tasks, tls.refresh);
    }
    let connections = incoming(listeners.grpc, app.config.max_connections, acceptor);
    let serving = rpc::server()
        .layer(SpanLayer::naming(rpc::auth::is_known))
        .layer(auth)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, tasks.stopping());
    // tonic waits for open streams without a limit.
    let overdue = async {
        tasks.stopping().await;
        sleep(drain).await;
    };
    tokio::select! {
        served = serving => served.context("the gRPC listener failed")?,
        () = overdue => warn!("streams were still open at the end of DRAIN_TIMEOUT and are dropped"),
    }
    tasks.shut_down(drain).await;
    info!("stopped");
    Ok(())
}

/// Checks the database and the keys until they are in order, then lets requests in and starts the loops.
async fn begin(app: Arc<App>, gate: Gate, readiness: Readiness, health: HealthReporter) {
    if !startup::until_in_order(&app).await {
        return;
    }
    crate::access::start(&app).await;
    crate::calls::start(&app);
    crate::campaigns::start(&app);
    crate::ingress::start(&app);
    crate::gauges::start(&app);
    crate::toll::start(&app);
    gate.open();
    // A stop in between has said, or says next, that nothing is served.
    if !app.tasks.is_stopping() {
        report(&health, ServingStatus::Serving).await;
        readiness.set(true);
    }
    info!("ready");
}

async fn report(health: &HealthReporter, status: ServingStatus) {
    for name in rpc::NAMES {
        health.set_service_status(name, status).await;
    }
}
