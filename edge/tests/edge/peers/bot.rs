//! A bot that was written for Exotel, played by the test frame by frame; written by hand, so that the codec is not checked
//! against itself.

use data_encoding::BASE64;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::CloseFrame,
    },
};

use super::PATIENCE;
use crate::frames;

/// Where bots are reached.
pub(crate) struct Bots {
    pub(crate) url: String,
    listener: TcpListener,
}

impl Bots {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/bot?lang=hi", listener.local_addr().unwrap());
        Self { url, listener }
    }

    /// Whose connections hold little of what is not read.
    pub(crate) async fn cramped() -> Self {
        let bots = Self::start().await;
        SockRef::from(&bots.listener).set_recv_buffer_size(4096).unwrap();
        bots
    }

    /// The connection of the next call, before anything was said.
    pub(crate) async fn connection(&self) -> TcpStream {
        let accepted = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials");
        accepted.unwrap().0
    }

    /// The bot of the next call.
    pub(crate) async fn bot(&self) -> Bot {
        let mut path = String::new();
        #[expect(clippy::result_large_err, reason = "the library's")]
        let seen = |request: &Request, response: Response| {
            path = request.uri().to_string();
            Ok(response)
        };
        let socket = accept_hdr_async(self.connection().await, seen).await.unwrap();
        Bot { path, socket }
    }
}

/// One call's bot.
pub(crate) struct Bot {
    /// What the handshake asked for.
    pub(crate) path: String,
    socket: WebSocketStream<TcpStream>,
}

impl Bot {
    /// The next frame; the error is how the edge closed.
    pub(crate) async fn next(&mut self) -> Result<Value, Option<u16>> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("the edge is silent") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame.map(|frame| frame.code.into())),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Err(None),
            }
        }
    }

    /// The next frame of this kind.
    pub(crate) async fn event(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await.unwrap();
            if frame["event"] == kind {
                return frame;
            }
        }
    }

    /// Reads `connected` and `start`.
    pub(crate) async fn started(&mut self) -> Value {
        assert_eq!(self.next().await, Ok(json!({ "event": "connected" })));
        let start = self.next().await.unwrap();
        assert_eq!(start["event"], "start");
        start
    }

    /// The person's audio until so many samples have come.
    pub(crate) async fn listen(&mut self, count: usize) -> Vec<i16> {
        let mut heard = Vec::new();
        while heard.len() < count {
            let media = self.event("media").await;
            let pcm = BASE64.decode(media["media"]["payload"].as_str().unwrap().as_bytes());
            heard.extend(frames::samples(&pcm.unwrap()));
        }
        heard
    }

    pub(crate) async fn say(&mut self, frame: Value) {
        self.send(Message::text(frame.to_string())).await;
    }

    /// As the older bots write it.
    pub(crate) async fn speak(&mut self, samples: &[i16]) {
        let payload = BASE64.encode(&frames::pcm(samples.iter().copied()));
        self.say(json!({ "event": "media", "streamSid": "x", "media": { "payload": payload } }))
            .await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        // Whether the edge is still there, the test will see.
        let _ = self.socket.send(message).await;
    }

    pub(crate) async fn close(&mut self, code: u16) {
        let (code, reason) = (code.into(), "".into());
        self.send(Message::Close(Some(CloseFrame { code, reason }))).await;
    }
}
