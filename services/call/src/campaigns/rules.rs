//! The rules of a campaign: when, how fast and how often people are called. They are kept as JSON with the campaign and read at
//! each claim, so that an update rewrites no contacts.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc, Weekday};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use super::retry::Outcome;
use crate::{calls::wall, error::Violations};

const MOST_WINDOWS: usize = 32;
const MOST_HOLIDAYS: usize = 400;
const MOST_DELAYS: usize = 10;
const MOST_RETRIES: u32 = 10;
const MOST_ATTEMPTS: u32 = 20;
const MOST_CONCURRENT: i32 = 10_000;
const MOST_PER_MINUTE: i32 = 6_000;
const MOST_PER_PERIOD: u32 = 100;
const PRIORITY: i32 = 100;
/// In seconds: what a person still connects with the call before.
const LONGEST: i64 = 30 * 24 * 3_600;

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
    /// Calls to one number, of all campaigns of the account together.
    pub frequency_cap: Option<FrequencyCap>,
    /// Which of the campaign's phones calls.
    pub caller_ids: CallerIds,
    /// Pauses the campaign when too many calls fail.
    pub breaker: Option<Breaker>,
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
            breaker: None,
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
    /// Percent of the calls that ended lately; above it the campaign is paused.
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
            Outcome::Completed | Outcome::Refused | Outcome::Unreachable | Outcome::Canceled => None,
        }
    }
}

impl Rules {
    /// Notes all that is impossible, with each field's path in the API. Values are never in the text.
    pub fn check(&self, now: DateTime<Utc>, wrong: &mut Violations) {
        wrong.require(
            (0..=MOST_CONCURRENT).contains(&self.max_concurrent_calls),
            "rules.max_concurrent_calls",
            &format!("is from 1 to {MOST_CONCURRENT}, or 0 for no cap"),
        );
        wrong.require(
            (0..=MOST_PER_MINUTE).contains(&self.calls_per_minute),
            "rules.calls_per_minute",
            &format!("is from 1 to {MOST_PER_MINUTE}, or 0 for the account's"),
        );
        self.check_windows(wrong);
        let retries = [
            ("busy", &self.retries.busy),
            ("no_answer", &self.retries.no_answer),
            ("failed", &self.retries.failed),
            ("agent_unavailable", &self.retries.agent_unavailable),
        ];
        for (outcome, retry) in retries {
            retry.check(&format!("rules.retries.{outcome}"), wrong);
        }
        wrong.require(
            (1..=MOST_ATTEMPTS).contains(&self.max_attempts),
            "rules.max_attempts",
            &format!("is from 1 to {MOST_ATTEMPTS}"),
        );
        if let Some(cap) = self.frequency_cap {
            wrong.require(
                (1..=MOST_PER_PERIOD).contains(&cap.count),
                "rules.frequency_cap.count",
                &format!("is from 1 to {MOST_PER_PERIOD}"),
            );
            period(wrong, "rules.frequency_cap.period", cap.period);
        }
        if let Some(breaker) = self.breaker {
            wrong.require(
                (1..=99).contains(&breaker.limit),
                "rules.breaker.limit",
                "is from 1 to 99 percent",
            );
            wrong.require(
                (1..=10_000).contains(&breaker.least_sample),
                "rules.breaker.least_sample",
                "is from 1 to 10000 calls",
            );
            period(wrong, "rules.breaker.period", breaker.period);
        }
        wrong.require(
            self.end_at.is_none_or(|end| end > now),
            "rules.end_at",
            "is later than now",
        );
        wrong.require(
            (-PRIORITY..=PRIORITY).contains(&self.priority),
            "rules.priority",
            &format!("is from -{PRIORITY} to {PRIORITY}"),
        );
    }

    fn check_windows(&self, wrong: &mut Violations) {
        wrong.require(
            (1..=MOST_WINDOWS).contains(&self.windows.len()),
            "rules.windows",
            &format!("has 1 to {MOST_WINDOWS} windows"),
        );
        let day = i32::from(wall::DAY);
        for (index, window) in self.windows.iter().enumerate().take(MOST_WINDOWS) {
            let at = format!("rules.windows[{index}]");
            wrong.require(
                (0..day).contains(&window.from),
                &format!("{at}.from"),
                "is from 0 to 1439 minutes after midnight",
            );
            wrong.require(
                (1..=day).contains(&window.until),
                &format!("{at}.until"),
                "is from 1 to 1440 minutes after midnight",
            );
            wrong.require(
                window.from < window.until,
                &format!("{at}.until"),
                "is later than from: a window over midnight is two windows",
            );
        }
        wrong.require(
            self.holidays.len() <= MOST_HOLIDAYS,
            "rules.holidays",
            &format!("has at most {MOST_HOLIDAYS} dates"),
        );
    }
}

impl Retry {
    fn check(&self, at: &str, wrong: &mut Violations) {
        wrong.require(
            self.delays.len() <= MOST_DELAYS,
            &format!("{at}.delays"),
            &format!("has at most {MOST_DELAYS} delays"),
        );
        for (index, delay) in self.delays.iter().enumerate().take(MOST_DELAYS) {
            wrong.require(
                (0..=LONGEST).contains(delay),
                &format!("{at}.delays[{index}]"),
                "is from 0 seconds to 30 days",
            );
        }
        wrong.require(
            self.most <= MOST_RETRIES,
            &format!("{at}.most"),
            &format!("is at most {MOST_RETRIES}"),
        );
        wrong.require(
            self.most == 0 || !self.delays.is_empty(),
            &format!("{at}.delays"),
            "is required where there are retries",
        );
    }
}

fn period(wrong: &mut Violations, field: &str, seconds: i64) {
    wrong.require(
        (60..=LONGEST).contains(&seconds),
        field,
        "is from 60 seconds to 30 days",
    );
}

/// The zone of a name; an empty one is the default's.
pub fn zone(wrong: &mut Violations, field: &str, name: &str) -> Tz {
    match name.trim() {
        "" => Rules::default().time_zone,
        name => {
            let zone = name.parse();
            wrong.require(zone.is_ok(), field, "is an IANA name such as Asia/Kolkata");
            zone.unwrap_or(Tz::UTC)
        }
    }
}

#[cfg(test)]
mod tests;
