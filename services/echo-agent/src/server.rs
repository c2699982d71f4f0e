//! The process: the listener, health, reflection, and the order of stopping.

use std::time::Duration;

use anyhow::Context as _;
use callbridge_proto::{DESCRIPTORS, agent::v1::voice_agent_service_server::VoiceAgentServiceServer};
use runtime::{Tasks, rpc::SpanLayer};
use tokio::{net::TcpListener, time::timeout};
use tonic::transport::{Server, server::TcpIncoming};
use tracing::info;

use crate::{Config, service::EchoAgent};

/// Larger than any message of the contract: audio is at most 64 KiB, JSON 16 KiB.
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Sessions on one connection; an edge opens another before it has so many.
const MAX_SESSIONS: u32 = 2_000;

/// What an edge may send ahead of what a session has read, in bytes: four seconds of audio at 8 kHz.
const SESSION_WINDOW: u32 = 64 * 1024;
/// And all sessions of a connection together: enough for each, so that one that is not read cannot stall the others. The edge
/// sees it and lets sessions share connections.
const CONNECTION_WINDOW: u32 = SESSION_WINDOW * MAX_SESSIONS;

/// A dead edge is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What is left after the drain is cut, which takes no time unless a peer does not read.
const CUT: Duration = Duration::from_secs(2);

/// The bound listener.
#[derive(Debug)]
pub struct Listeners {
    /// For gRPC.
    pub grpc: TcpListener,
}

impl Listeners {
    /// Binds the configured address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let grpc = TcpListener::bind(config.address).await;
        let grpc = grpc.with_context(|| format!("cannot listen on ECHO_AGENT_ADDR {}", config.address))?;
        Ok(Self { grpc })
    }
}

/// Serves until the tasks stop, and then for as long as sessions take, at most [`Config::drain`].
///
/// # Errors
/// When the listener fails.
pub async fn run(config: Config, listeners: Listeners, tasks: Tasks) -> anyhow::Result<()> {
    let address = listeners
        .grpc
        .local_addr()
        .context("cannot read the listener's address")?;
    let agent = EchoAgent {
        tasks: tasks.clone(),
        drain: config.drain,
    };
    let service = VoiceAgentServiceServer::new(agent).max_decoding_message_size(MAX_MESSAGE_BYTES);

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<VoiceAgentServiceServer<EchoAgent>>().await;
    let stopping = tasks.stopping();
    tasks.spawn(async move {
        stopping.await;
        health.set_not_serving::<VoiceAgentServiceServer<EchoAgent>>().await;
    });

    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("callbridge.agent.v1.VoiceAgentService")
            .with_service_name("grpc.health.v1.Health")
    };
    // The server's own setting is for listeners of its own.
    let incoming = TcpIncoming::from(listeners.grpc).with_nodelay(Some(true));
    let server = Server::builder()
        .layer(SpanLayer::new())
        .max_concurrent_streams(MAX_SESSIONS)
        .initial_stream_window_size(SESSION_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection().build_v1().context("cannot build reflection v1")?)
        .add_service(
            reflection()
                .build_v1alpha()
                .context("cannot build reflection v1alpha")?,
        )
        .serve_with_incoming_shutdown(incoming, tasks.stopping());

    info!(%address, "the echo agent listens");
    let stopped = tasks.stopping();
    let limit = async {
        stopped.await;
        // The server waits for open streams without a limit of its own.
        timeout(config.drain + CUT, std::future::pending::<()>()).await
    };
    tokio::select! {
        ended = server => ended.context("the listener failed")?,
        _ = limit => tracing::warn!("open streams are cut"),
    }
    tasks.shut_down(CUT).await;
    Ok(())
}
