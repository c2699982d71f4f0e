//! The people who are called, and what their phones do: most of it cheap, some of it a fault of Exotel's.

use exotel_sim::{Answer, Callbacks, Callee, CallerScript, Control, Outcome, Settings, Streams};

use super::dice::Dice;

/// Enough that two calls at one time seldom meet.
const PEOPLE: u64 = 4_000;
/// Some are called again and again, so that calls meet.
const POPULAR: u64 = 12;
/// How often it is one of those.
const POPULAR_PERCENT: u64 = 4;

/// Ringing time-outs begin at 5 s and time limits at 10 s: at the simulator they take this part of it.
const TIME_SCALE: f64 = 20.0;

/// What a phone does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Busy,
    NoAnswer,
    Fails,
    Answers,
    Slow,
    SlowDial,
    Lost,
    LostUndialled,
    Unavailable,
    UnavailableUndialled,
    Html,
    Empty,
    Cut,
    Stall,
    Stranger,
    Dnd,
    RateLimited,
}

/// In a thousand.
const KINDS: [(u64, Kind); 17] = [
    (362, Kind::Busy),
    (110, Kind::NoAnswer),
    (130, Kind::Fails),
    (40, Kind::Answers),
    (80, Kind::Slow),
    (40, Kind::SlowDial),
    (50, Kind::Lost),
    (25, Kind::LostUndialled),
    (35, Kind::Unavailable),
    (25, Kind::UnavailableUndialled),
    (15, Kind::Html),
    (15, Kind::Empty),
    (20, Kind::Cut),
    // Each holds a dial of its replica until the time limit of a request.
    (3, Kind::Stall),
    (15, Kind::Stranger),
    (33, Kind::Dnd),
    // Slows the whole account, as it should.
    (2, Kind::RateLimited),
];

/// The simulator's settings: quick, without recordings.
pub(super) fn settings() -> Settings {
    Settings {
        time_scale: TIME_SCALE,
        convention: false,
        connect_delay_ms: 0,
        ring_delay_ms: 400,
        answer_delay_ms: 1_000,
        talk_ms: 2_000,
        list_delay_ms: 50,
        late_facts_ms: 4_000,
        stream: Streams {
            record: false,
            ..Streams::default()
        },
        callbacks: Callbacks {
            retry_delays_ms: vec![2_000, 6_000],
            // Only Exotel can tell then how a call went.
            drop: 0.15,
            ..Callbacks::default()
        },
        ..Settings::for_tests()
    }
}

/// Somebody whom a campaign calls and who has no script is busy after 200 ms. Hardly any callback is lost: whoever waits for the
/// read-back of a call holds one of its slots.
pub(super) fn settings_of_campaign() -> Settings {
    Settings {
        ring_delay_ms: 4_000,
        unscripted: busy(),
        callbacks: Callbacks {
            drop: 0.01,
            ..settings().callbacks
        },
        ..settings()
    }
}

/// People answer at once and talk in real time; no callback is lost.
pub(super) fn settings_of_talk() -> Settings {
    Settings {
        time_scale: 1.0,
        ring_delay_ms: 20,
        answer_delay_ms: 100,
        stream: Streams::default(),
        callbacks: Callbacks::default(),
        ..settings()
    }
}

/// What a contact's phone does, if it is anything else than being busy.
pub(super) fn contact(dice: &mut Dice) -> Option<Outcome> {
    let kinds = [
        (800, Kind::Busy),
        (50, Kind::NoAnswer),
        (60, Kind::Fails),
        (10, Kind::Answers),
        (10, Kind::Slow),
        (10, Kind::SlowDial),
        (10, Kind::Lost),
        (10, Kind::LostUndialled),
        (5, Kind::Unavailable),
        (5, Kind::Cut),
        (30, Kind::Dnd),
    ];
    let kind = dice.weighted(&kinds).unwrap_or(Kind::Busy);
    (kind != Kind::Busy).then(|| outcome(kind, dice))
}

/// A person's number.
fn number(person: u64) -> String {
    format!("+9198{:08}", 10_000_000 + person * 7)
}

/// Whether whoever calls this person is told that it is too often.
pub(super) fn is_told_too_often(outcome: &Outcome) -> bool {
    matches!(outcome.answer, Answer::RateLimited { .. })
}

/// Scripts everybody's phone.
pub(super) fn move_in(control: &Control, seed: u64) -> anyhow::Result<()> {
    for person in 0..PEOPLE + POPULAR {
        let mut dice = Dice::new(seed, "person", person);
        let kind = dice.weighted(&KINDS).unwrap_or(Kind::Busy);
        control.set_outcome(&number(person), outcome(kind, &mut dice))?;
    }
    Ok(())
}

/// Whom to call next.
pub(super) fn choose(dice: &mut Dice) -> String {
    if dice.percent(POPULAR_PERCENT) {
        number(PEOPLE + dice.below(POPULAR))
    } else {
        number(dice.below(PEOPLE))
    }
}

/// A person of one's own, for a round that sets what happens. Numbers repeat after a million.
pub(super) fn stranger(control: &Control, count: u64, outcome: Outcome) -> anyhow::Result<String> {
    let number = format!("+9197{:08}", 10_000_000 + count % 1_000_000);
    control.set_outcome(&number, outcome)?;
    Ok(number)
}

/// Somebody who is busy: the quickest end.
pub(super) fn busy() -> Outcome {
    Outcome::callee(Callee::Busy)
}

/// Somebody who answers, says nothing and hangs up soon.
pub(super) fn answers() -> Outcome {
    Outcome::answered_by(CallerScript {
        hang_up_after_ms: Some(1_500),
        ..CallerScript::new().silence(200).hang_up()
    })
}

/// A phone that does one of the ordinary things.
pub(super) fn ordinary(dice: &mut Dice) -> Outcome {
    let kinds = [
        (60, Kind::Busy),
        (15, Kind::NoAnswer),
        (15, Kind::Fails),
        (10, Kind::Answers),
    ];
    outcome(dice.weighted(&kinds).unwrap_or(Kind::Busy), dice)
}

fn outcome(kind: Kind, dice: &mut Dice) -> Outcome {
    let busy = busy();
    let answer = |answer, dialled| Outcome {
        answer,
        dialled: Some(dialled),
        ..self::busy()
    };
    match kind {
        Kind::Busy => busy,
        Kind::NoAnswer => Outcome::callee(Callee::NoAnswer),
        Kind::Fails => Outcome::callee(Callee::Fails),
        Kind::Answers => answers(),
        Kind::Slow => Outcome {
            answer_delay_ms: 20 + dice.below(400),
            ..busy
        },
        Kind::SlowDial => Outcome {
            dial_delay_ms: 20 + dice.below(200),
            answer_delay_ms: dice.below(50),
            ..busy
        },
        Kind::Lost => answer(Answer::Lost, true),
        Kind::LostUndialled => answer(Answer::Lost, false),
        Kind::Unavailable => answer(Answer::Unavailable, true),
        Kind::UnavailableUndialled => answer(Answer::Unavailable, false),
        Kind::Html => answer(Answer::Html, true),
        Kind::Empty => answer(Answer::Empty, true),
        Kind::Cut => Outcome {
            cut_at_byte: Some(dice.below(600)),
            ..busy
        },
        Kind::Stall => answer(Answer::Stall, dice.percent(50)),
        // Of two calls to one person only the callback can tell which is ours.
        Kind::Stranger => Outcome {
            strangers: 1,
            ..answer(Answer::Lost, true)
        },
        Kind::Dnd => answer(Answer::Dnd, false),
        Kind::RateLimited => {
            let retry_after = Some("1".to_owned());
            answer(Answer::RateLimited { retry_after }, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_does_the_same_in_every_run_and_numbers_can_be_called() {
        assert_eq!(KINDS.iter().map(|(weight, _)| weight).sum::<u64>(), 1_000);
        let of = |seed| {
            let mut dice = Dice::new(seed, "person", 5);
            let kind = dice.weighted(&KINDS).unwrap();
            outcome(kind, &mut dice)
        };
        assert_eq!(of(1), of(1));
        for person in [0, PEOPLE + POPULAR] {
            assert!(exotel::PhoneNumber::parse(&number(person)).is_ok());
        }
    }
}
