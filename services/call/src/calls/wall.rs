//! The clock on the wall of a time zone: the first instant at which it shows an allowed time of day. It may jump over times and
//! show others twice, so it is walked in spans of one UTC offset, in each of which it runs evenly.

use std::ops::Range;

use chrono::{DateTime, Days, FixedOffset, NaiveDate, NaiveTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;

/// Minutes after midnight. Ranges of one day are sorted and do not touch.
pub type Minute = u16;
/// The minutes of a day.
pub const DAY: Minute = 24 * 60;

/// The first instant at or after `at`, within `days`, at which the wall clock shows an allowed minute. `allowed` names those of
/// a date.
pub fn next(
    zone: Tz,
    at: DateTime<Utc>,
    days: u16,
    allowed: impl Fn(NaiveDate) -> Vec<Range<Minute>>,
) -> Option<DateTime<Utc>> {
    let end = at.checked_add_days(Days::new(days.into()))?;
    let mut start = at;
    while start < end {
        let span = Span::from(zone, start)?;
        if let Some(open) = span.first(&allowed) {
            return Some(open).filter(|open| *open < end);
        }
        start = span.end;
    }
    None
}

/// Whether the wall clock shows an allowed minute.
pub fn shows(zone: Tz, at: DateTime<Utc>, allowed: impl Fn(NaiveDate) -> Vec<Range<Minute>>) -> bool {
    let local = at.with_timezone(&zone).naive_local();
    let since_midnight = local.time() - NaiveTime::MIN;
    allowed(local.date())
        .iter()
        .any(|range| minutes(range.start) <= since_midnight && since_midnight < minutes(range.end))
}

/// Time of one offset, at most a day long.
struct Span {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    offset: FixedOffset,
}

impl Span {
    fn from(zone: Tz, start: DateTime<Utc>) -> Option<Self> {
        let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        let here = offset(start);
        let mut end = start.checked_add_days(Days::new(1))?;
        if offset(end) != here {
            // Somewhere between lies the change, on a whole second.
            let mut same = 0;
            let mut other = (end - start).num_seconds();
            while other - same > 1 {
                let middle = i64::midpoint(same, other);
                if offset(start + TimeDelta::seconds(middle)) == here {
                    same = middle;
                } else {
                    other = middle;
                }
            }
            // Changes are on whole seconds of UTC, wherever within a second the span begins.
            end = DateTime::from_timestamp((start + TimeDelta::seconds(other)).timestamp(), 0)?;
        }
        Some(Self {
            start,
            end,
            offset: here,
        })
    }

    fn first(&self, allowed: impl Fn(NaiveDate) -> Vec<Range<Minute>>) -> Option<DateTime<Utc>> {
        let start = self.start.with_timezone(&self.offset).naive_local();
        let end = self.end.with_timezone(&self.offset).naive_local();
        start
            .date()
            .iter_days()
            .take_while(|date| *date <= end.date())
            .flat_map(|date| {
                let midnight = date.and_time(NaiveTime::MIN);
                allowed(date)
                    .into_iter()
                    .map(move |range| midnight + minutes(range.start)..midnight + minutes(range.end))
            })
            .find(|open| open.start < end && start < open.end)
            .map(|open| self.start + (open.start.max(start) - start))
    }
}

fn minutes(minute: Minute) -> TimeDelta {
    TimeDelta::minutes(minute.into())
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America::New_York, Asia::Kolkata, TZ_VARIANTS};
    use proptest::prelude::*;

    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn daily(from: Minute, until: Minute) -> impl Fn(NaiveDate) -> Vec<Range<Minute>> + Copy {
        move |_| std::iter::once(from..until).collect()
    }

    /// New York's clock goes from 2:00 to 3:00 on 8 March 2026, and from 2:00 to 1:00 on 1 November 2026.
    #[test]
    fn clock_changes() {
        for (from, until, at, open) in [
            // The time at which it would begin is skipped: it begins with the first minute that is there.
            (150, 240, "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
            // All of it is skipped: the day after.
            (130, 170, "2026-03-08T06:59:00Z", "2026-03-09T06:10:00Z"),
            // Half past one passes twice, and what was over begins again.
            (60, 90, "2026-11-01T05:30:00Z", "2026-11-01T06:00:00Z"),
            // What began is over for a while, though the time at which it ends was not shown yet.
            (90, 180, "2026-11-01T06:10:00.5Z", "2026-11-01T06:30:00Z"),
        ] {
            assert_eq!(
                next(New_York, utc(at), 3, daily(from, until)),
                Some(utc(open)),
                "{from} {until} {at}"
            );
        }
    }

    #[test]
    fn what_never_opens_has_no_opening() {
        assert_eq!(next(Kolkata, utc("2026-11-22T06:00:00Z"), 366, |_| vec![]), None);
        assert_eq!(next(Kolkata, DateTime::<Utc>::MAX_UTC, 366, daily(0, DAY)), None);
    }

    /// The next clock change of a zone within a year, or else the time itself.
    fn next_change(zone: Tz, at: DateTime<Utc>) -> DateTime<Utc> {
        let hours = |hours| at + TimeDelta::hours(hours);
        let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
        (0..366 * 24)
            .find(|hour| offset(hours(*hour)) != offset(hours(*hour + 1)))
            .map_or(at, hours)
    }

    /// A zone, a time of the years 2024 to 2033, half of them around a clock change, and minutes of the day.
    fn moments() -> impl Strategy<Value = (Tz, DateTime<Utc>, Range<Minute>)> {
        let zone = prop::sample::select(&TZ_VARIANTS[..]);
        let millis = 1_704_000_000_000_i64..2_016_000_000_000;
        let around = prop::option::of(-36 * 3_600_000_i64..3 * 3_600_000);
        (zone, millis, around, 0_u16..DAY, 1_u16..DAY).prop_map(|(zone, millis, around, from, length)| {
            let at = DateTime::from_timestamp_millis(millis).unwrap();
            let at = around.map_or(at, |around| next_change(zone, at) + TimeDelta::milliseconds(around));
            (zone, at, from..(from + length).min(DAY))
        })
    }

    proptest! {
        /// In every zone, daylight saving or not: the next opening is the first minute that is open, as found by looking at
        /// every minute.
        #[test]
        fn the_next_opening_is_the_first_open_minute((zone, at, open) in moments()) {
            let allowed = daily(open.start, open.end);
            let at = DateTime::from_timestamp(at.timestamp().div_euclid(60) * 60, 0).unwrap();
            let found = next(zone, at, 2, allowed);
            let slow = (0..2 * 24 * 60).map(|ahead| at + TimeDelta::minutes(ahead)).find(|at| shows(zone, *at, allowed));
            prop_assert_eq!(found, slow);
        }

        /// Within a second, too.
        #[test]
        fn never_before_it_is_asked_for((zone, at, open) in moments()) {
            let allowed = daily(open.start, open.end);
            if let Some(open) = next(zone, at, 3, allowed) {
                prop_assert!(open >= at);
                prop_assert!(shows(zone, open, allowed));
                prop_assert!(open == at || !shows(zone, open - TimeDelta::milliseconds(1), allowed));
            }
        }
    }
}
