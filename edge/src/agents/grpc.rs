//! An agent that implements `VoiceAgentService`.

use std::{future::pending, time::Duration};

use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, Start, converse_request::Event,
    voice_agent_service_client::VoiceAgentServiceClient,
};
use futures_util::{StreamExt as _, future::BoxFuture};
use http::Uri;
use hyper_util::rt::TokioIo;
use runtime::{Tasks, rpc::InjectTrace};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use url::Url;

use super::{
    ENDPOINT_LIMIT, KEEP_ALIVE, OpenError, Said, Turn,
    connect::{Connector, Protocol},
    gather::gathered,
    pool::{Lease, Pool},
    windows::{Room, Watched},
};

/// Events on their way to the agent; the session's own queue is behind them.
const OUTGOING: usize = 4;
/// An agent's message: 64 KiB of audio and its envelope (F104).
const MAX_MESSAGE: usize = 128 * 1024;
/// What the edge holds of an agent's bytes, for each stream: a second of audio and more. A session always reads, so more would
/// not make it quicker.
const WINDOW: u32 = 64 * 1024;
/// A server that lives has this long to refuse the stream before it counts as taken.
const REFUSAL_GRACE: Duration = Duration::from_millis(250);
/// A warm connection whose agent is there needs a round trip and the grace. One whose host is gone says nothing at all.
const WARM_LIMIT: Duration = Duration::from_millis(700);

/// Dials agents over gRPC. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialler {
    connector: Connector,
    pool: Pool,
    /// What sends on the connections.
    tasks: Tasks,
    /// HTTP/2's, for a connection: all its streams' windows together, so that none can use up what another needs.
    window: u32,
}

impl Dialler {
    /// So many streams on a connection at most.
    pub(super) fn new(connector: Connector, streams: u32) -> Self {
        Self {
            connector,
            pool: Pool::new(streams as usize),
            tasks: Tasks::new(),
            window: streams.saturating_mul(WINDOW).min(i32::MAX as u32),
        }
    }

    /// Connects ahead of a call, if nothing warm is there.
    pub(super) async fn warm_up(&self, endpoint: &str) {
        if self.pool.take(endpoint).is_some() {
            return;
        }
        if let Ok(lease) = self.connect(endpoint) {
            let answered = timeout(ENDPOINT_LIMIT, answers(lease.channel())).await;
            lease.is_good(answered.is_ok());
        }
    }

    /// Opens a stream. Not over a warm connection where those may be dead.
    pub(super) async fn open(&self, endpoint: &str, start: Start, may_be_warm: bool) -> Result<Stream, OpenError> {
        if may_be_warm && let Some(lease) = self.pool.take(endpoint) {
            let until = Instant::now() + WARM_LIMIT;
            match timeout_at(until, open(lease, start.clone())).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(status)) if !may_be_ours(status.code()) => return Err(status.into()),
                // What else is warm to this endpoint is not to be trusted either.
                Ok(Err(_)) | Err(_) => self.pool.distrust(endpoint),
            }
        }
        Ok(open(self.connect(endpoint)?, start).await?)
    }

    /// A warm connection that leads to somewhere else.
    #[cfg(test)]
    pub(super) fn pretend_warm(&self, endpoint: &str, to: &str) {
        let lease = self.connect(to).unwrap();
        self.pool.add(endpoint, lease.channel(), Room::default()).is_good(true);
    }

    fn connect(&self, endpoint: &str) -> Result<Lease, OpenError> {
        let url = Url::parse(endpoint).map_err(|_| OpenError::Url)?;
        let authority: Uri = endpoint.parse().map_err(|_| OpenError::Url)?;
        // The connector encrypts, so to the transport the scheme is the plain one.
        let plain = endpoint.replacen("https://", "http://", 1);
        let settings = Endpoint::from_shared(plain)
            .map_err(|_| OpenError::Url)?
            .origin(authority)
            .connect_timeout(ENDPOINT_LIMIT)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(self.window)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .keep_alive_while_idle(true);
        let (connector, tasks, room) = (self.connector.clone(), self.tasks.clone(), Room::default());
        let watched = room.clone();
        let channel = settings.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (connector, url, tasks, room) = (connector.clone(), url.clone(), tasks.clone(), watched.clone());
            async move {
                let io = connector.connect(&url, Protocol::Http2).await?;
                Ok::<_, std::io::Error>(TokioIo::new(Watched::new(gathered(io, &tasks), room)))
            }
        }));
        Ok(self.pool.add(endpoint, channel, room))
    }
}

async fn open(lease: Lease, start: Start) -> Result<Stream, Status> {
    let (outgoing, requests) = mpsc::channel(OUTGOING);
    // The channel is empty, so there is room.
    let event = Some(Event::Start(start));
    let _ = outgoing.try_send(Box::new(ConverseRequest { event }));
    let requests = ReceiverStream::new(requests).map(|request| *request);
    let mut client = VoiceAgentServiceClient::with_interceptor(lease.channel(), InjectTrace)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let mut opening: BoxFuture<'static, _> = Box::pin(async move { client.converse(requests).await });
    // Many servers send no header before the agent speaks first, so another sign of life must do.
    let alive = async {
        answers(lease.channel()).await;
        sleep(REFUSAL_GRACE).await;
    };
    let state = tokio::select! {
        response = &mut opening => match response {
            Ok(response) => State::Open(Box::new(response.into_inner())),
            Err(status) => {
                if !may_be_ours(status.code()) {
                    lease.is_good(true);
                }
                return Err(status);
            }
        },
        () = alive => State::Opening(opening),
    };
    lease.is_good(true);
    Ok(Stream {
        outgoing: Some(outgoing),
        state,
        lease,
    })
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

enum State {
    Opening(BoxFuture<'static, Result<Response<Streaming<ConverseResponse>>, Status>>),
    Open(Box<Streaming<ConverseResponse>>),
    Ended,
}

/// One `Converse` stream.
pub(super) struct Stream {
    /// Boxed, since the channel keeps room for 32 of them.
    outgoing: Option<mpsc::Sender<Box<ConverseRequest>>>,
    state: State,
    lease: Lease,
}

impl Stream {
    /// Ends our half.
    pub(super) fn close(&mut self) {
        self.outgoing = None;
    }

    /// As [`super::Link::is_ready`].
    pub(super) fn is_ready(&self) -> bool {
        let is_open = |outgoing: &&mpsc::Sender<_>| !outgoing.is_closed();
        let outgoing = self.outgoing.as_ref().filter(is_open);
        outgoing.is_some_and(|outgoing| outgoing.capacity() > 0)
    }

    /// Sends an event. Only while it is ready.
    pub(super) fn send(&mut self, event: Event) {
        if let Some(outgoing) = &self.outgoing {
            // There is room, or the agent's half will say why it is gone.
            let event = Some(event);
            let _ = outgoing.try_send(Box::new(ConverseRequest { event }));
        }
    }

    /// Waits as [`super::Link::next`] does.
    pub(super) async fn next(&mut self, ready: bool) -> Turn {
        let Self { outgoing, state, lease } = self;
        let sendable = async {
            match outgoing {
                Some(outgoing) if outgoing.reserve().await.is_ok() => {}
                // Where it is closed, the agent's half will say why.
                _ => pending().await,
            }
        };
        let said = async {
            loop {
                let message = match state {
                    State::Opening(opening) => match opening.await {
                        Ok(response) => {
                            *state = State::Open(Box::new(response.into_inner()));
                            continue;
                        }
                        Err(status) => Err(status),
                    },
                    State::Open(stream) => stream.message().await,
                    State::Ended => pending().await,
                };
                let said = match message {
                    Ok(Some(message)) => return Said::Action(message.action),
                    Ok(None) => Said::Finished,
                    Err(status) => {
                        if may_be_ours(status.code()) {
                            lease.is_good(false);
                        }
                        Said::Broken(status.code())
                    }
                };
                *state = State::Ended;
                return said;
            }
        };
        tokio::select! {
            () = sendable, if ready => Turn::Send,
            said = said => Turn::Said(said),
        }
    }
}
