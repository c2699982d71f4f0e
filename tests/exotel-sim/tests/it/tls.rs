//! `wss`: certificates are verified, with the roots of the configuration beside the platform's.

use std::sync::Arc;

use futures_util::StreamExt as _;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{PATIENCE, World};

/// Accepts one socket and returns the events of its first two messages; `None` when TLS fails.
async fn first_events(listener: TcpListener, config: Arc<rustls::ServerConfig>) -> Option<Vec<String>> {
    let (tcp, _) = listener.accept().await.expect("a connection");
    let tls = TlsAcceptor::from(config).accept(tcp).await.ok()?;
    let mut socket = tokio_tungstenite::accept_async(tls).await.expect("a handshake");
    let mut events = Vec::new();
    while events.len() < 2 {
        let message = socket.next().await.expect("a message").expect("no error");
        let message: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
        events.push(message["event"].as_str().expect("an event").to_owned());
    }
    Some(events)
}

#[tokio::test]
async fn only_trusted_certificates_are_talked_to() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    for trusted in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let roots = folder.path().join("roots.pem");
        std::fs::write(&roots, cert.pem()).expect("writes");
        let world = World::with(|config| {
            config.root_certificates = trusted.then_some(roots);
            config.settings.stream.handshake_retries = 0;
        })
        .await;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()),
            )
            .expect("a key");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("wss://localhost:{port}/bot");
        let sid = world
            .call(&[("StreamUrl", &url), ("StreamType", "bidirectional")])
            .await;
        let events = tokio::time::timeout(PATIENCE, first_events(listener, Arc::new(server)))
            .await
            .expect("in time");
        let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
        let error = report.streams[0].error.clone().unwrap_or_default();
        if trusted {
            assert_eq!(
                events,
                Some(vec!["connected".to_owned(), "start".to_owned()]),
                "{error}"
            );
        } else {
            assert_eq!(events, None);
            assert!(error.starts_with("3009 failed to establish ws conn tls:"), "{error}");
        }
    }
}
