//! The process: two listeners, the checks before the first request, and the end.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _};
use runtime::{
    Clock, Tasks,
    internal::{self, Readiness},
    rpc::SpanLayer,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tonic::transport::server::TcpIncoming;
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{error, info, warn};

use crate::{
    app::App,
    config::Config,
    rpc::{
        self,
        auth::{AuthLayer, Gate},
    },
    startup,
};

/// The wait after a failed accept, for example without file descriptors (F106).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let serving = rpc::server()
        .layer(SpanLayer::new())
        .layer(AuthLayer::new(app.config.api_keys.clone(), gate))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listeners.grpc), tasks.stopping());
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

/// The connections that come. tonic asks for the next one as soon as one has failed, and without a pause it would do nothing else.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    let accepted = TcpIncoming::from(listener).with_nodelay(Some(true));
    accepted.then(|accepted| async {
        if let Err(error) = &accepted
            && !is_of_the_peer(error)
        {
            warn!(%error, "cannot accept a connection; trying again");
            sleep(ACCEPT_PAUSE).await;
        }
        accepted
    })
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

/// Checks the database and the keys until they are in order, then lets requests in and starts the loops.
async fn begin(app: Arc<App>, gate: Gate, readiness: Readiness, health: HealthReporter) {
    if !startup::until_in_order(&app).await {
        return;
    }
    crate::calls::start(&app);
    crate::campaigns::start(&app);
    crate::ingress::start(&app);
    crate::gauges::start(&app);
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
