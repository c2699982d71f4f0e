//! What comes from the agent, and what waits for it.

use callbridge_proto::{
    agent::v1::{Metadata, Transcript, converse_request::Event, converse_response::Action},
    ingress::v1::{AgentConnected, Interrupted, session_event::Event as Report},
};
use tokio::time::Instant;

use super::{
    AgentEnd, End, GOOD_LINK, MAX_MARK_NAME, MAX_METADATA, MAX_TRANSCRIPT, MAX_WORD, PLAYOUT_EVERY, Phase, Session,
    counters::Moment, tone,
};

/// What is longer is no word, and memory is bounded by what is kept of it.
fn cut(word: &mut String) {
    if let Some((end, _)) = word.char_indices().nth(MAX_WORD) {
        word.truncate(end);
    }
}

impl Session {
    /// The agent's stream is open.
    pub fn agent_connected(&mut self, now: Instant, endpoint: usize) {
        let after = now.saturating_duration_since(self.began);
        let Some(live) = &mut self.live else { return };
        live.endpoint = endpoint;
        live.agent = true;
        live.linked_at = Some(now);
        self.uplink.agent_reads(now);
        if !live.connected {
            live.connected = true;
            if self.counters.agent_retries == 0 {
                self.counters.measure(Moment::AgentConnected(after));
            }
            self.report(Report::AgentConnected(AgentConnected {
                endpoint_index: u32::try_from(endpoint).unwrap_or(u32::MAX),
                after_ms: u32::try_from(after.as_millis()).unwrap_or(u32::MAX),
            }));
        }
    }

    /// The agent's stream is no more, or could not be opened.
    pub fn agent_ended(&mut self, now: Instant, end: AgentEnd) {
        let Some(live) = &mut self.live else { return };
        live.agent = false;
        let was_good = live
            .linked_at
            .take()
            .is_some_and(|since| now.saturating_duration_since(since) >= GOOD_LINK);
        if self.phase != Phase::Live {
            return;
        }
        match end {
            AgentEnd::Finished => self.begin_leaving(now, End::new("agent", "agent_left", "agent_left")),
            AgentEnd::Broken if !live.retried || was_good => {
                live.retried = true;
                live.connected = false;
                self.counters.agent_retries += 1;
                live.playout.forget_agent();
                let next = (live.endpoint + 1) % live.endpoints.max(1);
                self.uplink.new_agent();
                // The greeting is not played again.
                live.start.greeting_ms = 0;
                self.dial(next, true);
                self.settle(now);
            }
            AgentEnd::Broken | AgentEnd::Unreachable => self.agent_failed(now, "agent_failed"),
        }
    }

    pub(super) fn agent_failed(&mut self, now: Instant, reason: &'static str) {
        if let Some(live) = &mut self.live {
            live.playout.forget_agent();
            live.playout.sound(&tone::apology(self.rate));
        }
        self.begin_leaving(now, End::new("agent", reason, "error"));
    }

    /// The agent says something.
    pub fn agent(&mut self, now: Instant, action: Option<Action>) {
        let Some(live) = &mut self.live else { return };
        match (action, self.phase) {
            (Some(Action::Transcript(transcript)), _) => self.transcript(transcript),
            (Some(Action::Metadata(metadata)), _) => self.metadata(metadata),
            (Some(Action::Audio(audio)), Phase::Live) => {
                live.playout
                    .audio(now, audio.generation, &audio.pcm, &mut self.counters);
                live.next_playout.get_or_insert(now + PLAYOUT_EVERY);
            }
            (Some(Action::Mark(mark)), Phase::Live) => {
                self.counters.marks += 1;
                if mark.name.chars().count() > MAX_MARK_NAME || !live.playout.mark(mark.name) {
                    self.counters.bad_agent_messages += 1;
                }
            }
            (Some(Action::Clear(clear)), Phase::Live | Phase::Leaving { .. }) => {
                let dropped_ms = live.playout.clear(now, clear.generation, &mut self.counters);
                if let Some(recording) = &mut self.recording {
                    recording.cut(now);
                }
                self.counters.clears += 1;
                self.report(Report::Interrupted(Interrupted { dropped_ms }));
            }
            (Some(Action::Leave(mut leave)), Phase::Live) => {
                cut(&mut leave.reason);
                cut(&mut leave.transfer_to);
                self.report(Report::Leave(leave));
                self.begin_leaving(now, End::new("agent", "agent_left", "agent_left"));
            }
            (Some(_), _) => {}
            (None, _) => self.counters.bad_agent_messages += 1,
        }
        self.settle(now);
    }

    fn transcript(&mut self, mut transcript: Transcript) {
        // Only final pieces are kept, so only they travel.
        if !transcript.r#final {
            return;
        }
        let mut end = transcript.text.len().min(MAX_TRANSCRIPT);
        while !transcript.text.is_char_boundary(end) {
            end -= 1;
        }
        transcript.text.truncate(end);
        cut(&mut transcript.language);
        self.report(Report::Transcript(transcript));
    }

    fn metadata(&mut self, mut metadata: Metadata) {
        let (entries, key, value) = MAX_METADATA;
        let before = metadata.entries.len();
        metadata
            .entries
            .retain(|k, v| k.chars().count() <= key && v.chars().count() <= value);
        if metadata.entries.len() < before || before > entries {
            self.counters.bad_agent_messages += 1;
        }
        if metadata.entries.len() <= entries && !metadata.entries.is_empty() {
            self.report(Report::Metadata(metadata));
        }
    }

    /// Whether something waits for the agent.
    pub fn has_agent_event(&self) -> bool {
        self.live.is_some() && !self.uplink.is_empty()
    }

    /// The next event for the agent.
    pub fn agent_event(&mut self) -> Option<Event> {
        self.live.as_ref()?;
        self.uplink.pop()
    }
}
