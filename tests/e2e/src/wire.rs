//! The platform's side of the wire, by hand: HTTP requests, callbacks' tokens and AgentStream sockets.

use anyhow::Context as _;
use callbridge_proto::id::CallId;
use data_encoding::BASE64;
use exotel::token::{Purpose, TokenKeys};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::AUTHORIZATION;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use crate::{
    PATIENCE, Story,
    sweep::{look_at_error, plant},
};

/// A client that follows no redirect, as the platform does not.
///
/// # Errors
/// When it cannot be made.
pub fn http() -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    Ok(builder.timeout(PATIENCE).build()?)
}

/// The status and the JSON body of a GET.
///
/// # Errors
/// When there is no answer, or its body is no JSON.
pub async fn answer(url: &str, query: &[(&str, String)]) -> anyhow::Result<(u16, Value)> {
    let response = http()?.get(url).query(query).send().await?;
    let (status, body) = (response.status(), response.bytes().await?);
    if !status.is_success() {
        look_at_error(&body);
    }
    Ok((status.as_u16(), serde_json::from_slice(&body)?))
}

/// The URL for callbacks of a call, with a token that is over at this Unix second.
///
/// # Errors
/// When the id is none.
pub fn callback_url(story: &Story, call_id: &str, expires: u32) -> anyhow::Result<String> {
    let keys = TokenKeys::parse(&story.stack.keys.token_keys)?;
    let id: CallId = call_id.parse().context("no call's id")?;
    let token = keys.mint(Purpose::Callback, id.0, [7; 8], expires);
    plant("a callback's token", &token);
    Ok(exotel::paths::status_url(&story.stack.edge_url(), &token))
}

/// A time in Unix seconds, before now if it is negative.
pub fn seconds_from_now(seconds: i64) -> u32 {
    u32::try_from(runtime::Clock::system().now().timestamp() + seconds).unwrap_or(u32::MAX)
}

/// An AgentStream `start`.
pub fn start(stream_sid: &str, call_sid: &str, account_sid: &str, from: &str, to: &str) -> Value {
    json!({
        "event": "start", "sequence_number": "1", "stream_sid": stream_sid,
        "start": {
            "stream_sid": stream_sid, "call_sid": call_sid, "account_sid": account_sid, "from": from, "to": to,
            "media_format": { "encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps" },
        },
    })
}

/// An AgentStream `media` with samples.
pub fn media(stream_sid: &str, chunk: u64, samples: &[i16]) -> Value {
    let pcm: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    json!({
        "event": "media", "sequence_number": (chunk + 1).to_string(), "stream_sid": stream_sid,
        "media": { "chunk": chunk.to_string(), "timestamp": (chunk * 100).to_string(), "payload": BASE64.encode(&pcm) },
    })
}

/// An open AgentStream socket.
#[derive(Debug)]
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Opens a socket. The error is the status of a refusal.
    ///
    /// # Errors
    /// When there is no HTTP answer at all.
    pub async fn open(url: &str, user: Option<(&str, &str)>) -> anyhow::Result<Result<Self, u16>> {
        let mut request = url.into_client_request()?;
        if let Some((name, password)) = user {
            let basic = format!("Basic {}", BASE64.encode(format!("{name}:{password}").as_bytes()));
            request.headers_mut().insert(AUTHORIZATION, basic.parse()?);
        }
        match timeout(PATIENCE, connect_async(request))
            .await
            .context("no handshake")?
        {
            Ok((socket, _)) => Ok(Ok(Self(socket))),
            Err(Error::Http(response)) => Ok(Err(response.status().as_u16())),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends an event.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, event: &Value) -> anyhow::Result<()> {
        self.raw(Message::text(event.to_string())).await
    }

    /// Sends any frame.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn raw(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(self.0.send(message).await?)
    }

    /// The next event; the error is the code of the close frame, 1006 when there was none.
    ///
    /// # Errors
    /// When nothing comes in time, or it is no JSON.
    pub async fn next(&mut self) -> anyhow::Result<Result<Value, u16>> {
        loop {
            match timeout(PATIENCE, self.0.next()).await.context("the edge is silent")? {
                Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
                Some(Ok(Message::Close(frame))) => return Ok(Err(frame.map_or(1005, |frame| frame.code.into()))),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(Err(1006)),
            }
        }
    }

    /// Reads on to the close frame and returns its code.
    ///
    /// # Errors
    /// When it does not come in time.
    pub async fn closed(&mut self) -> anyhow::Result<u16> {
        loop {
            if let Err(code) = self.next().await? {
                return Ok(code);
            }
        }
    }

    /// Reads on to an event of this name.
    ///
    /// # Errors
    /// When the socket is closed before.
    pub async fn until(&mut self, name: &str) -> anyhow::Result<Value> {
        loop {
            match self.next().await? {
                Ok(event) if event["event"] == name => return Ok(event),
                Ok(_) => {}
                Err(code) => anyhow::bail!("closed with {code} before {name}"),
            }
        }
    }
}
