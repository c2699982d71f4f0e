use serde_json::json;

use super::*;
use crate::error::Error;
use crate::error::Violations;

fn now() -> DateTime<Utc> {
    "2026-11-26T06:00:00Z".parse().unwrap()
}

fn wrong(rules: &Rules) -> Vec<String> {
    let mut wrong = Violations::new();
    rules.check(Some(now()), &mut wrong);
    match wrong.finish() {
        Err(Error::Invalid(found)) => found.into_iter().map(|violation| violation.field).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_default_rules_are_possible() {
    assert_eq!(wrong(&Rules::default()), Vec::<String>::new());
}

#[test]
fn rules_are_kept_as_json_and_a_row_of_an_earlier_release_has_the_defaults() {
    let rules = Rules {
        holidays: vec![NaiveDate::from_ymd_opt(2026, 1, 26).unwrap()],
        frequency_cap: Some(FrequencyCap {
            count: 2,
            period: 86_400,
        }),
        breaker: Breaker::default(),
        end_at: Some(now()),
        ..Rules::default()
    };
    let stored = serde_json::to_value(&rules).unwrap();
    assert_eq!(serde_json::from_value::<Rules>(stored).unwrap(), rules);
    assert_eq!(serde_json::from_value::<Rules>(json!({})).unwrap(), Rules::default());
}

#[test]
fn impossible_rules_are_refused_with_the_field_named() {
    type Spoil = fn(&mut Rules);
    let cases: [(Spoil, &str); 17] = [
        (|rules| rules.max_concurrent_calls = -1, "rules.max_concurrent_calls"),
        (|rules| rules.calls_per_minute = 6_001, "rules.calls_per_minute"),
        (|rules| rules.windows.clear(), "rules.windows"),
        (|rules| rules.windows[0].from = 1_440, "rules.windows[0].from"),
        (|rules| rules.windows[0].until = 1_441, "rules.windows[0].until"),
        (
            |rules| rules.windows[0].until = rules.windows[0].from,
            "rules.windows[0].until",
        ),
        (
            |rules| rules.holidays = NaiveDate::MIN.iter_days().take(401).collect(),
            "rules.holidays",
        ),
        (
            |rules| rules.retries.busy.delays[1] = -1,
            "rules.retries.busy.delays[1]",
        ),
        (
            |rules| rules.retries.no_answer.most = 11,
            "rules.retries.no_answer.most",
        ),
        (
            |rules| rules.retries.failed.delays.clear(),
            "rules.retries.failed.delays",
        ),
        (
            |rules| rules.retries.agent_unavailable.delays = vec![1; 11],
            "rules.retries.agent_unavailable.delays",
        ),
        (|rules| rules.max_attempts = 0, "rules.max_attempts"),
        (
            |rules| rules.frequency_cap = Some(FrequencyCap { count: 0, period: 60 }),
            "rules.frequency_cap.count",
        ),
        (
            |rules| rules.frequency_cap = Some(FrequencyCap { count: 1, period: 59 }),
            "rules.frequency_cap.period",
        ),
        (
            |rules| {
                rules.breaker = Breaker {
                    limit: 101,
                    ..Breaker::default()
                };
            },
            "rules.breaker.limit",
        ),
        (|rules| rules.end_at = Some(now()), "rules.end_at"),
        (|rules| rules.priority = -101, "rules.priority"),
    ];
    for (spoil, field) in cases {
        let mut rules = Rules::default();
        spoil(&mut rules);
        assert!(
            wrong(&rules).contains(&field.to_owned()),
            "{field}: {:?}",
            wrong(&rules)
        );
    }
}

#[test]
fn an_unknown_zone_is_refused_and_none_is_indias() {
    let mut found = Violations::new();
    assert_eq!(zone(&mut found, "rules.time_zone", " Europe/Paris "), Tz::Europe__Paris);
    assert_eq!(zone(&mut found, "rules.time_zone", ""), Tz::Asia__Kolkata);
    assert!(std::mem::take(&mut found).finish().is_ok());
    zone(&mut found, "rules.time_zone", "Mars/Olympus");
    assert!(found.finish().is_err());
}

#[test]
fn phones_of_a_pool_are_used_alike() {
    let pick = |strategy: CallerIds, contact, attempt| strategy.pick(contact, attempt, 3);
    let mut used = [0; 3];
    for contact in 0..300 {
        used[pick(CallerIds::Rotate, contact, 1).unwrap()] += 1;
        assert_ne!(pick(CallerIds::Rotate, contact, 1), pick(CallerIds::Rotate, contact, 2));
        assert_eq!(
            pick(CallerIds::PerContact, contact, 1),
            pick(CallerIds::PerContact, contact, 2)
        );
    }
    assert_eq!(used, [100; 3]);
    assert_eq!(CallerIds::Rotate.pick(u64::MAX, u32::MAX, 1), Some(0));
    assert_eq!(CallerIds::Rotate.pick(7, 1, 0), None);
}
