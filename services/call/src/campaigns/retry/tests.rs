use proptest::prelude::*;

use super::*;
use crate::campaigns::rules::{Retries, Retry};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + seconds, 0).unwrap()
}

fn rules(most: u32, delays: &[i64], max_attempts: u32) -> Rules {
    let retry = Retry {
        delays: delays.to_vec(),
        most,
    };
    Rules {
        retries: Retries {
            busy: retry.clone(),
            no_answer: retry.clone(),
            failed: retry.clone(),
            agent_unavailable: retry.clone(),
            unconfirmed: retry,
        },
        max_attempts,
        ..Rules::default()
    }
}

/// The whole way of a contact.
fn way(rules: &Rules, outcomes: impl IntoIterator<Item = Outcome>) -> Vec<Next> {
    let (mut tries, mut steps) = (Tries::default(), Vec::new());
    for outcome in outcomes {
        tries = tries.and(outcome);
        let step = next(rules, tries, outcome, at(0));
        steps.push(step);
        if matches!(step, Next::Final(_)) {
            break;
        }
    }
    steps
}

#[test]
fn each_outcome_has_its_own_delays_and_its_own_cap() {
    use Outcome::{Busy, NoAnswer};
    let mut rules = rules(2, &[60, 600], 10);
    rules.retries.no_answer = Retry {
        delays: vec![3_600],
        most: 3,
    };
    assert_eq!(
        way(&rules, [Busy, NoAnswer, Busy, NoAnswer, NoAnswer, NoAnswer]),
        [
            Next::At(at(60)),
            Next::At(at(3_600)),
            Next::At(at(600)),
            Next::At(at(3_600)),
            Next::At(at(3_600)),
            Next::Final(End::Exhausted),
        ]
    );
    assert_eq!(
        way(&rules, [Busy, Busy, Busy]).last(),
        Some(&Next::Final(End::Exhausted))
    );
}

#[test]
fn no_retries_are_none() {
    assert_eq!(
        way(&rules(0, &[60], 10), [Outcome::Busy]),
        [Next::Final(End::Exhausted)]
    );
    assert_eq!(way(&rules(9, &[], 10), [Outcome::Busy]), [Next::Final(End::Exhausted)]);
    assert_eq!(way(&rules(9, &[60], 1), [Outcome::Busy]), [Next::Final(End::Exhausted)]);
}

#[test]
fn some_outcomes_are_final() {
    for (outcome, end) in [
        (Outcome::Completed, End::Reached),
        (Outcome::Refused, End::Refused),
        (Outcome::Unreachable, End::Unreachable),
        (Outcome::Canceled, End::Canceled),
    ] {
        assert_eq!(way(&rules(9, &[0], 9), [outcome]), [Next::Final(end)], "{outcome:?}");
    }
}

/// Nobody knows whether the person was called: unless a rule says so, that is the end.
#[test]
fn what_was_perhaps_dialled_is_not_dialled_again_by_default() {
    let ends = [Next::Final(End::Exhausted)];
    assert_eq!(way(&Rules::default(), [Outcome::Unconfirmed]), ends);
    assert_eq!(way(&rules(1, &[60], 9), [Outcome::Unconfirmed]), [Next::At(at(60))]);
}

#[test]
fn calls_have_outcomes_once_they_are_over() {
    for (state, reason, agent_unavailable, outcome) in [
        (State::Queued, "", false, None),
        (State::InProgress, "", true, None),
        (State::Completed, "customer_hung_up", false, Some(Outcome::Completed)),
        (State::Completed, "completed", true, Some(Outcome::AgentUnavailable)),
        (State::Busy, "busy", false, Some(Outcome::Busy)),
        (State::NoAnswer, "no_answer", false, Some(Outcome::NoAnswer)),
        (State::Failed, "dnd", false, Some(Outcome::Refused)),
        (State::Failed, "number_unreadable", false, Some(Outcome::Unreachable)),
        (State::Failed, "provider_failed", false, Some(Outcome::Failed)),
        (State::Failed, "time_limit", true, Some(Outcome::AgentUnavailable)),
        (State::Failed, "unconfirmed", false, Some(Outcome::Unconfirmed)),
        (
            State::Failed,
            "unconfirmed_ambiguous",
            false,
            Some(Outcome::Unconfirmed),
        ),
        (State::Canceled, "ended_by_request", false, Some(Outcome::Canceled)),
    ] {
        assert_eq!(
            Outcome::of(state, reason, agent_unavailable),
            outcome,
            "{state:?} {reason}"
        );
    }
}

#[test]
fn words_are_read_back() {
    for outcome in Outcome::ALL {
        assert_eq!(Outcome::from_word(outcome.word()), Some(outcome));
        assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.word());
    }
    assert_eq!(Outcome::from_word("answered"), None);
}

proptest! {
    /// F116: whatever becomes of its attempts, a contact is tried at most as often as the rules say, and never at once after
    /// an end.
    #[test]
    fn every_contact_ends(
        most in 0_u32..=10, delays in prop::collection::vec(0_i64..=2_592_000, 0..=10), max_attempts in 1_u32..=20,
        outcomes in prop::collection::vec(prop::sample::select(&Outcome::ALL[..]), 25),
    ) {
        let rules = rules(most, &delays, max_attempts);
        let steps = way(&rules, outcomes.iter().copied());
        prop_assert!(steps.len() <= usize::try_from(max_attempts).unwrap());
        prop_assert!(matches!(steps.last(), Some(Next::Final(_))));
        for step in &steps {
            if let Next::At(time) = step {
                prop_assert!(delays.contains(&(*time - at(0)).num_seconds()));
            }
        }
    }
}
