//! A further call-service beside a stack's, with settings or a clock of its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use runtime::{Clock, Tasks, config::Vars};
use stack::{ApiKey, Clients, Stack, poll};
use tokio::net::TcpListener;

use crate::PATIENCE;

/// A replica, stopped when it is dropped.
#[derive(Debug)]
pub struct Replica {
    /// Where it serves.
    pub address: SocketAddr,
    clients: Clients,
    tasks: Tasks,
}

impl Replica {
    /// Starts a replica with the stack's keys on a database, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(stack: &Stack, database_url: &str, clock: Clock) -> anyhow::Result<Self> {
        Self::start_at(0, stack, database_url, clock).await
    }

    /// Stops the stack's first call-service for good and takes its place, with this clock.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn in_place_of(stack: &mut Stack, clock: Clock) -> anyhow::Result<Self> {
        stack.call_services[0].stop().await?;
        let port = stack.call_services[0].address.port();
        let url = stack.database_url.clone();
        Self::start_at(port, stack, &url, clock).await
    }

    async fn start_at(port: u16, stack: &Stack, database_url: &str, clock: Clock) -> anyhow::Result<Self> {
        let settings = [
            ("DATABASE_URL", database_url.to_owned()),
            ("CREDENTIAL_KEYS", stack.keys.credential_keys.clone()),
            ("TOKEN_KEYS", stack.keys.token_keys.clone()),
            ("API_KEYS", stack.keys.api_keys()),
            ("WEBHOOK_BASE_URL", stack.edge_url()),
            ("AGENT_ENDPOINT_ALLOW", "loopback,127.0.0.0/8".to_owned()),
            ("POLL_INTERVAL", "50ms".to_owned()),
            ("DB_POOL_SIZE", "5".to_owned()),
        ];
        let vars: Vars = settings.into_iter().collect();
        let config = call_service::Config::read(vars).context("call-service")?;
        let (grpc, internal) = (bind(port).await?, bind(0).await?);
        let (address, inside) = (grpc.local_addr()?, internal.local_addr()?);
        let tasks = Tasks::new();
        let listeners = call_service::Listeners { grpc, internal };
        let serving = call_service::run_with_clock(config, listeners, tasks.clone(), clock);
        // Apart from its own tasks, whose end it waits for.
        Tasks::new().spawn(async move {
            // Whoever needs it notices that it is gone.
            let _ = serving.await;
        });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let url = format!("http://{inside}/readyz");
        poll("the replica to be ready", PATIENCE, async || {
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => Ok(()),
                Ok(answer) => Err(answer.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        Ok(Self {
            address,
            clients: Clients::new(address, ApiKey::new(&stack.keys.api_key)),
            tasks,
        })
    }

    /// Clients of it.
    pub fn clients(&self) -> Clients {
        self.clients.clone()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?)
}
