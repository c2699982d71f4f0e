//! Status callbacks: 200 says that call-service has committed them.

use std::{sync::Arc, time::Duration};

use axum::{
    body::to_bytes,
    extract::{Extension, Request, State},
    http::{StatusCode, header},
};
use callbridge_proto::{id::CallId, ingress::v1::RecordStatusRequest};
use prost_types::Timestamp;
use tracing::{Span, field};

use super::{
    MAX_BODY, STATUS_BUDGET,
    door::{Pass, whom},
    problem::Problem,
};
use crate::{Edge, ingress::within};

/// One attempt: a replica that hangs must not use up the budget.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Longest content type passed on; a multipart boundary has at most 70 characters (RFC 2046 §5.1.1).
const MAX_CONTENT_TYPE: usize = 256;

/// Takes a callback in any of Exotel's encodings; call-service reads it.
pub(super) async fn receive(
    State(edge): State<Arc<Edge>>,
    Extension(Pass { claims, .. }): Extension<Pass>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let now = edge.clock.now();
    Span::current().record("call.id", field::display(CallId(claims.id)));
    // Whoever has a callback's URL cannot fill the inbox with it (F50).
    if !edge
        .callbacks
        .count((whom(&request), claims.id), edge.clock.unix_seconds())
    {
        edge.metrics.refused("callbacks");
        return Err(Problem::Unavailable);
    }
    let (parts, body) = request.into_parts();
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if content_type.len() > MAX_CONTENT_TYPE {
        return Err(Problem::BadRequest);
    }
    let asked = RecordStatusRequest {
        call_id: CallId(claims.id).to_string(),
        content_type: content_type.to_owned(),
        body: to_bytes(body, MAX_BODY).await.map_err(|_| Problem::TooLarge)?,
        received_at: Some(Timestamp {
            seconds: now.timestamp(),
            nanos: i32::try_from(now.timestamp_subsec_nanos()).unwrap_or(0),
        }),
    };
    let answer = within(STATUS_BUDGET, ATTEMPT, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.record_status(asked).await }
    });
    answer.await?;
    Ok(StatusCode::OK)
}
