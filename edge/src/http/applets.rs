//! Requests of flow applets: the token is checked here, the rest is call-service's to say.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Json,
    body::to_bytes,
    extract::{Extension, Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use callbridge_proto::{
    id::AccountId,
    ingress::v1::{
        AppletRequest as Asked, FlowDirection as Direction, RecordEndRequest, RecordInputRequest,
        ResolveConnectRequest, ResolveGatherRequest, ResolveGreetingRequest, ResolveGreetingResponse,
        ResolveTransferRequest,
    },
};
use exotel::{
    PhoneNumber,
    applet::{
        AppletRequest, DisconnectedBy, FlowDirection, GatherPrompt, Prompt, StreamStatus, TransferTarget,
        connect_answer,
    },
    paths::{self, Applet},
    token::Claims,
};
use tracing::Span;

use super::{
    MAX_BODY,
    door::{Pass, ask},
    problem::Problem,
};
use crate::Edge;

/// Longest text kept of what Exotel says went wrong.
const MAX_DETAIL: usize = 256;

type Answer = Result<Response, Problem>;
type Shared = State<Arc<Edge>>;
type Passed = Extension<Pass>;

/// A request whose account token is genuine.
struct Applied {
    token: String,
    claims: Claims,
    request: AppletRequest,
    head: bool,
}

async fn read(Pass { token, claims }: Pass, request: Request) -> Result<Applied, Problem> {
    let head = request.method() == Method::HEAD;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let (parts, body) = request.into_parts();
    let body = if parts.method == Method::POST {
        to_bytes(body, MAX_BODY).await.map_err(|_| Problem::TooLarge)?
    } else {
        Bytes::new()
    };
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let request = AppletRequest::parse(&query, content_type, &body)?;
    Ok(Applied {
        token,
        claims,
        request,
        head,
    })
}

impl Applied {
    fn asked(&self, edge: &Edge) -> Asked {
        let request = &self.request;
        let raw =
            |caller: &Option<exotel::Caller>| caller.as_ref().map(|caller| caller.raw.clone()).unwrap_or_default();
        let direction = match &request.direction {
            Some(FlowDirection::Incoming) => Direction::Incoming,
            Some(FlowDirection::OutboundDial) => Direction::Outbound,
            Some(FlowDirection::Unknown(_)) | None => Direction::Unspecified,
        };
        let field = request.custom_field.as_deref();
        Asked {
            account_id: AccountId(self.claims.id).to_string(),
            token_generation: u32::from(self.claims.generation()),
            call_id: request.call_id.clone().unwrap_or_default(),
            verified_call_id: field
                .and_then(|field| edge.config.verifier.verify_custom_field(field))
                .unwrap_or_default(),
            call_sid: request.call_sid.clone().unwrap_or_default(),
            customer_number: raw(&request.call_from),
            phone_number: raw(&request.call_to),
            direction: direction.into(),
            facts: facts(request),
            // Made once for a webhook: call-service knows the second try of a Passthru by it.
            request_id: edge.clock.new_uuid().to_string(),
        }
    }
}

/// What the timeline shows of a request: no numbers, no digits, no URLs.
fn facts(request: &AppletRequest) -> HashMap<String, String> {
    let leg = request.legs.first();
    let facts = [
        ("asked_at", request.asked_at.map(|at| at.to_rfc3339())),
        (
            "call_status",
            request.call_status.as_ref().map(|status| status.word().to_owned()),
        ),
        ("call_type", request.call_type.clone()),
        (
            "dial_call_status",
            request.dial_call_status.as_ref().map(|status| status.word().to_owned()),
        ),
        (
            "dial_call_seconds",
            request.dial_call_s.map(|seconds| seconds.to_string()),
        ),
        ("legs", leg.map(|_| request.legs.len().to_string())),
        ("sample_rate", request.sample_rate.map(|rate| rate.to_string())),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}

pub(super) async fn connect(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    let asked = ResolveConnectRequest {
        applet: Some(applied.asked(&edge)),
        probe: applied.head,
    };
    let answer = ask(&edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.resolve_connect(asked).await }
    });
    let answer = answer.await?;
    Span::current().record("call.id", &answer.call_id);
    Ok(Json(connect_answer(&answer.socket_url)).into_response())
}

async fn resolve_greeting(edge: &Edge, applied: &Applied) -> Result<ResolveGreetingResponse, Problem> {
    let asked = ResolveGreetingRequest {
        applet: Some(applied.asked(edge)),
    };
    let answer = ask(edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.resolve_greeting(asked).await }
    });
    answer.await
}

pub(super) async fn greeting(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    let answer = resolve_greeting(&edge, &applied).await?;
    let text = match (&edge.config.public_base, answer.wav_sha256.as_str()) {
        (_, "") => answer.text,
        // Exotel keeps what it fetched by its URL, so the URL changes with the sound.
        (Some(base), hash) => format!(
            "{}?sha256={hash}",
            paths::applet_url(base, &applied.token, Applet::GreetingWav)
        ),
        (None, _) => {
            tracing::warn!("WEBHOOK_BASE_URL is not set, so a greeting's WAV has no URL; its text is spoken");
            answer.text
        }
    };
    // Exotel takes this content type exactly, without a charset.
    Ok(([(header::CONTENT_TYPE, "text/plain")], text).into_response())
}

pub(super) async fn greeting_wav(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let named = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
        // Exotel appends its own query with a second question mark.
        .find_map(|(key, value)| (key == "sha256").then(|| value.split('?').next().unwrap_or_default().to_owned()));
    let applied = read(pass, request).await?;
    let hash = match named {
        Some(hash) => hash,
        None => resolve_greeting(&edge, &applied).await?.wav_sha256,
    };
    let greeting = edge.greetings.get(&hash).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "no greeting to play");
        Problem::NotFound
    })?;
    Ok(([(header::CONTENT_TYPE, "audio/wav")], greeting.file.clone()).into_response())
}

pub(super) async fn gather(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    let asked = ResolveGatherRequest {
        applet: Some(applied.asked(&edge)),
    };
    let answer = ask(&edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.resolve_gather(asked).await }
    });
    let answer = answer.await?;
    let mut prompt = GatherPrompt::new(Prompt::Text(answer.text));
    prompt.max_input_digits = u8::try_from(answer.max_digits).unwrap_or(u8::MAX).max(1);
    prompt.finish_on_key = answer.finish_on_key;
    prompt.input_timeout_s = answer.timeout_seconds;
    prompt.repeat_menu = answer.repeats;
    Ok(Json(prompt.to_json()).into_response())
}

pub(super) async fn transfer(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    let asked = ResolveTransferRequest {
        applet: Some(applied.asked(&edge)),
    };
    let answer = ask(&edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.resolve_transfer(asked).await }
    });
    let answer = answer.await?;
    let mut target = TransferTarget::nobody();
    target.numbers = answer
        .numbers
        .iter()
        .filter_map(|number| PhoneNumber::parse(number).ok())
        .collect();
    if target.numbers.len() < answer.numbers.len() {
        tracing::error!("call-service named a number to dial that cannot be read; it is left out");
    }
    target.caller_id = PhoneNumber::parse(&answer.outgoing_number).ok();
    target.record = answer.record;
    Ok(Json(target.to_json()).into_response())
}

pub(super) async fn input(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    if applied.head {
        return Ok(branch(false));
    }
    let asked = RecordInputRequest {
        applet: Some(applied.asked(&edge)),
        digits: applied.request.digits.clone().unwrap_or_default(),
        recording_url: applied.request.recording_url.clone().unwrap_or_default(),
    };
    let answer = ask(&edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.record_input(asked).await }
    });
    Ok(branch(answer.await?.branch_b))
}

pub(super) async fn end(State(edge): Shared, Extension(pass): Passed, request: Request) -> Answer {
    let applied = read(pass, request).await?;
    if applied.head {
        return Ok(branch(false));
    }
    let request = &applied.request;
    let stream = request.stream.as_ref();
    let status = stream
        .and_then(|stream| stream.status.as_ref())
        .map(|status| match status {
            StreamStatus::Completed => "completed".to_owned(),
            StreamStatus::Failed => "failed".to_owned(),
            StreamStatus::Cancelled => "cancelled".to_owned(),
            StreamStatus::Unknown(word) => word.clone(),
        });
    let disconnected_by = match &request.disconnected_by {
        Some(DisconnectedBy::User) => "customer",
        Some(DisconnectedBy::Bot) => "agent",
        Some(DisconnectedBy::Na | DisconnectedBy::Unknown(_)) | None => "",
    };
    let detail = stream.and_then(|stream| stream.error.as_ref().or(stream.detailed_status.as_ref()));
    let recording = stream
        .and_then(|stream| stream.recording_url.as_ref())
        .or(request.recording_url.as_ref());
    let asked = RecordEndRequest {
        applet: Some(applied.asked(&edge)),
        stream_sid: stream.and_then(|stream| stream.stream_sid.clone()).unwrap_or_default(),
        stream_status: status.unwrap_or_default(),
        disconnected_by: disconnected_by.to_owned(),
        detail: detail
            .map(|text| text.chars().take(MAX_DETAIL).collect())
            .unwrap_or_default(),
        duration_seconds: stream.and_then(|stream| stream.duration_s).unwrap_or(0),
        recording_url: recording.cloned().unwrap_or_default(),
        customer_hung_up: request.caller_hung_up(),
    };
    let answer = ask(&edge, &applied.claims, || {
        let (mut client, asked) = (edge.ingress.clone(), asked.clone());
        async move { client.record_end(asked).await }
    });
    Ok(branch(answer.await?.branch_b))
}

/// A Passthru looks at the status alone: 200 is its branch A, 302 its branch B.
fn branch(b: bool) -> Response {
    if b { StatusCode::FOUND } else { StatusCode::OK }.into_response()
}
