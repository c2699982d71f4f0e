//! The planner over weeks, by an injected clock: random campaigns call the same few people, whose calls come out at random, and
//! each dial is held against the rules by other means than the planner's own.

mod stories;

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use self::stories::{Story, Turn, story};
use super::{
    gate::{self, Answer},
    retry::{self, End, Next, Outcome, Tries},
    rules::{FrequencyCap, Retry, Rules, Window},
};
use crate::{
    error::Violations,
    store::campaigns::{gate::Gate, numbers::Number},
};

/// How long a campaign is looked at, and how many answers of it at most.
const WEEKS: i64 = 6;
const TURNS: usize = 400;

/// A contact on its way.
#[derive(Debug)]
struct Contact {
    campaign: usize,
    number: usize,
    zone: &'static str,
    due: DateTime<Utc>,
    /// How each attempt came out, and when it was over.
    attempts: Vec<(Outcome, DateTime<Utc>)>,
    tries: Tries,
    reached: bool,
    over: bool,
}

/// Everything that was dialled: when, and which campaign whom.
type Dials = Vec<(DateTime<Utc>, usize, usize)>;

fn zone(rules: &Rules, contact: &Contact) -> Tz {
    contact.zone.parse().unwrap_or(rules.time_zone)
}

/// Whether the clock on the contact's wall shows a time that the rules allow.
fn allowed(rules: &Rules, zone: Tz, at: DateTime<Utc>) -> bool {
    let wall = at.with_timezone(&zone);
    let minute = i32::try_from(wall.hour() * 60 + wall.minute()).unwrap();
    let within = |window: &Window| {
        (window.days.is_empty() || window.days.contains(&wall.weekday()))
            && (window.from..window.until).contains(&minute)
    };
    !rules.holidays.contains(&wall.date_naive()) && rules.windows.iter().any(within)
}

/// How a number stands, as the database tells it.
fn standing(rules: &Rules, contact: &Contact, dials: &Dials, suppressed: bool, now: DateTime<Utc>) -> Number {
    let counted = |cap: FrequencyCap| {
        let since = cap.since(now);
        let mut of_number: Vec<_> = dials
            .iter()
            .filter(|(at, _, number)| *number == contact.number && *at > since)
            .map(|(at, ..)| *at)
            .collect();
        of_number.sort_unstable_by(|one, other| other.cmp(one));
        of_number
    };
    let counted = rules.frequency_cap.map(counted).unwrap_or_default();
    let place = rules.frequency_cap.map_or(0, |cap| cap.count as usize - 1);
    Number {
        suppressed,
        dials: i64::try_from(counted.len()).unwrap(),
        blocking: counted.get(place).copied(),
        reached: contact.reached,
    }
}

/// A dial is held against all that the rules say of it. It is not in `dials` yet.
fn may_be_dialled(rules: &Rules, contact: &Contact, dials: &Dials, now: DateTime<Utc>) -> Result<(), TestCaseError> {
    let zone = zone(rules, contact);
    prop_assert!(
        allowed(rules, zone, now),
        "outside of every window: {}",
        now.with_timezone(&zone)
    );
    prop_assert!(rules.end_at.is_none_or(|end| now < end), "after the campaign's end");
    prop_assert!(!contact.reached, "reached before");
    prop_assert!(
        contact.attempts.len() < rules.max_attempts as usize,
        "more attempts than allowed"
    );
    if let Some((last, ended)) = contact.attempts.last() {
        let times = contact.attempts.iter().filter(|(outcome, _)| outcome == last).count();
        let rule = rules.retries.of(*last);
        prop_assert!(rule.is_some(), "again after {last:?}");
        let Retry { delays, most } = rule.unwrap();
        prop_assert!(times <= *most as usize, "{times} retries after {last:?}");
        let delay = delays[(times - 1).min(delays.len() - 1)];
        let waited = now - *ended;
        prop_assert!(
            waited >= TimeDelta::seconds(delay),
            "{waited} after {last:?}, not {delay} s"
        );
    }
    let lately = |number: Option<usize>, campaign: Option<usize>, period: TimeDelta| {
        let is_one = |(at, by, whom): &&(DateTime<Utc>, usize, usize)| {
            *at > now - period && number.is_none_or(|of| of == *whom) && campaign.is_none_or(|of| of == *by)
        };
        dials.iter().filter(is_one).count()
    };
    if let Some(cap) = rules.frequency_cap {
        let before = lately(Some(contact.number), None, TimeDelta::seconds(cap.period));
        prop_assert!(
            before < cap.count as usize,
            "{before} dials within {} s before",
            cap.period
        );
    }
    if rules.calls_per_minute > 0 {
        let before = lately(None, Some(contact.campaign), TimeDelta::minutes(1));
        prop_assert!(
            before < usize::try_from(rules.calls_per_minute).unwrap(),
            "{before} in a minute"
        );
    }
    Ok(())
}

/// Whoever waits does so for something, and for no longer than that.
fn may_wait(
    rules: &Rules,
    contact: &Contact,
    dials: &Dials,
    now: DateTime<Utc>,
    (until, reason): (DateTime<Utc>, &str),
) -> Result<(), TestCaseError> {
    prop_assert!(until > now, "waits for {reason} until before now");
    match reason {
        "calling_hours" => {
            let zone = zone(rules, contact);
            prop_assert!(
                allowed(rules, zone, until),
                "{} is no opening",
                until.with_timezone(&zone)
            );
            for part in 0..24 {
                let between = now + (until - now) / 24 * part;
                prop_assert!(
                    !allowed(rules, zone, between),
                    "{} is passed over",
                    between.with_timezone(&zone)
                );
            }
        }
        "frequency_cap" => {
            let cap = rules.frequency_cap.unwrap();
            let count = |at| {
                let since = cap.since(at);
                let of_number =
                    |(at, _, number): &&(DateTime<Utc>, usize, usize)| *number == contact.number && *at > since;
                dials.iter().filter(of_number).count()
            };
            prop_assert!(count(now) >= cap.count as usize && count(until) < cap.count as usize);
        }
        "end_time" => prop_assert!(rules.end_at.is_some_and(|end| end <= now)),
        other => return Err(TestCaseError::fail(format!("nobody knows of {other}"))),
    }
    Ok(())
}

/// Lets a story happen. Returns what was dialled.
fn happens(story: &Story) -> Result<Dials, TestCaseError> {
    let mut contacts: Vec<Contact> = Vec::new();
    for (at, campaign) in story.campaigns.iter().enumerate() {
        contacts.extend(campaign.contacts.iter().map(|(number, zone)| Contact {
            campaign: at,
            number: *number,
            zone,
            due: story.start,
            attempts: Vec::new(),
            tries: Tries::default(),
            reached: false,
            over: false,
        }));
    }
    let mut paces = vec![DateTime::UNIX_EPOCH; story.campaigns.len()];
    let (mut dials, mut now) = (Dials::new(), story.start);
    for turn in story.turns.iter().cycle().take(TURNS) {
        let open = contacts.iter_mut().filter(|contact| !contact.over);
        let Some(contact) = open.min_by_key(|contact| contact.due) else {
            break;
        };
        now = now.max(contact.due + TimeDelta::milliseconds(turn.late));
        if now > story.start + TimeDelta::weeks(WEEKS) {
            break;
        }
        let campaign = &story.campaigns[contact.campaign];
        let rules = campaign.rules(now);
        let pause = campaign.pause(now);
        let suppressed = story.suppressed[contact.number].is_some_and(|from| from <= now);
        let gate = Gate {
            caller: String::new(),
            state: if pause.is_some() { "paused" } else { "running" }.to_owned(),
            rules: serde_json::Value::Null,
            max_concurrent_calls: 0,
            calls_per_minute: rules.calls_per_minute,
            next_at: paces[contact.campaign],
            zone: Some(contact.zone.to_owned()),
            changed: false,
            unasked: false,
            now,
        };
        match gate::judge(&gate, &rules, &standing(&rules, contact, &dials, suppressed, now)) {
            Answer::Stay => {
                let too_soon = rules.calls_per_minute > 0 && gate.next_at > now;
                prop_assert!(pause.is_some() || too_soon, "stays for nothing");
                contact.due = pause.map_or(gate.next_at, |pause| pause.end);
            }
            Answer::Wait(until, reason) => {
                may_wait(&rules, contact, &dials, now, (until, reason))?;
                contact.due = until;
            }
            Answer::Drop(reason) => {
                let why = match reason {
                    "suppressed" => suppressed,
                    "reached" => contact.reached,
                    _ => false,
                };
                prop_assert!(why, "dropped as {reason}");
                contact.over = true;
            }
            Answer::Dial(next) => {
                prop_assert!(pause.is_none(), "dialled while it is paused");
                prop_assert!(!suppressed, "dialled though it is on the list");
                may_be_dialled(&rules, contact, &dials, now)?;
                prop_assert_eq!(next.is_some(), rules.calls_per_minute > 0);
                paces[contact.campaign] = next.unwrap_or(now);
                dials.push((now, contact.campaign, contact.number));
                comes_out(&rules, contact, now + TimeDelta::seconds(turn.length), turn)?;
            }
        }
    }
    Ok(dials)
}

/// A call is over.
fn comes_out(rules: &Rules, contact: &mut Contact, ended: DateTime<Utc>, turn: &Turn) -> Result<(), TestCaseError> {
    let outcome = turn.outcome;
    contact.attempts.push((outcome, ended));
    contact.tries = contact.tries.and(outcome);
    let times = contact.attempts.iter().filter(|(other, _)| *other == outcome).count();
    match retry::next(rules, contact.tries, outcome, ended) {
        Next::At(at) => {
            contact.due = at;
            contact.reached = turn.corrected;
        }
        Next::Final(end) => {
            contact.over = true;
            let spent = contact.attempts.len() >= rules.max_attempts as usize
                || rules.retries.of(outcome).is_some_and(|rule| times > rule.most as usize);
            prop_assert!(end != End::Exhausted || spent, "given up after {times} {outcome:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// F108, F114, F115, F116: however campaigns, clocks and calls go, nobody is dialled outside of a window where they are, by a
    /// paused campaign, sooner than the rule for the outcome before says, or more often than attempts, frequency cap and rate
    /// allow; and nobody waits for longer than for what they wait.
    #[test]
    fn every_dial_of_weeks_is_within_all_rules(story in story()) {
        for campaign in &story.campaigns {
            let mut wrong = Violations::new();
            campaign.rules.check(Some(story.start), &mut wrong);
            prop_assert!(wrong.finish().is_ok(), "a campaign like this is refused");
        }
        happens(&story)?;
    }
}

/// The stories are some: most of them have dials, and all kinds of answers come in them.
#[test]
fn stories_are_full_of_dials() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let dials: Vec<usize> = (0..100)
        .map(|_| {
            let story = story().new_tree(&mut runner).unwrap().current();
            happens(&story).unwrap().len()
        })
        .collect();
    let (some, all) = (
        dials.iter().filter(|dials| **dials > 0).count(),
        dials.iter().sum::<usize>(),
    );
    assert!(some > 80 && all > 500, "{some} stories with {all} dials");
}
