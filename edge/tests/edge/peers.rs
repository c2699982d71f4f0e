//! The edge's neighbours as real servers that record what they got: call-service and a voice agent.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use callbridge_proto::{
    agent::v1::{
        ConverseRequest, ConverseResponse, Leave, OutgoingAudio, Start,
        converse_request::Event,
        converse_response::Action,
        voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
    },
    directory::v1::AudioSettings,
    id::{AccountId, CallId},
    ingress::v1::{
        attach_edge_request::Message as Upward,
        attach_edge_response::Message as Downward,
        ingress_service_server::{IngressService, IngressServiceServer},
        *,
    },
};
use edge::{Config, Listeners};
use exotel::token::{Purpose, TokenKeys, account_nonce};
use futures_util::{Stream, StreamExt as _, stream};
use runtime::{Clock, Tasks};
use std::pin::Pin;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{frames, web::Socket};

pub(crate) const API_KEY: &str = "ck_test_key";
pub(crate) const MEDIA: &str = "media_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b";
const PATIENCE: Duration = Duration::from_secs(15);

/// What call-service was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Connect(ResolveConnectRequest),
    Greeting(ResolveGreetingRequest),
    Gather(ResolveGatherRequest),
    Transfer(ResolveTransferRequest),
    Input(RecordInputRequest),
    End(RecordEndRequest),
    Status(RecordStatusRequest),
    Claim(ClaimSocketRequest),
    Start(StartSessionRequest),
    Control(Upward),
}

/// What call-service answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// The next answers, before the ordinary ones.
    pub(crate) failures: VecDeque<Status>,
    /// Nothing is answered at all.
    pub(crate) hang: bool,
    pub(crate) agents: Vec<String>,
    pub(crate) agent_rate: u32,
    pub(crate) greeting: Vec<u8>,
    pub(crate) greeting_sha256: String,
    pub(crate) branch_b: bool,
    pub(crate) unknown: Vec<String>,
    pub(crate) audio: Option<AudioSettings>,
    /// Seconds until the time limit.
    pub(crate) ends_in: Option<i64>,
    /// Events are not acknowledged.
    pub(crate) no_acks: bool,
}

#[derive(Clone)]
pub(crate) struct CallService {
    asked: mpsc::UnboundedSender<Asked>,
    pub(crate) script: Arc<Mutex<Script>>,
    /// Messages for every attached edge; None breaks the streams.
    pub(crate) down: broadcast::Sender<Option<Downward>>,
}

impl CallService {
    async fn answer<T>(
        &self,
        request: &Request<impl Sized>,
        asked: Asked,
        answer: impl FnOnce(&Script) -> T,
    ) -> Result<Response<T>, Status> {
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            &format!("Bearer {API_KEY}")
        );
        self.asked.send(asked).unwrap();
        if self.script.lock().unwrap().hang {
            std::future::pending::<()>().await;
        }
        let mut script = self.script.lock().unwrap();
        match script.failures.pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(answer(&script))),
        }
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl IngressService for CallService {
    type FetchGreetingStream = Boxed<FetchGreetingResponse>;
    type AttachEdgeStream = Boxed<AttachEdgeResponse>;

    async fn resolve_connect(
        &self,
        request: Request<ResolveConnectRequest>,
    ) -> Result<Response<ResolveConnectResponse>, Status> {
        self.answer(&request, Asked::Connect(request.get_ref().clone()), |_| {
            ResolveConnectResponse {
                call_id: "call_1".into(),
                socket_url: "wss://bridge.example.com/ws/exotel/voice/call_1/secret".into(),
            }
        })
        .await
    }

    async fn resolve_greeting(
        &self,
        request: Request<ResolveGreetingRequest>,
    ) -> Result<Response<ResolveGreetingResponse>, Status> {
        self.answer(&request, Asked::Greeting(request.get_ref().clone()), |script| {
            ResolveGreetingResponse {
                call_id: "call_1".into(),
                text: if script.greeting_sha256.is_empty() {
                    "Namaste".into()
                } else {
                    String::new()
                },
                wav_sha256: script.greeting_sha256.clone(),
            }
        })
        .await
    }

    async fn resolve_gather(
        &self,
        request: Request<ResolveGatherRequest>,
    ) -> Result<Response<ResolveGatherResponse>, Status> {
        self.answer(&request, Asked::Gather(request.get_ref().clone()), |_| {
            ResolveGatherResponse {
                call_id: "call_1".into(),
                text: "Press one".into(),
                max_digits: 1,
                finish_on_key: "#".into(),
                timeout_seconds: 6,
                repeats: 2,
            }
        })
        .await
    }

    async fn resolve_transfer(
        &self,
        request: Request<ResolveTransferRequest>,
    ) -> Result<Response<ResolveTransferResponse>, Status> {
        self.answer(&request, Asked::Transfer(request.get_ref().clone()), |_| {
            ResolveTransferResponse {
                call_id: "call_1".into(),
                numbers: vec!["+919812345678".into()],
                outgoing_number: "+918040000155".into(),
                record: true,
            }
        })
        .await
    }

    async fn record_input(
        &self,
        request: Request<RecordInputRequest>,
    ) -> Result<Response<RecordInputResponse>, Status> {
        self.answer(&request, Asked::Input(request.get_ref().clone()), |script| {
            RecordInputResponse {
                branch_b: script.branch_b,
            }
        })
        .await
    }

    async fn record_end(&self, request: Request<RecordEndRequest>) -> Result<Response<RecordEndResponse>, Status> {
        self.answer(&request, Asked::End(request.get_ref().clone()), |script| {
            RecordEndResponse {
                branch_b: script.branch_b,
            }
        })
        .await
    }

    async fn record_status(
        &self,
        request: Request<RecordStatusRequest>,
    ) -> Result<Response<RecordStatusResponse>, Status> {
        self.answer(&request, Asked::Status(request.get_ref().clone()), |_| {
            RecordStatusResponse {}
        })
        .await
    }

    async fn claim_socket(
        &self,
        request: Request<ClaimSocketRequest>,
    ) -> Result<Response<ClaimSocketResponse>, Status> {
        self.answer(&request, Asked::Claim(request.get_ref().clone()), |script| {
            ClaimSocketResponse {
                media_session_id: MEDIA.into(),
                claim: 7,
                agent_endpoints: script.agents.clone(),
                greeting_sha256: script.greeting_sha256.clone(),
            }
        })
        .await
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        self.answer(&request, Asked::Start(request.get_ref().clone()), |script| {
            StartSessionResponse {
                media_session_id: MEDIA.into(),
                agent_endpoints: script.agents.clone(),
                start: Some(Start {
                    call_id: "call_1".into(),
                    media_session_id: MEDIA.into(),
                    ..Start::default()
                }),
                agent_sample_rate: script.agent_rate.max(8000),
                greeting_sha256: script.greeting_sha256.clone(),
                traceparent: String::new(),
                ends_at: None,
                ends_in: script
                    .ends_in
                    .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
                audio: script.audio,
            }
        })
        .await
    }

    async fn fetch_greeting(
        &self,
        _: Request<FetchGreetingRequest>,
    ) -> Result<Response<Self::FetchGreetingStream>, Status> {
        let greeting = self.script.lock().unwrap().greeting.clone();
        let chunks: Vec<_> = greeting
            .chunks(64 * 1024)
            .map(|chunk| {
                Ok(FetchGreetingResponse {
                    chunk: chunk.to_vec().into(),
                })
            })
            .collect();
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn attach_edge(
        &self,
        request: Request<Streaming<AttachEdgeRequest>>,
    ) -> Result<Response<Self::AttachEdgeStream>, Status> {
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            &format!("Bearer {API_KEY}")
        );
        let mut up = request.into_inner();
        let (responses, stream) = mpsc::channel(64);
        let service = self.clone();
        let mut down = self.down.subscribe();
        Tasks::new().spawn(async move {
            let send = |message: Downward| {
                let responses = responses.clone();
                async move {
                    responses
                        .send(Ok(AttachEdgeResponse { message: Some(message) }))
                        .await
                        .is_ok()
                }
            };
            loop {
                tokio::select! {
                    message = up.message() => {
                        let Ok(Some(AttachEdgeRequest { message: Some(message) })) = message else { return };
                        let script = service.script.lock().unwrap().clone();
                        match &message {
                            Upward::Hello(_) => {
                                send(Downward::Welcome(Welcome { unknown_media_session_ids: script.unknown })).await;
                            }
                            Upward::Event(event) if !script.no_acks => {
                                let (media_session_id, sequence) = (event.media_session_id.clone(), event.sequence);
                                send(Downward::Ack(EventAck { media_session_id, sequence })).await;
                            }
                            _ => {}
                        }
                        let _ = service.asked.send(Asked::Control(message));
                    }
                    message = down.recv() => {
                        let Ok(Some(message)) = message else {
                            let _ = responses.send(Err(Status::unavailable("going away"))).await;
                            return;
                        };
                        send(message).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

/// How an agent behaves.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Says back what it hears.
    Echo,
    /// Says what it is told to; the channel's end ends its half.
    Told(Arc<Mutex<Option<mpsc::UnboundedReceiver<Action>>>>),
    /// Refuses each stream.
    Refuse,
    /// Breaks off after the start.
    Break,
    /// Answers nothing, not even with headers, until the caller ends.
    Listen,
    /// Takes the stream and never reads it.
    Deaf,
}

#[derive(Clone)]
pub(crate) struct Agent {
    manner: Manner,
    heard: mpsc::UnboundedSender<Event>,
}

#[tonic::async_trait]
impl VoiceAgentService for Agent {
    type ConverseStream = Boxed<ConverseResponse>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let mut events = request.into_inner();
        let heard = self.heard.clone();
        let respond = |action| Ok(ConverseResponse { action: Some(action) });
        match &self.manner {
            Manner::Refuse => Err(Status::unavailable("not today")),
            Manner::Break => {
                let start = events.message().await?.unwrap();
                heard.send(start.event.unwrap()).unwrap();
                Ok(Response::new(
                    stream::once(async { Err(Status::internal("crashed")) }).boxed(),
                ))
            }
            Manner::Listen => {
                while let Some(event) = events.message().await? {
                    let _ = heard.send(event.event.unwrap());
                }
                Ok(Response::new(stream::empty().boxed()))
            }
            Manner::Deaf => {
                // The stream holds what is not read, so it lives as long as the answer.
                let deaf = stream::unfold(events, move |events| async move {
                    std::future::pending::<()>().await;
                    Some((respond(Action::Leave(Leave::default())), events))
                });
                Ok(Response::new(deaf.boxed()))
            }
            Manner::Echo => {
                let stream = events.filter_map(move |event| {
                    let event = event.ok().and_then(|event| event.event);
                    let answer = match &event {
                        Some(Event::Audio(audio)) => Some(Action::Audio(OutgoingAudio {
                            pcm: audio.pcm.clone(),
                            generation: 0,
                        })),
                        _ => None,
                    };
                    if let Some(event) = event {
                        let _ = heard.send(event);
                    }
                    std::future::ready(answer.map(respond))
                });
                Ok(Response::new(stream.boxed()))
            }
            Manner::Told(actions) => {
                let actions = actions.lock().unwrap().take().expect("one stream");
                Tasks::new().spawn(async move {
                    while let Ok(Some(event)) = events.message().await {
                        let _ = heard.send(event.event.unwrap());
                    }
                });
                Ok(Response::new(
                    UnboundedReceiverStream::new(actions).map(respond).boxed(),
                ))
            }
        }
    }
}

/// An agent's URL, and what it hears.
pub(crate) async fn agent(manner: Manner) -> (String, mpsc::UnboundedReceiver<Event>) {
    let (heard, events) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = VoiceAgentServiceServer::new(Agent { manner, heard });
    let server = tonic::transport::Server::builder().add_service(service);
    Tasks::new().spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (url, events)
}

/// An agent that says what the test tells it.
pub(crate) fn told() -> (Manner, mpsc::UnboundedSender<Action>) {
    let (say, actions) = mpsc::unbounded_channel();
    (Manner::Told(Arc::new(Mutex::new(Some(actions)))), say)
}

/// A running edge and its call-service.
pub(crate) struct Bench {
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) keys: TokenKeys,
    pub(crate) call_service: CallService,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Control messages that were seen while something else was waited for.
    control: VecDeque<Upward>,
    pub(crate) tasks: Tasks,
    pub(crate) ended: tokio::task::JoinHandle<Option<anyhow::Result<()>>>,
}

impl Bench {
    pub(crate) async fn new(script: Script) -> Self {
        Self::with(script, |_| ()).await
    }

    pub(crate) async fn with(script: Script, set: impl FnOnce(&mut Config)) -> Self {
        runtime::install_crypto_provider();
        let keys = TokenKeys::parse("1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        let call_service = CallService {
            asked: sender,
            script: Arc::new(Mutex::new(script)),
            down: broadcast::channel(64).0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(IngressServiceServer::new(call_service.clone()));
        Tasks::new().spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let vars = [
            ("EDGE_ADDR", "127.0.0.1:0"),
            ("EDGE_INTERNAL_ADDR", "127.0.0.1:0"),
            ("CALL_SERVICE_URL", &url),
            ("CALL_SERVICE_API_KEY", API_KEY),
            ("EDGE_TOKEN_KEYS", &keys.edge_keys()),
            ("AGENT_ENDPOINT_ALLOW", "loopback"),
            ("WEBHOOK_BASE_URL", "https://bridge.example.com"),
            ("EDGE_DRAIN_SECONDS", "20"),
            ("EDGE_ACCEPT_SECONDS", "0"),
        ];
        let mut config = Config::read(vars.into_iter().collect()).unwrap();
        set(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        let (public, internal) = (
            listeners.public.local_addr().unwrap(),
            listeners.internal.local_addr().unwrap(),
        );
        let tasks = Tasks::new();
        let ended = Tasks::new().spawn(edge::run(config, listeners, tasks.clone()));
        Self {
            public,
            internal,
            keys,
            call_service,
            asked,
            control: VecDeque::new(),
            tasks,
            ended,
        }
    }

    pub(crate) fn account_token(&self) -> String {
        self.keys.mint(Purpose::Account, account().0, account_nonce(3), 0)
    }

    pub(crate) fn call_token(&self, purpose: Purpose) -> String {
        let expires = u32::try_from(Clock::system().unix_seconds() + 120).unwrap();
        self.keys.mint(purpose, call().0, [0, 0, 0, 0, 0, 0, 1, 2], expires)
    }

    pub(crate) fn socket_path(&self) -> String {
        format!("/ws/exotel/voice/{}/{}", call(), self.call_token(Purpose::Socket))
    }

    /// What call-service is asked next, control messages apart.
    pub(crate) async fn asked(&mut self) -> Asked {
        loop {
            match timeout(PATIENCE, self.asked.recv())
                .await
                .expect("call-service is not asked")
                .unwrap()
            {
                Asked::Control(message) => self.control.push_back(message),
                asked => return asked,
            }
        }
    }

    /// The next control message, heartbeats apart.
    pub(crate) async fn control(&mut self) -> Upward {
        loop {
            let message = match self.control.pop_front() {
                Some(message) => message,
                None => match timeout(PATIENCE, self.asked.recv())
                    .await
                    .expect("no control message")
                    .unwrap()
                {
                    Asked::Control(message) => message,
                    _ => continue,
                },
            };
            if !matches!(message, Upward::Heartbeat(_)) {
                return message;
            }
        }
    }

    /// The next heartbeat; other messages wait.
    pub(crate) async fn heartbeat(&mut self) -> Heartbeat {
        loop {
            match timeout(PATIENCE, self.asked.recv())
                .await
                .expect("no heartbeat")
                .unwrap()
            {
                Asked::Control(Upward::Heartbeat(heartbeat)) => return heartbeat,
                Asked::Control(message) => self.control.push_back(message),
                _ => {}
            }
        }
    }

    /// The next session event.
    pub(crate) async fn event(&mut self) -> SessionEvent {
        loop {
            if let Upward::Event(event) = self.control().await {
                return event;
            }
        }
    }

    /// The end of the session, and the events before it.
    pub(crate) async fn end(&mut self) -> (Vec<session_event::Event>, SessionEnded) {
        let mut before = Vec::new();
        loop {
            match self.event().await.event.unwrap() {
                session_event::Event::Ended(ended) => return (before, ended),
                other => before.push(other),
            }
        }
    }

    /// Whether a session's end was reported already.
    pub(crate) fn has_ended(&mut self) -> bool {
        while let Ok(asked) = self.asked.try_recv() {
            if let Asked::Control(message) = asked {
                self.control.push_back(message);
            }
        }
        let is_end = |message: &Upward| matches!(message, Upward::Event(event) if matches!(event.event, Some(session_event::Event::Ended(_))));
        self.control.iter().any(is_end)
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.call_service.script.lock().unwrap());
    }

    pub(crate) fn nothing_asked(&mut self) -> bool {
        loop {
            match self.asked.try_recv() {
                Ok(Asked::Control(message)) => self.control.push_back(message),
                Ok(_) => return false,
                Err(_) => return true,
            }
        }
    }
}

pub(crate) fn account() -> AccountId {
    "acct_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b".parse().unwrap()
}

pub(crate) fn call() -> CallId {
    "call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2c".parse().unwrap()
}

pub(crate) async fn heard(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    timeout(PATIENCE, events.recv())
        .await
        .expect("the agent hears nothing")
        .expect("the agent is gone")
}

pub(crate) async fn hears(events: &mut mpsc::UnboundedReceiver<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = heard(events).await;
        if wanted(&event) {
            return event;
        }
    }
}

/// A socket whose stream has begun.
pub(crate) async fn begin(bench: &Bench) -> Socket {
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    socket.send(frames::connected()).await;
    socket.send(frames::start(8000)).await;
    socket
}
