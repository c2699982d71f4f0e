//! What comes from call-service.

use callbridge_proto::{
    agent::v1::{AudioFormat, Leave, LeaveAction, Message, converse_request::Event},
    ingress::v1::session_event::Event as Report,
};
use tokio::time::Instant;

use super::{
    End, Live, Opening, Phase, Session,
    playout::{self, Playout},
};

impl Session {
    /// call-service has taken the `start`: the session is live.
    pub fn started(&mut self, now: Instant, opening: Opening) {
        if self.live.is_some() {
            return;
        }
        let Opening {
            mut start,
            endpoints,
            agent_rate,
            tuning,
            greeting,
            ends_at,
            record,
        } = opening;
        self.recording.take_if(|_| !record);
        if let Some(recording) = &mut self.recording {
            recording.set_encoding(tuning.encoding);
        }
        start.audio_format = Some(AudioFormat {
            sample_rate: agent_rate,
        });
        start.greeting_ms = greeting.as_ref().map_or(0, |pcm| playout::pcm_ms(pcm.len(), self.rate));
        start.max_buffered_ms = playout::max_buffered_ms(agent_rate, self.rate);
        for digit in self.uplink.digits() {
            self.report(Report::Dtmf(digit));
        }
        self.uplink.set_line(tuning.encoding, self.rate, agent_rate);
        self.tuning = tuning;
        self.live = Some(Box::new(Live {
            playout: Playout::new(now, agent_rate, self.rate, &tuning, greeting),
            start,
            endpoints,
            endpoint: 0,
            ends_at,
            warned: false,
            connected: false,
            agent: false,
            retried: false,
            linked_at: None,
            next_playout: None,
        }));
        if self.phase == Phase::Starting {
            self.phase = Phase::Live;
            self.dial(0, false);
        }
    }

    /// call-service refuses the `start`, or cannot be asked.
    pub fn refused(&mut self, code: u16) {
        self.end(End::new("callbridge", "refused", "error"), code);
    }

    /// call-service wants the session to leave. A hang-up does not wait for what the agent still has to say.
    pub fn leave(&mut self, now: Instant, leave: Leave) {
        let hang_up = leave.action() != LeaveAction::ContinueFlow;
        let may_leave = match self.phase {
            Phase::Live => true,
            // Somebody wants the call to end, whatever the agent still says.
            Phase::Leaving { .. } => hang_up,
            Phase::Opening | Phase::Starting | Phase::Over => false,
        };
        if !may_leave {
            return;
        }
        let end = End::new("caller", "ended_by_request", "ended_by_request");
        self.report(Report::Leave(leave));
        if hang_up {
            self.end(end, 1000);
        } else {
            self.begin_leaving(now, end);
        }
    }

    /// call-service has a message for the agent. False when the session is ending.
    pub fn message(&mut self, now: Instant, message: Message) -> bool {
        let live = self.phase == Phase::Live;
        if live {
            self.tell(now, Event::Message(message));
        }
        live
    }

    /// call-service does not know the session.
    pub fn unknown(&mut self) {
        self.end(End::new("callbridge", "unknown_session", "error"), 1000);
    }

    /// The socket says nothing, and calls need its descriptor. Once it has said `start` it is a call itself.
    pub fn shed(&mut self) {
        if self.phase == Phase::Opening {
            self.end(End::new("callbridge", "shed", "error"), 1013);
        }
    }

    /// This process goes away.
    pub fn drain(&mut self) {
        self.end(End::new("callbridge", "drained", "drained"), 1001);
    }
}
