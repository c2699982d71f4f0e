//! Exotel's recordings from real sockets.

use exotel::rest::RestError;

use crate::{
    client, credentials,
    server::{Server, answer},
};

const MP3: &str = "content-type: audio/mpeg\r\n";

#[tokio::test]
async fn a_recording_comes_in_pieces_with_the_accounts_key() {
    let server = Server::answering("200 OK", MP3, &"sound".repeat(100_000)).await;
    let url = format!("{}/exotelrecordings/acme1/a.mp3", server.base);
    let mut recording = client()
        .recording(&credentials(server.base.clone()), &url)
        .await
        .expect("recording");
    assert_eq!(
        (recording.content_type.as_str(), recording.size),
        ("audio/mpeg", Some(500_000))
    );
    let mut bytes = Vec::new();
    while let Some(chunk) = recording.chunk().await.expect("chunk") {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes, "sound".repeat(100_000).into_bytes());
    let request = server.requests()[0].to_ascii_lowercase();
    assert!(
        request.starts_with("get /exotelrecordings/acme1/a.mp3 http/1.1\r\n"),
        "{request}"
    );
    assert!(request.contains("authorization: basic"), "{request}");
}

/// F124: neither the first address nor a redirect leads anywhere but to the account's own Exotel.
#[tokio::test]
async fn a_redirect_elsewhere_is_not_followed() {
    let other = Server::answering("200 OK", MP3, "sound").await;
    let elsewhere = format!("location: {}/a.mp3\r\n", other.base);
    let server = Server::answering("302 Found", &elsewhere, "").await;
    for url in [format!("{}/a.mp3", server.base), format!("{}/a.mp3", other.base)] {
        let fetched = client().recording(&credentials(server.base.clone()), &url).await;
        assert!(matches!(fetched, Err(RestError::ForeignRecording)), "{fetched:?}");
    }
    assert_eq!((server.connections(), other.connections()), (1, 0));
    let round = Server::answering("302 Found", "location: /a.mp3\r\n", "").await;
    let url = format!("{}/a.mp3", round.base);
    let fetched = client().recording(&credentials(round.base.clone()), &url).await;
    assert!(matches!(fetched, Err(RestError::Transport { .. })), "{fetched:?}");
    assert_eq!(round.connections(), 4, "three redirects are followed");
}

/// F125: what is no sound, not there, or larger than any recording is not taken.
#[tokio::test]
async fn what_is_no_recording_is_refused() {
    let html = Server::answering("200 OK", "content-type: text/html\r\n", "<html>log in</html>").await;
    let url = format!("{}/a.mp3", html.base);
    let fetched = client().recording(&credentials(html.base.clone()), &url).await;
    assert!(matches!(fetched, Err(RestError::Unreadable(_))), "{fetched:?}");

    let missing = Server::answering("404 Not Found", "", "").await;
    let url = format!("{}/a.mp3", missing.base);
    let fetched = client().recording(&credentials(missing.base.clone()), &url).await;
    assert!(matches!(fetched, Err(RestError::Status(404))), "{fetched:?}");

    let huge = answer("200 OK", MP3, "x").replace("content-length: 1\r\n", "content-length: 300000000\r\n");
    let huge = Server::start(crate::server::Act::Answer(huge)).await;
    let url = format!("{}/a.mp3", huge.base);
    let fetched = client().recording(&credentials(huge.base.clone()), &url).await;
    assert!(
        matches!(
            fetched,
            Err(RestError::Transport {
                reason: "body_too_large"
            })
        ),
        "{fetched:?}"
    );
}
