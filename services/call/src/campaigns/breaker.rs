//! Pauses a campaign whose calls fail: a broken flow or an agent that is down must not use up the contacts.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::rules::Breaker;

/// The attempts of a campaign that came out lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// All of them.
    pub ended: i64,
    /// Those that failed: [`super::retry::Outcome::is_failure`].
    pub failed: i64,
}

/// Why a campaign is paused. `Display` is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// What was seen.
    pub sample: Sample,
    /// The limit, in percent.
    pub limit: i32,
}

impl Trip {
    /// The stable word of a pause for this reason.
    pub const REASON: &str = "failure_rate";
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sample, limit } = self;
        write!(
            f,
            "{} of the last {} calls failed, more than {limit} %: find out why, then resume",
            sample.failed, sample.ended
        )
    }
}

impl Breaker {
    /// Attempts that came out before this time do not count. Whoever resumed the campaign at `running_since` knew of them.
    pub fn since(&self, now: DateTime<Utc>, running_since: DateTime<Utc>) -> DateTime<Utc> {
        TimeDelta::try_seconds(self.period)
            .and_then(|period| now.checked_sub_signed(period))
            .map_or(running_since, |since| since.max(running_since))
    }

    /// Whether the campaign is to be paused.
    pub fn trip(&self, sample: Sample) -> Option<Trip> {
        let enough = sample.ended >= i64::from(self.least_sample.max(1));
        // In whole numbers, so that exactly the limit is not above it.
        let above = sample.failed.saturating_mul(100) > sample.ended.saturating_mul(self.limit.into());
        (enough && above).then_some(Trip {
            sample,
            limit: self.limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Breaker = Breaker {
        limit: 50,
        least_sample: 20,
        period: 600,
    };

    #[test]
    fn a_rate_above_the_limit_pauses_and_the_limit_does_not() {
        let trip = |ended, failed| RULE.trip(Sample { ended, failed }).is_some();
        assert!(trip(20, 11));
        assert!(!trip(20, 10));
        assert!(!trip(19, 19));
        assert!(trip(1_000_000, 500_001));
        assert!(!trip(0, 0));
    }

    #[test]
    fn a_resumed_campaign_begins_anew() {
        let now: DateTime<Utc> = "2026-11-26T12:00:00Z".parse().unwrap();
        let (old, fresh) = (now - TimeDelta::days(1), now - TimeDelta::seconds(5));
        assert_eq!(RULE.since(now, old), now - TimeDelta::seconds(600));
        assert_eq!(RULE.since(now, fresh), fresh);
    }

    #[test]
    fn the_reason_says_what_was_seen() {
        let trip = RULE.trip(Sample { ended: 30, failed: 18 }).unwrap();
        assert_eq!(
            trip.to_string(),
            "18 of the last 30 calls failed, more than 50 %: find out why, then resume"
        );
    }

    proptest! {
        /// More failures never close what fewer have opened.
        #[test]
        fn failures_only_add_up(ended in 0_i64..10_000, failed in 0_i64..10_000, more in 0_i64..100) {
            let failed = failed.min(ended);
            let trips = |failed| RULE.trip(Sample { ended, failed }).is_some();
            prop_assert!(!trips(failed) || trips((failed + more).min(ended)));
        }
    }
}
