//! When a contact may be called by a campaign's windows and holidays: what the clock on the contact's wall shows is all that
//! counts.

use std::ops::Range;

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use chrono_tz::Tz;

use super::rules::Rules;
use crate::calls::wall::{self, Minute};

/// How far ahead openings are looked for, in days: one of a year's holidays can be the day before.
const AHEAD: u16 = 366;

/// Whether a person in this zone may be called.
pub fn is_open(rules: &Rules, zone: Tz, at: DateTime<Utc>) -> bool {
    wall::shows(zone, at, |date| open(rules, date))
}

/// The first instant at or after `at` at which [`is_open`]. None: not within a year.
pub fn next_open(rules: &Rules, zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    wall::next(zone, at, AHEAD, |date| open(rules, date))
}

/// The first instant at or after `at` at which not [`is_open`]. None: not within a year.
pub fn next_close(rules: &Rules, zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    wall::next(zone, at, AHEAD, |date| closed(rules, date))
}

/// The open minutes of a date: windows that touch or overlap are one.
fn open(rules: &Rules, date: NaiveDate) -> Vec<Range<Minute>> {
    if rules.holidays.contains(&date) {
        return Vec::new();
    }
    let minute = |minute: i32| Minute::try_from(minute).unwrap_or(0).min(wall::DAY);
    let mut windows: Vec<_> = rules
        .windows
        .iter()
        .filter(|window| window.days.is_empty() || window.days.contains(&date.weekday()))
        .map(|window| minute(window.from)..minute(window.until))
        .filter(|window| !window.is_empty())
        .collect();
    windows.sort_by_key(|window| window.start);
    let mut merged: Vec<Range<Minute>> = Vec::with_capacity(windows.len());
    for window in windows {
        match merged.last_mut() {
            Some(last) if window.start <= last.end => last.end = last.end.max(window.end),
            _ => merged.push(window),
        }
    }
    merged
}

fn closed(rules: &Rules, date: NaiveDate) -> Vec<Range<Minute>> {
    let mut from = 0;
    let mut gaps = Vec::new();
    for window in open(rules, date) {
        gaps.push(from..window.start);
        from = window.end;
    }
    gaps.push(from..wall::DAY);
    gaps.retain(|gap| !gap.is_empty());
    gaps
}

#[cfg(test)]
mod tests {
    use chrono::{Days, TimeDelta, TimeZone as _, Timelike as _, Weekday};
    use chrono_tz::{Asia::Kolkata, TZ_VARIANTS};
    use proptest::prelude::*;

    use super::*;
    use crate::campaigns::rules::Window;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn window(days: &[Weekday], from: i32, until: i32) -> Window {
        Window {
            days: days.to_vec(),
            from,
            until,
        }
    }

    #[test]
    fn by_default_people_are_called_from_nine_to_nine_in_india() {
        let rules = Rules::default();
        for (at, is) in [
            ("2026-11-22T03:29:59Z", false),
            ("2026-11-22T03:30:00Z", true),
            ("2026-11-22T15:29:59Z", true),
            ("2026-11-22T15:30:00Z", false),
        ] {
            assert_eq!(is_open(&rules, Kolkata, utc(at)), is, "{at}");
        }
        let next = next_open(&rules, Kolkata, utc("2026-11-22T15:30:00Z"));
        assert_eq!(next, Some(utc("2026-11-23T03:30:00Z")));
        let close = next_close(&rules, Kolkata, utc("2026-11-22T06:00:00Z"));
        assert_eq!(close, Some(utc("2026-11-22T15:30:00Z")));
    }

    #[test]
    fn weekends_and_holidays_are_waited_for() {
        let rules = Rules {
            windows: vec![
                window(&[Weekday::Mon, Weekday::Fri], 600, 720),
                window(&[Weekday::Fri], 700, 800),
            ],
            // The Monday.
            holidays: vec![NaiveDate::from_ymd_opt(2026, 11, 30).unwrap()],
            ..Rules::default()
        };
        let friday = utc("2026-11-27T05:00:00Z");
        assert_eq!(next_close(&rules, Kolkata, friday), Some(utc("2026-11-27T07:50:00Z")));
        let next = next_open(&rules, Kolkata, utc("2026-11-27T08:00:00Z"));
        assert_eq!(next, Some(utc("2026-12-04T04:30:00Z")));
    }

    #[test]
    fn an_always_open_window_never_closes_and_a_year_of_holidays_never_opens() {
        let mut rules = Rules {
            windows: vec![window(&[], 0, 1_440)],
            ..Rules::default()
        };
        let at = utc("2026-11-27T08:00:00Z");
        assert_eq!(next_open(&rules, Kolkata, at), Some(at));
        assert_eq!(next_close(&rules, Kolkata, at), None);
        rules.holidays = at.date_naive().iter_days().take(400).collect();
        assert_eq!(next_open(&rules, Kolkata, at), None);
    }

    fn rules() -> impl Strategy<Value = Rules> {
        let days = prop::collection::vec((0_u8..7).prop_map(|day| Weekday::try_from(day).unwrap()), 0..4);
        let windows = prop::collection::vec((days, 0_i32..1_440, 1_i32..1_440), 1..5);
        (windows, prop::collection::vec(0_u64..40, 0..6)).prop_map(|(windows, holidays)| Rules {
            windows: windows
                .into_iter()
                .map(|(days, from, length)| window(&days, from, (from + length).min(1_440)))
                .collect(),
            holidays: holidays
                .into_iter()
                .map(|day| NaiveDate::from_ymd_opt(2026, 10, 10).unwrap() + Days::new(day))
                .collect(),
            ..Rules::default()
        })
    }

    proptest! {
        /// F114: whenever the planner says that a person may be called, the clock on their wall shows a time within a window,
        /// on none of the holidays, in every zone there is and around its clock changes.
        #[test]
        fn nobody_is_called_outside_a_window(
            rules in rules(),
            zone in prop::sample::select(&TZ_VARIANTS[..]),
            // Around holidays and the clock changes of autumn 2026.
            seconds in 1_791_600_000_i64..1_795_000_000,
        ) {
            let at = DateTime::from_timestamp(seconds, 0).unwrap();
            if let Some(open) = next_open(&rules, zone, at) {
                let wall = zone.from_utc_datetime(&open.naive_utc());
                let minute = i32::try_from(wall.hour() * 60 + wall.minute()).unwrap();
                prop_assert!(!rules.holidays.contains(&wall.date_naive()));
                let within = rules.windows.iter().any(|window| {
                    (window.days.is_empty() || window.days.contains(&wall.weekday()))
                        && window.from <= minute && minute < window.until
                });
                prop_assert!(within, "{wall}");
                prop_assert!(is_open(&rules, zone, open));
            }
        }

        /// An opening and its close enclose open time only, and between them and the next opening there is none.
        #[test]
        fn openings_and_closings_alternate(
            rules in rules(),
            zone in prop::sample::select(&TZ_VARIANTS[..]),
            seconds in 1_791_600_000_i64..1_795_000_000,
            part in 0.0_f64..1.0,
        ) {
            let at = DateTime::from_timestamp(seconds, 0).unwrap();
            let Some(open) = next_open(&rules, zone, at) else { return Ok(()); };
            let Some(close) = next_close(&rules, zone, open) else { return Ok(()); };
            prop_assert!(at <= open && open < close);
            let within = |from: DateTime<Utc>, to: DateTime<Utc>| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a point between two times")]
                let seconds = ((to - from).num_seconds() as f64 * part) as i64;
                from + TimeDelta::seconds(seconds)
            };
            prop_assert!(is_open(&rules, zone, within(open, close)));
            prop_assert!(!is_open(&rules, zone, close));
            prop_assert!(open == at || !is_open(&rules, zone, within(at, open)));
            if let Some(again) = next_open(&rules, zone, close) {
                prop_assert!(!is_open(&rules, zone, within(close, again)));
            }
        }
    }
}
