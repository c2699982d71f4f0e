//! Probes: call-service asks an applet's URL as Exotel would, from outside, with a word that comes back only by the whole way:
//! name, certificate, proxies, this edge's keys, and its connection to call-service.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Extension, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use callbridge_proto::{id::AccountId, ingress::v1::AnswerProbeRequest};
use exotel::paths;
use serde_json::json;

use super::{
    door::{Pass, ask},
    problem::Problem,
};
use crate::Edge;

/// Longest word of a probe; ours have 32 characters.
const WORD_CHARS: usize = 64;

/// Answers a probe in the applet's place; everything else goes on to the applet.
pub(super) async fn answer(
    State(edge): State<Arc<Edge>>,
    Extension(pass): Extension<Pass>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let Some(word) = paths::probe_of(query) else {
        return Ok(next.run(request).await);
    };
    if word.len() > WORD_CHARS {
        return Err(Problem::BadRequest);
    }
    let asked = AnswerProbeRequest {
        account_id: AccountId(pass.claims.id).to_string(),
        token_generation: u32::from(pass.claims.generation()),
        word,
        edge_id: edge.id.clone(),
    };
    let answer = ask(&edge, &pass.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.answer_probe(asked).await }
    });
    let word = answer.await?.word;
    Ok(Json(json!({ "probe": word, "edge": edge.id })).into_response())
}
