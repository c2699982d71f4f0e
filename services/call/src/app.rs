//! What every use case needs, put together once.

use std::sync::Arc;

use runtime::{Clock, Tasks};
use tokio::sync::Semaphore;

use crate::{
    calls::{breaker::Breakers, hub::Hub, turnstile::Turnstiles},
    config::Config,
    db::{Db, DbError},
    ingress::edges::Edges,
    metrics::Metrics,
    vault::Vault,
};

/// The process's parts. Used as `Arc<App>`.
#[derive(Debug)]
pub struct App {
    /// The rows.
    pub db: Db,
    /// The time, and new ids.
    pub clock: Clock,
    /// Credentials at rest.
    pub vault: Vault,
    /// Exotel's REST API.
    pub exotel: exotel::rest::Client,
    /// Makes webhook and socket tokens.
    pub tokens: Arc<exotel::token::TokenKeys>,
    /// Checks them.
    pub verifier: exotel::token::Verifier,
    /// The settings.
    pub config: Arc<Config>,
    /// What runs beside the requests.
    pub tasks: Tasks,
    /// News of calls, to whoever waits for it.
    pub hub: Hub,
    /// One for each dial in flight.
    pub dial_permits: Arc<Semaphore>,
    /// One fresh call of an account at a time.
    pub turnstiles: Turnstiles,
    /// Which credentials, and which Exotel, are left alone for a while.
    pub breakers: Breakers,
    /// The edges that are attached here.
    pub edges: Edges,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why the parts cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database's settings cannot be used.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The client for Exotel cannot be built.
    #[error("cannot set up the client for Exotel")]
    Exotel(#[from] exotel::rest::RestError),
}

impl App {
    /// Puts the parts together. Nothing is connected yet.
    ///
    /// # Errors
    /// When a part's settings cannot be used.
    pub fn new(config: Config, clock: Clock, tasks: Tasks) -> Result<Arc<Self>, AppError> {
        let config = Arc::new(config);
        Ok(Arc::new(Self {
            db: Db::connect(&config)?,
            clock,
            vault: Vault::new(config.credential_keys.clone(), config.environment.clone()),
            exotel: exotel::rest::Client::new()?,
            tokens: config.token_keys.clone(),
            verifier: config.token_keys.verifier(),
            dial_permits: Arc::new(Semaphore::new(config.dial_concurrency.get())),
            turnstiles: Turnstiles::default(),
            breakers: Breakers::new(config.breaker_after),
            config,
            tasks,
            hub: Hub::default(),
            edges: Edges::default(),
            metrics: Metrics::new(),
        }))
    }
}
