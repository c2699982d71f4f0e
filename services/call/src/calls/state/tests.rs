use proptest::prelude::*;

use super::*;

fn after<'a>(mut facts: Facts, events: impl IntoIterator<Item = &'a Event>) -> Facts {
    for event in events {
        if let Some(transition) = apply(&facts, event) {
            assert_eq!(transition.state, transition.facts.state());
            facts = transition.facts;
        }
    }
    facts
}

fn dialing() -> Facts {
    after(Facts::default(), [&Event::Claimed])
}

fn ended(source: Source, outcome: Outcome) -> Event {
    Event::Ended(source, End::new(outcome))
}

fn placed() -> Event {
    Event::Dialed(1, Dialed::Placed)
}

/// Every event that evidence can bring about a dialled call.
fn evidence() -> Vec<Event> {
    vec![
        placed(),
        Event::Dialed(1, Dialed::Unknown),
        Event::Swept,
        Event::Seen,
        Event::Ringing,
        Event::Answered,
        Event::MediaStarted,
        Event::MediaEnded {
            at: DateTime::UNIX_EPOCH,
            by: Party::Agent,
        },
        ended(Source::Callback, Outcome::Completed),
        ended(Source::Callback, Outcome::Failed),
        ended(Source::ReadBack, Outcome::NoAnswer),
        Event::Ended(
            Source::Passthru,
            End {
                by: Some(Party::Customer),
                ..End::new(Outcome::Completed)
            },
        ),
        Event::Presumed(Presumption::Unconfirmed),
        Event::Presumed(Presumption::TimeLimit),
    ]
}

/// Every order of every choice of these events, each at most once (F44). What can be known after a set of events, in
/// whatever order, is worked out from the sets that are one event smaller.
#[test]
fn every_order_of_any_of_the_events_ends_in_the_same_state() {
    let events = evidence();
    for begin in [dialing(), Facts::inbound()] {
        let mut known: Vec<Vec<Facts>> = vec![Vec::new(); 1 << events.len()];
        known[0].push(begin);
        for set in 1..known.len() {
            let mut reached: Vec<Facts> = Vec::new();
            for (index, event) in events.iter().enumerate().filter(|(index, _)| set & (1 << index) != 0) {
                for facts in &known[set & !(1 << index)] {
                    let next = apply(facts, event).map_or_else(|| facts.clone(), |transition| transition.facts);
                    if !reached.contains(&next) {
                        reached.push(next);
                    }
                }
            }
            let ends: Vec<_> = reached.iter().map(|facts| (facts.state(), facts.ending())).collect();
            assert!(
                ends.windows(2).all(|pair| pair[0] == pair[1]),
                "the events of {set:b} end in {ends:?}"
            );
            known[set] = reached;
        }
    }
}

proptest! {
    #[test]
    fn any_order_with_repeats_ends_in_the_same_state(
        (one, other) in prop::collection::vec(prop::sample::select(evidence()), 0..12)
            .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle()))
    ) {
        let (one, other) = (after(dialing(), &one), after(dialing(), &other));
        prop_assert_eq!(one.state(), other.state());
        prop_assert_eq!(one.ending(), other.ending());
    }

    /// Nothing but the worker's own report on its own attempt leads back to a dial.
    #[test]
    fn nothing_leads_back_to_the_queue_once_the_outcome_is_open(
        events in prop::collection::vec(prop::sample::select(evidence()), 1..12)
    ) {
        let swept = after(dialing(), [&Event::Swept]);
        let facts = after(swept, events.iter().chain([&Event::Dialed(1, Dialed::Requeued), &Event::Claimed]));
        prop_assert_eq!(facts.attempt, 1);
        prop_assert_ne!(facts.progress, Progress::Queued);
    }
}

#[test]
fn a_repeat_changes_nothing() {
    let ours = [
        Event::Dialed(1, Dialed::Requeued),
        Event::Dialed(1, Dialed::Refused(End::new(Outcome::Failed))),
        Event::EndRequested,
    ];
    for event in evidence().into_iter().chain(ours) {
        let once = after(dialing(), [&event]);
        assert_eq!(apply(&once, &event), None, "{event:?}");
    }
}

#[test]
fn a_call_that_was_answered_but_had_no_audio_did_not_succeed_until_audio_is_known() {
    let facts = after(dialing(), [&placed(), &ended(Source::Callback, Outcome::Completed)]);
    assert_eq!(
        facts.ending().map(|e| (e.state, e.reason)),
        Some((State::Failed, "media_never_opened".to_owned()))
    );
    let corrected = apply(&facts, &Event::MediaStarted).map(|t| (t.state, t.kind));
    assert_eq!(corrected, Some((State::Completed, "corrected")));
}

#[test]
fn exotels_own_record_outweighs_its_callback() {
    let facts = after(
        dialing(),
        [
            &Event::MediaStarted,
            &ended(Source::ReadBack, Outcome::Busy),
            &ended(Source::Callback, Outcome::Completed),
        ],
    );
    assert_eq!(facts.state(), State::Busy);
}

#[test]
fn a_dial_that_was_not_sent_is_tried_again_only_by_its_own_worker() {
    let requeued = after(dialing(), [&Event::Dialed(1, Dialed::Requeued)]);
    assert_eq!((requeued.state(), requeued.attempt), (State::Queued, 1));
    let again = after(requeued.clone(), [&Event::Claimed, &Event::Dialed(1, Dialed::Placed)]);
    assert_eq!(
        (again.state(), again.attempt),
        (State::Dialing, 2),
        "the first attempt's report is not the second's"
    );
    // Evidence that the first dial was made after all keeps the call from being dialled once more.
    let seen = after(requeued, [&Event::Answered, &Event::Claimed]);
    assert_eq!((seen.state(), seen.attempt), (State::InProgress, 1));
}

#[test]
fn a_report_after_the_sweep_settles_the_call_and_never_dials_it_again() {
    let late = after(dialing(), [&Event::Swept, &Event::Dialed(1, Dialed::Requeued)]);
    assert_eq!(
        late.ending().map(|e| (e.state, e.reason)),
        Some((State::Failed, "not_sent".to_owned()))
    );
}

#[test]
fn a_request_to_end_is_done_at_once_only_while_the_call_waits() {
    assert_eq!(after(Facts::default(), [&Event::EndRequested]).state(), State::Canceled);
    let dialing = after(dialing(), [&Event::EndRequested]);
    assert_eq!(
        dialing.state(),
        State::Dialing,
        "only evidence ends a call that is being dialled"
    );
    let refused = after(
        dialing.clone(),
        [
            &placed(),
            &Event::Answered,
            &ended(Source::Callback, Outcome::Completed),
        ],
    );
    assert_eq!(refused.state(), State::Canceled);
    let talked = after(
        dialing.clone(),
        [&Event::MediaStarted, &ended(Source::Callback, Outcome::Completed)],
    );
    assert_eq!(
        talked.ending().map(|e| (e.state, e.by)),
        Some((State::Completed, Party::Caller))
    );
    let not_sent = after(dialing, [&Event::Dialed(1, Dialed::Requeued), &Event::Claimed]);
    assert_eq!(
        not_sent.state(),
        State::Canceled,
        "a call that shall end is not dialled again"
    );
}

#[test]
fn a_presumed_end_gives_way_to_any_evidence() {
    let presumed = after(dialing(), [&Event::Swept, &Event::Presumed(Presumption::Unconfirmed)]);
    assert_eq!(
        presumed.ending().map(|e| (e.state, e.presumed)),
        Some((State::Failed, true))
    );
    let seen = apply(&presumed, &Event::Answered).map(|t| (t.state, t.kind));
    assert_eq!(seen, Some((State::InProgress, "corrected")));
}

#[test]
fn evidence_about_a_call_that_was_never_dialled_is_ignored() {
    for event in [
        Event::Answered,
        Event::MediaStarted,
        ended(Source::Callback, Outcome::Completed),
    ] {
        assert_eq!(apply(&Facts::default(), &event), None);
    }
}

#[test]
fn facts_are_read_as_they_were_written() {
    let facts = after(dialing(), &evidence());
    let json = serde_json::to_string(&facts).unwrap();
    assert_eq!(serde_json::from_str::<Facts>(&json).unwrap(), facts);
}
