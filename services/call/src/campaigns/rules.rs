//! The rules of a campaign: when, how fast and how often people are called. They are kept as JSON with the campaign and read at
//! each claim, so that an update rewrites no contacts.

mod check;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

pub use self::check::zone;
use super::retry::Outcome;

/// The rules of a campaign. The default is India's: from 9:00 to 21:00 of Asia/Kolkata, every day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Calls of the campaign that may be active at one time; 0 is no cap of its own.
    pub max_concurrent_calls: i32,
    /// Dials of the campaign in a minute; 0 is the account's rate.
    pub calls_per_minute: i32,
    /// When people may be called, by the clock on their wall.
    pub windows: Vec<Window>,
    /// Dates, in the person's zone, on which nobody is called.
    pub holidays: Vec<NaiveDate>,
    /// The zone of contacts that name none.
    pub time_zone: Tz,
    /// What follows a call that did not reach the person.
    pub retries: Retries,
    /// Attempts per contact, whatever their outcomes.
    pub max_attempts: u32,
    /// Calls to one number, of all campaigns together.
    pub frequency_cap: Option<FrequencyCap>,
    /// Which of the campaign's phones calls.
    pub caller_ids: CallerIds,
    /// Pauses the campaign when too many calls fail.
    pub breaker: Breaker,
    /// Nobody is called from then on.
    pub end_at: Option<DateTime<Utc>>,
    /// -100 to 100; a larger one is served first. Campaigns of one priority share evenly.
    pub priority: i32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_concurrent_calls: 0,
            calls_per_minute: 0,
            windows: vec![Window {
                days: Vec::new(),
                from: 9 * 60,
                until: 21 * 60,
            }],
            holidays: Vec::new(),
            time_zone: Tz::Asia__Kolkata,
            retries: Retries::default(),
            max_attempts: 4,
            frequency_cap: None,
            caller_ids: CallerIds::default(),
            breaker: Breaker::default(),
            end_at: None,
            priority: 0,
        }
    }
}

/// A part of the day, on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// None is every day.
    #[serde(default)]
    pub days: Vec<Weekday>,
    /// The first minute, in minutes after midnight.
    pub from: i32,
    /// The first minute after it, at most 1440.
    pub until: i32,
}

/// A rule for each outcome after which a contact may be called again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// The line was busy.
    pub busy: Retry,
    /// Nobody answered.
    pub no_answer: Retry,
    /// The call could not be made, or was cut by an error.
    pub failed: Retry,
    /// The person answered and no agent was there.
    pub agent_unavailable: Retry,
    /// Whether the call was made was never found out.
    pub unconfirmed: Retry,
}

impl Default for Retries {
    fn default() -> Self {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        let retry = |delays: &[i64]| Retry {
            delays: delays.to_vec(),
            most: 2,
        };
        Self {
            busy: retry(&[10 * MINUTE, HOUR]),
            no_answer: retry(&[2 * HOUR, 24 * HOUR]),
            failed: retry(&[10 * MINUTE, HOUR]),
            agent_unavailable: retry(&[5 * MINUTE, 30 * MINUTE]),
            // The person may have been called: who wants to call again has to say so.
            unconfirmed: Retry::default(),
        }
    }
}

/// How a contact is tried again after one outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Seconds from the end of an attempt to the next one, which is at that time or later; the last delay repeats.
    #[serde(default)]
    pub delays: Vec<i64>,
    /// Retries after this outcome; 0 is none.
    #[serde(default)]
    pub most: u32,
}

/// Calls to one number within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrequencyCap {
    /// Calls.
    pub count: u32,
    /// Seconds.
    pub period: i64,
}

impl FrequencyCap {
    /// Calls after this time count.
    pub fn since(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        now - TimeDelta::seconds(self.period)
    }
}

/// Which of the campaign's phones calls a contact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerIds {
    /// Another one at each attempt; over many contacts all are used alike.
    #[default]
    Rotate,
    /// A contact always sees the same one.
    PerContact,
}

impl CallerIds {
    /// The place in a pool of so many. `contact` is any number that stays the contact's; attempts count from 1.
    pub fn pick(self, contact: u64, attempt: u32, pool: usize) -> Option<usize> {
        let pool = u64::try_from(pool).ok().filter(|pool| *pool > 0)?;
        let turn = match self {
            Self::Rotate => u64::from(attempt.max(1) - 1),
            Self::PerContact => 0,
        };
        usize::try_from((contact % pool + turn) % pool).ok()
    }
}

/// When the campaign is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Percent of the calls that ended lately; above it the campaign is paused. 100 is never.
    pub limit: i32,
    /// Fewer calls than this tell nothing.
    pub least_sample: i32,
    /// Seconds that count as lately.
    pub period: i64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            limit: 50,
            least_sample: 20,
            period: 600,
        }
    }
}

impl Retries {
    /// The rule of an outcome; none for those that are never tried again.
    pub fn of(&self, outcome: Outcome) -> Option<&Retry> {
        match outcome {
            Outcome::Busy => Some(&self.busy),
            Outcome::NoAnswer => Some(&self.no_answer),
            Outcome::Failed => Some(&self.failed),
            Outcome::AgentUnavailable => Some(&self.agent_unavailable),
            Outcome::Unconfirmed => Some(&self.unconfirmed),
            Outcome::Completed | Outcome::Refused | Outcome::Unreachable | Outcome::Canceled => None,
        }
    }
}

#[cfg(test)]
mod tests;
