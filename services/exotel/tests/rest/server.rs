//! A listener that reads whole requests and answers each with the next bytes of a script.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What to do once a request has been read.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answer, then close.
    Answer(String),
    /// Answer every request on the same connection.
    Keep(String),
    /// Answer, and go on with `chunk` every few milliseconds until the client leaves.
    Trickle {
        head: String,
        chunk: Vec<u8>,
        every: Duration,
    },
    /// Say nothing until the client leaves.
    Silence,
    /// Close with a TCP reset after these bytes.
    Reset(String),
}

pub(crate) struct Server {
    pub(crate) base: String,
    requests: Arc<Mutex<Vec<String>>>,
    sent: Arc<Mutex<usize>>,
    connections: Arc<Mutex<usize>>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(Mutex::new(0));
        let connections = Arc::new(Mutex::new(0));
        let mut tasks = JoinSet::new();
        let (seen, count, accepted) = (requests.clone(), sent.clone(), connections.clone());
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                *accepted.lock().expect("lock") += 1;
                serving.spawn(serve(socket, act.clone(), seen.clone(), count.clone()));
            }
        });
        Self {
            base,
            requests,
            sent,
            connections,
            _tasks: tasks,
        }
    }

    /// An answer with a body of known length.
    pub(crate) async fn answering(status: &str, headers: &str, body: &str) -> Self {
        Self::start(Act::Answer(answer(status, headers, body))).await
    }

    /// The requests read so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("lock").clone()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("lock")
    }

    /// Bytes of body written so far.
    pub(crate) fn sent(&self) -> usize {
        *self.sent.lock().expect("lock")
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn serve(mut socket: TcpStream, act: Act, seen: Arc<Mutex<Vec<String>>>, sent: Arc<Mutex<usize>>) {
    let Some(request) = read_request(&mut socket).await else {
        return;
    };
    seen.lock().expect("lock").push(request);
    match act {
        Act::Answer(text) => {
            let _ = socket.write_all(text.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
        Act::Keep(text) => {
            while socket.write_all(text.as_bytes()).await.is_ok() {
                let Some(request) = read_request(&mut socket).await else {
                    return;
                };
                seen.lock().expect("lock").push(request);
            }
        }
        Act::Trickle { head, chunk, every } => {
            let _ = socket.write_all(head.as_bytes()).await;
            while socket.write_all(&chunk).await.is_ok() {
                *sent.lock().expect("lock") += chunk.len();
                if every.is_zero() {
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep(every).await;
                }
            }
        }
        Act::Silence => {
            let _ = socket.read(&mut [0; 1]).await;
        }
        Act::Reset(text) => {
            let _ = socket.write_all(text.as_bytes()).await;
            let _ = socket.set_zero_linger();
        }
    }
}

/// Reads the head and as much body as it announces.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = socket.read(&mut part).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0_usize) {
                return Some(text.into_owned());
            }
        }
    }
}
