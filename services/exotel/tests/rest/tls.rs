//! F17, F18: failures of the connector itself.

use crate::{client, credentials, dial, impatient};
use exotel::rest::{Client, DialOutcome, Limits};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_server_without_tls_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accept");
        let _ = socket.read(&mut [0; 512]);
        let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let report = client()
        .connect(&credentials(format!("https://{address}")), &dial())
        .await;
    assert_eq!(report.outcome, DialOutcome::NotSent { reason: "tls".into() });
    server.join().expect("server");
}

#[tokio::test]
async fn a_self_signed_certificate_is_not_sent() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("key");
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("server config");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("accept");
        let mut connection = rustls::ServerConnection::new(Arc::new(config)).expect("connection");
        let mut read = Vec::new();
        let _ = rustls::Stream::new(&mut connection, &mut socket).read_to_end(&mut read);
        read
    });
    let report = client()
        .connect(&credentials(format!("https://{address}")), &dial())
        .await;
    assert_eq!(report.outcome, DialOutcome::NotSent { reason: "tls".into() });
    assert!(
        server.join().expect("server").is_empty(),
        "nothing may be sent to an unknown server"
    );
}

#[tokio::test]
async fn a_handshake_that_hangs_is_not_sent() {
    // F18: the connect limit covers TLS. The listener's backlog accepts, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let report = impatient()
        .connect(&credentials(format!("https://{address}")), &dial())
        .await;
    assert_eq!(
        report.outcome,
        DialOutcome::NotSent {
            reason: "connect_timeout".into()
        }
    );
    // F108: where a dial must not begin late, neither must its connect. Without its own limit it would be unknown.
    let limits = Limits {
        connect: Duration::from_mins(1),
        connect_soon: Duration::from_millis(400),
        dial: Duration::from_secs(2),
        read: Duration::from_secs(2),
    };
    let report = Client::with_limits(limits)
        .expect("client")
        .connect_soon(&credentials(format!("https://{address}")), &dial())
        .await;
    assert_eq!(
        report.outcome,
        DialOutcome::NotSent {
            reason: "connect_timeout".into()
        }
    );
}
