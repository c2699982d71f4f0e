//! How a session begins: call-service is asked, and the greeting is fetched.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use callbridge_proto::{
    directory::v1::{KeyCase, QueryHandling},
    id::AccountId,
    ingress::v1::{StartSessionRequest, StartSessionResponse},
};
use exotel::paths;
use runtime::telemetry;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tracing::Span;

use super::{Driver, Ticket};
use crate::{
    Edge,
    ingress::within,
    recording::Recording,
    session::{Opening, tuning::Tuning},
};

/// How long call-service may take to start a session; the person hears nothing meanwhile.
const START_BUDGET: Duration = Duration::from_secs(4);
/// How long the agent's start waits for a greeting that is not in memory yet.
const GREETING_LIMIT: Duration = Duration::from_secs(1);

/// What call-service says of a session.
pub(super) struct Started {
    pub(super) response: StartSessionResponse,
    /// PCM at Exotel's rate.
    greeting: Option<Bytes>,
    /// The span in which it was asked.
    pub(super) asked: Span,
}

impl Driver {
    /// What call-service is asked.
    pub(super) fn start_request(&self, start: exotel::stream::Start) -> StartSessionRequest {
        let key_case = if start.camel_case {
            KeyCase::Camel
        } else {
            KeyCase::Snake
        };
        let query = match &self.ticket {
            Ticket::Claimed { probed: true, .. } => QueryHandling::Kept,
            _ if start.custom_parameters.contains_key(paths::PROBE) => QueryHandling::Parameters,
            _ => QueryHandling::Unspecified,
        };
        let mut request = StartSessionRequest {
            edge_id: self.edge.id.clone(),
            stream_sid: start.stream_sid,
            call_sid: start.call_sid,
            account_sid: start.account_sid,
            from: start.from.raw,
            to: start.to.raw,
            call_id: start.custom_parameters.get("call_id").cloned().unwrap_or_default(),
            sample_rate: start.sample_rate,
            key_case: key_case.into(),
            query: query.into(),
            ..StartSessionRequest::default()
        };
        match &self.ticket {
            Ticket::Claimed { claim, .. } => {
                request.media_session_id.clone_from(&claim.media_session_id);
                request.claim = claim.claim;
            }
            Ticket::Account { account_id, generation } => {
                request.account_id.clone_from(account_id);
                request.token_generation = *generation;
            }
        }
        request
    }

    /// Call-service has answered; the error is a close code.
    pub(super) fn started(&mut self, started: Result<Started, u16>) {
        self.starting = false;
        let Started {
            response,
            greeting,
            asked,
        } = match started {
            Ok(started) => started,
            Err(code) => return self.session.refused(code),
        };
        let Some((reporter, orders)) = self.edge.reports.open(response.media_session_id.clone()) else {
            tracing::warn!("another socket has this session");
            return self.session.refused(1008);
        };
        self.place.go_live();
        let now = Instant::now();
        self.recording = self.recording(&response);
        let start = response.start.clone().unwrap_or_default();
        place(&self.span, &asked, &start.call_id, &response);
        tracing::info!("session started");
        self.reporter = Some(reporter);
        self.await_order(orders);
        self.edge.metrics.session_began();
        self.endpoints = response.agent_endpoints;
        let left = match (response.ends_in, response.ends_at) {
            (Some(left), _) => Some(left.seconds),
            // A call-service of the release before says only when, which this machine's clock may be wrong about.
            (None, Some(at)) => i64::try_from(self.edge.clock.unix_seconds())
                .ok()
                .map(|unix| at.seconds - unix),
            (None, None) => None,
        };
        let ends_at = left.map(|left| now + Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        let agent_rate = match response.agent_sample_rate {
            rate @ (8000 | 16_000 | 24_000) => rate,
            _ => 8000,
        };
        let opening = Opening {
            start,
            endpoints: self.endpoints.len(),
            agent_rate,
            tuning: response.audio.as_ref().map(Tuning::from).unwrap_or_default(),
            greeting,
            ends_at,
            record: self.recording.is_some(),
        };
        self.session.started(now, opening);
    }

    /// The recording of a session, if it is to have one and can.
    fn recording(&self, response: &StartSessionResponse) -> Option<Recording> {
        if !response.record_audio {
            return None;
        }
        let (call, session) = (response.start.as_ref(), response.media_session_id.clone());
        let call = call.map_or("", |start| &start.call_id);
        if let Some(recorder) = &self.edge.recorder {
            return Some(recorder.begin(call, &session, self.session.rate()));
        }
        self.edge.refuse_recording(session, "no_spool");
        None
    }
}

/// Puts a session's span into its call's trace, with a link to how it was asked for.
pub(super) fn place(session: &Span, asked: &Span, call: &str, response: &StartSessionResponse) {
    session.record("call.id", call);
    session.record("media_session.id", &response.media_session_id);
    asked.record("call.id", call);
    session.follows_from(asked);
    telemetry::join(session, &response.traceparent);
}

/// Asks call-service to begin the session, and has its greeting at hand. The error is a close code.
pub(super) async fn begin(edge: Arc<Edge>, request: StartSessionRequest) -> Result<Started, u16> {
    let (rate, generation) = (request.sample_rate, request.token_generation);
    let account = request.account_id.parse::<AccountId>();
    let answer = within(START_BUDGET, START_BUDGET, || {
        let (mut client, request) = (edge.ingress.clone(), request.clone());
        async move { client.start_session(request).await }
    });
    let response: StartSessionResponse = answer.await.map_err(|status| {
        tracing::warn!(code = ?status.code(), "call-service does not start the session");
        if let (Ok(account), Ok(generation)) = (account, u16::try_from(generation)) {
            edge.note_ended(account.0, generation, &status);
        }
        match status.code() {
            Code::NotFound | Code::FailedPrecondition | Code::InvalidArgument => 1008,
            _ => 1013_u16,
        }
    })?;
    let hash = &response.greeting_sha256;
    let greeting = if hash.is_empty() {
        None
    } else {
        match timeout(GREETING_LIMIT, edge.greetings.pcm(hash, rate)).await {
            Ok(Ok(greeting)) => Some(greeting),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the greeting is not played");
                None
            }
            Err(_) => {
                tracing::warn!("the greeting did not come in time and is not played");
                None
            }
        }
    };
    Ok(Started {
        response,
        greeting,
        asked: Span::current(),
    })
}
