//! Toll fraud (F126): whom callers may have called, and how often. Every way to make Exotel ring a number comes by here.

mod alarms;
mod prefixes;

use std::sync::Arc;

use chrono::{DateTime, Days, FixedOffset, NaiveTime, TimeZone as _, Utc};
use diesel_async::AsyncPgConnection;
use exotel::PhoneNumber;

pub use alarms::Thresholds;
pub(crate) use alarms::start;
pub use prefixes::{PrefixError, Prefixes, Refused};

use crate::{app::App, error::Error, metrics, store::caller_days};

/// The day that calls are counted in: India's, the same at all replicas.
const INDIA: FixedOffset = FixedOffset::east_opt(5 * 3600 + 1800).expect("within a day");

/// The settings for all callers.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `DIAL_ALLOWED_PREFIXES`.
    pub prefixes: Prefixes,
    /// `DIAL_DAILY_CALLS`: calls of a caller in a day; none: as many as it likes.
    pub daily_calls: Option<i32>,
    /// What is out of the ordinary.
    pub alarms: Thresholds,
}

/// What the key of a caller allows, beside the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Narrower than those of the settings.
    pub prefixes: Option<Prefixes>,
    /// In place of that of the settings.
    pub daily_calls: Option<i32>,
}

/// Who wants a number to be rung.
#[derive(Debug, Clone)]
pub struct Dialler {
    /// The caller.
    pub name: Arc<str>,
    /// Of the key that it has shown.
    pub limits: Limits,
}

impl Rules {
    /// Whether a caller with these limits may have the number called.
    ///
    /// # Errors
    /// [`Error::Denied`] with the reason `DESTINATION_NOT_ALLOWED`.
    pub fn allow(&self, limits: &Limits, number: &PhoneNumber) -> Result<(), Error> {
        let by_settings = self
            .prefixes
            .allow(number)
            .err()
            .map(|why| (why, "DIAL_ALLOWED_PREFIXES"));
        let by_key = || {
            let own = limits.prefixes.as_ref()?;
            own.allow(number).err().map(|why| (why, "the key's dial_prefixes"))
        };
        let Some((why, list)) = by_settings.or_else(by_key) else {
            return Ok(());
        };
        metrics::dial_refused("destination");
        Err(Error::Denied {
            reason: "DESTINATION_NOT_ALLOWED",
            message: match why {
                Refused::NotListed => {
                    format!(
                        "{number} may not be called: it begins with no prefix of {list}; whoever runs callbridge can add one"
                    )
                }
                Refused::CostsExtra => format!(
                    "{number} may not be called: calls to it cost extra, and no prefix of {list} names its range, such as +911860"
                ),
            },
        })
    }

    /// How many calls a caller with these limits may make in a day.
    pub fn daily_calls(&self, limits: &Limits) -> Option<i32> {
        limits.daily_calls.or(self.daily_calls)
    }
}

impl Dialler {
    /// Whether the caller has had all calls of its day already, so that no transaction need begin; what counts is [`Dialler::count`].
    ///
    /// # Errors
    /// Of the database.
    pub async fn is_spent(&self, conn: &AsyncPgConnection, rules: &Rules) -> Result<bool, Error> {
        match rules.daily_calls(&self.limits) {
            Some(most) => Ok(caller_days::today(conn, &self.name).await? >= i64::from(most)),
            None => Ok(false),
        }
    }

    /// Counts a call in the caller's day, within the transaction that makes it. False: it has had all of them.
    ///
    /// # Errors
    /// Of the database.
    pub async fn count(&self, conn: &AsyncPgConnection, rules: &Rules) -> Result<bool, Error> {
        match rules.daily_calls(&self.limits) {
            Some(most) => Ok(caller_days::count(conn, &self.name, most).await?),
            None => Ok(true),
        }
    }

    /// What a caller is told that has had all of its calls.
    pub fn spent(&self, rules: &Rules) -> Error {
        metrics::dial_refused("daily_calls");
        Error::Spent {
            reason: "DAILY_CALLS_SPENT",
            message: format!(
                "{} has made the {} calls that it may make in a day; the next day begins at 00:00 in India (18:30 UTC). A key with a larger daily_calls, or DIAL_DAILY_CALLS, allows more",
                self.name,
                rules.daily_calls(&self.limits).unwrap_or_default(),
            ),
        }
    }
}

/// How many calls a caller may make in a day whose key is not at hand, because a campaign of its dials: the most that any of its keys
/// allows now.
pub(crate) fn daily_calls_of(app: &App, caller: &str) -> Option<i32> {
    let of_setting = app.config.toll.daily_calls;
    app.keys
        .limits_of(caller)
        .into_iter()
        .map(|limits| limits.daily_calls.or(of_setting))
        .reduce(|most, other| Some(most?.max(other?)))
        .unwrap_or(of_setting)
}

/// When the next day begins.
pub(crate) fn next_day(now: DateTime<Utc>) -> DateTime<Utc> {
    let today = now.with_timezone(&INDIA).date_naive();
    let next = today
        .checked_add_days(Days::new(1))
        .unwrap_or(today)
        .and_time(NaiveTime::MIN);
    INDIA
        .from_local_datetime(&next)
        .single()
        .map_or(now, |at| at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_is_that_of_india() {
        for (now, next) in [
            ("2026-11-27T18:29:59Z", "2026-11-27T18:30:00Z"),
            ("2026-11-27T18:30:00Z", "2026-11-28T18:30:00Z"),
            ("2026-12-31T20:00:00Z", "2027-01-01T18:30:00Z"),
        ] {
            assert_eq!(
                next_day(now.parse().unwrap()),
                next.parse::<DateTime<Utc>>().unwrap(),
                "{now}"
            );
        }
    }

    /// F126: a key's list makes what it may dial less, and never more.
    #[test]
    fn a_keys_list_is_on_top() {
        let rules = Rules {
            prefixes: Prefixes::parse("+91").unwrap(),
            daily_calls: Some(5),
            alarms: Thresholds::default(),
        };
        let limits = |list: &str| Limits {
            prefixes: Some(Prefixes::parse(list).unwrap()),
            daily_calls: None,
        };
        let allow = |limits: &Limits, number: &str| rules.allow(limits, &PhoneNumber::parse(number).unwrap()).is_ok();
        assert!(allow(&Limits::default(), "09812345678"));
        assert!(allow(&limits("+9198"), "09812345678"));
        assert!(!allow(&limits("+9122"), "09812345678"));
        assert!(!allow(&limits("+"), "+442079460123"));
        let told = rules.allow(&Limits::default(), &PhoneNumber::parse("+442079460123").unwrap());
        assert!(!format!("{told:?}").contains("2079460"), "a number in clear");
        assert_eq!(rules.daily_calls(&Limits::default()), Some(5));
    }
}
