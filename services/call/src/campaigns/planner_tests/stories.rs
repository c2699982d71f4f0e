//! Campaigns, people and calls at random.

use std::ops::Range;

use chrono::{DateTime, Days, NaiveDate, Offset as _, TimeDelta, TimeZone as _, Utc, Weekday};
use chrono_tz::Tz;
use proptest::{prelude::*, sample::select};

use super::WEEKS;
use crate::campaigns::{
    retry::Outcome,
    rules::{FrequencyCap, Retries, Retry, Rules, Window},
};

/// Clocks that change by an hour or by half of one, on either half of the world, by night, at midnight, for a month of the moon's,
/// and never.
const ZONES: [&str; 10] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/St_Johns",
    "America/Santiago",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Pacific/Auckland",
    // That of the rules.
    "",
];

/// What happens at a person's turn: by how much the queue is late, how long the call takes, in seconds, how it comes out, and
/// whether it turns out afterwards to have been a conversation.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    pub(super) late: i64,
    pub(super) length: i64,
    pub(super) outcome: Outcome,
    pub(super) corrected: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Campaign {
    pub(super) rules: Rules,
    /// From then on it has the windows and holidays of these.
    pub(super) changed: (DateTime<Utc>, Rules),
    /// An operator has paused it.
    pub(super) paused: Vec<Range<DateTime<Utc>>>,
    /// Its contacts: whose number, and in which zone.
    pub(super) contacts: Vec<(usize, &'static str)>,
}

impl Campaign {
    pub(super) fn rules(&self, at: DateTime<Utc>) -> Rules {
        let (from, other) = &self.changed;
        let mut rules = self.rules.clone();
        if at >= *from {
            rules.windows.clone_from(&other.windows);
            rules.holidays.clone_from(&other.holidays);
        }
        rules
    }

    pub(super) fn pause(&self, at: DateTime<Utc>) -> Option<&Range<DateTime<Utc>>> {
        self.paused.iter().find(|pause| pause.contains(&at))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) start: DateTime<Utc>,
    pub(super) campaigns: Vec<Campaign>,
    /// When each number was put on a list of those that are not called.
    pub(super) suppressed: Vec<Option<DateTime<Utc>>>,
    pub(super) turns: Vec<Turn>,
}

fn windows() -> impl Strategy<Value = Vec<Window>> {
    let days = prop::collection::vec((0_u8..7).prop_map(|day| Weekday::try_from(day).unwrap()), 0..4);
    // Many around the hours at which clocks change.
    let from = prop_oneof![0_i32..240, 0_i32..1_440, 1_380_i32..1_440];
    let length = prop_oneof![1_i32..90, 1_i32..1_440];
    let window = (days, from, length).prop_map(|(days, from, length)| Window {
        days,
        from,
        until: (from + length).min(1_440),
    });
    prop::collection::vec(window, 1..4)
}

fn holidays(start: NaiveDate) -> impl Strategy<Value = Vec<NaiveDate>> {
    prop::collection::vec((0_u64..40).prop_map(move |day| start + Days::new(day)), 0..6)
}

fn retries() -> impl Strategy<Value = Retries> {
    let delay = prop_oneof![Just(0_i64), 1_i64..7_200, 1_i64..259_200];
    let retry = (prop::collection::vec(delay, 1..4), 0_u32..6).prop_map(|(delays, most)| Retry { delays, most });
    prop::collection::vec(retry, 5).prop_map(|retries| {
        let [busy, no_answer, failed, agent_unavailable, unconfirmed] = retries.try_into().unwrap();
        Retries {
            busy,
            no_answer,
            failed,
            agent_unavailable,
            unconfirmed,
        }
    })
}

fn rules(start: DateTime<Utc>) -> impl Strategy<Value = Rules> {
    let cap = (1_u32..4, 60_i64..700_000).prop_map(|(count, period)| FrequencyCap { count, period });
    let end = (1_i64..WEEKS * 7 * 24).prop_map(move |hours| start + TimeDelta::hours(hours));
    (
        (windows(), holidays(start.date_naive())),
        select(&ZONES[..ZONES.len() - 1]),
        retries(),
        1_u32..13,
        prop::option::of(cap),
        prop::option::weighted(0.3, end),
        prop_oneof![Just(0_i32), 1_i32..10],
    )
        .prop_map(
            |(when, zone, retries, max_attempts, frequency_cap, end_at, calls_per_minute)| Rules {
                calls_per_minute,
                windows: when.0,
                holidays: when.1,
                time_zone: zone.parse().unwrap(),
                retries,
                max_attempts,
                frequency_cap,
                end_at,
                ..Rules::default()
            },
        )
}

/// Half of its contacts are in this zone.
fn campaign(zone: &'static str, start: DateTime<Utc>, numbers: usize) -> impl Strategy<Value = Campaign> {
    let hours = move |hours: i64| start + TimeDelta::hours(hours);
    let pause = (0_i64..500, 1_i64..48).prop_map(move |(from, long)| hours(from)..hours(from + long));
    (
        rules(start),
        rules(start),
        0_i64..1_000,
        prop::collection::vec(pause, 0..3),
        prop::collection::vec((0..numbers, prop_oneof![Just(zone), select(&ZONES[..])]), 1..4),
    )
        .prop_map(move |(rules, other, changed, paused, contacts)| Campaign {
            rules,
            changed: (hours(changed), other),
            paused,
            contacts,
        })
}

/// The last hour before a zone's next clock change within a year, or else the time itself.
fn before_change(zone: Tz, at: DateTime<Utc>) -> DateTime<Utc> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    let changes = |from: DateTime<Utc>, length: TimeDelta| offset(from) != offset(from + length);
    let (day, hour) = (TimeDelta::days(1), TimeDelta::hours(1));
    (0..366)
        .map(|days| at + day * days)
        .find(|at| changes(*at, day))
        .and_then(|at| (0..24).map(|hours| at + hour * hours).find(|at| changes(*at, hour)))
        .unwrap_or(at)
}

/// A zone, and a time of the years 2024 to 2033, some days before the zone's clock changes if it does.
fn place() -> impl Strategy<Value = (&'static str, DateTime<Utc>)> {
    let millis = 1_704_000_000_000_i64..2_016_000_000_000;
    (select(&ZONES[..]), millis, -4 * 86_400_000_i64..0).prop_map(|(name, millis, before)| {
        let zone = name.parse().unwrap_or(Rules::default().time_zone);
        let at = before_change(zone, DateTime::from_timestamp_millis(millis).unwrap());
        (name, at + TimeDelta::milliseconds(before))
    })
}

fn turn() -> impl Strategy<Value = Turn> {
    // Mostly such after which there is another attempt.
    let outcome = prop_oneof![8 => select(vec![Outcome::Busy, Outcome::NoAnswer, Outcome::Failed]), 2 => select(Outcome::ALL.to_vec())];
    let late = prop_oneof![4 => Just(0_i64), 3 => 0_i64..5_000, 2 => 0_i64..7_200_000, 1 => 0_i64..172_800_000];
    (late, 0_i64..3_600, outcome, prop::bool::weighted(0.03)).prop_map(|(late, length, outcome, corrected)| Turn {
        late,
        length,
        outcome,
        corrected,
    })
}

/// What happens.
pub(super) fn story() -> impl Strategy<Value = Story> {
    (place(), 1_usize..4).prop_flat_map(|((zone, start), numbers)| {
        let listed = prop::option::weighted(0.2, (0_i64..500).prop_map(move |hours| start + TimeDelta::hours(hours)));
        (
            prop::collection::vec(campaign(zone, start, numbers), 1..4),
            prop::collection::vec(listed, numbers),
            prop::collection::vec(turn(), 5..40),
        )
            .prop_map(move |(campaigns, suppressed, turns)| Story {
                start,
                campaigns,
                suppressed,
                turns,
            })
    })
}
