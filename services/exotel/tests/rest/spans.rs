//! What a dial leaves in logs and spans: its outcome, and nothing personal or secret.

use crate::server::Server;
use crate::{client, credentials, dial};
use std::io;
use std::sync::{Arc, Mutex};
use tracing::instrument::WithSubscriber as _;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_dial_is_one_span_without_numbers_or_secrets() {
    let exception = r#"{"RestException":{"Status":403,"Message":"Call to [09812345678] can not be made because of TRAI NDNC regulations"}}"#;
    let server = Server::answering("403 Forbidden", "", exception).await;
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // Beside one dispatcher alone, what a span is worth is asked of whichever thread makes the first one: of a test without any.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let report = async { client().connect(&credentials(server.base.clone()), &dial()).await };
    let report = report.with_subscriber(subscriber).await;
    let mut text = String::from_utf8(buffer.0.lock().expect("lock").clone()).expect("text");
    assert!(
        text.contains("exotel.operation=\"connect\"") && text.contains("otel.kind=\"client\""),
        "{text}"
    );
    assert!(
        text.contains("exotel.outcome=\"rejected\"") && text.contains("http.response.status_code=403"),
        "{text}"
    );
    text.push_str(
        &[
            format!("{report:?}"),
            format!("{:?}", dial()),
            format!("{:?}", credentials(server.base.clone())),
        ]
        .concat(),
    );
    let request = &server.requests()[0];
    assert!(!request.contains("traceparent"), "{request}");
    for secret in [
        "9812345678",
        "8040000155",
        "the-key",
        "the-token",
        "dGhlLWtleTp0aGUtdG9rZW4",
        "voice/status",
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}
