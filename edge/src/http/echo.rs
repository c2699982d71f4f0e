//! `/ws/echo`: says what it hears, so that a conformance suite for RFC 6455 can be pointed at what a call's socket is made of: the same
//! upgrade, limits, buffers and close. Only with the feature `ws-echo`, and in tests.

use std::sync::Arc;

use axum::{
    extract::{Request, State, ws::Message},
    response::Response,
};
use tokio::time::{Instant, timeout};

use super::{
    problem::Problem,
    socket::{accept, upgrade_of},
};
use crate::{
    Edge,
    socket::{CLOSE_LIMIT, Heard, PING_AFTER, Patience, Socket},
};

/// The path.
pub(super) const PATH: &str = "/ws/echo";

/// Opens one. It holds a place among the sockets that have not said `start`.
pub(super) async fn open(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, Problem> {
    let (upgrade, place) = upgrade_of(&edge, request).await?;
    let (stall, idle) = (edge.config.stall_limit, edge.config.idle_limit);
    Ok(accept(&edge, upgrade, move |socket| async move {
        let pong = PING_AFTER;
        let mut socket = Socket::new(socket, Instant::now(), Patience { stall, pong });
        let (code, reason) = loop {
            let heard = timeout(idle, socket.next(false)).await;
            let message = match heard {
                Ok(Heard::Text(text)) => Message::Text(text),
                Ok(Heard::Binary(bytes)) => Message::Binary(bytes),
                Ok(Heard::Alive | Heard::Writable) => continue,
                Ok(Heard::Violation(code)) => break (code, "violation"),
                Ok(Heard::Closed(_) | Heard::Broken) => break (1000, ""),
                Err(_) => break (1000, "idle"),
            };
            if !socket.answer(message).await {
                break (1000, "stalled");
            }
        };
        socket.close(code, reason, CLOSE_LIMIT).await;
        drop(place);
    }))
}
