//! The client's side, as a connector for tonic.

use std::{
    future::Future,
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;

use super::{
    ALPN,
    files::{File, Fresh, TlsError},
};
use crate::{Tasks, config::Vars};

/// The files of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who signs the server's certificate; none: the public authorities.
    pub ca: Option<PathBuf>,
    /// Our certificate, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientFiles {
    /// Reads `{prefix}_CA`, `{prefix}_CLIENT_CERT` and `{prefix}_CLIENT_KEY`; the last two come together.
    pub fn from_vars(vars: &mut Vars, prefix: &str) -> Self {
        let path = |name: &str| vars.text(&format!("{prefix}_{name}")).map(PathBuf::from);
        let (ca, certificate, key) = (path("CA"), path("CLIENT_CERT"), path("CLIENT_KEY"));
        let missing = match (&certificate, &key) {
            (Some(_), None) => Some("CLIENT_KEY"),
            (None, Some(_)) => Some("CLIENT_CERT"),
            _ => None,
        };
        if let Some(missing) = missing {
            let name = format!("{prefix}_{missing}");
            vars.problem(
                &name,
                "is not set: a certificate and its key are given together or not at all",
            );
        }
        Self {
            ca,
            identity: certificate.zip(key),
        }
    }
}

/// Connects with TLS. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector(Fresh<ClientConfig>);

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(files: &ClientFiles) -> Result<Self, TlsError> {
        let has_ca = files.ca.is_some();
        let mut paths: Vec<PathBuf> = files.ca.iter().cloned().collect();
        if let Some((certificate, key)) = &files.identity {
            paths.extend([certificate.clone(), key.clone()]);
        }
        Fresh::read(paths, move |files| {
            let (ca, identity) = files.split_at(usize::from(has_ca));
            config(ca.first(), identity)
        })
        .map(Self)
    }

    /// Reads the files again when they change.
    pub fn keep_fresh(&self, tasks: &Tasks, every: Duration) {
        self.0.keep(tasks, every);
    }
}

fn config(ca: Option<&File>, identity: &[File]) -> Result<ClientConfig, TlsError> {
    let roots = match ca {
        Some(ca) => ca.authorities()?,
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has all versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        [certificate, key] => certificate.pair(key, |chain, key| builder.with_client_auth_cert(chain, key))?,
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// What tonic is told of an https URL where a [`Connector`] encrypts: to the transport the scheme is the plain one.
///
/// # Errors
/// When it is no URL.
pub fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url.replacen("https://", "http://", 1))?;
    Ok(match url.parse() {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    })
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = self.0.now();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            stream.set_nodelay(true)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
                return Err(io::Error::other("the server does not speak HTTP/2"));
            }
            Ok(TokioIo::new(stream))
        })
    }
}
