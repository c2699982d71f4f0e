//! Connections to agents: resolved, checked, dialled at exactly the address that was checked (F124), and encrypted where the
//! endpoint says so.

use std::{io, sync::Arc, time::Duration};

use runtime::endpoint::Allow;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use url::{Host, Url};

/// An address that does not answer may take this long while there are others: the caller's own limit is for all of them.
const ADDRESS_LIMIT: Duration = Duration::from_millis(800);

/// What a connection carries, told by TLS (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC's.
    Http2,
    /// That of WebSocket handshakes.
    Http1,
}

/// A byte stream, with or without TLS.
pub(super) type Io = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Makes connections to agents. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector {
    allow: Arc<Allow>,
    http2: Arc<rustls::ClientConfig>,
    http1: Arc<rustls::ClientConfig>,
}

impl Connector {
    /// Agents may only be where the list says, and are known by certificates of these roots.
    pub(super) fn new(allow: Allow, roots: &rustls::RootCertStore) -> Self {
        let config = |protocol: &[u8]| {
            let mut config = rustls::ClientConfig::builder()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self {
            allow: Arc::new(allow),
            http2: config(b"h2"),
            http1: config(b"http/1.1"),
        }
    }

    /// Connects to an endpoint.
    pub(super) async fn connect(&self, endpoint: &Url, protocol: Protocol) -> io::Result<Io> {
        let (Some(host), Some(port)) = (endpoint.host(), endpoint.port_or_known_default()) else {
            let wrong = "the agent's endpoint has no host or no port";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, wrong));
        };
        let name = match &host {
            Host::Domain(name) => (*name).to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let stream = self.tcp(&name, port).await?;
        if !matches!(endpoint.scheme(), "https" | "wss") {
            return Ok(Either::Left(stream));
        }
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let config = match protocol {
            Protocol::Http2 => &self.http2,
            Protocol::Http1 => &self.http1,
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            let wrong = "the agent's endpoint does not offer HTTP/2 over TLS (ALPN h2), which gRPC needs";
            return Err(io::Error::other(wrong));
        }
        Ok(Either::Right(Box::new(stream)))
    }

    async fn tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let resolved = tokio::net::lookup_host((host, port)).await?;
        let mut addresses = self.allow.dialled(host, resolved)?.into_iter().peekable();
        let mut refused = io::Error::new(io::ErrorKind::NotFound, "the agent's host has no address");
        while let Some(address) = addresses.next() {
            let connecting = TcpStream::connect(address);
            let connected = if addresses.peek().is_some() {
                let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
                timeout(ADDRESS_LIMIT, connecting).await.unwrap_or_else(late)
            } else {
                connecting.await
            };
            match connected {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}
