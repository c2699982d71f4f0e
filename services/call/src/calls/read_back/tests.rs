use std::slice::from_ref;

use super::*;
use crate::calls::state::{Dialed, apply};

fn posted() -> DateTime<Utc> {
    "2026-11-25T08:00:00Z".parse().unwrap()
}

fn minutes(minutes: i64) -> DateTime<Utc> {
    posted() + TimeDelta::minutes(minutes)
}

fn after(events: &[Event]) -> Facts {
    let mut facts = Facts::default();
    for event in std::iter::once(&Event::Claimed).chain(events) {
        if let Some(transition) = apply(&facts, event) {
            facts = transition.facts;
        }
    }
    facts
}

fn call(events: &[Event]) -> Call {
    Call::sample(&after(events), posted())
}

fn ended(source: Source, outcome: Outcome) -> Event {
    Event::Ended(source, End::new(outcome))
}

fn placed() -> Event {
    Event::Dialed(1, Dialed::Placed)
}

/// Every state that waits for news from Exotel has a time at which it is asked.
#[test]
fn every_open_call_is_asked_about() {
    let begun = call(&[]);
    for events in [
        vec![placed()],
        vec![Event::Dialed(1, Dialed::Unknown)],
        vec![Event::Swept],
        vec![Event::Ringing],
        vec![Event::Answered],
        vec![Event::MediaStarted],
        vec![
            Event::MediaStarted,
            Event::MediaEnded {
                at: posted(),
                by: super::super::state::Party::Agent,
            },
        ],
    ] {
        let facts = after(&events);
        let at = schedule(&begun, &facts, facts.state(), posted()).flatten();
        assert!(at.is_some_and(|at| at <= minutes(33)), "{events:?}: {at:?}");
    }
    let facts = after(&[Event::Swept]);
    assert_eq!(schedule(&begun, &facts, facts.state(), posted()), Some(Some(TO_BE_SET)));
}

/// F48: whoever has the account's token can tell of a call to us: Exotel is asked soon after its audio began, and then not again
/// while it goes on.
#[test]
fn an_inbound_call_is_confirmed_when_its_audio_begins() {
    let inbound = |events: &[Event]| {
        let mut facts = Facts::inbound();
        for event in events {
            facts = apply(&facts, event).unwrap().facts;
        }
        let row = Call {
            direction: Direction::Inbound,
            ..Call::sample(&facts, posted())
        };
        (row, facts)
    };
    let (arrived, _) = inbound(&[]);
    let (talking, facts) = inbound(&[Event::MediaStarted]);
    let first = schedule(&arrived, &facts, facts.state(), posted()).flatten();
    assert_eq!(first, Some(posted() + TimeDelta::seconds(10)));
    assert_eq!(after_answer(&[], &talking, &facts, posted()), Some(minutes(32)));
    // One that Exotel could not tell of is asked about again.
    assert_eq!(next(&[], &talking, &facts, posted()), Some(minutes(5)));
}

/// A presumed end that gave way to evidence is followed like any other call.
#[test]
fn a_call_that_was_given_up_and_turns_up_is_asked_about_soon() {
    let lost = [Event::Swept, Event::Presumed(Presumption::Unconfirmed)];
    let found = after(&[lost[0].clone(), lost[1].clone(), Event::Seen]);
    assert_eq!(found.state(), State::Placed);
    let at = schedule(&call(&lost), &found, found.state(), minutes(20)).flatten();
    assert_eq!(at, Some(minutes(20) + TimeDelta::seconds(40)));
}

/// F51.
#[test]
fn two_words_on_one_end_are_asked_about_at_once_and_once() {
    let asks = |events: &[Event], event: &Event, read_back_at| {
        let facts = after(events);
        let row = Call {
            read_back_at,
            ..Call::sample(&facts, posted())
        };
        let change = ask_if_contradicted(&row, &facts, Some(event), minutes(5), Change::default());
        change.read_back_at == Some(Some(minutes(5)))
    };
    let failed = ended(Source::Callback, Outcome::Failed);
    let later = Some(minutes(6));
    for told in [
        ended(Source::Callback, Outcome::Completed),
        ended(Source::Callback, Outcome::Busy),
        ended(Source::Passthru, Outcome::Completed),
    ] {
        assert!(asks(from_ref(&told), &failed, later));
        assert!(asks(from_ref(&failed), &told, None), "also where nothing was planned");
        assert!(!asks(from_ref(&told), &told, later), "a repeat is none");
        assert!(!asks(from_ref(&told), &failed, Some(minutes(4))), "it is due already");
        let decided = [told, ended(Source::ReadBack, Outcome::Completed)];
        assert!(!asks(&decided, &failed, later), "Exotel's record has decided");
    }
    assert!(!asks(&[], &failed, later));
    assert!(!asks(
        &[Event::Dialed(1, Dialed::Refused(End::new(Outcome::Failed)))],
        &failed,
        later
    ));
}

/// The last resort, for each state that a call can be stuck in.
#[test]
fn no_call_stays_open_for_ever() {
    let limit = minutes(33);
    for events in [
        vec![placed()],
        vec![Event::Ringing],
        vec![Event::Answered],
        vec![Event::MediaStarted],
    ] {
        let row = call(&events);
        assert_eq!(overdue(&row, minutes(32)), None, "{events:?}");
        assert_eq!(
            overdue(&row, limit),
            Some(Event::Presumed(Presumption::TimeLimit)),
            "{events:?}"
        );
    }
    let unconfirmed = call(&[Event::Swept]);
    assert_eq!(overdue(&unconfirmed, limit), None, "it is settled instead");
    let known = Call {
        call_sid: Some("sid-a".to_owned()),
        ..unconfirmed
    };
    assert_eq!(overdue(&known, limit), Some(Event::Presumed(Presumption::TimeLimit)));
    assert_eq!(overdue(&call(&[ended(Source::Callback, Outcome::Busy)]), limit), None);
}

#[test]
fn questions_after_an_end_come_to_an_end() {
    let row = |events: &[Event], read_backs| Call {
        read_backs,
        ..call(events)
    };
    let mut asked = 0;
    let busy = [ended(Source::Callback, Outcome::Busy)];
    while next(&[], &row(&busy, asked), &after(&busy), posted()).is_some() {
        asked += 1;
    }
    assert_eq!(asked, 2);
    let lost = [Event::Swept, Event::Presumed(Presumption::Unconfirmed)];
    while next(&[], &row(&lost, asked), &after(&lost), posted()).is_some() {
        asked += 1;
    }
    assert_eq!(asked, 24);
}

/// A call that could not be asked about is left alone some days after its end: whose credentials are gone is not asked with for ever.
#[test]
fn a_call_that_is_long_over_is_given_up() {
    let over = |ended_at| Call {
        ended_at,
        ..call(&[placed(), ended(Source::Callback, Outcome::Completed)])
    };
    let (now, days) = (minutes(0), |days| Some(minutes(0) - TimeDelta::days(days)));
    assert!(is_given_up(&over(days(4)), now));
    assert!(!is_given_up(&over(days(2)), now) && !is_given_up(&over(None), now));
    let open = Call {
        ended_at: days(4),
        ..call(&[placed()])
    };
    assert!(!is_given_up(&open, now), "it holds its number and its slot");
}
