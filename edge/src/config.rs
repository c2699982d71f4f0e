//! The edge's settings.

mod door;

use std::{net::SocketAddr, time::Duration};

use runtime::{
    config::{ConfigError, Vars},
    endpoint::Allow,
    objects::Place,
    tls::ClientFiles,
};
use secrecy::SecretString;

pub use door::Tls;

use crate::{recording, source::Sources};

/// Everything the edge is told. Times have defaults that suit Exotel; tests shorten them.
#[derive(Debug, Clone)]
pub struct Config {
    /// `EDGE_ADDR`: where Exotel reaches us.
    pub addr: SocketAddr,
    /// `EDGE_INTERNAL_ADDR`: liveness, readiness and metrics.
    pub internal_addr: SocketAddr,
    /// TLS of the public listener; none: an ingress ends it.
    pub tls: Option<Tls>,
    /// `EXOTEL_ALLOWED_IPS` and `TRUSTED_PROXIES`: where requests may come from.
    pub sources: Sources,
    /// `CALL_SERVICE_URL`.
    pub call_service_url: String,
    /// `CALL_SERVICE_API_KEY`: sent as the bearer of every call to call-service. None: our certificate says who we are.
    pub call_service_api_key: Option<SecretString>,
    /// `CALL_SERVICE_CA`, `CALL_SERVICE_CLIENT_CERT` and `CALL_SERVICE_CLIENT_KEY`: for an https `CALL_SERVICE_URL`.
    pub call_service_tls: ClientFiles,
    /// `EDGE_TOKEN_KEYS`: the derived keys that check tokens in URLs.
    pub verifier: exotel::token::Verifier,
    /// `AGENT_ENDPOINT_ALLOW`: where voice agents may be.
    pub agent_endpoint_allow: Allow,
    /// `WEBHOOK_BASE_URL`, then `RENDER_EXTERNAL_URL`: how Exotel reaches us, for the URL of a greeting.
    pub public_base: Option<String>,
    /// `EDGE_DRAIN_SECONDS`: how long live sessions may go on after SIGTERM.
    pub drain: Duration,
    /// `EDGE_ACCEPT_SECONDS`: how long new work is still taken after SIGTERM, until load balancers have noticed.
    pub accept_window: Duration,
    /// `EDGE_HEADER_SECONDS`: how long a request's header may take.
    pub header_limit: Duration,
    /// `EDGE_START_SECONDS`: how long a socket may take to say `start`.
    pub start_limit: Duration,
    /// `EDGE_AGENT_SECONDS`: how long connecting to an agent may take, all its endpoints together.
    pub agent_limit: Duration,
    /// `EDGE_AGENT_STREAMS`: so many gRPC streams to agents share a connection at most. Fewer do where there are few, and where
    /// the agent's server would let one that is not read stall the others.
    pub agent_streams: u32,
    /// `EDGE_STALL_SECONDS`: a peer on a WebSocket that takes nothing for this long has stopped reading.
    pub stall_limit: Duration,
    /// `EDGE_IDLE_SECONDS`: a socket without any frame for this long is closed.
    pub idle_limit: Duration,
    /// `EDGE_MAX_CONNECTIONS`: connections beyond this wait in the listen queue.
    pub max_connections: usize,
    /// `EDGE_MAX_PENDING_SOCKETS`: sockets that have not said `start` yet; one more gets a 503.
    pub max_pending_sockets: usize,
    /// `EDGE_MAX_PENDING_PER_ADDRESS`: of these, so many from one address. Exotel calls from few, but says `start` at once.
    pub max_pending_per_address: usize,
    /// `/ws/echo`, for conformance suites: no setting, but the feature `ws-echo`.
    pub echo: bool,
    /// Where recordings go; none: this edge records nothing.
    pub recordings: Option<recording::Settings>,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(mut vars: Vars) -> Result<Self, ConfigError> {
        let seconds = |vars: &mut Vars, name: &str, default: f64| {
            let value: f64 = vars.parsed_or(name, "a number of seconds", default);
            Duration::try_from_secs_f64(value).unwrap_or_else(|_| {
                vars.problem(name, "must be a number of seconds that is not negative");
                Duration::ZERO
            })
        };
        let call_service_url = vars.required("CALL_SERVICE_URL", "http://call-service:50051");
        let is_url = url::Url::parse(&call_service_url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
            && tonic::transport::Endpoint::from_shared(call_service_url.clone()).is_ok();
        if !call_service_url.is_empty() && !is_url {
            vars.problem(
                "CALL_SERVICE_URL",
                "does not read as a URL such as http://call-service:50051",
            );
        }
        let call_service_tls = ClientFiles::from_vars(&mut vars, "CALL_SERVICE");
        if call_service_tls != ClientFiles::default() && call_service_url.starts_with("http:") {
            vars.problem(
                "CALL_SERVICE_URL",
                "is http, but CALL_SERVICE_CA or CALL_SERVICE_CLIENT_CERT means https",
            );
        }
        if call_service_tls.identity.is_none() {
            vars.required("CALL_SERVICE_API_KEY", "ck_…");
        }
        let call_service_api_key = vars.text("CALL_SERVICE_API_KEY");
        if call_service_api_key
            .as_deref()
            .is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            vars.problem("CALL_SERVICE_API_KEY", "has characters that no key has");
        }
        let call_service_api_key = call_service_api_key.map(SecretString::from);
        let keys = vars.required("EDGE_TOKEN_KEYS", "the output of `call-service derive-edge-keys`");
        let verifier = exotel::token::Verifier::parse(&keys);
        if !keys.is_empty()
            && let Err(error) = &verifier
        {
            vars.problem("EDGE_TOKEN_KEYS", &error.to_string());
        }
        let allow = Allow::parse(vars.text("AGENT_ENDPOINT_ALLOW").as_deref().unwrap_or_default());
        if let Err(error) = &allow {
            vars.problem("AGENT_ENDPOINT_ALLOW", &error.to_string());
        }
        let base_name = if vars.text("WEBHOOK_BASE_URL").is_some() {
            "WEBHOOK_BASE_URL"
        } else {
            "RENDER_EXTERNAL_URL"
        };
        let public_base: Option<url::Url> = vars.parsed(base_name, "a URL such as https://calls.example.com");
        let settings = (
            vars.parsed_or(
                "EDGE_ADDR",
                "an address such as 0.0.0.0:8080",
                SocketAddr::from(([0, 0, 0, 0], 8080)),
            ),
            vars.parsed_or(
                "EDGE_INTERNAL_ADDR",
                "an address such as 0.0.0.0:9090",
                SocketAddr::from(([0, 0, 0, 0], 9090)),
            ),
        );
        let tls = Tls::read(&mut vars);
        let sources = door::sources(&mut vars);
        let drain = seconds(&mut vars, "EDGE_DRAIN_SECONDS", 3600.0);
        let accept_window = seconds(&mut vars, "EDGE_ACCEPT_SECONDS", 5.0);
        let header_limit = seconds(&mut vars, "EDGE_HEADER_SECONDS", 10.0);
        let start_limit = seconds(&mut vars, "EDGE_START_SECONDS", 10.0);
        let agent_limit = seconds(&mut vars, "EDGE_AGENT_SECONDS", 8.0);
        let agent_streams = vars.parsed_or("EDGE_AGENT_STREAMS", "a number from 1 to 1000", 250);
        if !(1..=1000).contains(&agent_streams) {
            vars.problem("EDGE_AGENT_STREAMS", "must be a number from 1 to 1000");
        }
        let stall_limit = seconds(&mut vars, "EDGE_STALL_SECONDS", 10.0);
        let idle_limit = seconds(&mut vars, "EDGE_IDLE_SECONDS", 60.0);
        let max_connections = vars.parsed_or("EDGE_MAX_CONNECTIONS", "a number", 20_000);
        let max_pending_sockets = vars.parsed_or("EDGE_MAX_PENDING_SOCKETS", "a number", 2_000);
        let max_pending_per_address = vars.parsed_or("EDGE_MAX_PENDING_PER_ADDRESS", "a number", 500);
        let recordings = recordings(&mut vars);
        let (Ok(verifier), Ok(agent_endpoint_allow)) = (verifier, allow) else {
            return Err(vars.finish(()).err().unwrap_or(ConfigError(Vec::new())));
        };
        vars.finish(Self {
            addr: settings.0,
            internal_addr: settings.1,
            tls,
            sources,
            call_service_url,
            call_service_api_key,
            call_service_tls,
            verifier,
            agent_endpoint_allow,
            public_base: public_base.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            drain,
            accept_window,
            header_limit,
            start_limit,
            agent_limit,
            agent_streams,
            stall_limit,
            idle_limit,
            max_connections,
            max_pending_sockets,
            max_pending_per_address,
            echo: cfg!(feature = "ws-echo"),
            recordings,
        })
    }
}

/// `RECORDING_*`.
fn recordings(vars: &mut Vars) -> Option<recording::Settings> {
    let store = Place::read(vars, "RECORDING_STORE");
    let mib: u64 = vars.parsed_or("RECORDING_SPOOL_MIB", "a number of MiB", 10 * 1024);
    let hours: u32 = vars.parsed_or("RECORDING_SPOOL_HOURS", "a number of hours", 7 * 24);
    let Some(spool) = vars.text("RECORDING_SPOOL") else {
        if store.is_some() {
            vars.problem(
                "RECORDING_SPOOL",
                "is not set, but RECORDING_STORE is: a folder of the local disk",
            );
        }
        return None;
    };
    let spool = std::path::absolute(spool).ok();
    let store = store.or_else(|| Place::folder(&spool.as_deref()?.join("stored")));
    let (Some(spool), Some(store)) = (spool, store) else {
        vars.problem("RECORDING_SPOOL", "does not read as a folder");
        return None;
    };
    Some(recording::Settings {
        spool,
        store,
        limit: mib.saturating_mul(1024 * 1024),
        kept: Duration::from_secs(u64::from(hours) * 3600),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_reported_together() {
        let vars: Vars = [
            ("EDGE_ADDR", "nowhere"),
            ("EDGE_DRAIN_SECONDS", "-1"),
            ("AGENT_ENDPOINT_ALLOW", "10.0.0.0/99"),
            ("EDGE_AGENT_STREAMS", "1001"),
            ("EDGE_TLS_CERT", "/tls/tls.crt"),
            ("EXOTEL_ALLOWED_IPS", "exotel.com"),
        ]
        .into_iter()
        .collect();
        let ConfigError(problems) = Config::read(vars).unwrap_err();
        for name in [
            "EDGE_ADDR",
            "EDGE_DRAIN_SECONDS",
            "AGENT_ENDPOINT_ALLOW",
            "EDGE_AGENT_STREAMS",
            "EDGE_TLS_KEY",
            "EXOTEL_ALLOWED_IPS",
            "CALL_SERVICE_URL",
            "CALL_SERVICE_API_KEY",
            "EDGE_TOKEN_KEYS",
        ] {
            assert!(
                problems.iter().any(|line| line.contains(name)),
                "{name} is not in {problems:?}"
            );
        }
    }
}
