//! What happens by chance to connects and reads, and to nobody in particular.

use axum::http::header;
use serde::{Deserialize, Serialize};

use crate::{Answer, Outcome, chance::Draw};

/// Probabilities from 0 to 1 of faults that hit whatever comes, drawn from the configuration's seed in the order of
/// arrival. Of those of one kind of request at most one happens, so together they should not be above 1. A number's own
/// script keeps its connects free of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Dialled, and the connection is reset instead of an answer.
    pub lost: f64,
    /// The connection is reset and nothing is dialled.
    pub lost_undialled: f64,
    /// 503 with code 35008, and dialled.
    pub unavailable: f64,
    /// 503 with code 35008, and not dialled.
    pub unavailable_undialled: f64,
    /// 500, 502 or 504 with an HTML page; dialled or not.
    pub html: f64,
    /// No answer, until the connection is reset after `stall_ms`; dialled or not.
    pub stall: f64,
    /// How long a stalled connect or read is held.
    pub stall_ms: u64,
    /// Dialled, and the answer's body ends in the middle.
    pub truncated: f64,
    /// Dialled, and the connection is reset after any byte of the answer.
    pub cut: f64,
    /// 429, not dialled, with a `Retry-After` that makes no sense or none at all.
    pub rate_limited: f64,
    /// Dialled, and the answer comes up to `slow_ms` late.
    pub slow: f64,
    /// The longest delay of a slow answer.
    pub slow_ms: u64,
    /// Somebody else calls the same person from the same ExoPhone; beside any of the above.
    pub stranger: f64,
    /// 500, 502, 503 or 504 for a list or details.
    pub read_unavailable: f64,
    /// 429 for them, with such a `Retry-After`.
    pub read_rate_limited: f64,
    /// No answer to them, until the connection is reset after `stall_ms`.
    pub read_stall: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            lost: 0.0,
            lost_undialled: 0.0,
            unavailable: 0.0,
            unavailable_undialled: 0.0,
            html: 0.0,
            stall: 0.0,
            stall_ms: 5_000,
            truncated: 0.0,
            cut: 0.0,
            rate_limited: 0.0,
            slow: 0.0,
            slow_ms: 2_000,
            stranger: 0.0,
            read_unavailable: 0.0,
            read_rate_limited: 0.0,
            read_stall: 0.0,
        }
    }
}

/// A fault that happened by chance; the fields of [`Faults`] say what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of Faults with the same names say it")]
pub enum Fault {
    Lost,
    LostUndialled,
    Unavailable,
    UnavailableUndialled,
    Html,
    Stall,
    Truncated,
    Cut,
    RateLimited,
    Slow,
}

/// What becomes of one connect.
pub(crate) struct Plan {
    pub(crate) outcome: Outcome,
    pub(crate) fault: Option<Fault>,
    /// Where the answer is cut, as a share of its length.
    pub(crate) cut: Option<f64>,
}

impl Plan {
    /// What a script wants.
    pub(crate) fn scripted(outcome: Outcome) -> Self {
        Self {
            outcome,
            fault: None,
            cut: None,
        }
    }
}

/// What becomes of one list or details, when it is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadFault {
    Status(u16),
    RateLimited(Option<String>),
    Stall,
}

/// `Retry-After` as nobody should send it.
const ODD_RETRY_AFTER: [Option<&str>; 6] = [
    Some("-1"),
    Some("1000000000"),
    Some("Wed, 21 Oct 2099 07:28:00 GMT"),
    Some("Thu, 01 Jan 1970 00:00:00 GMT"),
    Some("soon"),
    None,
];

impl Faults {
    /// The one that is drawn.
    fn one<T: Copy>(draw: &mut Draw, kinds: &[(f64, T)]) -> Option<T> {
        let mut dice = draw.share();
        for (probability, kind) in kinds {
            if dice < *probability {
                return Some(*kind);
            }
            dice -= probability;
        }
        None
    }

    /// Draws for a connect.
    pub(crate) fn connect(&self, mut draw: Draw, outcome: Outcome) -> Plan {
        let mut plan = Plan::scripted(outcome);
        let kinds = [
            (self.lost, Fault::Lost),
            (self.lost_undialled, Fault::LostUndialled),
            (self.unavailable, Fault::Unavailable),
            (self.unavailable_undialled, Fault::UnavailableUndialled),
            (self.html, Fault::Html),
            (self.stall, Fault::Stall),
            (self.truncated, Fault::Truncated),
            (self.cut, Fault::Cut),
            (self.rate_limited, Fault::RateLimited),
            (self.slow, Fault::Slow),
        ];
        plan.fault = Self::one(&mut draw, &kinds);
        let either = draw.happens(0.5);
        let outcome = &mut plan.outcome;
        match plan.fault {
            None => {}
            Some(Fault::Lost) => outcome.answer = Answer::Lost,
            Some(Fault::LostUndialled) => (outcome.answer, outcome.dialled) = (Answer::Lost, Some(false)),
            Some(Fault::Unavailable) => (outcome.answer, outcome.dialled) = (Answer::Unavailable, Some(true)),
            Some(Fault::UnavailableUndialled) => {
                (outcome.answer, outcome.dialled) = (Answer::Unavailable, Some(false));
            }
            Some(Fault::Html) => {
                outcome.dialled = Some(either);
                outcome.answer = Answer::Custom {
                    status: draw.pick([500, 502, 504]),
                    headers: vec![(header::CONTENT_TYPE.to_string(), "text/html".to_owned())],
                    body: crate::rest::HTML.to_owned(),
                    repeat: 1,
                };
            }
            Some(Fault::Stall) => {
                (outcome.answer, outcome.dialled) = (Answer::Lost, Some(either));
                outcome.answer_delay_ms = self.stall_ms;
            }
            Some(Fault::Truncated) => outcome.answer = Answer::Truncated,
            Some(Fault::Cut) => plan.cut = Some(draw.share()),
            Some(Fault::RateLimited) => {
                let retry_after = draw.pick(ODD_RETRY_AFTER).map(str::to_owned);
                (outcome.answer, outcome.dialled) = (Answer::RateLimited { retry_after }, Some(false));
            }
            Some(Fault::Slow) => outcome.answer_delay_ms += draw.below(self.slow_ms.saturating_add(1)),
        }
        if draw.happens(self.stranger) {
            plan.outcome.strangers = plan.outcome.strangers.max(1);
        }
        plan
    }

    /// Draws for a list or details.
    pub(crate) fn read(&self, mut draw: Draw) -> Option<ReadFault> {
        let kinds = [
            (self.read_unavailable, 0),
            (self.read_rate_limited, 1),
            (self.read_stall, 2),
        ];
        Some(match Self::one(&mut draw, &kinds)? {
            0 => ReadFault::Status(draw.pick([500, 502, 503, 504])),
            1 => ReadFault::RateLimited(draw.pick(ODD_RETRY_AFTER).map(str::to_owned)),
            _ => ReadFault::Stall,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Fault, Faults, ReadFault};
    use crate::{Outcome, chance::Chance};

    fn drawn(faults: &Faults, seed: u64) -> Vec<(Option<Fault>, Outcome)> {
        let chance = Chance::new(seed);
        let plan = |_| {
            let plan = faults.connect(chance.draw(), Outcome::default());
            (plan.fault, plan.outcome)
        };
        (0..10_000).map(plan).collect()
    }

    #[test]
    fn faults_come_as_often_as_they_should_and_are_repeatable() {
        let faults = Faults {
            lost: 0.1,
            html: 0.1,
            slow: 0.3,
            stranger: 0.5,
            ..Faults::default()
        };
        let plans = drawn(&faults, 3);
        assert_eq!(plans, drawn(&faults, 3));
        let mut counts = BTreeMap::new();
        for (fault, _) in &plans {
            *counts.entry(*fault).or_insert(0) += 1;
        }
        let near = |fault, expected: i32| {
            let count = counts.get(&fault).copied().unwrap_or(0);
            assert!((count - expected).abs() < 300, "{fault:?}: {count}");
        };
        near(Some(Fault::Lost), 1_000);
        near(Some(Fault::Html), 1_000);
        near(Some(Fault::Slow), 3_000);
        near(None, 5_000);
        assert_eq!(counts.len(), 4);
        let strangers = plans.iter().filter(|(_, outcome)| outcome.strangers == 1).count();
        assert!((4_700..5_300).contains(&strangers), "{strangers}");
        let html: Vec<bool> = plans
            .iter()
            .filter(|(fault, _)| *fault == Some(Fault::Html))
            .map(|(_, outcome)| outcome.dials())
            .collect();
        assert!(html.contains(&true) && html.contains(&false), "either way");
    }

    #[test]
    fn nothing_happens_by_default() {
        assert!(drawn(&Faults::default(), 1).iter().all(|(fault, _)| fault.is_none()));
        assert_eq!(Faults::default().read(Chance::new(1).draw()), None);
    }

    #[test]
    fn reads_have_faults_of_their_own() {
        let faults = Faults {
            read_unavailable: 0.3,
            read_rate_limited: 0.3,
            read_stall: 0.4,
            ..Faults::default()
        };
        let chance = Chance::new(1);
        let drawn: Vec<_> = (0..200).filter_map(|_| faults.read(chance.draw())).collect();
        assert_eq!(drawn.len(), 200);
        for fault in [
            ReadFault::Status(503),
            ReadFault::Stall,
            ReadFault::RateLimited(Some("-1".to_owned())),
            ReadFault::RateLimited(None),
        ] {
            assert!(drawn.contains(&fault), "{fault:?}");
        }
    }
}
