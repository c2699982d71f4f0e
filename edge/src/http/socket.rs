//! The audio WebSockets' upgrades: who may open one is settled before it is accepted (F62).

use std::sync::Arc;

use axum::{
    extract::{
        Extension, Request, State,
        ws::{WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use callbridge_proto::{
    id::{AccountId, CallId},
    ingress::v1::ClaimSocketRequest,
};
use exotel::paths;
use tokio::sync::oneshot;
use tracing::Span;

use super::{
    APPLET_BUDGET,
    door::{Pass, whom},
    handshake,
    problem::Problem,
};
use crate::{
    Edge,
    driver::{self, Ticket},
    ingress::within,
    pending::Place,
};

/// Largest message and frame (F79).
const MAX_MESSAGE: usize = 64 * 1024;
/// Read buffer of each socket: a frame of 100 ms fits, and thousands of idle sockets cost little.
const READ_BUFFER: usize = 3 * 1024;
/// Frames go out at once; what a stalled peer leaves unsent waits in the session, where it is bounded (F70).
const WRITE_BUFFER: usize = 0;
/// Nothing is written before what was before it has left: one message, and what answers pings.
const MAX_WRITE_BUFFER: usize = MAX_MESSAGE + 1024;

/// The socket of one call, opened by its token.
pub(super) async fn of_call(
    State(edge): State<Arc<Edge>>,
    Extension(Pass { claims, .. }): Extension<Pass>,
    request: Request,
) -> Result<Response, Problem> {
    let (call_id, now) = (CallId(claims.id).to_string(), edge.clock.unix_seconds());
    Span::current().record("call.id", &call_id);
    let probed = request
        .uri()
        .query()
        .is_some_and(|query| paths::probe_of(query).is_some());
    // A token is not asked about for ever. Other tokens of the call, and other addresses, are.
    if !edge.replays.count((whom(&request), claims.id, claims.nonce), now) {
        edge.metrics.refused("replay");
        return Err(Problem::NotFound);
    }
    let (upgrade, place) = upgrade_of(&edge, request).await?;
    let asked = ClaimSocketRequest {
        call_id,
        nonce: u64::from_be_bytes(claims.nonce),
        edge_id: edge.id.clone(),
    };
    let answer = within(APPLET_BUDGET, APPLET_BUDGET, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.claim_socket(asked).await }
    });
    let claim = answer.await.map_err(Problem::from)?;
    // Both are wanted at `start`, some round trips from now.
    let ahead = Arc::clone(&edge);
    let (hash, endpoint) = (claim.greeting_sha256.clone(), claim.agent_endpoints.first().cloned());
    edge.background.spawn(async move {
        let greeting = async {
            if !hash.is_empty() {
                // A failure is told when the greeting is to be played.
                let _ = ahead.greetings.pcm(&hash, exotel::stream::DEFAULT_SAMPLE_RATE).await;
            }
        };
        let agent = async {
            if let Some(endpoint) = endpoint {
                ahead.agents.warm_up(&endpoint).await;
            }
        };
        tokio::join!(greeting, agent);
    });
    let ticket = Ticket::Claimed { claim, probed };
    Ok(begin(&edge, upgrade, ticket, place))
}

/// The socket of applets with a fixed URL, opened by Basic credentials: the account's id and its token.
pub(super) async fn of_account(
    State(edge): State<Arc<Edge>>,
    Extension(Pass { claims, .. }): Extension<Pass>,
    request: Request,
) -> Result<Response, Problem> {
    let (upgrade, place) = upgrade_of(&edge, request).await?;
    let ticket = Ticket::Account {
        account_id: AccountId(claims.id).to_string(),
        generation: u32::from(claims.generation()),
    };
    Ok(begin(&edge, upgrade, ticket, place))
}

/// The way of all sockets: a sound handshake, a place among those that have not said `start` (F66), and the limits.
pub(super) async fn upgrade_of(edge: &Edge, request: Request) -> Result<(WebSocketUpgrade, Place), Problem> {
    let client = whom(&request);
    let upgrade = handshake::take(request).await?;
    if edge.sessions.is_stopping() {
        return Err(Problem::Unavailable);
    }
    let place = edge.pending.enter(client).map_err(|_| Problem::Unavailable)?;
    let upgrade = upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER);
    Ok((upgrade, place))
}

fn begin(edge: &Arc<Edge>, upgrade: WebSocketUpgrade, ticket: Ticket, place: Place) -> Response {
    let session = Arc::clone(edge);
    accept(edge, upgrade, move |socket| driver::run(session, socket, ticket, place))
}

/// The socket's task is there before the answer is, so that shutdown cannot miss it.
pub(super) fn accept<F: Future<Output = ()> + Send>(
    edge: &Edge,
    upgrade: WebSocketUpgrade,
    run: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response {
    let (hand_over, socket) = oneshot::channel();
    let limit = edge.config.start_limit;
    let live = edge.live.enter();
    edge.sessions.spawn_apart(async move {
        if let Ok(Ok(socket)) = tokio::time::timeout(limit, socket).await {
            run(socket).await;
        }
        drop(live);
    });
    upgrade.on_upgrade(move |socket| async move {
        // The task is gone only at the hard stop.
        drop(hand_over.send(socket));
    })
}
