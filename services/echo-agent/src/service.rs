//! One stream between the wire and a conversation.

use std::time::Duration;

use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, converse_request::Event, voice_agent_service_server::VoiceAgentService,
};
use runtime::Tasks;
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument as _, Span, field, info, info_span};

use crate::{Conversation, Refused};

/// Answers on their way to the edge, which never stops reading: a greeting is 31 pieces. When it is full the agent waits,
/// and the edge's own bounded queue drops what is said meanwhile.
const ANSWERS: usize = 64;

/// How long the edge may take to send `Start`.
const START_LIMIT: Duration = Duration::from_secs(10);

/// The service, as the wire sees it.
#[derive(Debug, Clone)]
pub(crate) struct EchoAgent {
    pub(crate) tasks: Tasks,
    pub(crate) drain: Duration,
}

type Answers = mpsc::Sender<Result<ConverseResponse, Status>>;

#[tonic::async_trait]
impl VoiceAgentService for EchoAgent {
    type ConverseStream = ReceiverStream<Result<ConverseResponse, Status>>;

    /// Status: OK after Stop or Leave; INVALID_ARGUMENT when Start is missing or asks for another sample rate;
    /// DEADLINE_EXCEEDED when it does not come; UNAVAILABLE when this process stops.
    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        if self.tasks.is_stopping() {
            return Err(Status::unavailable("the agent is stopping; try another endpoint"));
        }
        let (answers, stream) = mpsc::channel(ANSWERS);
        let span = info_span!("session", call.id = field::Empty, media_session.id = field::Empty);
        // The server drops this handler's future when the head is sent; the session is a task of its own.
        self.tasks
            .spawn_apart(self.clone().session(request.into_inner(), answers).instrument(span));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl EchoAgent {
    async fn session(self, requests: Streaming<ConverseRequest>, answers: Answers) {
        let stopping = self.tasks.stopping();
        let cut = async move {
            stopping.await;
            sleep(self.drain).await;
        };
        let status = tokio::select! {
            status = talk(requests, &answers) => status,
            () = cut => Err(Status::unavailable("the agent is stopping; try another endpoint")),
        };
        match status {
            Ok(()) => info!("the session is over"),
            Err(status) => {
                info!(code = ?status.code(), reason = status.message(), "the session broke off");
                // No room means that the edge reads nothing: it sees the stream end without a status.
                let _ = answers.try_send(Err(status));
            }
        }
    }
}

async fn talk(mut requests: Streaming<ConverseRequest>, answers: &Answers) -> Result<(), Status> {
    let mut conversation = Conversation::new();
    let first = tokio::time::timeout(START_LIMIT, requests.message());
    let mut next = first
        .await
        .map_err(|_| Status::deadline_exceeded("start did not come"))??;
    while let Some(request) = next {
        if let Some(Event::Start(start)) = &request.event {
            Span::current()
                .record("call.id", &start.call_id)
                .record("media_session.id", &start.media_session_id);
        }
        for answer in conversation.hear(request).map_err(status)? {
            // Sending fails when the edge is gone; then there is nobody to tell.
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
        if conversation.is_over() {
            return Ok(());
        }
        next = requests.message().await?;
    }
    Ok(())
}

fn status(refused: Refused) -> Status {
    match refused {
        Refused::NotStarted | Refused::StartedTwice | Refused::SampleRate(_) => {
            Status::invalid_argument(refused.to_string())
        }
    }
}
