//! A call straight to an agent over gRPC: the baseline without an edge.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use callbridge_proto::agent::v1::{
    Audio, ConverseRequest, Start, converse_request::Event, converse_response::Action,
    voice_agent_service_client::VoiceAgentServiceClient,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::room::{Caller, Room, SILENCE};

/// Messages on their way; an agent that leaves so many unread does not read.
const OUTGOING: usize = 64;

/// An open stream.
pub(super) struct Direct {
    outgoing: mpsc::Sender<ConverseRequest>,
    /// What is said and heard.
    pub(super) caller: Caller,
}

/// What comes back.
pub(super) type Answers = Streaming<callbridge_proto::agent::v1::ConverseResponse>;

impl Direct {
    /// Opens a stream, and says `Start` and a moment of silence.
    ///
    /// # Errors
    /// When the agent does not take it.
    pub(super) async fn call(
        channel: Channel,
        room: &Rc<Room>,
        number: usize,
    ) -> anyhow::Result<(Rc<RefCell<Self>>, Answers)> {
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        let direct = Self {
            outgoing,
            caller: Caller::new(Rc::clone(room), number),
        };
        direct.send(Event::Start(Start::default()))?;
        direct.audio(Bytes::from_static(&SILENCE))?;
        let answers = VoiceAgentServiceClient::new(channel)
            .converse(ReceiverStream::new(requests))
            .await
            .context("the agent refuses the stream")?;
        Ok((Rc::new(RefCell::new(direct)), answers.into_inner()))
    }

    /// Says the next chunk, if the stream is up.
    ///
    /// # Errors
    /// When the agent does not read.
    pub(super) fn say(&mut self, now: Instant) -> anyhow::Result<bool> {
        let Some(pcm) = self.caller.say(now) else {
            return Ok(false);
        };
        self.audio(Bytes::from_static(pcm))?;
        Ok(true)
    }

    fn audio(&self, pcm: Bytes) -> anyhow::Result<()> {
        self.send(Event::Audio(Audio { pcm }))
    }

    fn send(&self, event: Event) -> anyhow::Result<()> {
        let request = ConverseRequest { event: Some(event) };
        self.outgoing.try_send(request).context("the agent does not read")
    }
}

/// Listens until the stream ends, which nobody asked the agent for.
///
/// # Errors
/// Always: how it ended.
pub(super) async fn listen(direct: Rc<RefCell<Direct>>, mut answers: Answers) -> anyhow::Result<()> {
    while let Some(answer) = answers.message().await.context("the agent's stream broke")? {
        if let Some(Action::Audio(audio)) = answer.action {
            direct.borrow_mut().caller.hear(Instant::now(), &audio.pcm);
        }
    }
    bail!("the agent ended the stream")
}
