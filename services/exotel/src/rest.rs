//! The REST client: Voice v1, the ExoPhone list and the active streams.
//!
//! There are two HTTP clients. The one that dials sends each request once and over a connection of its own: no retries
//! (reqwest and hyper re-send what they think is safe), no redirects, no pool, HTTP/1 only, no proxy. The other one
//! reads, and may use a connection again. Neither decompresses, and both stop reading a body at a limit. Credentials go
//! into the `Authorization` header, never into a URL.

mod answer;
mod calls;
mod dial;
mod endpoint;
mod list;
mod numbers;
mod recording;
mod span;
mod streams;
mod xml;

pub use crate::status::{Leg, ProviderStatus};
pub use answer::Rejection;
pub use calls::{CallDetails, Direction, HangUp};
pub use dial::{Dial, DialOutcome, DialReport, Mode};
pub use endpoint::{Endpoint, EndpointError};
pub use list::{CallsPage, CallsQuery, MAX_SIDS};
pub use numbers::Ownership;
pub use recording::Recording;
pub use streams::ActiveStreams;

use answer::{Node, Refusal};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use std::time::Duration;
use tracing::{Instrument as _, Span};

/// What it takes to use an Exotel account.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The account's name, which is part of every path.
    pub sid: String,
    /// API key: the user name.
    pub key: SecretString,
    /// API token: the password.
    pub token: SecretString,
    /// The API's host, such as `api.exotel.com` or `api.in.exotel.com`; see [`Endpoint::parse`].
    pub subdomain: String,
}

/// Times and sizes that bound a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// DNS, TCP and TLS together.
    pub connect: Duration,
    /// The same for a dial that must not begin late.
    pub connect_soon: Duration,
    /// A dial, from the first byte of DNS to the last of the body.
    pub dial: Duration,
    /// Any other request, likewise.
    pub read: Duration,
}

impl Default for Limits {
    /// Exotel can hold a dial for 30 s; 38 s keep the worst of them, with the connect, inside the 40 s of its task.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            connect_soon: Duration::from_millis(600),
            dial: Duration::from_secs(38),
            read: Duration::from_secs(10),
        }
    }
}

/// Largest answer to a dial: the documented one has 700 bytes.
const DIAL_BODY: usize = 64 * 1024;
/// Largest answer to a read: 100 calls with details, or some hundred ExoPhones.
const READ_BODY: usize = 1024 * 1024;
/// Most response headers; hyper's own limit bounds their bytes.
const MAX_HEADERS: usize = 64;

/// Why a request other than a dial gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// No HTTP client could be made: usually the machine has no CA certificates.
    #[error("could not set up the HTTP client for Exotel: check that CA certificates are installed")]
    Setup(#[source] reqwest::Error),
    /// The account's settings cannot make a URL.
    #[error("could not build the request to Exotel")]
    Endpoint(#[from] EndpointError),
    /// No complete answer: `dns`, `tcp`, `tls`, `connect_timeout`, `timeout`, `connection_lost` or `body_too_large`.
    #[error("request to Exotel got no complete answer ({reason})")]
    Transport {
        /// A stable machine word.
        reason: &'static str,
    },
    /// Exotel understood and refused.
    #[error("Exotel refused the request: {} ({provider_code})", .kind.word())]
    Refused {
        /// The kind of refusal.
        kind: Rejection,
        /// The HTTP status and Exotel's code.
        provider_code: String,
        /// How long to wait, at most five minutes.
        retry_after: Option<Duration>,
    },
    /// A status that is neither success nor a well-formed refusal.
    #[error("Exotel answered with HTTP status {0}")]
    Status(u16),
    /// A recording's address that is not one of Exotel's.
    #[error("the recording's address is not one of Exotel's: nothing was asked there")]
    ForeignRecording,
    /// Success, but the body is not what it should be.
    #[error("Exotel's answer could not be read as {0}")]
    Unreadable(&'static str),
}

/// A REST client, good for any number of accounts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    dialer: reqwest::Client,
    /// As `dialer`, with less time to connect.
    hasty: reqwest::Client,
    reader: reqwest::Client,
}

impl Client {
    /// Makes a client with the default [`Limits`]. Installs ring as the process's TLS provider if there is none yet.
    pub fn new() -> Result<Self, RestError> {
        Self::with_limits(Limits::default())
    }

    /// Makes a client with limits of one's own.
    pub fn with_limits(limits: Limits) -> Result<Self, RestError> {
        // An error means that a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = |connect| {
            reqwest::Client::builder()
                .user_agent(concat!("callbridge/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(connect)
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .http1_max_headers(MAX_HEADERS)
                // A proxy's own failures would be taken for Exotel's.
                .no_proxy()
        };
        let dialer = |connect| {
            builder(connect)
                .timeout(limits.dial)
                .retry(reqwest::retry::never())
                // hyper re-sends a request when a pooled connection turns out to be stale; a fresh one cannot be.
                .pool_max_idle_per_host(0)
                .build()
                .map_err(RestError::Setup)
        };
        let reader = builder(limits.connect).timeout(limits.read).build();
        Ok(Self {
            dialer: dialer(limits.connect)?,
            hasty: dialer(limits.connect_soon)?,
            reader: reader.map_err(RestError::Setup)?,
        })
    }

    async fn get(
        &self,
        credentials: &Credentials,
        span: Span,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<Answer, RestError> {
        let url = Endpoint::parse(&credentials.subdomain)?.url(&credentials.sid, path)?;
        self.read(credentials, self.reader.get(url).query(query), span).await
    }

    /// Sends a request that may be repeated, and takes apart what is not a success.
    async fn read(&self, credentials: &Credentials, request: RequestBuilder, span: Span) -> Result<Answer, RestError> {
        let request = authorize(request, credentials);
        let answer = exchange(request, READ_BODY)
            .instrument(span.clone())
            .await
            .map_err(|failure| {
                span::record(&span, None, failure.reason);
                RestError::Transport { reason: failure.reason }
            })?;
        let is_success = matches!(answer.status, 200..=299);
        span::record(&span, Some(answer.status), if is_success { "ok" } else { "refused" });
        if is_success {
            return Ok(answer);
        }
        Err(match answer.refusal() {
            Some(Refusal { kind, provider_code }) => RestError::Refused {
                kind,
                provider_code,
                retry_after: answer.retry_after(),
            },
            None => RestError::Status(answer.status),
        })
    }
}

fn authorize(request: RequestBuilder, credentials: &Credentials) -> RequestBuilder {
    request.basic_auth(credentials.key.expose_secret(), Some(credentials.token.expose_secret()))
}

/// A complete answer.
struct Answer {
    status: u16,
    date: Option<DateTime<Utc>>,
    headers: HeaderMap,
    body: Bytes,
}

/// An answer that did not come, or not completely.
struct Failure {
    /// A stable machine word.
    reason: &'static str,
    /// The connector failed: not one byte of the request left.
    not_sent: bool,
    /// Set when at least the headers came.
    status: Option<u16>,
    date: Option<DateTime<Utc>>,
}

impl Answer {
    fn new(status: u16, headers: HeaderMap, body: Bytes) -> Self {
        Self {
            status,
            date: server_date(&headers),
            headers,
            body,
        }
    }

    fn tree(&self) -> Option<serde_json::Value> {
        answer::tree(&self.body)
    }

    fn refusal(&self) -> Option<Refusal> {
        let tree = self.tree()?;
        Refusal::read(self.status, Node::root(&tree))
    }

    fn retry_after(&self) -> Option<Duration> {
        let header = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        answer::retry_after(header, self.date)
    }
}

/// Sends one request and reads the answer up to `limit` bytes, all under the client's total time limit.
async fn exchange(request: RequestBuilder, limit: usize) -> Result<Answer, Failure> {
    let mut response = request.send().await.map_err(|error| Failure {
        reason: reason(&error),
        // Building a request fails before anything else happens.
        not_sent: error.is_connect() || error.is_builder(),
        status: None,
        date: None,
    })?;
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let date = server_date(&headers);
    let failure = |reason| Failure {
        reason,
        not_sent: false,
        status: Some(status),
        date,
    };
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(reason(&error)))? {
        if body.len() + chunk.len() > limit {
            return Err(failure("body_too_large"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer::new(status, headers, body.freeze()))
}

/// When Exotel answered, by its own clock.
fn server_date(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let date = headers.get(DATE)?.to_str().ok()?;
    crate::time::parse_http_date(date)
}

/// A word for an error of reqwest's. Its own text has the URL.
fn reason(error: &reqwest::Error) -> &'static str {
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => "connect_timeout",
        (true, false) if error.is_dns() => "dns",
        (true, false) if is_tls(error) => "tls",
        (true, false) => "tcp",
        (false, true) => "timeout",
        (false, false) if error.is_builder() => "request",
        (false, false) => "connection_lost",
    }
}

fn is_tls(error: &reqwest::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<rustls::Error>() {
            return true;
        }
        // rustls sits inside io errors, whose `source` skips what they hold.
        let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        source = inside
            .map(|inner| inner as &(dyn std::error::Error + 'static))
            .or_else(|| error.source());
    }
    false
}
