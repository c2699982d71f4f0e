use std::sync::Arc;

use exotel::paths::PROBE;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use super::*;

/// Something at a public URL, until it is dropped.
struct Place {
    port: u16,
    roots: RootCertStore,
    _serving: JoinSet<()>,
}

impl Place {
    /// Answers every request with what `answer` makes of its head; by TLS if a certificate's name is given.
    async fn open(name: Option<&str>, answer: fn(&str) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut roots = RootCertStore::empty();
        let acceptor = name.map(|name| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            roots.add(made.cert.der().clone()).unwrap();
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
            let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
            TlsAcceptor::from(Arc::new(config))
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                open.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            // A client that does not trust us goes away.
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, answer).await;
                            }
                        }
                        None => serve(stream, answer).await,
                    }
                });
            }
        });
        Self {
            port,
            roots,
            _serving: serving,
        }
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: fn(&str) -> String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
        // As servers do who are spoken to in TLS and know none.
        if !head[0].is_ascii_alphabetic() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let _ = stream.write_all(answer(&head).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// As an edge does.
fn as_an_edge(head: &str) -> String {
    if head.to_ascii_lowercase().contains("upgrade: websocket") {
        return "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned();
    }
    let word = head
        .split_once(&format!("{PROBE}="))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .unwrap();
    ok(&format!(r#"{{"probe":"{word}","edge":"edge_1"}}"#))
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn found(base: &str, roots: RootCertStore) -> Edge {
    look(base, AccountId(Uuid::nil()), "token", "word", roots).await
}

fn edges(edge: &Edge) -> Vec<Option<&str>> {
    edge.applets
        .iter()
        .map(|asked| match &asked.reached {
            Reached::Answered(answered) => answered.edge.as_deref(),
            Reached::Unreached(_) => None,
        })
        .collect()
}

fn reason(edge: &Edge) -> Unreached {
    let [first, ..] = &edge.applets[..] else {
        panic!("{edge:?}")
    };
    match first.reached {
        Reached::Unreached(why) => why,
        Reached::Answered(_) => panic!("{edge:?}"),
    }
}

#[tokio::test]
async fn an_edge_behind_a_trusted_certificate_gives_the_word_back() {
    let place = Place::open(Some("localhost"), as_an_edge).await;
    let edge = found(&format!("https://localhost:{}", place.port), place.roots.clone()).await;
    assert!(edge.secure && edge.loopback && edge.host == "localhost");
    assert_eq!(edges(&edge), [Some("edge_1"); 6]);
    assert!(
        matches!(edge.socket, Reached::Answered(Answered { status: 101, .. })),
        "{:?}",
        edge.socket
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_apart() {
    let place = Place::open(Some("localhost"), as_an_edge).await;
    let base = format!("https://localhost:{}", place.port);
    let edge = found(&base, public_roots()).await;
    assert_eq!(reason(&edge), Unreached::Tls(TlsFault::UnknownIssuer));

    let other = Place::open(Some("bridge.example.com"), as_an_edge).await;
    let edge = found(&format!("https://localhost:{}", other.port), other.roots.clone()).await;
    assert_eq!(reason(&edge), Unreached::Tls(TlsFault::WrongName));

    let plain = Place::open(None, as_an_edge).await;
    let edge = found(&format!("https://localhost:{}", plain.port), public_roots()).await;
    assert_eq!(reason(&edge), Unreached::Tls(TlsFault::Other));
}

#[tokio::test]
async fn who_answers_otherwise_is_no_edge() {
    fn other_word(_: &str) -> String {
        ok(r#"{"probe":"another","edge":"edge_1"}"#)
    }
    fn portal(_: &str) -> String {
        "HTTP/1.1 302 Found\r\nlocation: https://login.example.com\r\ncontent-length: 0\r\n\r\n".to_owned()
    }
    fn flood(_: &str) -> String {
        ok(&"x".repeat(64 * 1024))
    }
    for (answer, status) in [(other_word as fn(&str) -> String, 200), (portal, 302), (flood, 200)] {
        let place = Place::open(None, answer).await;
        let edge = found(&format!("http://127.0.0.1:{}", place.port), public_roots()).await;
        assert!(!edge.secure && edge.loopback);
        for asked in &edge.applets {
            let Reached::Answered(answered) = &asked.reached else {
                panic!("{asked:?}")
            };
            assert_eq!((answered.status, answered.edge.as_deref()), (status, None));
        }
    }
}

#[tokio::test]
async fn nobody_at_the_address_and_no_such_name_are_told_apart() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let edge = found(&format!("http://127.0.0.1:{port}"), public_roots()).await;
    assert_eq!(reason(&edge), Unreached::Refused);
    let edge = found("https://no-such-name.invalid", public_roots()).await;
    assert_eq!(reason(&edge), Unreached::Dns);
}
