//! What follows an attempt: another one, not before some time, or the contact's end.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::calls::state::State;

/// How an attempt to reach a contact came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The person talked with the agent.
    Completed,
    /// The line was busy.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// The call could not be made, or was cut by an error.
    Failed,
    /// The person answered and no agent was there.
    AgentUnavailable,
    /// Whether the call was made was never found out: the person may have been called.
    Unconfirmed,
    /// Exotel may not call the number: it is on the do-not-disturb register. Final.
    Refused,
    /// No phone can have the number. Final.
    Unreachable,
    /// The call was ended on request before anyone answered. Final.
    Canceled,
}

impl Outcome {
    /// Every one, in the order of progress reports.
    pub const ALL: [Self; 9] = [
        Self::Completed,
        Self::Busy,
        Self::NoAnswer,
        Self::Failed,
        Self::AgentUnavailable,
        Self::Unconfirmed,
        Self::Refused,
        Self::Unreachable,
        Self::Canceled,
    ];

    /// The outcome of a call in a terminal state with its stable end reason; `agent_unavailable` tells whether it
    /// ended for want of an agent, and none had said anything before. None while the call goes on.
    pub fn of(state: State, end_reason: &str, agent_unavailable: bool) -> Option<Self> {
        match state {
            State::Queued
            | State::Dialing
            | State::Unconfirmed
            | State::Placed
            | State::Ringing
            | State::InProgress => None,
            State::Completed if agent_unavailable => Some(Self::AgentUnavailable),
            State::Completed => Some(Self::Completed),
            State::NoAnswer => Some(Self::NoAnswer),
            State::Busy => Some(Self::Busy),
            State::Failed => Some(match end_reason {
                "dnd" => Self::Refused,
                "number_unreadable" => Self::Unreachable,
                "unconfirmed" | "unconfirmed_ambiguous" => Self::Unconfirmed,
                _ if agent_unavailable => Self::AgentUnavailable,
                _ => Self::Failed,
            }),
            State::Canceled => Some(Self::Canceled),
        }
    }

    /// The stable word in the API, in exports and in the database.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Busy => "busy",
            Self::NoAnswer => "no_answer",
            Self::Failed => "failed",
            Self::AgentUnavailable => "agent_unavailable",
            Self::Unconfirmed => "unconfirmed",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Canceled => "canceled",
        }
    }

    /// The outcome of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.word() == word)
    }

    /// Whether it counts against the campaign's breaker: something is broken, on our side or at Exotel.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::AgentUnavailable | Self::Unconfirmed)
    }
}

/// A contact's attempts that came out, by outcome; those that are never tried again need no count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Tries {
    /// The line was busy.
    pub busy: u32,
    /// Nobody answered.
    pub no_answer: u32,
    /// The call could not be made, or was cut by an error.
    pub failed: u32,
    /// The person answered and no agent was there.
    pub agent_unavailable: u32,
    /// Whether the call was made was never found out.
    pub unconfirmed: u32,
}

impl Tries {
    /// All of them.
    pub fn total(self) -> u32 {
        let counts = [
            self.busy,
            self.no_answer,
            self.failed,
            self.agent_unavailable,
            self.unconfirmed,
        ];
        counts.into_iter().fold(0, u32::saturating_add)
    }

    /// One more.
    #[must_use]
    pub fn and(mut self, outcome: Outcome) -> Self {
        if let Some(count) = self.count_mut(outcome) {
            *count = count.saturating_add(1);
        }
        self
    }

    fn count_mut(&mut self, outcome: Outcome) -> Option<&mut u32> {
        match outcome {
            Outcome::Busy => Some(&mut self.busy),
            Outcome::NoAnswer => Some(&mut self.no_answer),
            Outcome::Failed => Some(&mut self.failed),
            Outcome::AgentUnavailable => Some(&mut self.agent_unavailable),
            Outcome::Unconfirmed => Some(&mut self.unconfirmed),
            Outcome::Completed | Outcome::Refused | Outcome::Unreachable | Outcome::Canceled => None,
        }
    }
}

/// Where a contact's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// The person talked with the agent.
    Reached,
    /// Tried as often as the rules allow.
    Exhausted,
    /// On the do-not-disturb register. To be remembered for other campaigns.
    Refused,
    /// No phone can have the number.
    Unreachable,
    /// Its call was ended on request.
    Canceled,
}

impl End {
    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Canceled => "canceled",
        }
    }
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt at this time or later: whether a window is open then is looked at by the claim.
    At(DateTime<Utc>),
    /// Nothing.
    Final(End),
}

/// Decides what follows an attempt that ended at `ended` with `outcome`. `tries` counts it already, and all that were begun, those
/// which came to nothing at all too: a contact that always errs ends (F116).
pub fn next(rules: &Rules, tries: Tries, outcome: Outcome, ended: DateTime<Utc>) -> Next {
    let end = match outcome {
        Outcome::Completed => Some(End::Reached),
        Outcome::Refused => Some(End::Refused),
        Outcome::Unreachable => Some(End::Unreachable),
        Outcome::Canceled => Some(End::Canceled),
        Outcome::Busy | Outcome::NoAnswer | Outcome::Failed | Outcome::AgentUnavailable | Outcome::Unconfirmed => None,
    };
    if let Some(end) = end {
        return Next::Final(end);
    }
    match delay(rules, tries, outcome).filter(|_| tries.total() < rules.max_attempts) {
        // A time beyond the calendar is never.
        Some(delay) => ended
            .checked_add_signed(delay)
            .map_or(Next::Final(End::Exhausted), Next::At),
        None => Next::Final(End::Exhausted),
    }
}

/// How long after the last of these outcomes; none when it is tried no more.
fn delay(rules: &Rules, mut tries: Tries, outcome: Outcome) -> Option<TimeDelta> {
    let retry = rules.retries.of(outcome)?;
    let times = *tries.count_mut(outcome)?;
    if times > retry.most {
        return None;
    }
    let place = usize::try_from(times.saturating_sub(1)).ok()?;
    let seconds = retry.delays.get(place).or(retry.delays.last())?;
    TimeDelta::try_seconds(*seconds)
}

#[cfg(test)]
mod tests;
