use chrono::TimeDelta;
use chrono_tz::{America::New_York, Asia::Kolkata};
use proptest::prelude::*;

use super::*;
use crate::campaigns::{
    rules::{Retries, Retry, Window},
    window,
};

/// Thursday, 9:00 in India.
fn morning() -> DateTime<Utc> {
    "2026-11-26T03:30:00Z".parse().unwrap()
}

fn group(contacts: u64) -> Group {
    Group {
        zone: Kolkata,
        next_at: morning(),
        tries: Tries::default(),
        contacts,
    }
}

fn pace(per_minute: f64) -> Capacity {
    Capacity {
        slots: None,
        per_minute,
    }
}

fn always(outcome: fn(&mut Mix), seconds: f64) -> Calls {
    let mut mix = Mix {
        completed: 0.0,
        busy: 0.0,
        no_answer: 0.0,
        failed: 0.0,
        agent_unavailable: 0.0,
    };
    outcome(&mut mix);
    Calls { mix, seconds }
}

fn completed(seconds: f64) -> Calls {
    always(|mix| mix.completed = 1.0, seconds)
}

#[track_caller]
fn near(seen: f64, expected: f64) {
    assert!(
        (seen - expected).abs() <= expected.abs() * 0.02 + 0.01,
        "{seen}, not {expected}"
    );
}

#[test]
fn a_day_of_calls_at_a_pace() {
    let seen = run(
        &Rules::default(),
        [group(3_600)],
        completed(30.0),
        pace(60.0),
        morning(),
    );
    near(seen.calls, 3_600.0);
    near(seen.reached, 3_600.0);
    near(seen.peak_slots, 30.0);
    near(seen.left, 0.0);
    assert_eq!(seen.windows_missed, 0);
    let took = seen.finish.unwrap() - morning();
    assert!(
        (took - TimeDelta::seconds(3_630)).abs() <= TimeDelta::minutes(1),
        "{took}"
    );
}

#[test]
fn slots_bound_the_rate() {
    let capacity = Capacity {
        slots: Some(10),
        per_minute: 600.0,
    };
    let seen = run(&Rules::default(), [group(1_200)], completed(60.0), capacity, morning());
    near(seen.peak_slots, 10.0);
    let took = seen.finish.unwrap() - morning();
    assert!((took - TimeDelta::hours(2)).abs() <= TimeDelta::minutes(3), "{took}");
}

#[test]
fn what_does_not_fit_into_a_window_waits_for_the_next_one() {
    // Twelve hours have 720 minutes.
    let seen = run(&Rules::default(), [group(1_000)], completed(60.0), pace(1.0), morning());
    assert_eq!(seen.windows_missed, 1);
    let took = seen.finish.unwrap() - morning();
    let expected = TimeDelta::days(1) + TimeDelta::minutes(281);
    assert!((took - expected).abs() <= TimeDelta::minutes(10), "{took}");
    let night: DateTime<Utc> = "2026-11-26T16:00:00Z".parse().unwrap();
    let quiet = night..night + TimeDelta::hours(11);
    assert!(seen.hours.iter().all(|hour| !quiet.contains(&hour.start)));
    near(seen.hours.iter().map(|hour| hour.calls).sum(), seen.calls);
}

#[test]
fn retries_are_calls_too_and_end() {
    let rules = Rules {
        retries: Retries {
            busy: Retry {
                delays: vec![600],
                most: 2,
            },
            ..Retries::default()
        },
        ..Rules::default()
    };
    let seen = run(
        &rules,
        [group(100)],
        always(|mix| mix.busy = 1.0, 10.0),
        pace(600.0),
        morning(),
    );
    near(seen.calls, 300.0);
    near(seen.exhausted, 100.0);
    near(seen.reached, 0.0);
    let took = seen.finish.unwrap() - morning();
    assert!(
        took >= TimeDelta::minutes(20) && took <= TimeDelta::minutes(24),
        "{took}"
    );
}

#[test]
fn whom_nobody_can_call_is_left() {
    let ended = Rules {
        end_at: Some(morning() + TimeDelta::minutes(10)),
        ..Rules::default()
    };
    let seen = run(&ended, [group(100)], completed(10.0), pace(1.0), morning());
    near(seen.left, 90.0);
    assert_eq!(seen.finish, None);
    let seen = run(&Rules::default(), [group(100)], completed(10.0), pace(0.0), morning());
    near(seen.left, 100.0);
    assert_eq!((seen.calls, seen.finish), (0.0, None));
    let nobody = run(&Rules::default(), [], completed(10.0), pace(1.0), morning());
    assert_eq!(nobody, Forecast::default());
}

#[test]
fn each_zone_has_its_own_day() {
    let there = Group {
        zone: New_York,
        ..group(10)
    };
    let seen = run(&Rules::default(), [there], completed(10.0), pace(60.0), morning());
    // 22:30 in New York: the morning there is at 14:00 UTC.
    assert_eq!(
        seen.hours[0].start,
        "2026-11-26T14:00:00Z".parse::<DateTime<Utc>>().unwrap()
    );
}

#[test]
fn a_million_contacts_for_a_year_take_bounded_work() {
    let rules = Rules {
        windows: vec![Window {
            days: Vec::new(),
            from: 0,
            until: 1_440,
        }],
        ..Rules::default()
    };
    let seen = run(&rules, [group(1_000_000)], Calls::default(), pace(1.0), morning());
    assert!(seen.left > 0.0 && seen.hours.len() <= 366 * 24 + 1);
}

/// Steps that are no part of an hour: none is counted in the hour before the one it is in.
#[test]
fn an_hour_has_no_more_calls_than_the_pace_allows() {
    let capacity = Capacity {
        slots: None,
        per_minute: 2.991_594_300_404_481,
    };
    let seen = run(&Rules::default(), [group(5_984)], Calls::default(), capacity, morning());
    let most = capacity.per_minute * 60.0 + 1e-6;
    assert!(seen.hours.iter().all(|hour| hour.calls <= most), "{:?}", seen.hours);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Contacts are reached, exhausted or left, and nobody is called before their time, outside a window or faster than the
    /// capacity allows.
    #[test]
    fn nobody_is_lost(
        counts in prop::collection::vec((0_u64..20_000, 0_i64..200_000, prop::sample::select(vec![Kolkata, New_York])), 1..6),
        shares in prop::array::uniform5(0.0_f64..1.0), seconds in 1.0_f64..600.0,
        slots in prop::option::of(0_u32..200), per_minute in 0.0_f64..6_000.0,
    ) {
        let groups: Vec<_> = counts.iter().map(|(contacts, wait, zone)| Group {
            zone: *zone, next_at: morning() + TimeDelta::seconds(*wait), ..group(*contacts)
        }).collect();
        let [completed, busy, no_answer, failed, agent_unavailable] = shares;
        let mix = Mix { completed, busy, no_answer, failed, agent_unavailable };
        let rules = Rules::default();
        let seen = run(&rules, groups.clone(), Calls { mix, seconds }, Capacity { slots, per_minute }, morning());
        let all: f64 = counts.iter().map(|(contacts, ..)| f64::from(u32::try_from(*contacts).unwrap())).sum();
        prop_assert!((seen.reached + seen.exhausted + seen.left - all).abs() < 0.01 * all + 0.1, "{seen:?}");
        prop_assert!(seen.calls <= all * f64::from(rules.max_attempts) + 0.1);
        prop_assert!(slots.is_none_or(|slots| seen.peak_slots <= f64::from(slots) + 1e-6));
        let first = groups.iter().filter(|group| group.contacts > 0).filter_map(|group| window::next_open(&rules, group.zone, group.next_at)).min();
        if let (Some(first), Some(hour)) = (first, seen.hours.first()) {
            prop_assert!(hour.start > first - TimeDelta::hours(1));
        }
        for hour in &seen.hours {
            prop_assert!(hour.calls <= per_minute * 60.0 + 1e-6);
            let within = |minute| {
                let at = hour.start + TimeDelta::minutes(minute);
                [Kolkata, New_York].iter().any(|zone| window::is_open(&rules, *zone, at))
            };
            prop_assert!((0..60).any(within));
        }
    }
}
