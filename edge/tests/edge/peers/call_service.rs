//! call-service, which records what it was asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use callbridge_proto::{
    agent::v1::Start,
    directory::v1::AudioSettings,
    ingress::v1::{
        attach_edge_request::Message as Upward, attach_edge_response::Message as Downward,
        ingress_service_server::IngressService, *,
    },
};
use futures_util::{StreamExt as _, stream};
use runtime::Tasks;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{API_KEY, Boxed, MEDIA};

/// What call-service was asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    Connect(ResolveConnectRequest),
    Greeting(ResolveGreetingRequest),
    Gather(ResolveGatherRequest),
    Transfer(ResolveTransferRequest),
    Input(RecordInputRequest),
    End(RecordEndRequest),
    Status(RecordStatusRequest),
    Probe(AnswerProbeRequest),
    Claim(ClaimSocketRequest),
    Start(StartSessionRequest),
    Recording(ReportRecordingRequest),
    Control(Upward),
}

/// What call-service answers.
#[expect(clippy::struct_excessive_bools, reason = "independent manners")]
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    /// The next answers, before the ordinary ones.
    pub(crate) failures: VecDeque<Status>,
    /// Nothing is answered at all.
    pub(crate) hang: bool,
    pub(crate) agents: Vec<String>,
    pub(crate) agent_rate: u32,
    pub(crate) greeting: Vec<u8>,
    pub(crate) greeting_sha256: String,
    pub(crate) branch_b: bool,
    pub(crate) unknown: Vec<String>,
    pub(crate) audio: Option<AudioSettings>,
    /// Seconds until the time limit.
    pub(crate) ends_in: Option<i64>,
    /// Events are not acknowledged.
    pub(crate) no_acks: bool,
    /// Sessions are to be recorded.
    pub(crate) record_audio: bool,
}

#[derive(Clone)]
pub(crate) struct CallService {
    pub(super) asked: mpsc::UnboundedSender<Asked>,
    pub(crate) script: Arc<Mutex<Script>>,
    /// Messages for every attached edge; None breaks the streams.
    pub(crate) down: broadcast::Sender<Option<Downward>>,
}

impl CallService {
    async fn answer<T>(
        &self,
        request: &Request<impl Sized>,
        asked: Asked,
        answer: impl FnOnce(&Script) -> T,
    ) -> Result<Response<T>, Status> {
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            &format!("Bearer {API_KEY}")
        );
        self.asked.send(asked).unwrap();
        if self.script.lock().unwrap().hang {
            std::future::pending::<()>().await;
        }
        let mut script = self.script.lock().unwrap();
        match script.failures.pop_front() {
            Some(status) => Err(status),
            None => Ok(Response::new(answer(&script))),
        }
    }
}

#[tonic::async_trait]
impl IngressService for CallService {
    type FetchGreetingStream = Boxed<FetchGreetingResponse>;
    type AttachEdgeStream = Boxed<AttachEdgeResponse>;

    async fn resolve_connect(
        &self,
        request: Request<ResolveConnectRequest>,
    ) -> Result<Response<ResolveConnectResponse>, Status> {
        self.answer(&request, Asked::Connect(request.get_ref().clone()), |_| {
            ResolveConnectResponse {
                call_id: "call_1".into(),
                socket_url: "wss://bridge.example.com/ws/exotel/voice/call_1/secret".into(),
            }
        })
        .await
    }

    async fn resolve_greeting(
        &self,
        request: Request<ResolveGreetingRequest>,
    ) -> Result<Response<ResolveGreetingResponse>, Status> {
        self.answer(&request, Asked::Greeting(request.get_ref().clone()), |script| {
            ResolveGreetingResponse {
                call_id: "call_1".into(),
                text: if script.greeting_sha256.is_empty() {
                    "Namaste".into()
                } else {
                    String::new()
                },
                wav_sha256: script.greeting_sha256.clone(),
            }
        })
        .await
    }

    async fn resolve_gather(
        &self,
        request: Request<ResolveGatherRequest>,
    ) -> Result<Response<ResolveGatherResponse>, Status> {
        self.answer(&request, Asked::Gather(request.get_ref().clone()), |_| {
            ResolveGatherResponse {
                call_id: "call_1".into(),
                text: "Press one".into(),
                max_digits: 1,
                finish_on_key: "#".into(),
                timeout_seconds: 6,
                repeats: 2,
            }
        })
        .await
    }

    async fn resolve_transfer(
        &self,
        request: Request<ResolveTransferRequest>,
    ) -> Result<Response<ResolveTransferResponse>, Status> {
        self.answer(&request, Asked::Transfer(request.get_ref().clone()), |_| {
            ResolveTransferResponse {
                call_id: "call_1".into(),
                numbers: vec!["+919812345678".into()],
                outgoing_number: "+918040000155".into(),
                record: true,
            }
        })
        .await
    }

    async fn record_input(
        &self,
        request: Request<RecordInputRequest>,
    ) -> Result<Response<RecordInputResponse>, Status> {
        self.answer(&request, Asked::Input(request.get_ref().clone()), |script| {
            RecordInputResponse {
                branch_b: script.branch_b,
            }
        })
        .await
    }

    async fn record_end(&self, request: Request<RecordEndRequest>) -> Result<Response<RecordEndResponse>, Status> {
        self.answer(&request, Asked::End(request.get_ref().clone()), |script| {
            RecordEndResponse {
                branch_b: script.branch_b,
            }
        })
        .await
    }

    async fn record_status(
        &self,
        request: Request<RecordStatusRequest>,
    ) -> Result<Response<RecordStatusResponse>, Status> {
        self.answer(&request, Asked::Status(request.get_ref().clone()), |_| {
            RecordStatusResponse {}
        })
        .await
    }

    async fn answer_probe(
        &self,
        request: Request<AnswerProbeRequest>,
    ) -> Result<Response<AnswerProbeResponse>, Status> {
        let word = request.get_ref().word.clone();
        self.answer(&request, Asked::Probe(request.get_ref().clone()), |_| {
            AnswerProbeResponse { word }
        })
        .await
    }

    async fn claim_socket(
        &self,
        request: Request<ClaimSocketRequest>,
    ) -> Result<Response<ClaimSocketResponse>, Status> {
        self.answer(&request, Asked::Claim(request.get_ref().clone()), |script| {
            ClaimSocketResponse {
                media_session_id: MEDIA.into(),
                claim: 7,
                agent_endpoints: script.agents.clone(),
                greeting_sha256: script.greeting_sha256.clone(),
            }
        })
        .await
    }

    async fn start_session(
        &self,
        request: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        self.answer(&request, Asked::Start(request.get_ref().clone()), |script| {
            StartSessionResponse {
                media_session_id: MEDIA.into(),
                agent_endpoints: script.agents.clone(),
                start: Some(Start {
                    call_id: "call_1".into(),
                    media_session_id: MEDIA.into(),
                    customer_number: "+919990000105".into(),
                    phone_number: "+914440000319".into(),
                    ..Start::default()
                }),
                agent_sample_rate: script.agent_rate.max(8000),
                greeting_sha256: script.greeting_sha256.clone(),
                traceparent: String::new(),
                ends_at: None,
                ends_in: script
                    .ends_in
                    .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
                audio: script.audio,
                record_audio: script.record_audio,
            }
        })
        .await
    }

    async fn report_recording(
        &self,
        request: Request<ReportRecordingRequest>,
    ) -> Result<Response<ReportRecordingResponse>, Status> {
        self.answer(&request, Asked::Recording(request.get_ref().clone()), |_| {
            ReportRecordingResponse {}
        })
        .await
    }

    async fn fetch_greeting(
        &self,
        _: Request<FetchGreetingRequest>,
    ) -> Result<Response<Self::FetchGreetingStream>, Status> {
        let greeting = self.script.lock().unwrap().greeting.clone();
        let chunks: Vec<_> = greeting
            .chunks(64 * 1024)
            .map(|chunk| {
                Ok(FetchGreetingResponse {
                    chunk: chunk.to_vec().into(),
                })
            })
            .collect();
        Ok(Response::new(stream::iter(chunks).boxed()))
    }

    async fn attach_edge(
        &self,
        request: Request<Streaming<AttachEdgeRequest>>,
    ) -> Result<Response<Self::AttachEdgeStream>, Status> {
        assert_eq!(
            request.metadata().get("authorization").unwrap(),
            &format!("Bearer {API_KEY}")
        );
        let mut up = request.into_inner();
        let (responses, stream) = mpsc::channel(64);
        let service = self.clone();
        let mut down = self.down.subscribe();
        Tasks::new().spawn(async move {
            let send = |message: Downward| {
                let responses = responses.clone();
                async move {
                    responses
                        .send(Ok(AttachEdgeResponse { message: Some(message) }))
                        .await
                        .is_ok()
                }
            };
            loop {
                tokio::select! {
                    message = up.message() => {
                        let Ok(Some(AttachEdgeRequest { message: Some(message) })) = message else { return };
                        let script = service.script.lock().unwrap().clone();
                        match &message {
                            Upward::Hello(_) => {
                                send(Downward::Welcome(Welcome { unknown_media_session_ids: script.unknown })).await;
                            }
                            Upward::Event(event) if !script.no_acks => {
                                let (media_session_id, sequence) = (event.media_session_id.clone(), event.sequence);
                                send(Downward::Ack(EventAck { media_session_id, sequence })).await;
                            }
                            _ => {}
                        }
                        let _ = service.asked.send(Asked::Control(message));
                    }
                    message = down.recv() => {
                        let Ok(Some(message)) = message else {
                            let _ = responses.send(Err(Status::unavailable("going away"))).await;
                            return;
                        };
                        send(message).await;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}
