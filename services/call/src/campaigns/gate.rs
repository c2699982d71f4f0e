//! Whether a campaign lets one of its calls be dialled now. Decides and does no IO; what it decides from is read under the
//! campaign's lock, in the transaction that commits the dial.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::{rules::Rules, settled, state::State, window};
use crate::{
    calls::capacity,
    store::{
        campaigns::{gate::Gate, numbers::Number},
        rates::{Kind, Pace},
    },
};

/// How long a call waits that no window of a year lets through: the rules may change.
const NO_WINDOW: TimeDelta = TimeDelta::hours(24);

/// How long a call waits that came to its turn after its campaign's end.
const ENDING: TimeDelta = TimeDelta::seconds(5);

/// What a campaign says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Dial. The campaign's next turn is then, if it has a rate.
    Dial(Option<DateTime<Utc>>),
    /// Leave it in the queue: the campaign does not run, or it is not its turn.
    Stay,
    /// Not before then, for this reason.
    Wait(DateTime<Utc>, &'static str),
    /// Never, for this reason.
    Drop(&'static str),
}

/// The zone of a contact: its own, or that of the rules.
pub fn zone(rules: &Rules, zone: &str) -> Tz {
    zone.parse().unwrap_or(rules.time_zone)
}

/// Decides. The rules and the number come first, the turn last.
pub fn judge(gate: &Gate, rules: &Rules, number: &Number) -> Answer {
    if State::of(&gate.state) != Some(State::Running) {
        return Answer::Stay;
    }
    if rules.end_at.is_some_and(|end| end <= gate.now) {
        // Until the campaign is finished, which cancels what waits.
        return Answer::Wait(gate.now + ENDING, "end_time");
    }
    let Some(of_contact) = &gate.zone else {
        return Answer::Drop("contact_gone");
    };
    if gate.changed {
        return Answer::Drop(settled::CHANGED);
    }
    if number.reached {
        return Answer::Drop(settled::REACHED);
    }
    if number.suppressed {
        return Answer::Drop("suppressed");
    }
    match window::next_open(rules, zone(rules, of_contact), gate.now) {
        Some(open) if open <= gate.now => {}
        Some(open) => return Answer::Wait(open, "calling_hours"),
        None => return Answer::Wait(gate.now + NO_WINDOW, "calling_hours"),
    }
    // It is not found again until the hook was asked.
    if gate.unasked {
        return Answer::Stay;
    }
    if let Some(at) = too_often(rules, number) {
        return Answer::Wait(at, "frequency_cap");
    }
    if gate.calls_per_minute == 0 {
        return Answer::Dial(None);
    }
    let pace = Pace {
        next_at: gate.next_at,
        now: gate.now,
    };
    capacity::turn(pace, Kind::Dial.pause(gate.calls_per_minute)).map_or(Answer::Stay, |next| Answer::Dial(Some(next)))
}

/// When a number that was called too often may be called again.
pub fn too_often(rules: &Rules, number: &Number) -> Option<DateTime<Utc>> {
    let cap = rules.frequency_cap?;
    (number.dials >= i64::from(cap.count)).then(|| {
        let period = TimeDelta::try_seconds(cap.period).unwrap_or(TimeDelta::days(30));
        number.blocking.map(|at| at + period)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaigns::rules::FrequencyCap;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn at(now: &str) -> Gate {
        Gate {
            state: "running".to_owned(),
            caller: "crm".to_owned(),
            rules: serde_json::Value::Null,
            max_concurrent_calls: 0,
            calls_per_minute: 0,
            next_at: DateTime::UNIX_EPOCH,
            zone: Some(String::new()),
            changed: false,
            unasked: false,
            now: utc(now),
        }
    }

    /// F108, F109: whoever holds the campaign's lock and sees it paused, finished or aborted does not dial.
    #[test]
    fn only_a_running_campaign_dials() {
        for (state, dials) in [
            ("running", true),
            ("draft", false),
            ("paused", false),
            ("finished", false),
            ("aborted", false),
            ("a word of a later release", false),
        ] {
            let gate = Gate {
                state: state.to_owned(),
                ..at("2026-11-26T06:00:00Z")
            };
            let answer = judge(&gate, &Rules::default(), &Number::default());
            assert_eq!(answer == Answer::Dial(None), dials, "{state}: {answer:?}");
        }
    }

    /// F114: a call that was queued in time and comes to its turn after the window closed waits for the next one, by the clock
    /// where the contact is.
    #[test]
    fn the_window_is_that_of_the_contact_when_its_turn_comes() {
        let judge = |now, zone: &str| {
            let gate = Gate {
                zone: Some(zone.to_owned()),
                ..at(now)
            };
            judge(&gate, &Rules::default(), &Number::default())
        };
        let waits = |until| Answer::Wait(utc(until), "calling_hours");
        assert_eq!(judge("2026-11-26T15:29:59Z", ""), Answer::Dial(None));
        assert_eq!(judge("2026-11-26T15:30:00Z", ""), waits("2026-11-27T03:30:00Z"));
        assert_eq!(judge("2026-11-26T15:30:00Z", "Europe/London"), Answer::Dial(None));
        assert_eq!(
            judge("2026-11-26T06:00:00Z", "America/New_York"),
            waits("2026-11-26T14:00:00Z")
        );
    }

    #[test]
    fn a_number_that_was_called_too_often_waits_until_the_oldest_call_is_old_enough() {
        let rules = Rules {
            frequency_cap: Some(FrequencyCap {
                count: 2,
                period: 3_600,
            }),
            ..Rules::default()
        };
        let number = |dials| Number {
            dials,
            blocking: Some(utc("2026-11-26T05:30:00Z")),
            ..Number::default()
        };
        let gate = at("2026-11-26T06:00:00Z");
        assert_eq!(judge(&gate, &rules, &number(1)), Answer::Dial(None));
        let until = Answer::Wait(utc("2026-11-26T06:30:00Z"), "frequency_cap");
        assert_eq!(judge(&gate, &rules, &number(2)), until);
    }

    /// Reached: a call whose end was presumed turned out to have been a conversation after the next one was queued.
    #[test]
    fn what_became_of_no_use_in_the_queue_is_dropped() {
        let now = "2026-11-26T06:00:00Z";
        let (changed, gone) = (
            Gate {
                changed: true,
                ..at(now)
            },
            Gate { zone: None, ..at(now) },
        );
        let reached = Number {
            reached: true,
            ..Number::default()
        };
        let judge = |gate: &Gate, number: &Number| judge(gate, &Rules::default(), number);
        assert_eq!(judge(&changed, &Number::default()), Answer::Drop("campaign_changed"));
        assert_eq!(judge(&gone, &Number::default()), Answer::Drop("contact_gone"));
        assert_eq!(judge(&at(now), &reached), Answer::Drop("reached"));
    }

    /// It is not found again in the same moment, which would go on until the campaign is finished.
    #[test]
    fn a_call_waits_for_the_finish_of_a_campaign_whose_time_is_over() {
        let rules = Rules {
            end_at: Some(utc("2026-11-26T06:00:00Z")),
            ..Rules::default()
        };
        let until = Answer::Wait(utc("2026-11-26T06:00:05Z"), "end_time");
        assert_eq!(judge(&at("2026-11-26T06:00:00Z"), &rules, &Number::default()), until);
    }

    #[test]
    fn without_the_hooks_yes_nothing_is_dialled() {
        let gate = Gate {
            unasked: true,
            ..at("2026-11-26T06:00:00Z")
        };
        assert_eq!(judge(&gate, &Rules::default(), &Number::default()), Answer::Stay);
    }

    #[test]
    fn a_turn_is_taken_once() {
        let mut gate = Gate {
            calls_per_minute: 65,
            ..at("2026-11-26T06:00:00Z")
        };
        let Answer::Dial(Some(next)) = judge(&gate, &Rules::default(), &Number::default()) else {
            panic!("it is its turn")
        };
        assert_eq!(next, gate.now + TimeDelta::seconds(1));
        gate.next_at = next;
        assert_eq!(judge(&gate, &Rules::default(), &Number::default()), Answer::Stay);
    }

    #[test]
    fn a_suppressed_number_is_dropped_whatever_the_hour() {
        let number = Number {
            suppressed: true,
            ..Number::default()
        };
        let answer = judge(&at("2026-11-26T20:00:00Z"), &Rules::default(), &number);
        assert_eq!(answer, Answer::Drop("suppressed"));
    }
}
