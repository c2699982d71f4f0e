//! A bare HTTP/1.1 client and a WebSocket client, so that what is on the wire is seen as it is.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

use crate::{
    frames::{self, Sent},
    peers::Bench,
};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends the bytes, and reads until the peer closes.
pub(crate) async fn raw(to: SocketAddr, request: &[u8]) -> Answer {
    exchange(TcpStream::connect(to).await.unwrap(), request).await
}

/// The same over a connection that is there.
pub(crate) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Answer {
    // A peer that has answered may close before it read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("no answer in time");
    let split = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("an HTTP answer");
    let head = std::str::from_utf8(&answer[..split]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()));
    Answer {
        status,
        headers: headers.filter(|(name, _)| name != "date").collect(),
        body: answer[split + 4..].to_vec(),
    }
}

pub(crate) async fn get(to: SocketAddr, path: &str) -> Answer {
    request(to, "GET", path, "", b"").await
}

pub(crate) async fn request(to: SocketAddr, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n").into_bytes();
    if !body.is_empty() {
        bytes.extend(format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    raw(to, &bytes).await
}

/// Exotel's side of a socket.
pub(crate) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

/// A call's socket, with its start.
pub(crate) async fn begin(bench: &Bench) -> Socket {
    let mut socket = Socket::open(bench.public, &bench.socket_path(), None).await.unwrap();
    socket.send(frames::connected()).await;
    socket.send(frames::start(8000)).await;
    socket
}

impl Socket {
    pub(crate) async fn open(to: SocketAddr, path: &str, authorization: Option<&str>) -> Result<Self, u16> {
        let header = authorization.map(|value| ("authorization", value));
        Self::open_with(to, path, header.as_slice()).await
    }

    /// With further headers.
    pub(crate) async fn open_with(to: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        let mut request = format!("ws://{to}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        match timeout(PATIENCE, tokio_tungstenite::connect_async(request))
            .await
            .unwrap()
        {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// The same over a connection that holds little of what is not read.
    pub(crate) async fn cramped(to: SocketAddr, path: &str) -> Self {
        let request = format!("ws://{to}{path}").into_client_request().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(to).await.unwrap());
        Self(tokio_tungstenite::client_async(request, stream).await.unwrap().0)
    }

    /// Speaks, in frames of 20 ms, all at once.
    pub(crate) async fn say(&mut self, said: &[i16]) {
        for (chunk, piece) in (0..).zip(said.chunks(160)) {
            let pcm = frames::pcm(piece.iter().copied());
            self.send(frames::media_at(frames::STREAM, chunk + 1, chunk * 20, &pcm))
                .await;
        }
    }

    pub(crate) async fn send(&mut self, text: String) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        let _ = self.0.send(message).await;
    }

    /// Sends bytes that need be no frame.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next bytes as they are on the wire: nothing is answered, pings neither.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = timeout(PATIENCE, self.0.get_mut().read_exact(&mut bytes)).await;
        read.expect("the edge sends nothing").unwrap();
        bytes
    }

    /// Takes the answer to a ping; otherwise how the edge closed.
    pub(crate) async fn said_anything(&mut self) -> Option<(u16, String)> {
        match timeout(PATIENCE, self.0.next()).await.expect("the edge says nothing") {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => Some((code.into(), reason.to_string())),
            Some(Ok(Message::Pong(_))) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Reads to the very end: whether the edge's close was the last that came.
    pub(crate) async fn ends_with_a_close(&mut self) -> bool {
        let mut closed = false;
        while let Some(message) = timeout(PATIENCE, self.0.next()).await.expect("the edge does not end") {
            closed = matches!(message, Ok(Message::Close(_)));
        }
        closed
    }

    /// Goes without a word; the peer sees a reset.
    pub(crate) fn reset(self) {
        let MaybeTlsStream::Plain(stream) = self.0.into_inner() else {
            return;
        };
        stream.set_zero_linger().unwrap();
    }

    /// What the edge sends next; the error is how it closed.
    pub(crate) async fn next(&mut self) -> Result<Sent, (u16, String)> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("the edge sends nothing") {
                Some(Ok(Message::Text(text))) => return Ok(frames::read(&text)),
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Err((code.into(), reason.to_string()));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Audio until so many samples that are not padding have come.
    pub(crate) async fn listen(&mut self, count: usize) -> Vec<i16> {
        let mut heard = Vec::new();
        while heard.len() < count {
            match self.next().await.unwrap() {
                Sent::Audio(pcm) => heard.extend(frames::samples(&pcm).into_iter().filter(|sample| *sample != 0)),
                Sent::Mark(name) => self.send(frames::mark(&name)).await,
                Sent::Clear => {}
            }
        }
        heard
    }

    /// Waits for the close, sending marks back.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Ok(Sent::Mark(name)) => self.send(frames::mark(&name)).await,
                Ok(_) => {}
                Err(close) => return close,
            }
        }
    }
}
