//! A dry run of a campaign: contacts as they stand, the rules, and how calls tend to come out, taken forward in steps. Contacts
//! are shares of a whole here and outcomes are averages, so the work does not grow with the number of contacts. Suppression and
//! the frequency cap are not foreseen.

mod steps;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use self::steps::Run;
use super::{
    retry::{Outcome, Tries},
    rules::Rules,
};

/// Contacts that wait for the same thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Where they are.
    pub zone: Tz,
    /// Not called before.
    pub next_at: DateTime<Utc>,
    /// What became of them so far.
    pub tries: Tries,
    /// How many they are.
    pub contacts: u64,
}

/// How calls tend to come out, and how long a slot is taken by one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calls {
    /// Shares of all calls; their sum need not be 1.
    pub mix: Mix,
    /// Seconds from dial to end, on average over all outcomes.
    pub seconds: f64,
}

/// The share of each outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// The person talked with the agent.
    pub completed: f64,
    /// The line was busy.
    pub busy: f64,
    /// Nobody answered.
    pub no_answer: f64,
    /// The call could not be made, or was cut by an error.
    pub failed: f64,
    /// The person answered and no agent was there.
    pub agent_unavailable: f64,
}

impl Default for Calls {
    /// What is assumed while a campaign has no calls to learn from.
    fn default() -> Self {
        Self {
            mix: Mix {
                completed: 0.5,
                busy: 0.1,
                no_answer: 0.35,
                failed: 0.05,
                agent_unavailable: 0.0,
            },
            seconds: 60.0,
        }
    }
}

impl Mix {
    fn shares(self) -> [(Outcome, f64); 5] {
        let all = [
            (Outcome::Completed, self.completed),
            (Outcome::Busy, self.busy),
            (Outcome::NoAnswer, self.no_answer),
            (Outcome::Failed, self.failed),
            (Outcome::AgentUnavailable, self.agent_unavailable),
        ]
        .map(|(outcome, share)| (outcome, if share.is_finite() { share.max(0.0) } else { 0.0 }));
        let sum: f64 = all.iter().map(|(_, share)| share).sum();
        if sum > 0.0 {
            all.map(|(outcome, share)| (outcome, share / sum))
        } else {
            Calls::default().mix.shares()
        }
    }
}

/// What the campaign may use: the least of its own, the account's and the phones' limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Calls at one time; none is no cap.
    pub slots: Option<u32>,
    /// Dials in a minute, as they are paced.
    pub per_minute: f64,
}

/// An hour of the forecast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hour {
    /// Its first instant.
    pub start: DateTime<Utc>,
    /// Calls dialled in it.
    pub calls: f64,
    /// The most slots in use at a time.
    pub slots: f64,
}

/// What would happen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast {
    /// When the last call would end. None: contacts are left at the end time, or after a year.
    pub finish: Option<DateTime<Utc>>,
    /// Calls that would be dialled.
    pub calls: f64,
    /// People who would be talked with.
    pub reached: f64,
    /// Contacts that would be tried as often as the rules allow, in vain.
    pub exhausted: f64,
    /// Contacts that would be left.
    pub left: f64,
    /// Times that a zone's window closes on contacts who are due in it and were not called for want of capacity.
    pub windows_missed: u32,
    /// The most slots in use at a time.
    pub peak_slots: f64,
    /// Every hour from the first call to the last; those without a call are left out.
    pub hours: Vec<Hour>,
}

/// Runs it, from `now` on.
pub fn run(
    rules: &Rules,
    groups: impl IntoIterator<Item = Group>,
    calls: Calls,
    capacity: Capacity,
    now: DateTime<Utc>,
) -> Forecast {
    let seconds = if calls.seconds.is_finite() {
        calls.seconds.max(1.0)
    } else {
        60.0
    };
    let calls = Calls { seconds, ..calls };
    Run::new(rules, calls, per_second(capacity, seconds), now).through(groups)
}

/// The rate that the slots allow (Little's law), or the pace.
fn per_second(capacity: Capacity, seconds: f64) -> f64 {
    let pace = if capacity.per_minute.is_finite() {
        capacity.per_minute.max(0.0) / 60.0
    } else {
        0.0
    };
    capacity
        .slots
        .map_or(pace, |slots| pace.min(f64::from(slots) / seconds))
}

#[cfg(test)]
mod tests;
