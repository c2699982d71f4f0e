//! The other side: webhooks that record what they get, and a bot whose lines the test speaks.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{
        Request, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::any,
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};

use crate::PATIENCE;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Hit {
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }

    /// The fields of a body in any of the three encodings; JSON is flattened one level.
    pub(crate) async fn fields(&self) -> Vec<(String, String)> {
        let content_type = self.header("content-type");
        if content_type.starts_with("application/json") {
            let body: serde_json::Map<String, Value> = serde_json::from_slice(&self.body).expect("JSON");
            return body
                .into_iter()
                .map(|(key, value)| (key, value.as_str().map_or(value.to_string(), str::to_owned)))
                .collect();
        }
        if content_type.starts_with("application/x-www-form-urlencoded") {
            return url::form_urlencoded::parse(&self.body).into_owned().collect();
        }
        let boundary = multer::parse_boundary(content_type).expect("multipart");
        let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(self.body.clone())]);
        let mut form = multer::Multipart::new(stream, boundary);
        let mut fields = Vec::new();
        while let Some(field) = form.next_field().await.expect("well-formed") {
            fields.push((
                field.name().expect("a name").to_owned(),
                field.text().await.expect("text"),
            ));
        }
        fields
    }

    pub(crate) async fn field(&self, key: &str) -> Option<String> {
        self.fields()
            .await
            .into_iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }
}

type Answers = HashMap<String, VecDeque<(u16, &'static str, String)>>;

struct Shared {
    hits: Mutex<Vec<Hit>>,
    came: Notify,
    answers: Mutex<Answers>,
    sessions: mpsc::UnboundedSender<Session>,
}

/// The server.
pub(crate) struct Server {
    pub(crate) host: String,
    shared: Arc<Shared>,
    waiting: tokio::sync::Mutex<mpsc::UnboundedReceiver<Session>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let (sessions, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            hits: Mutex::default(),
            came: Notify::new(),
            answers: Mutex::default(),
            sessions,
        });
        let router = Router::new()
            .route("/bot/{*rest}", any(bot))
            .fallback(webhook)
            .with_state(Arc::clone(&shared));
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(async move { axum::serve(listener, router).await });
        Self {
            host,
            shared,
            waiting: tokio::sync::Mutex::new(waiting),
        }
    }

    pub(crate) fn http(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    pub(crate) fn ws(&self, path: &str) -> String {
        format!("ws://{}{path}", self.host)
    }

    /// Answers one request to the path; the last answer stays.
    pub(crate) fn answer(&self, path: &str, status: u16, content_type: &'static str, body: impl Into<String>) {
        let mut answers = self.shared.answers.lock().expect("no panic");
        answers
            .entry(path.to_owned())
            .or_default()
            .push_back((status, content_type, body.into()));
    }

    pub(crate) fn answer_json(&self, path: &str, body: &Value) {
        self.answer(path, 200, "application/json", body.to_string());
    }

    pub(crate) fn hits(&self, path: &str) -> Vec<Hit> {
        self.shared
            .hits
            .lock()
            .expect("no panic")
            .iter()
            .filter(|hit| hit.path == path)
            .cloned()
            .collect()
    }

    /// Waits for so many requests to the path.
    pub(crate) async fn wait(&self, path: &str, count: usize) -> Vec<Hit> {
        let wait = async {
            loop {
                let came = self.shared.came.notified();
                let hits = self.hits(path);
                if hits.len() >= count {
                    return hits;
                }
                came.await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, wait).await;
        let have = self.shared.hits.lock().expect("no panic").clone();
        assert!(found.is_ok(), "wanted {count} requests to {path}, have {have:?}");
        found.expect("asserted above")
    }

    /// The next WebSocket.
    pub(crate) async fn session(&self) -> Session {
        let mut waiting = self.waiting.lock().await;
        tokio::time::timeout(PATIENCE, waiting.recv())
            .await
            .expect("a socket in time")
            .expect("the server lives")
    }

    /// Whether a WebSocket came that nobody took.
    pub(crate) async fn has_session(&self) -> bool {
        !self.waiting.lock().await.is_empty()
    }
}

async fn webhook(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let path = parts.uri.path().to_owned();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes())
        .into_owned()
        .collect();
    let hit = Hit {
        method: parts.method.to_string(),
        path: path.clone(),
        query,
        headers: parts.headers,
        body,
    };
    shared.hits.lock().expect("no panic").push(hit);
    shared.came.notify_waiters();
    let mut answers = shared.answers.lock().expect("no panic");
    let answer = match answers.get_mut(&path) {
        Some(queue) if queue.len() > 1 => queue.pop_front(),
        Some(queue) => queue.front().cloned(),
        None => None,
    };
    let (status, content_type, body) = answer.unwrap_or((200, "text/plain", String::new()));
    (
        StatusCode::from_u16(status).expect("a status"),
        [("content-type", content_type)],
        body,
    )
        .into_response()
}

async fn bot(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade, request: Request) -> Response {
    let hit = Hit {
        method: "GET".to_owned(),
        path: request.uri().path().to_owned(),
        query: url::form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes())
            .into_owned()
            .collect(),
        headers: request.headers().clone(),
        body: Bytes::new(),
    };
    upgrade.on_upgrade(async move |socket| {
        // Whoever starts the server may be gone already.
        let _ = shared.sessions.send(Session { hit, socket });
    })
}

/// An open socket on the bot's side.
pub(crate) struct Session {
    pub(crate) hit: Hit,
    socket: WebSocket,
}

impl Session {
    /// The next message; `None` is the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.recv())
                .await
                .expect("a message in time");
            match message {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Skips to the next message with this event.
    pub(crate) async fn until(&mut self, event: &str) -> Value {
        loop {
            let message = self.next().await;
            assert!(message.is_some(), "the socket ended before {event}");
            if let Some(message) = message.filter(|message| message["event"] == event) {
                return message;
            }
        }
    }

    /// `connected` and `start`; returns the latter.
    pub(crate) async fn open(&mut self) -> Value {
        assert_eq!(self.next().await, Some(json!({"event": "connected"})));
        let start = self.next().await.expect("a start");
        assert_eq!(start["event"], "start");
        start
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.socket
            .send(Message::text(message.to_string()))
            .await
            .expect("sends");
    }

    pub(crate) async fn say(&mut self, audio: &[u8]) {
        self.send(json!({"event": "media", "media": {"payload": BASE64.encode(audio)}}))
            .await;
    }

    pub(crate) async fn mark(&mut self, name: &str) {
        self.send(json!({"event": "mark", "mark": {"name": name}})).await;
    }

    pub(crate) async fn close(mut self) {
        let frame = CloseFrame {
            code: 1000,
            reason: "".into(),
        };
        self.socket.send(Message::Close(Some(frame))).await.expect("sends");
        while let Some(Ok(_)) = self.socket.recv().await {}
    }

    /// All messages to the end.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await {
            messages.push(message);
        }
        messages
    }
}

/// The audio of a `media` message.
pub(crate) fn audio(message: &Value) -> Vec<u8> {
    BASE64
        .decode(message["media"]["payload"].as_str().expect("a payload").as_bytes())
        .expect("base64")
}
