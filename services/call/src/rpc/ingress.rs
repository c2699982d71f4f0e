//! IngressService: what edges send, checked and turned into our types, and the answers.

use std::{pin::Pin, str::FromStr, sync::Arc};

use callbridge_proto::{
    directory::v1 as directory,
    id::{CallId, EdgeId},
    ingress::v1::{self as api, ingress_service_server::IngressService},
};
use exotel::Caller;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    app::App,
    diagnosis::{KeyCase, Query},
    error::Error,
    ingress::{
        applets, attach,
        begin::{self, Door, Line, Opening},
        connect, greetings, passthru, recordings,
        resolve::{self, Applet, Way},
        sockets, status,
    },
};

/// The edge sends half a dozen.
const FACTS: usize = 32;
const FACT_KEY_CHARS: usize = 64;
const FACT_CHARS: usize = 256;
/// Numbers come as SIP addresses at times.
const NUMBER_CHARS: usize = 128;

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;
type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl IngressService for Service {
    type FetchGreetingStream = BoxStream<api::FetchGreetingResponse>;
    type AttachEdgeStream = BoxStream<api::AttachEdgeResponse>;

    async fn resolve_connect(
        &self,
        request: Request<api::ResolveConnectRequest>,
    ) -> Answer<api::ResolveConnectResponse> {
        let request = request.into_inner();
        let applet = applet(request.applet)?;
        let connected = if request.probe {
            connect::probe(&self.0, &applet).await?
        } else {
            connect::connect(&self.0, &applet).await?
        };
        Ok(Response::new(api::ResolveConnectResponse {
            call_id: shown(connected.call),
            socket_url: connected.socket_url.unwrap_or_default(),
        }))
    }

    async fn resolve_greeting(
        &self,
        request: Request<api::ResolveGreetingRequest>,
    ) -> Answer<api::ResolveGreetingResponse> {
        let greeting = applets::greeting(&self.0, &applet(request.into_inner().applet)?).await?;
        Ok(Response::new(api::ResolveGreetingResponse {
            call_id: shown(greeting.call),
            text: greeting.text,
            wav_sha256: greeting.wav_sha256,
        }))
    }

    async fn resolve_gather(&self, request: Request<api::ResolveGatherRequest>) -> Answer<api::ResolveGatherResponse> {
        let prompt = applets::gather(&self.0, &applet(request.into_inner().applet)?).await?;
        let gather = prompt.gather;
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        Ok(Response::new(api::ResolveGatherResponse {
            call_id: shown(prompt.call),
            text: gather.text,
            max_digits: count(gather.max_digits),
            finish_on_key: gather.finish_on_key,
            timeout_seconds: count(gather.timeout_seconds),
            repeats: count(gather.repeats),
        }))
    }

    async fn resolve_transfer(
        &self,
        request: Request<api::ResolveTransferRequest>,
    ) -> Answer<api::ResolveTransferResponse> {
        let transfer = applets::transfer(&self.0, &applet(request.into_inner().applet)?).await?;
        Ok(Response::new(api::ResolveTransferResponse {
            call_id: shown(transfer.call),
            numbers: transfer.numbers,
            outgoing_number: transfer.outgoing_number,
            record: transfer.record,
        }))
    }

    async fn record_input(&self, request: Request<api::RecordInputRequest>) -> Answer<api::RecordInputResponse> {
        let request = request.into_inner();
        let applet = applet(request.applet)?;
        let branch_b = passthru::input(&self.0, &applet, &request.digits, &request.recording_url).await?;
        Ok(Response::new(api::RecordInputResponse { branch_b }))
    }

    async fn record_end(&self, request: Request<api::RecordEndRequest>) -> Answer<api::RecordEndResponse> {
        let mut request = request.into_inner();
        let applet = applet(request.applet.take())?;
        let branch_b = passthru::end(&self.0, &applet, &request).await?;
        Ok(Response::new(api::RecordEndResponse { branch_b }))
    }

    async fn record_status(&self, request: Request<api::RecordStatusRequest>) -> Answer<api::RecordStatusResponse> {
        let request = request.into_inner();
        let call: CallId = id("call_id", &request.call_id)?;
        status::keep(&self.0, call, &request.content_type, request.body).await?;
        Ok(Response::new(api::RecordStatusResponse {}))
    }

    async fn answer_probe(&self, request: Request<api::AnswerProbeRequest>) -> Answer<api::AnswerProbeResponse> {
        let request = request.into_inner();
        let account = id("account_id", &request.account_id)?;
        let mut conn = self.0.db.reserved().await.map_err(Error::from)?;
        resolve::account(&mut conn, account, request.token_generation).await?;
        Ok(Response::new(api::AnswerProbeResponse { word: request.word }))
    }

    async fn claim_socket(&self, request: Request<api::ClaimSocketRequest>) -> Answer<api::ClaimSocketResponse> {
        let request = request.into_inner();
        let call: CallId = id("call_id", &request.call_id)?;
        let edge: EdgeId = id("edge_id", &request.edge_id)?;
        let claimed = sockets::claim(&self.0, call, request.nonce, edge).await?;
        Ok(Response::new(api::ClaimSocketResponse {
            media_session_id: claimed.session.to_string(),
            claim: claimed.claim,
            agent_endpoints: claimed.agent_endpoints,
            greeting_sha256: claimed.greeting_sha256,
        }))
    }

    async fn start_session(&self, request: Request<api::StartSessionRequest>) -> Answer<api::StartSessionResponse> {
        let opening = opening(&request.into_inner())?;
        Ok(Response::new(begin::begin(&self.0, &opening).await?))
    }

    async fn report_recording(
        &self,
        request: Request<api::ReportRecordingRequest>,
    ) -> Answer<api::ReportRecordingResponse> {
        recordings::report(&self.0, request.get_ref()).await?;
        Ok(Response::new(api::ReportRecordingResponse {}))
    }

    /// Status: NOT_FOUND at once; nothing later.
    async fn fetch_greeting(&self, request: Request<api::FetchGreetingRequest>) -> Answer<Self::FetchGreetingStream> {
        let pieces = greetings::fetch(&self.0, &request.get_ref().sha256).await?;
        let pieces = pieces.into_iter().map(|chunk| Ok(api::FetchGreetingResponse { chunk }));
        Ok(Response::new(Box::pin(futures_util::stream::iter(pieces))))
    }

    /// Status: INVALID_ARGUMENT without a Hello; ABORTED with reason REPLACED when a newer stream of the edge took over;
    /// UNAVAILABLE on shutdown, while the database is away, and when the edge is silent: attach again.
    async fn attach_edge(&self, request: Request<Streaming<api::AttachEdgeRequest>>) -> Answer<Self::AttachEdgeStream> {
        let requests = tokio_stream::StreamExt::map_while(request.into_inner(), Result::ok);
        let (answers, receiver) = mpsc::channel(attach::IN_FLIGHT);
        let app = Arc::clone(&self.0);
        // The stream lives for days: what happens on it must not all end up in one trace.
        self.0.tasks.spawn_apart(attach::serve(app, requests, answers));
        let answers = ReceiverStream::new(receiver).map(|answer| answer.map_err(Status::from));
        Ok(Response::new(Box::pin(answers)))
    }
}

fn id<T: FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, Error> {
    text.parse()
        .map_err(|error: T::Err| Error::invalid(field, error.to_string()))
}

fn shown(call: Option<CallId>) -> String {
    call.map(|id| id.to_string()).unwrap_or_default()
}

fn caller(text: &str) -> Caller {
    Caller::read(
        &text
            .chars()
            .filter(|c| *c != '\0')
            .take(NUMBER_CHARS)
            .collect::<String>(),
    )
}

fn applet(request: Option<api::AppletRequest>) -> Result<Applet, Error> {
    let request = request.ok_or_else(|| Error::invalid("applet", "must be there"))?;
    let way = match api::FlowDirection::try_from(request.direction) {
        Ok(api::FlowDirection::Incoming) => Way::Incoming,
        Ok(api::FlowDirection::Outbound) => Way::Outbound,
        Ok(api::FlowDirection::Unspecified) | Err(_) => Way::Unknown,
    };
    let clean = |text: &str, chars| text.chars().filter(|c| *c != '\0').take(chars).collect::<String>();
    let facts = request.facts.iter().take(FACTS);
    let facts = facts
        .map(|(key, value)| (clean(key, FACT_KEY_CHARS), clean(value, FACT_CHARS).into()))
        .collect();
    Ok(Applet {
        account: id("applet.account_id", &request.account_id)?,
        generation: request.token_generation,
        // A dashboard's URL may hold anything in its place; what is no id names no call.
        call_id: request.call_id.parse().ok(),
        verified_call_id: request.verified_call_id.parse().ok(),
        call_sid: resolve::sid(&request.call_sid).map(str::to_owned),
        customer: caller(&request.customer_number),
        phone: caller(&request.phone_number),
        way,
        request_id: resolve::sid(&request.request_id).map(str::to_owned),
        facts,
    })
}

fn opening(request: &api::StartSessionRequest) -> Result<Opening, Error> {
    let door = if request.media_session_id.is_empty() {
        Door::Static(id("account_id", &request.account_id)?, request.token_generation)
    } else {
        Door::Claimed(id("media_session_id", &request.media_session_id)?, request.claim)
    };
    let stream_sid = resolve::sid(&request.stream_sid)
        .ok_or_else(|| Error::invalid("stream_sid", "Exotel's id of the stream, at most 64 characters"))?;
    Ok(Opening {
        edge: id("edge_id", &request.edge_id)?,
        door,
        stream_sid: stream_sid.to_owned(),
        call_sid: resolve::sid(&request.call_sid).map(str::to_owned),
        account_sid: request.account_sid.clone(),
        from: caller(&request.from),
        to: caller(&request.to),
        call_id: request.call_id.parse().ok(),
        line: Line {
            sample_rate: request.sample_rate,
            key_case: match request.key_case() {
                directory::KeyCase::Unspecified => None,
                directory::KeyCase::Snake => Some(KeyCase::Snake),
                directory::KeyCase::Camel => Some(KeyCase::Camel),
            },
            query: match request.query() {
                directory::QueryHandling::Unspecified => None,
                directory::QueryHandling::Kept => Some(Query::Kept),
                directory::QueryHandling::Parameters => Some(Query::Parameters),
                directory::QueryHandling::Dropped => Some(Query::Dropped),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const ACCOUNT: &str = "acct_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b";

    #[test]
    fn an_applet_request_needs_an_account_and_nothing_else() {
        assert!(applet(None).is_err());
        assert!(applet(Some(api::AppletRequest::default())).is_err());
        let request = api::AppletRequest {
            account_id: ACCOUNT.into(),
            call_id: "{{call}}".into(),
            ..Default::default()
        };
        let read = applet(Some(request)).unwrap();
        assert_eq!((read.call_id, read.call_sid, read.way), (None, None, Way::Unknown));
    }

    #[test]
    fn facts_are_cut_and_cleaned() {
        let facts = HashMap::from([("call_type".to_owned(), format!("a\0{}", "b".repeat(300)))]);
        let request = api::AppletRequest {
            account_id: ACCOUNT.into(),
            facts,
            ..Default::default()
        };
        let fact = applet(Some(request)).unwrap().facts["call_type"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(fact.len() == FACT_CHARS && fact.starts_with("ab"));
    }
}
