use chrono::DateTime;

use super::*;
use crate::calls::state::{Direction, End, Event, Facts, Outcome, Source, apply};

#[test]
fn calls_are_asked_about_twenty_at_a_time_and_in_the_order_of_their_times() {
    let account = Account {
        id: Uuid::from_u128(2),
        name: "a".to_owned(),
        sid: "acme1".to_owned(),
        subdomain: "api.exotel.com".to_owned(),
        calls_per_minute: 60,
        max_concurrent_calls: 0,
        inbound_reserve: 0,
        hours_off: true,
        hours_start_minute: 0,
        hours_end_minute: 1,
        hours_time_zone: "Asia/Kolkata".to_owned(),
        app_id: None,
        from_environment: false,
        token_generation: 1,
        created_at: DateTime::UNIX_EPOCH,
        utc_offset_minutes: None,
    };
    let facts = |swept: bool| {
        let begun = apply(&Facts::default(), &Event::Claimed).unwrap().facts;
        let event = if swept { Event::Swept } else { Event::Seen };
        apply(&begun, &event).unwrap().facts
    };
    let call = |n: u128, swept: bool| Call {
        id: Uuid::from_u128(n),
        call_sid: (!swept).then(|| format!("sid-{n:08}")),
        ..Call::sample(&facts(swept), DateTime::UNIX_EPOCH)
    };
    let mut calls: Vec<Call> = (0..22).map(|n| call(n, false)).collect();
    calls.insert(3, call(100, true));
    let inbound = Call {
        direction: Direction::Inbound,
        ..call(101, true)
    };
    calls.push(inbound);
    // Over, and so the last one, though it was due first.
    let over = apply(&facts(false), &Event::Ended(Source::Callback, End::new(Outcome::Busy))).unwrap();
    let over = Call {
        state: over.state,
        ..call(102, false)
    };
    calls.insert(0, over);
    let singly = HashSet::from([Uuid::from_u128(7), Uuid::from_u128(102)]);
    let shown: Vec<(&str, usize)> = questions(calls, &singly, &account)
        .iter()
        .map(|question| match question {
            Question::List(calls) => ("list", calls.len()),
            Question::One(_) => ("one", 1),
            Question::Search(_) => ("search", 1),
            Question::None(_) => ("none", 1),
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("list", 20),
            ("search", 1),
            ("one", 1),
            ("list", 1),
            ("none", 1),
            ("one", 1)
        ]
    );
}
