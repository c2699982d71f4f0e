//! What becomes of a contact whose call has ended. Decides and does no IO.

use chrono::TimeDelta;
use serde_json::Value;
use uuid::Uuid;

use super::{
    retry::{self, End, Next, Outcome, Tries},
    rules::Rules,
};
use crate::{
    calls::state::State,
    store::{
        campaigns::counts::Delta,
        contacts::settle::{Ended, Settled},
    },
};

/// Words of the ends of queued calls, which are no attempts, whatever became of earlier tries to dial them: the campaign is over,
/// it makes other calls now, the contact was reached by an earlier call.
pub(super) const OVER: &str = "campaign_over";
pub(super) const CHANGED: &str = "campaign_changed";
pub(super) const REACHED: &str = "reached";
/// The hook said not now, and never.
pub(super) const HOOK_LATER: &str = "hook_later";
pub(super) const HOOK_NEVER: &str = "hook_never";
/// After these the contact is as before.
const NO_ATTEMPT: [&str; 4] = ["expired", OVER, CHANGED, HOOK_LATER];
/// Nothing was sent, or nothing taken: the contact is as before, and due again after a while.
const NOT_DIALLED: [&str; 2] = ["not_sent", "rate_limited"];
/// The account cannot call: the same, and the campaign is paused.
const UNSERVED: [&str; 4] = ["no_balance", "kyc", "bad_credentials", "credentials_unreadable"];
/// How long such a contact waits: others have their turn meanwhile.
const AFTER_NOTHING: TimeDelta = TimeDelta::minutes(1);
/// After these the contact is never called in this campaign, though no call was made.
const SUPPRESSED: [&str; 2] = ["suppressed", HOOK_NEVER];

/// Decides, and says what it adds to the campaign's counts.
pub(super) fn settle(rules: &Rules, ended: &Ended) -> (Settled, Vec<Delta>) {
    let mut tries: Tries = ended
        .tries
        .clone()
        .and_then(|tries| serde_json::from_value(tries).ok())
        .unwrap_or_default();
    let mut settled = Settled {
        campaign: ended.campaign_id,
        contact: ended.id,
        state: "pending",
        reason: ended.end_reason.clone(),
        attempts: ended.attempts,
        tries: Value::Null,
        next_at: ended.ended_at,
    };
    let mut deltas = Vec::new();
    let word = ended.end_reason.as_str();
    if word == HOOK_LATER {
        settled.next_at = ended.due_at.max(ended.ended_at);
    }
    if word == REACHED {
        settled.state = state(End::Reached);
        Outcome::Completed.word().clone_into(&mut settled.reason);
    } else if SUPPRESSED.contains(&word) {
        settled.state = "suppressed";
    } else if NOT_DIALLED.contains(&word) || unserved(ended).is_some() {
        settled.next_at = ended.ended_at + AFTER_NOTHING;
    } else if !NO_ATTEMPT.contains(&word) {
        let outcome = Outcome::of(ended.state, word, ended.agent_unavailable).unwrap_or(Outcome::Failed);
        tries = tries.and(outcome);
        settled.attempts += i32::from(ended.dialled);
        outcome.word().clone_into(&mut settled.reason);
        deltas.push(Delta {
            word: format!("attempt.{}", outcome.word()),
            n: 1,
        });
        match retry::next(rules, tries, outcome, ended.ended_at) {
            Next::At(at) => settled.next_at = at,
            Next::Final(end) => settled.state = state(end),
        }
    }
    settled.tries = serde_json::to_value(tries).unwrap_or(Value::Null);
    deltas.extend(moved("calling", settled.state));
    (settled, deltas)
}

/// The word for why its account is not served, if that is how a call ended.
pub(super) fn unserved(ended: &Ended) -> Option<&'static str> {
    UNSERVED
        .into_iter()
        .find(|word| ended.state == State::Failed && ended.end_reason == *word)
}

/// The counts of a contact that goes from one state to another.
pub(super) fn moved(from: &str, to: &str) -> [Delta; 2] {
    [(from, -1), (to, 1)].map(|(state, n)| Delta {
        word: format!("contact.{state}"),
        n,
    })
}

/// Adds up what is of one word.
pub(super) fn sum(deltas: impl IntoIterator<Item = (Uuid, Delta)>) -> Vec<(Uuid, Vec<Delta>)> {
    let mut sums: std::collections::BTreeMap<Uuid, std::collections::BTreeMap<String, i64>> =
        std::collections::BTreeMap::new();
    for (campaign, delta) in deltas {
        *sums.entry(campaign).or_default().entry(delta.word).or_default() += delta.n;
    }
    sums.into_iter()
        .map(|(campaign, words)| {
            let words = words.into_iter().filter(|(_, n)| *n != 0);
            (campaign, words.map(|(word, n)| Delta { word, n }).collect())
        })
        .collect()
}

/// The contact's state at the end of its way.
fn state(end: End) -> &'static str {
    end.word()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn ended(state: State, end_reason: &str) -> Ended {
        Ended {
            campaign_id: Uuid::from_u128(1),
            id: Uuid::from_u128(2),
            calls: 1,
            attempts: 0,
            tries: None,
            state,
            dialled: true,
            end_reason: end_reason.to_owned(),
            ended_at: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            due_at: DateTime::UNIX_EPOCH + TimeDelta::days(20_000),
            agent_unavailable: false,
            rules: Value::Null,
        }
    }

    #[test]
    fn outcomes_lead_to_states_and_counts() {
        for (state, reason, to, word) in [
            (State::Completed, "completed", "reached", "attempt.completed"),
            (State::Busy, "busy", "pending", "attempt.busy"),
            (State::Failed, "dnd", "refused", "attempt.refused"),
            (State::Canceled, "canceled", "canceled", "attempt.canceled"),
        ] {
            let (settled, deltas) = settle(&Rules::default(), &ended(state, reason));
            assert_eq!((settled.state, settled.attempts), (to, 1), "{state:?}");
            assert_eq!(
                deltas[0],
                Delta {
                    word: word.to_owned(),
                    n: 1
                }
            );
            assert_eq!(deltas[1].word, "contact.calling");
        }
    }

    /// Also one that Exotel did not take (429) before it was cancelled.
    #[test]
    fn a_call_that_was_never_dialled_is_no_attempt() {
        for (reason, to) in [
            ("expired", "pending"),
            ("campaign_over", "pending"),
            ("campaign_changed", "pending"),
            ("suppressed", "suppressed"),
            ("hook_never", "suppressed"),
            ("reached", "reached"),
        ] {
            for dialled in [false, true] {
                let before = Ended {
                    dialled,
                    ..ended(State::Canceled, reason)
                };
                let (settled, deltas) = settle(&Rules::default(), &before);
                assert_eq!((settled.state, settled.attempts), (to, 0), "{reason}");
                assert_eq!(deltas.len(), 2);
            }
        }
    }

    /// Whoever was not dialled has all attempts, and an account that is not served stops its campaign.
    #[test]
    fn what_exotel_did_not_take_costs_no_contact_an_attempt() {
        for (reason, stops) in [
            ("not_sent", None),
            ("rate_limited", None),
            ("no_balance", Some("no_balance")),
            ("kyc", Some("kyc")),
            ("bad_credentials", Some("bad_credentials")),
            ("credentials_unreadable", Some("credentials_unreadable")),
        ] {
            let failed = ended(State::Failed, reason);
            let (settled, deltas) = settle(&Rules::default(), &failed);
            assert_eq!((settled.state, settled.attempts), ("pending", 0), "{reason}");
            assert_eq!(settled.next_at, failed.ended_at + TimeDelta::minutes(1));
            assert_eq!(deltas.len(), 2);
            assert_eq!(unserved(&failed), stops);
        }
    }

    #[test]
    fn a_contact_is_due_again_when_the_hook_said() {
        let later = ended(State::Canceled, "hook_later");
        let due_at = later.ended_at + TimeDelta::hours(1);
        let (settled, _) = settle(&Rules::default(), &Ended { due_at, ..later });
        assert_eq!((settled.state, settled.next_at), ("pending", due_at));
    }

    /// However often a contact's call was taken back out of the queue, it has all its attempts.
    #[test]
    fn calls_that_were_taken_back_cost_no_attempt() {
        let contact = Ended {
            calls: 20,
            ..ended(State::Busy, "busy")
        };
        assert_eq!(settle(&Rules::default(), &contact).0.state, "pending");
    }

    /// F116: whatever keeps a contact from being called, it comes to an end.
    #[test]
    fn a_contact_that_always_errs_comes_to_its_end() {
        for dialled in [true, false] {
            let mut contact = Ended {
                dialled,
                ..ended(State::Failed, "phone_gone")
            };
            for _ in 0..20 {
                let (settled, _) = settle(&Rules::default(), &contact);
                if settled.state != "pending" {
                    break;
                }
                contact.calls += 1;
                contact.attempts = settled.attempts;
                contact.tries = Some(settled.tries);
            }
            let (settled, _) = settle(&Rules::default(), &contact);
            assert_eq!(settled.state, "exhausted");
            assert!(contact.calls <= 4, "{}", contact.calls);
        }
    }
}
