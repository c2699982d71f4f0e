//! Streams to voice agents: which endpoint, over which protocol and connection.
//!
//! An endpoint's scheme says what the agent is: with `http` it implements `VoiceAgentService`, with `ws` it is a bot that was
//! written for Exotel. A [`Link`] is the same to a session either way.

mod connect;
mod gather;
mod grpc;
mod outliers;
mod pool;
mod websocket;
mod windows;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use callbridge_proto::agent::v1::{Start, converse_request::Event, converse_response::Action};
use exotel::stream::bot::Names;
use runtime::{endpoint::Allow, rpc};
use rustls::RootCertStore;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Error as WsError;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span, field, info_span};
use url::Url;

use connect::Connector;
use outliers::Outliers;

/// One endpoint may take this long while there are others to try.
const ENDPOINT_LIMIT: Duration = Duration::from_secs(3);
/// A reconnect in mid-call: the person hears silence meanwhile (F73).
pub(crate) const RETRY_LIMIT: Duration = Duration::from_secs(2);
/// A silent agent is asked whether it is there, and given up after the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// The method that agents serve.
const CONVERSE: &str = "callbridge.agent.v1.VoiceAgentService/Converse";

/// What agents are told when a stream opens.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// The stream's first message.
    pub(crate) start: Start,
    /// Exotel's names of the stream, for bots that speak its protocol.
    pub(crate) names: Names,
}

/// No endpoint took the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreachable;

/// Why an endpoint did not take the stream. An agent's own text may hold anything, so none is here.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("the agent's endpoint is not a URL that can be dialled")]
    Url,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it answers with {code:?}{cause}", code = .0.code(), cause = cause(.0))]
    Status(#[from] Status),
    #[error("it answers the WebSocket handshake with HTTP status {0}")]
    Handshake(u16),
    #[error("it does not speak WebSocket: {0}")]
    Protocol(Box<WsError>),
}

impl OpenError {
    /// A stable word.
    fn word(&self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Io(_) => "connect",
            Self::Status(status) => rpc::word(status.code()),
            Self::Handshake(_) => "handshake",
            Self::Protocol(_) => "protocol",
        }
    }
}

/// The innermost reason, in words of ours or of the operating system.
fn cause(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut innermost = String::new();
    while let Some(error) = source {
        innermost = format!(": {error}");
        source = error.source();
    }
    innermost
}

/// Dials agents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Agents {
    connector: Connector,
    grpc: grpc::Dialler,
    outliers: Arc<Mutex<Outliers>>,
    /// A bot that takes nothing for this long has stopped reading.
    stall: Duration,
}

impl Agents {
    /// Agents may only be where the list says; so many gRPC streams share a connection at most.
    pub(crate) fn new(allow: Allow, streams: u32, stall: Duration) -> Self {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Self::with_roots(allow, streams, stall, &roots)
    }

    fn with_roots(allow: Allow, streams: u32, stall: Duration, roots: &RootCertStore) -> Self {
        let connector = Connector::new(allow, roots);
        Self {
            grpc: grpc::Dialler::new(connector.clone(), streams),
            connector,
            outliers: Arc::default(),
            stall,
        }
    }

    fn outliers(&self) -> MutexGuard<'_, Outliers> {
        self.outliers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream to an endpoint that takes it, and says which: from `first` on and round, those that fail all the time
    /// last. `again` is after an agent has gone: then warm connections may have gone too, and a new one is made.
    pub(crate) async fn dial(
        &self,
        endpoints: Vec<String>,
        first: usize,
        again: bool,
        opening: Opening,
        limit: Duration,
    ) -> Result<(usize, Link), Unreachable> {
        let end = Instant::now() + limit;
        let round = (0..endpoints.len()).map(|step| (first + step) % endpoints.len());
        let round = round.map(|index| (index, endpoints[index].as_str())).collect();
        let order = self.outliers().order(Instant::now(), round);
        for (tried, index) in order.iter().copied().enumerate() {
            let endpoint = &endpoints[index];
            let now = Instant::now();
            let left = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
            let share = end.saturating_duration_since(now) / left;
            let until = if left == 1 {
                end
            } else {
                now + share.min(ENDPOINT_LIMIT)
            };
            let span = attempt(endpoint, index);
            let opening = self.open(endpoint, opening.clone(), !again);
            match timeout_at(until, opening.instrument(span.clone())).await {
                Ok(Ok(link)) => return Ok((index, link)),
                Ok(Err(error)) => {
                    failed(&span, error.word());
                    tracing::warn!(endpoint.index = index, %error, "agent endpoint does not take the stream");
                }
                Err(_) => {
                    failed(&span, "timeout");
                    tracing::warn!(endpoint.index = index, "agent endpoint does not answer in time");
                }
            }
            self.failed(endpoint);
        }
        Err(Unreachable)
    }

    async fn open(&self, endpoint: &str, opening: Opening, may_be_warm: bool) -> Result<Link, OpenError> {
        let Opening { start, names } = opening;
        let wire = if is_grpc(endpoint) {
            Wire::Grpc(self.grpc.open(endpoint, start, may_be_warm).await?)
        } else {
            let bot = websocket::open(&self.connector, endpoint, &start, names, self.stall).await?;
            Wire::Bot(Box::new(bot))
        };
        Ok(Link {
            wire,
            agents: self.clone(),
            endpoint: endpoint.to_owned(),
            worked: false,
            closed: false,
        })
    }

    fn failed(&self, endpoint: &str) {
        let skipped = self.outliers().failed(Instant::now(), endpoint);
        if let Some(backoff) = skipped {
            tracing::warn!(
                seconds = backoff.as_secs(),
                "an agent endpoint fails again and again; for so long it is tried after the others"
            );
        }
    }

    /// Connects ahead of a call, if nothing warm is there.
    pub(crate) async fn warm_up(&self, endpoint: &str) {
        if is_grpc(endpoint) {
            self.grpc.warm_up(endpoint).await;
        }
    }
}

/// The span of one try to open a stream, until it is open: by OpenTelemetry's conventions for RPC clients, or for bots for HTTP ones.
fn attempt(endpoint: &str, index: usize) -> Span {
    let is_grpc = is_grpc(endpoint);
    let span = info_span!(
        "agent.open",
        otel.name = if is_grpc { CONVERSE } else { "GET" },
        otel.kind = "client",
        otel.status_code = field::Empty,
        endpoint.index = index,
        rpc.system.name = field::Empty,
        rpc.method = field::Empty,
        http.request.method = field::Empty,
        server.address = field::Empty,
        server.port = field::Empty,
        error.type = field::Empty,
    );
    if is_grpc {
        span.record("rpc.system.name", "grpc").record("rpc.method", CONVERSE);
    } else {
        span.record("http.request.method", "GET");
    }
    if let Ok(url) = Url::parse(endpoint) {
        span.record("server.address", url.host_str())
            .record("server.port", url.port_or_known_default());
    }
    span
}

fn failed(span: &Span, why: &'static str) {
    span.record("error.type", why).record("otel.status_code", "ERROR");
}

fn is_grpc(endpoint: &str) -> bool {
    endpoint.starts_with("http:") || endpoint.starts_with("https:")
}

enum Wire {
    Grpc(grpc::Stream),
    Bot(Box<websocket::Bot>),
}

/// A stream to an agent.
pub(crate) struct Link {
    wire: Wire,
    agents: Agents,
    endpoint: String,
    /// The agent has said something.
    worked: bool,
    /// Our half has ended: from here on an error is only a careless goodbye.
    closed: bool,
}

/// What comes from an agent.
#[derive(Debug)]
pub(crate) enum Said {
    /// A message; none where it could not be understood.
    Action(Option<Action>),
    /// Its half ended without an error. Nothing follows.
    Finished,
    /// The stream broke. Nothing follows.
    Broken(Code),
}

/// What a link is ready for.
#[derive(Debug)]
pub(crate) enum Turn {
    /// One event can be sent.
    Send,
    /// The agent said something.
    Said(Said),
}

impl Link {
    /// Waits until an event can be sent (`ready` says whether there is one) or the agent says something. Nothing is lost when
    /// it is dropped while waiting.
    pub(crate) async fn next(&mut self, ready: bool) -> Turn {
        match &mut self.wire {
            Wire::Grpc(stream) => stream.next(ready).await,
            Wire::Bot(bot) => bot.next(ready).await,
        }
    }

    /// Whether an event can be sent now. Where it cannot, [`Link::next`] tells when it can.
    pub(crate) fn is_ready(&mut self) -> bool {
        match &mut self.wire {
            Wire::Grpc(stream) => stream.is_ready(),
            Wire::Bot(bot) => bot.is_ready(),
        }
    }

    /// Sends an event. Only while it is ready.
    pub(crate) fn send(&mut self, event: Event) {
        match &mut self.wire {
            Wire::Grpc(stream) => stream.send(event),
            Wire::Bot(bot) => bot.send(&event),
        }
    }

    /// Ends our half.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        match &mut self.wire {
            Wire::Grpc(stream) => stream.close(),
            Wire::Bot(bot) => bot.close(),
        }
    }

    /// What an agent says first tells that it works, and its break that it does not. For each that [`Link::next`] gave.
    pub(crate) fn judge(&mut self, said: &Said) {
        match said {
            Said::Broken(_) if !self.closed => self.agents.failed(&self.endpoint),
            Said::Action(_) | Said::Finished if !self.worked => {
                self.worked = true;
                self.agents.outliers().worked(&self.endpoint);
            }
            Said::Broken(_) | Said::Action(_) | Said::Finished => {}
        }
    }
}

#[cfg(test)]
mod tests;
