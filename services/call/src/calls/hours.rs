//! When people may be called: a window of the day in the account's time zone (by default 09:00 to 21:00 in India, the hours
//! outside of which TRAI bars commercial calls).

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::wall::{self, Minute};
use crate::{error::Error, store::accounts::Account};

/// The window of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// Minutes after midnight of the first allowed minute.
    pub start_minute: i32,
    /// Minutes after midnight of the first minute that is not allowed any more.
    pub end_minute: i32,
    /// Where midnight is.
    pub zone: Tz,
}

impl Hours {
    /// The first allowed instant at or after `now`: `now` itself within the window.
    pub fn next_open(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let minute = |minute: i32| Minute::try_from(minute).unwrap_or(wall::DAY);
        let window = minute(self.start_minute)..minute(self.end_minute);
        // Three days are more than any clock change can swallow.
        wall::next(self.zone, now, 3, |_| vec![window.clone()]).unwrap_or(now + TimeDelta::days(1))
    }
}

/// The hours that bind a call: none when the account or the call has them off.
///
/// # Errors
/// When the stored time zone cannot be read.
pub fn of(account: &Account, hours_override: Option<&str>) -> Result<Option<Hours>, Error> {
    if account.hours_off || hours_override.is_some() {
        return Ok(None);
    }
    let zone = account
        .hours_time_zone
        .parse()
        .map_err(|_| Error::internal("a stored time zone cannot be read"))?;
    Ok(Some(Hours {
        start_minute: account.hours_start_minute,
        end_minute: account.hours_end_minute,
        zone,
    }))
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America::New_York, Asia::Kolkata};

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_call_waits_for_nine_in_the_morning_in_india() {
        let hours = Hours {
            start_minute: 540,
            end_minute: 1260,
            zone: Kolkata,
        };
        for (now, open) in [
            ("2026-11-22T06:00:00Z", "2026-11-22T06:00:00Z"),
            ("2026-11-22T03:29:59Z", "2026-11-22T03:30:00Z"),
            ("2026-11-22T15:29:59Z", "2026-11-22T15:29:59Z"),
            ("2026-11-22T15:30:00Z", "2026-11-23T03:30:00Z"),
            ("2026-11-22T20:00:00Z", "2026-11-23T03:30:00Z"),
        ] {
            assert_eq!(hours.next_open(utc(now)), utc(open), "at {now}");
        }
    }

    #[test]
    fn a_window_that_begins_in_a_skipped_hour_opens_the_next_day() {
        let hours = Hours {
            start_minute: 150,
            end_minute: 170,
            zone: New_York,
        };
        assert_eq!(
            hours.next_open(utc("2026-03-08T06:00:00Z")),
            utc("2026-03-09T06:30:00Z")
        );
    }
}
