//! The life cycle of a call: one pure, total function from what is known and what happened to what is known now.
//!
//! Facts are merged, and the state is computed from them, so events may come late, twice or in any order and the call ends
//! in the same state. `docs/states.md` has the table.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::store::enums::{pg_enum, sql};

pg_enum! {
    /// Where a call stands, in the order of its life.
    State as sql::CallState {
        /// Waits to be dialled.
        Queued => "queued",
        /// The dial is committed; its outcome is not.
        Dialing => "dialing",
        /// Whether Exotel dialled is unknown. Never dialled again.
        Unconfirmed => "unconfirmed",
        /// Exotel accepted the call, or an inbound call arrived.
        Placed => "placed",
        /// The person's phone rings.
        Ringing => "ringing",
        /// Somebody answered.
        InProgress => "in_progress",
        /// Ended after a conversation.
        Completed => "completed",
        /// Nobody answered.
        NoAnswer => "no_answer",
        /// The line was busy.
        Busy => "busy",
        /// Could not be made, or was cut by an error.
        Failed => "failed",
        /// Ended on request before a conversation.
        Canceled => "canceled",
    }
}

pg_enum! {
    /// Who called whom.
    Direction as sql::CallDirection {
        /// The company called the person.
        Outbound => "outbound",
        /// The person called the company.
        Inbound => "inbound",
    }
}

impl State {
    /// Whether the call is over (as far as is known).
    pub fn is_terminal(self) -> bool {
        self >= Self::Completed
    }
}

/// How far the current attempt to dial has come. Later words win; only the dialling worker's own report leads back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not begun, or given back to the queue.
    #[default]
    Queued,
    /// Committed, without an outcome.
    Dialing,
    /// The outcome is unknown.
    Unconfirmed,
    /// Exotel has the call.
    Placed,
}

/// How a call ended, in the order of belief: of two words of one source the larger one stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Ended on request before anyone answered.
    Canceled,
    /// Could not be made, or was cut by an error.
    Failed,
    /// Nobody answered.
    NoAnswer,
    /// The line was busy.
    Busy,
    /// Ended after it was answered.
    Completed,
}

impl From<Outcome> for State {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Canceled => Self::Canceled,
            Outcome::Failed => Self::Failed,
            Outcome::NoAnswer => Self::NoAnswer,
            Outcome::Busy => Self::Busy,
            Outcome::Completed => Self::Completed,
        }
    }
}

/// Who ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The person on the phone.
    Customer,
    /// The voice agent.
    Agent,
    /// An API client.
    Caller,
    /// Exotel or the network.
    Provider,
    /// This system.
    Callbridge,
}

impl Party {
    /// The word in the API and on timelines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Agent => "agent",
            Self::Caller => "caller",
            Self::Provider => "provider",
            Self::Callbridge => "callbridge",
        }
    }

    /// The party of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Customer,
            Self::Agent,
            Self::Caller,
            Self::Provider,
            Self::Callbridge,
        ]
        .into_iter()
        .find(|party| party.word() == word)
    }
}

/// One source's word on the end. Ordered by outcome first, so that merging is taking the larger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// Who, where the source tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Party>,
    /// A stable machine word, where there is more to say than the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Exotel's own word or code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl End {
    /// An end of which only the outcome is known.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            by: None,
            reason: None,
            code: None,
        }
    }
}

/// Whose word it is, the most believed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Our own: Exotel refused the dial, or the call never left the queue.
    Local,
    /// The Passthru applet after Voicebot.
    Passthru,
    /// The terminal status callback.
    Callback,
    /// Exotel's answer to our question.
    ReadBack,
}

/// Why an end is presumed without anybody's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presumption {
    /// No trace of the dial was found within the settle window. Void as soon as there is any.
    Unconfirmed,
    /// More than one call at Exotel could be ours. Void as soon as there is evidence.
    UnconfirmedAmbiguous,
    /// The time limit is long over.
    TimeLimit,
}

impl Presumption {
    fn reason(self) -> &'static str {
        match self {
            Self::Unconfirmed => "unconfirmed",
            Self::UnconfirmedAmbiguous => "unconfirmed_ambiguous",
            Self::TimeLimit => "time_limit",
        }
    }
}

/// Everything known about a call that bears on its state. Kept as JSON on the row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each true or not yet known"
)]
pub struct Facts {
    /// How often a dial was committed.
    pub attempt: i32,
    /// How far the last one has come.
    pub progress: Progress,
    /// The phone rang.
    pub ringing: bool,
    /// Somebody answered.
    pub answered: bool,
    /// An audio session started.
    pub media_seen: bool,
    /// The best word of each source that spoke.
    pub ends: std::collections::BTreeMap<Source, End>,
    /// The end that is presumed while no source speaks.
    pub presumed: Option<Presumption>,
    /// Somebody asked to end the call.
    pub end_requested: bool,
    /// Who left the audio last, and when.
    pub left: Option<(DateTime<Utc>, Party)>,
}

/// Something that happened to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A worker takes the queued call and commits the dial.
    Claimed,
    /// The dial of an attempt has this outcome.
    Dialed(i32, Dialed),
    /// The dial has been without an outcome for too long.
    Swept,
    /// The phone rings.
    Ringing,
    /// Somebody answered: a callback, an outbound connect request or a socket's start.
    Answered,
    /// The call is seen at Exotel, without more.
    Seen,
    /// An audio session started.
    MediaStarted,
    /// An audio session ended.
    MediaEnded {
        /// When.
        at: DateTime<Utc>,
        /// By whom.
        by: Party,
    },
    /// A source says that the call is over.
    Ended(Source, End),
    /// Somebody asks to end the call.
    EndRequested,
    /// The end is presumed.
    Presumed(Presumption),
}

/// The outcome of a dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dialed {
    /// Exotel accepted it.
    Placed,
    /// Surely not dialled, and may be tried again.
    Requeued,
    /// Surely not dialled, and final.
    Refused(End),
    /// Unknown.
    Unknown,
}

/// What [`apply`] decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// What is known now.
    pub facts: Facts,
    /// The state that follows from it.
    pub state: State,
    /// The timeline's word for the change.
    pub kind: &'static str,
}

/// How the call ended, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The terminal state.
    pub state: State,
    /// Stable machine word for why.
    pub reason: String,
    /// Who ended it.
    pub by: Party,
    /// Exotel's own word.
    pub code: Option<String>,
    /// Nobody said so.
    pub presumed: bool,
}

/// Decides what an event does to a call. None: nothing new (a repeat, or an event that no longer matters).
pub fn apply(facts: &Facts, event: &Event) -> Option<Transition> {
    let before = facts.state();
    let mut facts = facts.clone();
    let unchanged = facts.clone();
    let kind = merge(&mut facts, event)?;
    if facts == unchanged {
        return None;
    }
    let state = facts.state();
    let kind = match (before.is_terminal(), state.is_terminal()) {
        (false, true) => "ended",
        (true, _) if state != before => "corrected",
        _ => kind,
    };
    Some(Transition { facts, state, kind })
}

/// Merges the event and names it. None: the event does not apply.
fn merge(facts: &mut Facts, event: &Event) -> Option<&'static str> {
    match event {
        Event::Claimed => {
            if facts.state() != State::Queued || facts.end_requested {
                return None;
            }
            facts.attempt += 1;
            facts.progress = Progress::Dialing;
            Some("dialing")
        }
        Event::Dialed(attempt, outcome) => {
            if *attempt != facts.attempt || facts.attempt == 0 {
                return None;
            }
            merge_dialed(facts, outcome)
        }
        Event::Swept => {
            if facts.progress != Progress::Dialing {
                return None;
            }
            facts.progress = Progress::Unconfirmed;
            Some("unconfirmed")
        }
        Event::Seen => seen(facts).then_some("placed"),
        Event::Ringing => {
            if !seen(facts) {
                return None;
            }
            facts.ringing = true;
            Some("ringing")
        }
        Event::Answered => {
            if !seen(facts) {
                return None;
            }
            facts.answered = true;
            Some("answered")
        }
        Event::MediaStarted => {
            if !seen(facts) {
                return None;
            }
            facts.answered = true;
            facts.media_seen = true;
            Some("media_started")
        }
        Event::MediaEnded { at, by } => {
            facts.left = facts.left.max(Some((*at, *by)));
            Some("media_ended")
        }
        Event::Ended(source, end) => {
            if *source != Source::Local && !seen(facts) {
                return None;
            }
            let known = facts.ends.entry(*source).or_insert_with(|| end.clone());
            if end > known {
                known.clone_from(end);
            }
            Some("details")
        }
        Event::EndRequested => {
            facts.end_requested = true;
            if facts.state() == State::Queued {
                let end = End {
                    by: Some(Party::Caller),
                    reason: Some("ended_by_request".to_owned()),
                    ..End::new(Outcome::Canceled)
                };
                facts.ends.insert(Source::Local, end);
            }
            Some("end_requested")
        }
        Event::Presumed(presumption) => {
            facts.presumed = facts.presumed.max(Some(*presumption));
            Some("details")
        }
    }
}

fn merge_dialed(facts: &mut Facts, outcome: &Dialed) -> Option<&'static str> {
    match outcome {
        Dialed::Placed => seen(facts).then_some("placed"),
        Dialed::Unknown => {
            facts.progress = facts.progress.max(Progress::Unconfirmed);
            Some("unconfirmed")
        }
        // Its answer was lost, and it is written again.
        Dialed::Requeued if facts.progress == Progress::Queued => None,
        // Only a row that still stands at DIALING goes back: after the sweep nothing may lead to another dial.
        Dialed::Requeued if facts.progress == Progress::Dialing && !facts.end_requested => {
            facts.progress = Progress::Queued;
            Some("requeued")
        }
        Dialed::Requeued => {
            let (outcome, reason) = if facts.end_requested {
                (Outcome::Canceled, "ended_by_request")
            } else {
                (Outcome::Failed, "not_sent")
            };
            facts.ends.insert(
                Source::Local,
                End {
                    reason: Some(reason.to_owned()),
                    ..End::new(outcome)
                },
            );
            Some("details")
        }
        Dialed::Refused(end) => {
            facts.ends.insert(Source::Local, end.clone());
            Some("details")
        }
    }
}

/// Notes that Exotel has the call. False: it was never dialled, so the evidence cannot be about it.
fn seen(facts: &mut Facts) -> bool {
    if facts.attempt == 0 && facts.progress == Progress::Queued {
        return false;
    }
    facts.progress = Progress::Placed;
    true
}

impl Facts {
    /// A new inbound call: Exotel has it, nobody dialled.
    pub fn inbound() -> Self {
        Self {
            progress: Progress::Placed,
            ..Self::default()
        }
    }

    /// The state that follows from the facts.
    pub fn state(&self) -> State {
        if let Some(ending) = self.ending() {
            return ending.state;
        }
        match self.progress {
            Progress::Queued => State::Queued,
            Progress::Dialing => State::Dialing,
            Progress::Unconfirmed => State::Unconfirmed,
            Progress::Placed if self.answered => State::InProgress,
            Progress::Placed if self.ringing => State::Ringing,
            Progress::Placed => State::Placed,
        }
    }

    /// How the call ended, if it did.
    pub fn ending(&self) -> Option<Ending> {
        // A refusal or a presumption of ours gives way to evidence that Exotel has the call.
        let provider = self.ends.range(Source::Passthru..).next_back().map(|(_, end)| end);
        if let Some(end) = provider {
            return Some(self.told(end));
        }
        let evidence = self.progress == Progress::Placed;
        if let Some(end) = self.ends.get(&Source::Local).filter(|_| !evidence) {
            return Some(Ending {
                state: end.outcome.into(),
                reason: end
                    .reason
                    .clone()
                    .unwrap_or_else(|| State::from(end.outcome).label().to_owned()),
                by: end.by.unwrap_or(Party::Callbridge),
                code: end.code.clone(),
                presumed: false,
            });
        }
        match self.presumed? {
            Presumption::Unconfirmed | Presumption::UnconfirmedAmbiguous if evidence => None,
            presumption => Some(Ending {
                state: if self.media_seen {
                    State::Completed
                } else {
                    State::Failed
                },
                reason: presumption.reason().to_owned(),
                by: Party::Callbridge,
                code: None,
                presumed: true,
            }),
        }
    }

    /// The ending by Exotel's word, made precise by what we saw ourselves.
    fn told(&self, end: &End) -> Ending {
        let code = self.ends.values().rev().find_map(|end| end.code.clone());
        let by = self
            .ends
            .values()
            .rev()
            .find_map(|end| end.by)
            .or(self.left.map(|(_, by)| by));
        let ending = |state, reason: &str, by| Ending {
            state,
            reason: reason.to_owned(),
            by,
            code: code.clone(),
            presumed: false,
        };
        match end.outcome {
            Outcome::Completed if self.media_seen => {
                let by = if self.end_requested { Some(Party::Caller) } else { by };
                let reason = match by {
                    Some(Party::Customer) => "customer_hung_up",
                    Some(Party::Agent) => "agent_hung_up",
                    Some(Party::Caller) => "ended_by_request",
                    Some(Party::Provider | Party::Callbridge) | None => "completed",
                };
                ending(State::Completed, reason, by.unwrap_or(Party::Provider))
            }
            // Answered, but the request to end it came first: no conversation took place.
            Outcome::Completed | Outcome::Canceled if self.end_requested => {
                ending(State::Canceled, "ended_by_request", Party::Caller)
            }
            Outcome::Completed => ending(State::Failed, "media_never_opened", Party::Provider),
            Outcome::Busy => ending(State::Busy, "busy", Party::Customer),
            Outcome::NoAnswer => ending(State::NoAnswer, "no_answer", Party::Customer),
            Outcome::Canceled => ending(State::Canceled, "canceled", by.unwrap_or(Party::Provider)),
            Outcome::Failed => ending(
                State::Failed,
                end.reason.as_deref().unwrap_or("provider_failed"),
                Party::Provider,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
