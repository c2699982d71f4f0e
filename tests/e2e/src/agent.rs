//! A voice agent that a story plays itself, word by word.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use callbridge_proto::agent::v1::{
    ConverseRequest, ConverseResponse, Leave, LeaveAction, Mark, OutgoingAudio, Start,
    converse_request::Event,
    converse_response::Action,
    voice_agent_service_server::{VoiceAgentService, VoiceAgentServiceServer},
};
use runtime::{Tasks, rpc::SpanLayer};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::PATIENCE;

/// Sessions that a story has not taken yet, and answers that the edge has not read.
const WAITING: usize = 64;

/// A server of voice sessions; each is handed to the story.
#[derive(Debug)]
pub struct Agent {
    /// Its endpoint.
    pub url: String,
    sessions: mpsc::Receiver<Session>,
    tasks: Tasks,
}

/// One stream of the edge.
#[derive(Debug)]
pub struct Session {
    events: Streaming<ConverseRequest>,
    answers: mpsc::Sender<Result<ConverseResponse, Status>>,
}

struct Service(mpsc::Sender<Session>);

#[tonic::async_trait]
impl VoiceAgentService for Service {
    type ConverseStream = ReceiverStream<Result<ConverseResponse, Status>>;

    async fn converse(
        &self,
        request: Request<Streaming<ConverseRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let (answers, stream) = mpsc::channel(WAITING);
        let session = Session {
            events: request.into_inner(),
            answers,
        };
        self.0
            .try_send(session)
            .map_err(|_| Status::unavailable("the story takes no more sessions"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Agent {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (taken, sessions) = mpsc::channel(WAITING);
        let tasks = Tasks::new();
        let server = Server::builder()
            .layer(SpanLayer::new())
            .add_service(VoiceAgentServiceServer::new(Service(taken)))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), tasks.stopping());
        tasks.spawn(async move {
            // The story notices by itself when nobody serves.
            let _ = server.await;
        });
        Ok(Self { url, sessions, tasks })
    }

    /// The next session.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn session(&mut self) -> anyhow::Result<Session> {
        timeout(PATIENCE, self.sessions.recv())
            .await
            .context("the edge opens no session")?
            .context("the agent is gone")
    }

    /// Whether another session waits.
    pub fn has_session(&self) -> bool {
        !self.sessions.is_empty()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Session {
    /// What the edge says next; `None` when it has closed its half.
    ///
    /// # Errors
    /// When it says nothing in time, or the stream breaks.
    pub async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let message = timeout(PATIENCE, self.events.message())
            .await
            .context("the edge is silent")??;
        message
            .map(|message| message.event.context("an event that is newer than this agent"))
            .transpose()
    }

    /// The first message.
    ///
    /// # Errors
    /// When it is no start.
    pub async fn start(&mut self) -> anyhow::Result<Start> {
        match self.next().await? {
            Some(Event::Start(start)) => Ok(start),
            other => anyhow::bail!("the session begins with {other:?}"),
        }
    }

    /// Reads on until an event is wanted.
    ///
    /// # Errors
    /// When the edge closes its half before.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> anyhow::Result<T> {
        while let Some(event) = self.next().await? {
            if let Some(found) = wanted(event) {
                return Ok(found);
            }
        }
        anyhow::bail!("the edge closed its half")
    }

    /// Says something to the edge. When the edge is gone, the next read tells.
    pub async fn send(&self, action: Action) {
        let _ = self.answers.send(Ok(ConverseResponse { action: Some(action) })).await;
    }

    /// Speaks: samples of 16 bits in pieces of 100 ms at 8 kHz.
    pub async fn speak(&self, samples: &[i16], generation: u64) {
        for piece in samples.chunks(800) {
            let pcm: Vec<u8> = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            self.send(Action::Audio(OutgoingAudio {
                pcm: pcm.into(),
                generation,
            }))
            .await;
        }
    }

    /// Asks to be told when all so far was heard.
    pub async fn mark(&self, name: &str) {
        self.send(Action::Mark(Mark { name: name.to_owned() })).await;
    }

    /// Leaves, and ends its half as a well-behaved agent does.
    pub async fn leave(self, action: LeaveAction, branch_b: bool, transfer_to: &str) {
        let leave = Leave {
            action: action.into(),
            branch_b,
            transfer_to: transfer_to.to_owned(),
            reason: "story".to_owned(),
        };
        self.send(Action::Leave(leave)).await;
    }

    /// Breaks the stream as a crash does.
    pub async fn fail(self) {
        let _ = self
            .answers
            .send(Err(Status::internal("the story's agent broke")))
            .await;
    }
}
