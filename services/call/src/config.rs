//! Every setting, read once from the environment.

mod retention;
mod rewrap;
mod tls;
mod toll;
mod values;

use std::{fmt, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use chrono::TimeDelta;
use exotel::{PhoneNumber, token::TokenKeys};
use runtime::{
    config::{ConfigError, Vars},
    endpoint,
    objects::Place,
};
use secrecy::{ExposeSecret as _, SecretString};

pub use retention::Retention;
pub use rewrap::Rewrap;
pub use tls::Tls;

use crate::{rpc::auth, toll::Rules, vault};

/// The settings of `call-service`. `Debug` shows no secret.
#[derive(Debug)]
pub struct Config {
    /// Where the rows are.
    pub database: Database,
    /// Where gRPC is served.
    pub addr: SocketAddr,
    /// Where health, readiness and metrics are served.
    pub internal_addr: SocketAddr,
    /// The keys that seal credentials.
    pub credential_keys: vault::Keys,
    /// The roots of the webhook and socket tokens.
    pub token_keys: Arc<TokenKeys>,
    /// Who may call.
    pub api_keys: auth::Keys,
    /// How often the keys of the database are read, in every replica: a revoked one works elsewhere for so long.
    pub api_keys_refresh: Duration,
    /// TLS of gRPC; none: it is plain.
    pub tls: Option<Tls>,
    /// Connections of gRPC beyond this wait in the listen queue.
    pub max_connections: NonZeroUsize,
    /// Requests beyond this, of all connections together, are refused until others have their answers.
    pub max_requests: NonZeroUsize,
    /// The public base of the edge's URLs, without a slash at its end.
    pub public_base_url: String,
    /// The account that `EXOTEL_*` describe.
    pub environment: Environment,
    /// Where agents may be.
    pub agent_endpoints: endpoint::Allow,
    /// Whether reflection is served (to callers with a key).
    pub reflection: bool,
    /// Dials in flight at one time in this process.
    pub dial_concurrency: NonZeroUsize,
    /// A dial without an outcome is unknown after this; above the 38 s that a POST may take.
    pub sweep_after: TimeDelta,
    /// How long evidence of an unknown dial is awaited.
    pub settle_window: TimeDelta,
    /// When Exotel is asked after a call's last media session.
    pub read_back_steps: Vec<TimeDelta>,
    /// How long what is kept about people is kept.
    pub retention: Retention,
    /// Where the edges store recordings: to give them out, and to erase old ones.
    pub recording_store: Option<Place>,
    /// A replica that dies while it asks Exotel about calls gives them back after this; longer than its questions may take.
    pub read_back_lease: TimeDelta,
    /// Covers a lost NOTIFY.
    pub poll_interval: Duration,
    /// So many dials in a row that Exotel did not answer let the following ones wait; zero for never.
    pub breaker_after: u32,
    /// A media session without news of its edge counts as over after this.
    pub attach_lease: TimeDelta,
    /// How often that lease is renewed.
    pub attach_renew: Duration,
    /// No lease lapses before a replica has run, or the database has been back, for this long.
    pub attach_grace: TimeDelta,
    /// Whom callers may have called, and how often.
    pub toll: Rules,
    /// What is under way at SIGTERM may take this long; above the 38 s of a dial.
    pub drain_timeout: Duration,
}

/// Where the rows are.
pub struct Database {
    /// With its password.
    pub url: SecretString,
    /// Past a pooler, for LISTEN; the same as `url` when absent, unless that one is pooled.
    pub direct: Option<SecretString>,
    /// Whether `url` leads through a pooler in transaction mode.
    pub pooled: bool,
    /// Connections at most, for requests and loops.
    pub pool_size: usize,
    /// Connections at most, beside those, for callbacks, sessions and outcomes of dials.
    pub reserved: usize,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

/// What `EXOTEL_*` say.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// A whole set, or none.
    pub credentials: Option<EnvironmentCredentials>,
    /// The flow for outbound calls, where neither phone nor account names one.
    pub app_id: Option<String>,
    /// An ExoPhone of that account.
    pub caller_id: Option<PhoneNumber>,
}

/// The credentials of `EXOTEL_*`.
#[derive(Clone)]
pub struct EnvironmentCredentials {
    /// `EXOTEL_SID`.
    pub sid: String,
    /// `EXOTEL_API_KEY`.
    pub key: SecretString,
    /// `EXOTEL_API_TOKEN`.
    pub token: SecretString,
    /// `EXOTEL_SUBDOMAIN`.
    pub subdomain: String,
}

impl fmt::Debug for EnvironmentCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvironmentCredentials")
            .field("sid", &self.sid)
            .field("subdomain", &self.subdomain)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads all settings. The crate's README has the table.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(mut vars: Vars) -> Result<Self, ConfigError> {
        let vars_ref = &mut vars;
        let database = database(vars_ref);
        let addr = vars_ref.parsed_or(
            "CALL_SERVICE_ADDR",
            "host:port",
            SocketAddr::from(([0, 0, 0, 0], 50051)),
        );
        let internal_addr = vars_ref.parsed_or(
            "CALL_SERVICE_INTERNAL_ADDR",
            "host:port",
            SocketAddr::from(([0, 0, 0, 0], 9091)),
        );
        let credential_keys = secret(
            vars_ref,
            "CREDENTIAL_KEYS",
            "1:<base64 of 32 random bytes>",
            vault::Keys::parse,
        );
        let token_keys = secret(
            vars_ref,
            "TOKEN_KEYS",
            "1:<base64 of 32 random bytes>",
            TokenKeys::parse,
        );
        let api_keys = secret(
            vars_ref,
            "API_KEYS",
            "crm:calls.write+calls.read:<SHA-256 of the key in hex>",
            auth::Keys::parse,
        );
        let api_keys_refresh = values::duration(vars_ref, "API_KEYS_REFRESH", Duration::from_secs(2));
        let tls = Tls::read(vars_ref);
        let max_connections = vars_ref.parsed_or(
            "CALL_SERVICE_MAX_CONNECTIONS",
            "a number from 1",
            NonZeroUsize::MIN.saturating_add(999),
        );
        let max_requests = vars_ref.parsed_or(
            "CALL_SERVICE_MAX_REQUESTS",
            "a number from 1",
            NonZeroUsize::MIN.saturating_add(4095),
        );
        let public_base_url = values::base_url(vars_ref);
        let environment = environment(vars_ref);
        let agent_endpoints = match endpoint::Allow::parse(&vars_ref.text("AGENT_ENDPOINT_ALLOW").unwrap_or_default()) {
            Ok(allow) => allow,
            Err(error) => {
                vars_ref.problem("AGENT_ENDPOINT_ALLOW", &error.to_string());
                endpoint::Allow::default()
            }
        };
        let reflection = values::switch(vars_ref, "REFLECTION", true);
        let dial_concurrency = vars_ref.parsed_or(
            "DIAL_CONCURRENCY",
            "a number from 1",
            NonZeroUsize::MIN.saturating_add(63),
        );
        let seconds = Duration::from_secs;
        let sweep_after = values::delta(vars_ref, "SWEEP_AFTER", seconds(60));
        let settle_window = values::delta(vars_ref, "SETTLE_WINDOW", seconds(900));
        let read_back_steps = values::deltas(vars_ref, "READ_BACK_STEPS", &[10, 30, 60].map(seconds));
        let read_back_lease = values::delta(vars_ref, "READ_BACK_LEASE", seconds(60));
        let retention = Retention::read(vars_ref);
        let recording_store = Place::read(vars_ref, "RECORDING_STORE");
        let poll_interval = values::duration(vars_ref, "POLL_INTERVAL", seconds(1));
        let breaker_after = vars_ref.parsed_or("BREAKER_AFTER", "a number, 0 for never", 10);
        let attach_lease = values::delta(vars_ref, "ATTACH_LEASE", seconds(45));
        let attach_renew = values::duration(vars_ref, "ATTACH_RENEW", seconds(10));
        let attach_grace = values::delta(vars_ref, "ATTACH_GRACE", seconds(60));
        let drain_timeout = values::duration(vars_ref, "DRAIN_TIMEOUT", seconds(45));
        let toll = Rules::read(vars_ref);
        let settings = (|| {
            Some(Self {
                database,
                addr,
                internal_addr,
                credential_keys: credential_keys?,
                token_keys: Arc::new(token_keys?),
                api_keys: api_keys?,
                api_keys_refresh,
                tls,
                max_connections,
                max_requests,
                public_base_url: public_base_url?,
                environment,
                agent_endpoints,
                reflection,
                dial_concurrency,
                sweep_after,
                settle_window,
                read_back_steps,
                retention,
                recording_store,
                read_back_lease,
                poll_interval,
                breaker_after,
                attach_lease,
                attach_renew,
                attach_grace,
                drain_timeout,
                toll: toll?,
            })
        })();
        match settings {
            Some(settings) => vars.finish(settings),
            // Whatever is missing has noted why.
            None => Err(vars.finish(()).err().unwrap_or_else(|| ConfigError(Vec::new()))),
        }
    }
}

impl Config {
    /// The phone that calls from when nobody names one.
    pub fn default_caller_id(&self) -> Option<&PhoneNumber> {
        self.environment.caller_id.as_ref()
    }

    /// The flow for outbound calls, where neither phone nor account names one.
    pub fn default_app_id(&self) -> Option<String> {
        self.environment.app_id.clone()
    }
}

/// Reads what `migrate` needs: the address of a database, past any pooler.
///
/// # Errors
/// When it is missing.
pub fn migrate_url(mut vars: Vars) -> Result<SecretString, ConfigError> {
    let database = database(&mut vars);
    if database.pooled && database.direct.is_none() {
        vars.problem(
            "DATABASE_DIRECT_URL",
            "is not set: migrations need a session, which a pooler in transaction mode does not give",
        );
    }
    vars.finish(database.direct.unwrap_or(database.url))
}

/// Reads the one setting that `derive-edge-keys` needs.
///
/// # Errors
/// When it is missing or unreadable.
pub fn token_keys(mut vars: Vars) -> Result<TokenKeys, ConfigError> {
    match secret(
        &mut vars,
        "TOKEN_KEYS",
        "1:<base64 of 32 random bytes>",
        TokenKeys::parse,
    ) {
        Some(keys) => vars.finish(keys),
        None => Err(vars.finish(()).err().unwrap_or_else(|| ConfigError(Vec::new()))),
    }
}

fn database(vars: &mut Vars) -> Database {
    let url = SecretString::from(vars.required("DATABASE_URL", "postgres://user:password@host/callbridge"));
    let direct = vars.secret("DATABASE_DIRECT_URL");
    let pooled = values::switch(vars, "DATABASE_POOLED", false);
    let pool_size = vars.parsed_or("DB_POOL_SIZE", "a number from 1", NonZeroUsize::MIN.saturating_add(15));
    let reserved = vars.parsed_or(
        "DB_RESERVED_SIZE",
        "a number from 1",
        NonZeroUsize::MIN.saturating_add(3),
    );
    Database {
        url,
        direct,
        pooled,
        pool_size: pool_size.get(),
        reserved: reserved.get(),
    }
}

fn secret<T, E: fmt::Display>(
    vars: &mut Vars,
    name: &str,
    example: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Option<T> {
    let Some(text) = vars.secret(name) else {
        vars.required(name, example);
        return None;
    };
    match parse(text.expose_secret()) {
        Ok(value) => Some(value),
        Err(error) => {
            vars.problem(name, &format!("cannot be used: {error}"));
            None
        }
    }
}

fn environment(vars: &mut Vars) -> Environment {
    let subdomain = vars
        .text("EXOTEL_SUBDOMAIN")
        .unwrap_or_else(|| crate::directory::account::DEFAULT_SUBDOMAIN.to_owned());
    let subdomain = match crate::directory::account::subdomain(&subdomain) {
        Ok(subdomain) => subdomain,
        Err(problem) => {
            vars.problem("EXOTEL_SUBDOMAIN", &format!("cannot be used: {problem}"));
            subdomain
        }
    };
    let (sid, key, token) = (
        vars.text("EXOTEL_SID"),
        vars.secret("EXOTEL_API_KEY"),
        vars.secret("EXOTEL_API_TOKEN"),
    );
    let missing: Vec<&str> = [
        ("EXOTEL_SID", sid.is_none()),
        ("EXOTEL_API_KEY", key.is_none()),
        ("EXOTEL_API_TOKEN", token.is_none()),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if !missing.is_empty() && missing.len() < 3 {
        for name in missing {
            vars.problem(
                name,
                "is not set: EXOTEL_SID, EXOTEL_API_KEY and EXOTEL_API_TOKEN are given all together or not at all",
            );
        }
    }
    if sid
        .as_deref()
        .is_some_and(|sid| !crate::directory::account::is_sid(sid))
    {
        vars.problem(
            "EXOTEL_SID",
            "does not read as an account SID: up to 64 letters, digits, _ . -",
        );
    }
    let credentials = match (sid, key, token) {
        (Some(sid), Some(key), Some(token)) => Some(EnvironmentCredentials {
            sid,
            key,
            token,
            subdomain,
        }),
        _ => None,
    };
    let app_id = vars.text("EXOTEL_APP_ID");
    if app_id
        .as_deref()
        .is_some_and(|id| !crate::directory::account::is_app_id(id))
    {
        vars.problem("EXOTEL_APP_ID", "does not read as the id of a flow");
    }
    let caller_id = vars
        .text("EXOTEL_CALLER_ID")
        .and_then(|text| match PhoneNumber::parse(&text) {
            Ok(number) => Some(number),
            Err(error) => {
                vars.problem("EXOTEL_CALLER_ID", &format!("cannot be used: {error}"));
                None
            }
        });
    Environment {
        credentials,
        app_id,
        caller_id,
    }
}

#[cfg(test)]
mod tests;
