//! Streams to voice agents: which endpoint, over which connection.
//!
//! Each session has a connection to itself while it lives, since sessions that share one also share its flow control: an
//! agent that stops reading one of them would stall the others. A connection whose session is over is kept warm for the
//! next one.

use std::{
    future::pending,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, Start, converse_request::Event, converse_response::Action,
    voice_agent_service_client::VoiceAgentServiceClient,
};
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use runtime::rpc::InjectTrace;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Response, Status, Streaming,
    transport::{Channel, ClientTlsConfig, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::allow::AllowList;

/// One endpoint may take this long while there are others to try.
const ENDPOINT_LIMIT: Duration = Duration::from_secs(3);
/// A reconnect in mid-call: the person hears silence meanwhile (F73).
pub(crate) const RETRY_LIMIT: Duration = Duration::from_secs(2);
/// Events on their way to the agent; the session's own queue is behind them.
const OUTGOING: usize = 4;
/// An agent's message: 64 KiB of audio and its envelope (F104).
const MAX_MESSAGE: usize = 128 * 1024;
/// A silent agent is asked whether it is there, and given up after the second.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// A server that lives has this long to refuse the stream before it counts as taken.
const REFUSAL_GRACE: Duration = Duration::from_millis(250);
/// A warm connection whose agent is there needs a round trip and the grace. One whose host is gone says nothing at all.
const WARM_LIMIT: Duration = Duration::from_millis(700);
/// Warm connections, for one endpoint and in all, and how long they are kept.
const WARM_EACH: usize = 8;
const WARM_ALL: usize = 64;
const WARM_FOR: Duration = Duration::from_mins(1);

/// Why no agent was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DialError {
    /// Each endpoint failed.
    Unreachable,
    /// Each endpoint is of a kind that is not dialled.
    Unsupported,
}

struct Warm {
    endpoint: String,
    channel: Channel,
    since: Instant,
}

/// Dials agents. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Agents {
    allow: Arc<AllowList>,
    warm: Arc<Mutex<Vec<Warm>>>,
}

impl Agents {
    /// Agents may only be where the list says.
    pub(crate) fn new(allow: AllowList) -> Self {
        Self {
            allow: Arc::new(allow),
            warm: Arc::default(),
        }
    }

    /// Opens a stream to the first endpoint that takes it, and says which. `start` is its first message. Without `others`
    /// only the first one is tried, and over a new connection: then an agent has just gone, and warm ones may have gone too.
    pub(crate) async fn dial(
        &self,
        endpoints: Vec<String>,
        first: usize,
        others: bool,
        start: Start,
        limit: Duration,
    ) -> Result<(usize, Link), DialError> {
        let end = Instant::now() + limit;
        let count = if others {
            endpoints.len().saturating_sub(first)
        } else {
            1
        };
        let mut error = DialError::Unsupported;
        for (index, endpoint) in endpoints.iter().enumerate().skip(first).take(count) {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                tracing::error!(
                    endpoint.index = index,
                    "agent endpoint is not a gRPC URL (http or https); it is not dialled"
                );
                continue;
            }
            error = DialError::Unreachable;
            let last = index + 1 == first + count;
            let until = if last {
                end
            } else {
                end.min(Instant::now() + ENDPOINT_LIMIT)
            };
            match timeout_at(until, self.open(endpoint, start.clone(), others)).await {
                Ok(Ok(link)) => return Ok((index, link)),
                Ok(Err(status)) => {
                    tracing::warn!(endpoint.index = index, code = ?status.code(), cause = cause(&status), "agent endpoint refuses the stream");
                }
                Err(_) => tracing::warn!(endpoint.index = index, "agent endpoint does not answer in time"),
            }
        }
        Err(error)
    }

    /// Connects ahead of a call, if nothing warm is there.
    pub(crate) async fn warm_up(&self, endpoint: &str) {
        let known = self
            .warm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|warm| warm.endpoint == endpoint);
        if !known
            && endpoint.starts_with("http")
            && let Ok(channel) = self.channel(endpoint)
            && timeout_at(Instant::now() + ENDPOINT_LIMIT, answers(channel.clone()))
                .await
                .is_ok()
        {
            self.keep(endpoint.to_owned(), channel);
        }
    }

    async fn open(&self, endpoint: &str, start: Start, may_be_warm: bool) -> Result<Link, Status> {
        if may_be_warm && let Some(channel) = self.take(endpoint) {
            let until = Instant::now() + WARM_LIMIT;
            match timeout_at(until, self.open_over(channel, endpoint, start.clone())).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(status)) if !may_be_ours(status.code()) => return Err(status),
                Ok(Err(_)) | Err(_) => self.forget(endpoint),
            }
        }
        self.open_over(self.channel(endpoint)?, endpoint, start).await
    }

    async fn open_over(&self, channel: Channel, endpoint: &str, start: Start) -> Result<Link, Status> {
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        // The channel is empty, so there is room.
        let _ = outgoing.try_send(ConverseRequest {
            event: Some(Event::Start(start)),
        });
        let mut client = VoiceAgentServiceClient::with_interceptor(channel.clone(), InjectTrace)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let mut opening: BoxFuture<'static, _> =
            Box::pin(async move { client.converse(ReceiverStream::new(requests)).await });
        // Many servers send no header before the agent speaks first, so another sign of life must do.
        let alive = async {
            answers(channel.clone()).await;
            sleep(REFUSAL_GRACE).await;
        };
        let state = tokio::select! {
            response = &mut opening => State::Open(Box::new(response?.into_inner())),
            () = alive => State::Opening(opening),
        };
        let endpoint = endpoint.to_owned();
        Ok(Link {
            outgoing: Some(outgoing),
            state,
            agents: self.clone(),
            endpoint,
            channel,
        })
    }

    fn channel(&self, endpoint: &str) -> Result<Channel, Status> {
        let wrong = |_| Status::invalid_argument("the agent's endpoint is not a URL");
        let mut settings = Endpoint::from_shared(endpoint.to_owned())
            .map_err(wrong)?
            .connect_timeout(ENDPOINT_LIMIT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        if endpoint.starts_with("https:") {
            settings = settings
                .tls_config(ClientTlsConfig::new().with_enabled_roots())
                .map_err(wrong)?;
        }
        let allow = Arc::clone(&self.allow);
        Ok(settings.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
            let allow = Arc::clone(&allow);
            async move { connect(&allow, &uri).await.map(TokioIo::new) }
        })))
    }

    fn take(&self, endpoint: &str) -> Option<Channel> {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|warm| warm.since.elapsed() < WARM_FOR);
        let found = warm.iter().rposition(|warm| warm.endpoint == endpoint)?;
        Some(warm.remove(found).channel)
    }

    /// What else is warm to this endpoint is not to be trusted either.
    fn forget(&self, endpoint: &str) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|warm| warm.endpoint != endpoint);
    }

    fn keep(&self, endpoint: String, channel: Channel) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain(|warm| warm.since.elapsed() < WARM_FOR);
        if warm.len() < WARM_ALL && warm.iter().filter(|warm| warm.endpoint == endpoint).count() < WARM_EACH {
            warm.push(Warm {
                endpoint,
                channel,
                since: Instant::now(),
            });
        }
    }
}

/// Resolves when whoever is at the other end speaks HTTP/2 back, whatever it says; never when it does not.
async fn answers(channel: Channel) {
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest { service: String::new() })
        .await;
    let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
    if may_be_ours(code) {
        pending::<()>().await;
    }
}

/// Whether these can also be our own side's words for a failure.
fn may_be_ours(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
    )
}

/// Resolves, checks, and connects to exactly the address that was checked (F124).
async fn connect(allow: &AllowList, uri: &Uri) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri
        .port_u16()
        .unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the agent's host has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        if !allow.permits(host, address.ip()) {
            refused = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the agent's endpoint is not on AGENT_ENDPOINT_ALLOW; add its host or range there",
            );
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The innermost reason, in words of ours or of the operating system: an agent's own text may hold anything.
fn cause(status: &Status) -> String {
    let mut source = std::error::Error::source(status);
    let mut innermost = String::new();
    while let Some(error) = source {
        innermost = error.to_string();
        source = error.source();
    }
    innermost
}

enum State {
    Opening(BoxFuture<'static, Result<Response<Streaming<ConverseResponse>>, Status>>),
    Open(Box<Streaming<ConverseResponse>>),
    Ended,
}

/// A stream to an agent.
pub(crate) struct Link {
    outgoing: Option<mpsc::Sender<ConverseRequest>>,
    state: State,
    agents: Agents,
    endpoint: String,
    channel: Channel,
}

/// What comes from an agent.
pub(crate) enum Said {
    /// A message.
    Action(Option<Action>),
    /// Its half ended without an error.
    Finished,
    /// The stream broke.
    Broken(Code),
}

/// The two halves of a [`Link`], so that one task can wait for both.
pub(crate) struct Halves<'a> {
    outgoing: &'a mut Option<mpsc::Sender<ConverseRequest>>,
    state: &'a mut State,
}

impl Link {
    /// Both halves at once.
    pub(crate) fn halves(&mut self) -> Halves<'_> {
        Halves {
            outgoing: &mut self.outgoing,
            state: &mut self.state,
        }
    }

    /// Ends our half.
    pub(crate) fn close(&mut self) {
        self.outgoing = None;
    }

    /// Keeps the connection for another session. Only after a stream that ended well.
    pub(crate) fn recycle(self) {
        self.agents.keep(self.endpoint, self.channel);
    }
}

impl Halves<'_> {
    /// Waits until an event can be sent (`ready` says whether there is one) or the agent says something. Both are safe to
    /// be dropped while waiting.
    pub(crate) async fn next(self, ready: bool) -> Turn {
        let sendable = async {
            match self.outgoing {
                Some(outgoing) if ready => match outgoing.clone().reserve_owned().await {
                    Ok(permit) => permit,
                    // The agent's side will say why.
                    Err(_) => pending().await,
                },
                _ => pending().await,
            }
        };
        let said = async {
            loop {
                match self.state {
                    State::Opening(opening) => match opening.await {
                        Ok(response) => *self.state = State::Open(Box::new(response.into_inner())),
                        Err(status) => {
                            *self.state = State::Ended;
                            return Said::Broken(status.code());
                        }
                    },
                    State::Open(stream) => {
                        return match stream.message().await {
                            Ok(Some(message)) => Said::Action(message.action),
                            Ok(None) => {
                                *self.state = State::Ended;
                                Said::Finished
                            }
                            Err(status) => {
                                *self.state = State::Ended;
                                Said::Broken(status.code())
                            }
                        };
                    }
                    State::Ended => pending::<()>().await,
                }
            }
        };
        tokio::select! {
            permit = sendable => Turn::Send(permit),
            said = said => Turn::Said(said),
        }
    }
}

/// What a link is ready for.
pub(crate) enum Turn {
    /// One event can be sent.
    Send(mpsc::OwnedPermit<ConverseRequest>),
    /// The agent said something.
    Said(Said),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt as _;
    use runtime::Tasks;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;

    fn agents() -> Agents {
        Agents::new(AllowList::parse("loopback").unwrap())
    }

    /// A server that knows no agent's stream, and how many connections it got.
    async fn server() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let incoming = TcpListenerStream::new(listener).inspect(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let (_, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder().add_service(health);
        Tasks::new().spawn(server.serve_with_incoming(incoming));
        (url, connections)
    }

    /// F73: when an agent has just broken, what is warm may be as dead.
    #[tokio::test]
    async fn a_reconnect_uses_no_warm_connection() {
        let (url, connections) = server().await;
        for (others, expected) in [(true, 1), (false, 2)] {
            let agents = agents();
            connections.store(0, Ordering::SeqCst);
            agents.warm_up(&url).await;
            let dialed = agents
                .dial(vec![url.clone()], 0, others, Start::default(), RETRY_LIMIT)
                .await;
            assert_eq!(dialed.err(), Some(DialError::Unreachable));
            assert_eq!(connections.load(Ordering::SeqCst), expected, "others: {others}");
        }
    }

    /// F74: the host behind a warm connection is gone without a word; the call costs a moment, not the agent.
    #[tokio::test]
    async fn a_warm_connection_that_is_dead_is_left_for_a_new_one() {
        let (url, connections) = server().await;
        let agents = agents();
        // The kernel takes the connection, and nobody ever reads from it.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hole = format!("http://{}", silent.local_addr().unwrap());
        for _ in 0..2 {
            agents.keep(url.clone(), agents.channel(&hole).unwrap());
        }
        let begun = Instant::now();
        let dialed = agents.open(&url, Start::default(), true).await;
        // The answer is one of the server that lives.
        assert_eq!(dialed.err().map(|status| status.code()), Some(Code::Unimplemented));
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(agents.take(&url).is_none(), "the other one is as dead");
        drop(silent);
    }
}
