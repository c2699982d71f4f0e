//! What every use case needs, put together once.

use std::sync::Arc;

use object_store::ObjectStore;
use runtime::{
    Clock, Tasks,
    objects::{Place, PlaceError},
};
use tokio::sync::Semaphore;

use crate::{
    access::{self, listed::Listed},
    audit::Trail,
    calls::{breaker::Breakers, hub::Hub, turnstile::Turnstiles},
    campaigns::hook::Hooks,
    config::Config,
    db::{Db, DbError},
    ingress::edges::Edges,
    metrics::Metrics,
    vault::Vault,
};

/// Recordings that are fetched at one time; each holds some hundred kilobytes.
const RECORDINGS_AT_ONCE: usize = 32;

/// Imports of contacts at one time; each holds a connection and some megabytes.
const IMPORTS_AT_ONCE: usize = 4;

/// Forecasts at one time; each has a thread.
const FORECASTS_AT_ONCE: usize = 2;

/// Watchers of campaigns at one time.
const CAMPAIGN_WATCHERS: usize = 64;

/// Diagnoses at one time; each may place a call.
const DIAGNOSES_AT_ONCE: usize = 4;

/// Batches of questions to hooks at one time.
const HOOKS_AT_ONCE: usize = 8;

/// The process's parts. Used as `Arc<App>`.
#[derive(Debug)]
pub struct App {
    /// The rows.
    pub db: Db,
    /// What is shown to whom.
    pub trail: Trail,
    /// The time, and new ids.
    pub clock: Clock,
    /// Credentials at rest.
    pub vault: Vault,
    /// The API keys of the database.
    pub keys: Listed,
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
    /// Where recordings are, if this process may reach them.
    pub recordings: Option<Arc<dyn ObjectStore>>,
    /// One for each recording that is being fetched.
    pub recording_permits: Arc<Semaphore>,
    /// One for each diagnosis of a phone.
    pub diagnosis_permits: Arc<Semaphore>,
    /// One for each import of contacts.
    pub import_permits: Arc<Semaphore>,
    /// One for each forecast, which reads all contacts of a campaign and computes for a while.
    pub forecast_permits: Arc<Semaphore>,
    /// One for each watcher of a campaign, each of which reads once a second.
    pub campaign_watch_permits: Arc<Semaphore>,
    /// One for each batch of questions to a campaign's hook.
    pub hook_permits: Arc<Semaphore>,
    /// Which hooks are being asked, or left alone.
    pub hooks: Hooks,
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
    /// The object store's settings cannot be used.
    #[error("cannot use RECORDING_STORE")]
    Recordings(#[from] PlaceError),
}

impl App {
    /// Puts the parts together. Nothing is connected yet.
    ///
    /// # Errors
    /// When a part's settings cannot be used.
    pub fn new(config: Config, clock: Clock, tasks: Tasks) -> Result<Arc<Self>, AppError> {
        let config = Arc::new(config);
        let db = Db::connect(&config.database)?;
        Ok(Arc::new(Self {
            trail: Trail::new(db.clone(), tasks.clone()),
            db,
            clock,
            vault: Vault::new(config.credential_keys.clone(), config.environment.clone()),
            keys: Listed::new(access::stale_after(config.api_keys_refresh)),
            exotel: exotel::rest::Client::new()?,
            tokens: config.token_keys.clone(),
            verifier: config.token_keys.verifier(),
            dial_permits: Arc::new(Semaphore::new(config.dial_concurrency.get())),
            turnstiles: Turnstiles::default(),
            breakers: Breakers::new(config.breaker_after),
            recordings: config.recording_store.as_ref().map(Place::open).transpose()?,
            hook_permits: Arc::new(Semaphore::new(HOOKS_AT_ONCE)),
            hooks: Hooks::default(),
            forecast_permits: Arc::new(Semaphore::new(FORECASTS_AT_ONCE)),
            campaign_watch_permits: Arc::new(Semaphore::new(CAMPAIGN_WATCHERS)),
            diagnosis_permits: Arc::new(Semaphore::new(DIAGNOSES_AT_ONCE)),
            import_permits: Arc::new(Semaphore::new(IMPORTS_AT_ONCE)),
            recording_permits: Arc::new(Semaphore::new(RECORDINGS_AT_ONCE)),
            config,
            tasks,
            hub: Hub::default(),
            edges: Edges::default(),
            metrics: Metrics::new(),
        }))
    }
}
