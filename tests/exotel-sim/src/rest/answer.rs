//! Answers that are not what they should be: half, slow, invented.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::StreamExt as _;

/// The largest answer that is cut or dripped: a call is far below.
const MAX_ANSWER: usize = 64 * 1024;

/// Time for the first half of a truncated answer to reach the client.
const FLUSH: Duration = Duration::from_millis(50);

/// What a proxy in front of the platform says.
pub(crate) const HTML: &str =
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>";

/// Half of the body, then the end of the connection.
pub(crate) async fn truncated(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let half = bytes.slice(..bytes.len() / 2);
    let cut = async {
        tokio::time::sleep(FLUSH).await;
        Err(std::io::Error::other("cut on purpose"))
    };
    let pieces = futures_util::stream::iter([Ok(half)]).chain(futures_util::stream::once(cut));
    Response::from_parts(parts, Body::from_stream(pieces))
}

/// One byte after the other.
pub(crate) async fn dripping(response: Response, every: Duration) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    parts
        .headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let drops = futures_util::stream::unfold(bytes, move |mut bytes| async move {
        if bytes.is_empty() {
            return None;
        }
        tokio::time::sleep(every).await;
        Some((Ok::<Bytes, std::io::Error>(bytes.split_to(1)), bytes))
    });
    Response::from_parts(parts, Body::from_stream(drops))
}

/// Whatever a script wants.
pub(crate) fn custom(status: u16, headers: &[(String, String)], body: &str, repeat: u32) -> Response {
    let piece = Bytes::copy_from_slice(body.as_bytes());
    let pieces = (0..repeat).map(move |_| Ok::<Bytes, std::io::Error>(piece.clone()));
    let body = if repeat == 1 {
        Body::from(body.to_owned())
    } else {
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().append(name, value);
        }
    }
    response
}
