//! The server's side.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    crypto::ring,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    ALPN, ALPN_HTTP_1,
    files::{File, Fresh, TlsError},
};
use crate::Tasks;

/// A handshake is two round trips and some signatures.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Who has none is turned away in the handshake.
    Required,
    /// Who has none may still show something else later.
    Optional,
}

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, and those between that and the authority.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// Who signs clients' certificates; none: clients are not asked for any.
    pub client_ca: Option<(PathBuf, ClientCertificates)>,
}

/// Does the handshakes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor(Fresh<ServerConfig>);

impl Acceptor {
    /// Reads the files of a server that speaks HTTP/2.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(files: &ServerFiles) -> Result<Self, TlsError> {
        Self::of(files, ALPN)
    }

    /// Reads the files of a server that speaks HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read_http1(files: &ServerFiles) -> Result<Self, TlsError> {
        Self::of(files, ALPN_HTTP_1)
    }

    fn of(files: &ServerFiles, protocol: &'static [u8]) -> Result<Self, TlsError> {
        let mut paths = vec![files.certificate.clone(), files.key.clone()];
        let clients = files.client_ca.as_ref().map(|(path, clients)| {
            paths.push(path.clone());
            *clients
        });
        Fresh::read(paths, move |files| config(files, clients, protocol)).map(Self)
    }

    /// Reads the files again when they change.
    pub fn keep_fresh(&self, tasks: &Tasks, every: Duration) {
        self.0.keep(tasks, every);
    }

    #[cfg(test)]
    pub(super) fn fresh(&self) -> &Fresh<ServerConfig> {
        &self.0
    }

    /// Does a handshake, within five seconds.
    ///
    /// # Errors
    /// When it fails or takes longer, or when the client asks for another protocol.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let shaking = TlsAcceptor::from(self.0.now()).accept(stream);
        timeout(HANDSHAKE, shaking).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the TLS handshake took too long",
            ))
        })
    }
}

fn config(
    files: &[File],
    clients: Option<ClientCertificates>,
    protocol: &'static [u8],
) -> Result<ServerConfig, TlsError> {
    let [certificate, key, client_ca @ ..] = files else {
        unreachable!("a server has two files or three")
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has all versions");
    let builder = match (client_ca, clients) {
        ([authorities], Some(clients)) => {
            let roots = Arc::new(authorities.authorities()?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if clients == ClientCertificates::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier
                .build()
                .map_err(|error| authorities.unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = certificate.pair(key, |chain, key| builder.with_single_cert(chain, key))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    // A resumed session would bring back a certificate without checking it again. Connections live for long, so little is lost.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
