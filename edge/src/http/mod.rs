//! The public routes.

mod applets;
mod door;
mod echo;
mod handshake;
mod places;
mod probe;
mod problem;
mod shared;
mod socket;
mod status;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Extension, MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use door::{Client, Pass};
use exotel::paths;
use places::Places;
use problem::Problem;
use shared::Shared;
use tokio::time::{Instant, timeout};
use tower::layer::layer_fn;
use tracing::{Instrument as _, Span, field, info_span};

use crate::{Edge, server::Peer};

/// Largest request body (F52).
const MAX_BODY: usize = 64 * 1024;
/// Where proxies write whom they were asked by.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Longest path and query.
const MAX_URI: usize = 8 * 1024;
/// Exotel gives up on an applet's answer soon after this; the person hears silence meanwhile (F55).
const APPLET_BUDGET: Duration = Duration::from_secs(2);
/// Exotel sends a status again later, so there is time to get it committed (F54).
const STATUS_BUDGET: Duration = Duration::from_secs(12);
/// Requests at once, for each budget: what is beyond gets a 503 at once, so that a storm of callbacks delays no call (F61).
const MAX_AT_ONCE: usize = 512;
/// How many of them an account or a call may have.
const MAX_OF_ONE: usize = MAX_AT_ONCE / 2;

/// How long a group of routes may take, and how many at once.
#[derive(Clone)]
struct Budget {
    limit: Duration,
    places: Places,
}

impl Budget {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            places: Places::new(MAX_AT_ONCE, MAX_OF_ONE),
        }
    }
}

/// All public routes.
pub(crate) fn router(edge: Arc<Edge>) -> Router {
    let applets = Router::new()
        .route(paths::CONNECT, get(applets::connect).post(applets::connect))
        .route(paths::LEGACY_CONNECT, get(applets::connect).post(applets::connect))
        .route(paths::GREETING, get(applets::greeting))
        .route(paths::LEGACY_GREETING, get(applets::greeting))
        .route(paths::GREETING_WAV, get(applets::greeting_wav))
        .route(paths::GATHER, get(applets::gather))
        .route(paths::LEGACY_GATHER, get(applets::gather))
        .route(paths::INPUT, get(applets::input).post(applets::input))
        .route(paths::LEGACY_INPUT, get(applets::input).post(applets::input))
        .route(paths::TRANSFER, get(applets::transfer))
        .route(paths::LEGACY_TRANSFER, get(applets::transfer))
        .route(paths::END, get(applets::end).post(applets::end))
        .route(paths::LEGACY_END, get(applets::end).post(applets::end))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&edge), probe::answer))
        .route(paths::SOCKET, any(socket::of_call))
        .route(paths::STATIC_SOCKET, any(socket::of_account))
        .route_layer(middleware::from_fn_with_state(
            Budget::new(APPLET_BUDGET),
            within_budget,
        ));
    let status = Router::new()
        .route(paths::STATUS, post(status::receive))
        .route_layer(middleware::from_fn_with_state(
            Budget::new(STATUS_BUDGET),
            within_budget,
        ));
    // Nobody's call, and so without a token.
    let echo = if edge.config.echo {
        Router::new().route(echo::PATH, any(echo::open))
    } else {
        Router::new()
    };
    applets
        .merge(status)
        .route_layer(middleware::from_fn_with_state(Arc::clone(&edge), observe))
        // Nothing of what is behind the door is touched for those who stay before it.
        .route_layer(layer_fn(Shared::new))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&edge), door::keep))
        .merge(echo)
        .fallback(async || Problem::NotFound)
        .method_not_allowed_fallback(async || Problem::Method)
        .layer(middleware::from_fn_with_state(Arc::clone(&edge), guard))
        .with_state(edge)
}

/// Refuses what comes from elsewhere or is too long to be Exotel's, and sets the headers that all answers have.
async fn guard(State(edge): State<Arc<Edge>>, mut request: Request, next: Next) -> Response {
    let length = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0.to_canonical());
    let forwarded = request
        .headers()
        .get_all(FORWARDED_FOR)
        .iter()
        .map(HeaderValue::as_bytes);
    let client = edge.config.sources.client(peer, forwarded);
    request.extensions_mut().insert(Client(client.unwrap_or(peer)));
    let mut response = if !edge.config.sources.permits(client) {
        edge.metrics.refused("source");
        Problem::NotFound.into_response()
    } else if length > MAX_URI {
        Problem::UriTooLong.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(
        header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Whoever keeps connections shall send the next request to an edge that stays.
    if edge.process.is_stopping() && !headers.contains_key(header::CONNECTION) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// One span and one measurement for each request, by route: paths hold tokens and never leave this process (F123). What comes in
/// `traceparent` is not ours and is not taken up. By OpenTelemetry's conventions for HTTP servers.
async fn observe(State(edge): State<Arc<Edge>>, route: MatchedPath, request: Request, next: Next) -> Response {
    let (method, begun) = (word(request.method()), Instant::now());
    let span = span(&edge, method, route.as_str());
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("error.type", status.as_str());
        span.record("otel.status_code", "ERROR");
    }
    edge.metrics
        .request(method, route.as_str(), status.as_u16(), begun.elapsed());
    response
}

fn span(edge: &Edge, method: &str, route: &str) -> Span {
    info_span!(
        "http",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.route = route,
        http.request.method = method,
        url.scheme = if edge.config.tls.is_some() { "https" } else { "http" },
        http.response.status_code = field::Empty,
        error.type = field::Empty,
        call.id = field::Empty,
    )
}

/// A method's name. There is no end of those that a stranger may think of.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "_OTHER",
    }
}

async fn within_budget(
    State(budget): State<Budget>,
    Extension(pass): Extension<Pass>,
    request: Request,
    next: Next,
) -> Response {
    let Some(_place) = budget.places.enter(pass.claims.id) else {
        return Problem::Unavailable.into_response();
    };
    timeout(budget.limit, next.run(request))
        .await
        .unwrap_or_else(|_| Problem::Unavailable.into_response())
}
