//! The door: what is not genuine goes no further, and costs no more than a path that is not there.
//!
//! A token is checked for its length, version, purpose, expiry and MAC (`faults.md` §2.1) before a slot, a span, a body or call-service
//! is used for its request.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use callbridge_proto::id::{AccountId, CallId};
use data_encoding::BASE64;
use exotel::{
    applet::AppletRequest,
    paths,
    token::{Claims, Purpose},
};
use tonic::Status;

use super::{APPLET_BUDGET, problem::Problem, span, word};
use crate::{Edge, ingress::within, source::neighbourhood};

/// How far this clock may be ahead of the database's, by which a socket's token is over: call-service looks at that again (F37).
const CLOCKS_APART: u64 = 15 * 60;

/// Whose request it is, for counting: the client behind our proxies or, where that is not known, the connection's peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client(pub(super) IpAddr);

/// What let a request in.
#[derive(Clone)]
pub(super) struct Pass {
    pub(super) claims: Claims,
    pub(super) token: String,
}

/// Lets in requests with a genuine token of the route's purpose.
pub(super) async fn keep(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    match check(&edge, &request) {
        Ok(pass) => {
            request.extensions_mut().insert(pass);
            next.run(request).await
        }
        Err(problem) => {
            let response = problem.into_response();
            edge.metrics.refused("token");
            // Whoever has a wrong URL in a dashboard finds the first ones of a minute among the traces; a flood leaves none.
            let now = edge.clock.unix_seconds();
            if edge.strangers.count(whom(&request), now) && edge.traced.count((), now) {
                let span = span(&edge, word(request.method()), route(&request));
                span.record("http.response.status_code", response.status().as_u16());
            }
            response
        }
    }
}

/// Asks call-service for a request with an account's token, and remembers it if it was rotated out.
pub(super) async fn ask<T, F>(edge: &Edge, claims: &Claims, call: impl FnMut() -> F) -> Result<T, Problem>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    within(APPLET_BUDGET, APPLET_BUDGET, call).await.map_err(|status| {
        edge.note_ended(claims.id, claims.generation(), &status);
        Problem::from(status)
    })
}

/// The route that was found.
fn route(request: &Request) -> &str {
    request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
}

/// What a path has where its route has this name. As it is: no token has a character that anybody writes in another way.
fn segment<'a>(route: &str, path: &'a str, name: &str) -> Option<&'a str> {
    let mut segments = route.split('/').zip(path.split('/'));
    segments.find(|(wanted, _)| *wanted == name).map(|(_, value)| value)
}

fn check(edge: &Edge, request: &Request) -> Result<Pass, Problem> {
    let route = route(request);
    let param = |name: &str| segment(route, request.uri().path(), name);
    let now = edge.clock.unix_seconds();
    let verified = |token: &str, purpose, now| {
        let claims = edge.config.verifier.verify(token, purpose, now);
        let claims = claims.map_err(|_| Problem::NotFound)?;
        if purpose == Purpose::Account && edge.ended.knows(claims.id, claims.generation(), now) {
            return Err(Problem::NotFound);
        }
        Ok(Pass {
            claims,
            token: token.to_owned(),
        })
    };
    match route {
        paths::STATUS => verified(param("{token}").ok_or(Problem::NotFound)?, Purpose::Callback, now),
        paths::SOCKET => {
            let now = now.saturating_sub(CLOCKS_APART);
            let pass = verified(param("{token}").ok_or(Problem::NotFound)?, Purpose::Socket, now)?;
            let names_it = param("{call_id}").is_some_and(|call| call.parse() == Ok(CallId(pass.claims.id)));
            names_it.then_some(pass).ok_or(Problem::NotFound)
        }
        paths::STATIC_SOCKET => {
            let (user, password) = basic(request.headers()).ok_or(Problem::Unauthorized)?;
            let pass = verified(&password, Purpose::Account, now).map_err(|_| Problem::Unauthorized)?;
            let names_it = user.parse() == Ok(AccountId(pass.claims.id));
            names_it.then_some(pass).ok_or(Problem::Unauthorized)
        }
        _ => {
            if let Some(token) = param("{account_token}") {
                return verified(token, Purpose::Account, now);
            }
            // The older paths have the token in the query.
            let query = request.uri().query().unwrap_or_default();
            let key = AppletRequest::key_of(query).ok_or(Problem::NotFound)?;
            verified(&key, Purpose::Account, now)
        }
    }
}

/// User and password (RFC 7617 §2).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, value) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = String::from_utf8(BASE64.decode(value.trim().as_bytes()).ok()?).ok()?;
    let (user, password) = credentials.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Whom a request is counted for.
pub(super) fn whom(request: &Request) -> Option<IpAddr> {
    request
        .extensions()
        .get::<Client>()
        .map(|Client(address)| neighbourhood(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_by_its_route() {
        let path = "/ws/exotel/voice/call_1/abc";
        assert_eq!(segment(paths::SOCKET, path, "{token}"), Some("abc"));
        assert_eq!(segment(paths::SOCKET, path, "{call_id}"), Some("call_1"));
        assert_eq!(segment(paths::SOCKET, path, "{account_token}"), None);
        let path = "/api/v1/exotel/abc/voice/connect";
        assert_eq!(segment(paths::CONNECT, path, "{account_token}"), Some("abc"));
        assert_eq!(
            segment(paths::LEGACY_CONNECT, paths::LEGACY_CONNECT, "{account_token}"),
            None
        );
    }
}
