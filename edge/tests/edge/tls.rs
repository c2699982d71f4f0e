//! TLS at the edge itself, over real connections.

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use edge::Tls;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::tls::ServerFiles;
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::{
    frames::{self, Sent, pcm},
    peers::{Bench, Manner, Script, agent},
    web::{self, exchange},
};

const NAME: &str = "bridge.example.com";
const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate of its own authority, written where the edge reads it.
fn issue(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    fs::write(folder.join("tls.key"), signing_key.serialize_pem()).unwrap();
    fs::write(folder.join("tls.crt"), cert.pem()).unwrap();
    cert.der().clone()
}

async fn bench(folder: &Path, script: Script) -> Bench {
    let tls = Tls {
        files: ServerFiles {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            client_ca: None,
        },
        refresh: Duration::from_millis(20),
    };
    Bench::with(script, |config| config.tls = Some(tls)).await
}

async fn connect(to: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

const UNKNOWN: &[u8] = b"GET /nothing HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn webhooks_come_over_tls_and_over_nothing_else() {
    let folder = TempDir::new().unwrap();
    let certificate = issue(folder.path());
    let bench = bench(folder.path(), Script::default()).await;
    let stream = connect(bench.public, &certificate).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let path = format!("/api/v1/exotel/{}/voice/connect?CallSid=a", bench.account_token());
    let request = format!("GET {path} HTTP/1.1\r\nhost: edge\r\nconnection: close\r\n\r\n");
    assert_eq!(exchange(stream, request.as_bytes()).await.status, 200);
    let stream = connect(bench.public, &certificate).await.unwrap();
    assert_eq!(exchange(stream, UNKNOWN).await.status, 404);

    let mut plain = TcpStream::connect(bench.public).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut plain, UNKNOWN).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer))
        .await
        .expect("still open");
    assert!(!answer.starts_with(b"HTTP"), "answered in clear");
    // The internal listener is the cluster's.
    assert_eq!(web::get(bench.internal, "/livez").await.status, 200);
}

/// The certificate is exchanged while a person talks: the call goes on, and who comes now is shown the new one.
#[tokio::test]
async fn a_certificate_is_exchanged_during_a_call() {
    let folder = TempDir::new().unwrap();
    let old = issue(folder.path());
    let (url, _events) = agent(Manner::Echo).await;
    let script = Script {
        agents: vec![url],
        ..Script::default()
    };
    let bench = bench(folder.path(), script).await;
    let stream = connect(bench.public, &old).await.unwrap();
    let request = format!("ws://{NAME}{}", bench.socket_path());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    for text in [frames::connected(), frames::start(8000)] {
        socket.send(Message::text(text)).await.unwrap();
    }
    echoes(&mut socket, 1, 7).await;

    let new = issue(folder.path());
    timeout(PATIENCE, async { while connect(bench.public, &new).await.is_err() {} })
        .await
        .expect("the new certificate is not shown");
    assert!(connect(bench.public, &old).await.is_err(), "the old one is still shown");
    echoes(&mut socket, 2, 9).await;
    let stream = connect(bench.public, &new).await.unwrap();
    assert_eq!(exchange(stream, UNKNOWN).await.status, 404);
}

/// Says something, and hears it again.
async fn echoes(socket: &mut WebSocketStream<TlsStream<TcpStream>>, chunk: u64, sample: i16) {
    let said = frames::media(chunk, &pcm(vec![sample; 160]));
    socket.send(Message::text(said)).await.unwrap();
    loop {
        let message = timeout(PATIENCE, socket.next())
            .await
            .expect("no echo")
            .unwrap()
            .unwrap();
        if let Message::Text(text) = message
            && let Sent::Audio(pcm) = frames::read(&text)
            && frames::samples(&pcm).contains(&sample)
        {
            return;
        }
    }
}

/// F67: who connects and does not shake hands has a place for five seconds at most.
#[tokio::test]
async fn a_handshake_that_hangs_gives_its_place_back() {
    let folder = TempDir::new().unwrap();
    let certificate = issue(folder.path());
    let tls = Tls {
        files: ServerFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            client_ca: None,
        },
        refresh: Duration::from_secs(5),
    };
    let bench = Bench::with(Script::default(), |config| {
        config.tls = Some(tls);
        config.max_connections = 1;
    })
    .await;
    let mut silent = TcpStream::connect(bench.public).await.unwrap();
    let stream = timeout(PATIENCE, connect(bench.public, &certificate)).await;
    let stream = stream.expect("the place is not given back").unwrap();
    assert_eq!(exchange(stream, UNKNOWN).await.status, 404);
    // It was closed first: there is one place.
    let closed = silent.read(&mut [0]).now_or_never();
    assert_eq!(closed.expect("both had a place").unwrap_or(0), 0);
}
