//! The edge's neighbours as real servers that record what they got.

mod agent;
mod bot;
mod call_service;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use callbridge_proto::{
    agent::v1::converse_request::Event,
    id::{AccountId, CallId},
    ingress::v1::{
        Heartbeat, SessionEnded, SessionEvent, attach_edge_request::Message as Upward,
        ingress_service_server::IngressServiceServer, session_event,
    },
};
use edge::{Config, Listeners};
use exotel::token::{Purpose, TokenKeys, account_nonce};
use futures_util::Stream;
use runtime::{Clock, Tasks};
use socket2::SockRef;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

pub(crate) use agent::{Lie, Manner, agent, heard, hears, liar, told};
pub(crate) use bot::Bots;
pub(crate) use call_service::{Asked, CallService, Script};

pub(crate) const API_KEY: &str = "ck_test_key";
pub(crate) const MEDIA: &str = "media_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b";
const PATIENCE: Duration = Duration::from_secs(15);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A running edge and its call-service.
pub(crate) struct Bench {
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) keys: TokenKeys,
    pub(crate) call_service: CallService,
    /// The edge's environment.
    pub(crate) vars: Vec<(&'static str, String)>,
    asked: mpsc::UnboundedReceiver<Asked>,
    /// Control messages that were seen while something else was waited for.
    control: VecDeque<Upward>,
    pub(crate) tasks: Tasks,
    pub(crate) ended: tokio::task::JoinHandle<Option<anyhow::Result<()>>>,
}

/// With one agent, and what that hears.
pub(crate) async fn with_agent(manner: Manner) -> (Bench, mpsc::UnboundedReceiver<Event>) {
    let (url, events) = agent(manner).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    (Bench::new(script).await, events)
}

impl Bench {
    pub(crate) async fn new(script: Script) -> Self {
        Self::with(script, |_| ()).await
    }

    pub(crate) async fn with(script: Script, set: impl FnOnce(&mut Config)) -> Self {
        Self::build(script, set, |_| ()).await
    }

    /// With public connections that hold little of what is not read.
    pub(crate) async fn cramped(script: Script, set: impl FnOnce(&mut Config)) -> Self {
        let cramp = |listener: &TcpListener| SockRef::from(listener).set_send_buffer_size(4096).unwrap();
        Self::build(script, set, cramp).await
    }

    async fn build(script: Script, set: impl FnOnce(&mut Config), tune: impl FnOnce(&TcpListener)) -> Self {
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
            ("CALL_SERVICE_URL", &*url),
            ("CALL_SERVICE_API_KEY", API_KEY),
            ("EDGE_TOKEN_KEYS", &*keys.edge_keys()),
            ("AGENT_ENDPOINT_ALLOW", "loopback"),
            ("WEBHOOK_BASE_URL", "https://bridge.example.com"),
            ("EDGE_DRAIN_SECONDS", "20"),
            ("EDGE_ACCEPT_SECONDS", "0"),
        ];
        let vars: Vec<_> = vars.map(|(name, value)| (name, value.to_owned())).into();
        let mut config = Config::read(vars.clone().into_iter().collect()).unwrap();
        set(&mut config);
        let listeners = Listeners::bind(&config).await.unwrap();
        tune(&listeners.public);
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
            vars,
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

    /// The same with a token that was never used: how often one is asked about is bounded (F63).
    pub(crate) fn another_socket_path(&self) -> String {
        static NONCE: AtomicU64 = AtomicU64::new(1_000);
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let expires = u32::try_from(Clock::system().unix_seconds() + 120).unwrap();
        let token = self.keys.mint(Purpose::Socket, call().0, nonce, expires);
        format!("/ws/exotel/voice/{}/{token}", call())
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
