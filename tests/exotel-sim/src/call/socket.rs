//! From a stream URL to an open WebSocket.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use axum::http::{HeaderValue, header::AUTHORIZATION};
use data_encoding::BASE64;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest as _, protocol::WebSocketConfig},
};
use url::{Host, Url};

use crate::settings::Streams;

/// Documented: at most three custom parameters of 256 characters together.
const MAX_PARAMETERS: usize = 3;
const MAX_PARAMETER_CHARS: usize = 256;

/// Largest message taken from a bot: the documented 100 kB of audio as base64, and room to see that it is too much.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The read buffer: tungstenite's default of 128 KiB is too much for many sockets.
const READ_BUFFER: usize = 8 * 1024;

/// A byte stream, with or without TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Io>>;

/// A stream URL taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What the handshake asks for: no user, and no query when it is stripped.
    pub(crate) url: Url,
    /// The `Authorization` header.
    authorization: Option<String>,
    /// What goes into `start`.
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) sample_rate: u32,
}

impl Target {
    /// Takes a URL apart; the error is the text that the platform would report.
    pub(crate) fn parse(text: &str, settings: &Streams) -> Result<Self, String> {
        let mut url = Url::parse(text.trim()).map_err(|error| format!("3001 invalid stream url: {error}"))?;
        match url.scheme() {
            "wss" => {}
            "ws" if settings.allow_plain_ws || is_loopback(&url) => {}
            "ws" => return Err("3002 ws is only allowed to the same machine; use wss".to_owned()),
            other => return Err(format!("3001 invalid stream url: scheme {other}")),
        }
        let authorization = (!url.username().is_empty() || url.password().is_some()).then(|| {
            let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or("")));
            format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
        });
        // Both are only refused for URLs without a host, which were sorted out above.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        let mut sample_rate = settings.sample_rate;
        let mut parameters = BTreeMap::new();
        let mut characters = 0;
        for (key, value) in url.query_pairs() {
            if matches!(&*key, "sample-rate" | "sample_rate") {
                sample_rate = match &*value {
                    "8000" => 8_000,
                    "16000" => 16_000,
                    "24000" => 24_000,
                    _ => return Err("3003 sample-rate must be 8000, 16000 or 24000".to_owned()),
                };
            } else if settings.strip_query {
                characters += key.chars().count() + value.chars().count() + 1;
                parameters.insert(key.into_owned(), value.into_owned());
            }
        }
        characters += parameters.len().saturating_sub(1);
        if parameters.len() > MAX_PARAMETERS || characters > MAX_PARAMETER_CHARS {
            return Err("3004 at most 3 custom parameters of 256 characters together are allowed".to_owned());
        }
        if settings.strip_query {
            url.set_query(None);
        }
        if !settings.tell_query {
            parameters.clear();
        }
        url.set_fragment(None);
        Ok(Self {
            url,
            authorization,
            parameters,
            sample_rate,
        })
    }

    /// Opens the socket; the error says why in words for the journal.
    pub(crate) async fn open(&self, tls: &Arc<rustls::ClientConfig>, timeout: Duration) -> Result<Socket, String> {
        match tokio::time::timeout(timeout, self.handshake(tls)).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("no handshake within {} ms", timeout.as_millis())),
        }
    }

    async fn handshake(&self, tls: &Arc<rustls::ClientConfig>) -> Result<Socket, String> {
        let host = self.url.host_str().ok_or("the url has no host")?;
        let port = self.url.port_or_known_default().ok_or("the url has no port")?;
        let plain_host = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((plain_host, port))
            .await
            .map_err(|error| format!("connect: {error}"))?;
        let _ = tcp.set_nodelay(true);
        let io: Box<dyn Io> = if self.url.scheme() == "wss" {
            let name = ServerName::try_from(plain_host.to_owned()).map_err(|error| format!("tls: {error}"))?;
            let connector = TlsConnector::from(Arc::clone(tls));
            Box::new(
                connector
                    .connect(name, tcp)
                    .await
                    .map_err(|error| format!("tls: {error}"))?,
            )
        } else {
            Box::new(tcp)
        };
        let mut request = self
            .url
            .as_str()
            .into_client_request()
            .map_err(|error| format!("request: {error}"))?;
        if let Some(value) = &self.authorization {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| "the user or password cannot be sent".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE))
            .read_buffer_size(READ_BUFFER);
        let (socket, _) = client_async_with_config(request, io, Some(config))
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        Ok(socket)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Undoes percent-encoding by way of a form value, in which `+` would be a space.
fn decoded(text: &str) -> String {
    let form = format!("={}", text.replace('+', "%2B"));
    form_urlencoded::parse(form.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Target;
    use crate::settings::Streams;

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, &Streams::default())
    }

    #[test]
    fn the_query_is_not_sent_but_told() {
        let target =
            parse("wss://u%40x:p+w@bot.example/ws/call/token?lang=hi&sample-rate=16000&empty=").expect("valid");
        assert_eq!(target.url.as_str(), "wss://bot.example/ws/call/token");
        assert_eq!(target.sample_rate, 16_000);
        assert_eq!(target.authorization.as_deref(), Some("Basic dUB4OnArdw=="));
        assert_eq!(
            target.parameters.into_iter().collect::<Vec<_>>(),
            [
                ("empty".to_owned(), String::new()),
                ("lang".to_owned(), "hi".to_owned())
            ]
        );
    }

    #[test]
    fn the_query_stays_by_setting() {
        let settings = Streams {
            strip_query: false,
            ..Streams::default()
        };
        let target = Target::parse("wss://bot.example/ws?token=a", &settings).expect("valid");
        assert_eq!(target.url.as_str(), "wss://bot.example/ws?token=a");
        assert!(target.parameters.is_empty());
    }

    #[test]
    fn the_query_is_lost_by_setting() {
        let settings = Streams {
            tell_query: false,
            sample_rate: 16_000,
            ..Streams::default()
        };
        let target = Target::parse("wss://bot.example/ws?token=a", &settings).expect("valid");
        assert_eq!(target.url.as_str(), "wss://bot.example/ws");
        assert!(target.parameters.is_empty());
        assert_eq!(target.sample_rate, 16_000);
    }

    #[test]
    fn plain_sockets_only_go_to_this_machine() {
        for allowed in ["ws://127.0.0.1:9/x", "ws://localhost/x", "ws://[::1]:9/x"] {
            assert!(parse(allowed).is_ok(), "{allowed}");
        }
        for refused in [
            "ws://bot.example/x",
            "ws://10.0.0.1/x",
            "http://127.0.0.1/x",
            "nonsense",
            "",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn too_many_parameters_are_refused() {
        assert!(parse("wss://b.example/?a=1&b=2&c=3").is_ok());
        assert!(parse("wss://b.example/?a=1&b=2&c=3&d=4").is_err());
        assert!(parse(&format!("wss://b.example/?a={}", "x".repeat(254))).is_ok());
        assert!(parse(&format!("wss://b.example/?a={}", "x".repeat(255))).is_err());
        assert!(parse("wss://b.example/?sample-rate=44100").is_err());
    }

    proptest! {
        #[test]
        fn no_handshake_has_a_query(path in "[a-z/]{0,20}", query in "[a-z=&]{0,40}") {
            if let Ok(target) = parse(&format!("wss://bot.example/{path}?{query}")) {
                prop_assert_eq!(target.url.query(), None);
            }
        }
    }
}
