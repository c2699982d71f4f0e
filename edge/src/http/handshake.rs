//! A WebSocket's opening handshake (RFC 6455 §4.2.1), to the letter: axum takes some that are none.

use axum::{
    extract::{
        FromRequestParts as _, Request,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderName, Version, header},
};
use data_encoding::BASE64;

use super::problem::Problem;

/// Takes a request that is a handshake. Extensions that it offers are declined by not being named in the answer (F82).
pub(super) async fn take(request: Request) -> Result<WebSocketUpgrade, Problem> {
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|rejection| match rejection {
        WebSocketUpgradeRejection::MethodNotGet(_) | WebSocketUpgradeRejection::MethodNotConnect(_) => Problem::Method,
        _ => Problem::Upgrade,
    })?;
    if parts.version < Version::HTTP_11 || !names(&parts.headers, &header::CONNECTION, "upgrade") {
        return Err(Problem::Upgrade);
    }
    if key(&parts.headers).is_none() {
        return Err(Problem::BadRequest);
    }
    Ok(upgrade)
}

/// Whether a list of tokens names this one.
fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// The only key: sixteen bytes.
fn key(headers: &HeaderMap) -> Option<[u8; 16]> {
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|_| keys.next().is_none())?;
    BASE64.decode(key.as_bytes().trim_ascii()).ok()?.try_into().ok()
}
