//! Which rules are possible.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Retry, Rules};
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

impl Rules {
    /// Notes all that is impossible, with each field's path in the API. Values are never in the text.
    pub fn check(&self, now: Option<DateTime<Utc>>, wrong: &mut Violations) {
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
            ("unconfirmed", &self.retries.unconfirmed),
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
        wrong.require(
            (1..=100).contains(&self.breaker.limit),
            "rules.breaker.limit",
            "is from 1 to 100 percent",
        );
        wrong.require(
            (1..=10_000).contains(&self.breaker.least_sample),
            "rules.breaker.least_sample",
            "is from 1 to 10000 calls",
        );
        period(wrong, "rules.breaker.period", self.breaker.period);
        wrong.require(
            now.is_none_or(|now| self.end_at.is_none_or(|end| end > now)),
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
