use exotel::{PhoneNumber, rest::ProviderStatus};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const CUSTOMER: &str = "+919812345678";
const EXOPHONE: &str = "+918040000155";

fn posted() -> DateTime<Utc> {
    "2026-11-25T08:00:00Z".parse().unwrap()
}

fn id(n: u128) -> CallId {
    CallId(Uuid::from_u128(n))
}

fn sought(offset_minutes: Option<i32>) -> Sought<'static> {
    Sought {
        id: id(1),
        customer: CUSTOMER,
        exophone: EXOPHONE,
        posted_at: posted(),
        offset: offset_minutes.map(|minutes| FixedOffset::east_opt(minutes * 60).unwrap()),
    }
}

/// A listed call that was made so long after the dial began, by the clock of an account at this offset.
fn listed(sid: &str, offset_minutes: i32, late: TimeDelta) -> CallDetails {
    CallDetails {
        call_sid: sid.to_owned(),
        status: ProviderStatus::InProgress,
        direction: Some(Way::OutboundApi),
        from: Caller::read("09812345678"),
        to: Caller::default(),
        phone_number: Caller::read("08040000155"),
        date_created: None,
        date_created_naive: Some((posted() + late + TimeDelta::minutes(offset_minutes.into())).naive_utc()),
        start_time: None,
        end_time: None,
        duration_s: None,
        talk_s: None,
        price: None,
        recording_url: None,
        custom_field: None,
        answered_by: None,
        legs: Vec::new(),
        server_date: None,
    }
}

/// Reads `2.ok` as the verified field of call 2.
fn named(field: &str) -> Option<CallId> {
    Some(id(field.strip_suffix(".ok")?.parse().ok()?))
}

fn found(sought: &Sought<'_>, list: &[CallDetails], taken: &[&str], skew: Option<TimeDelta>) -> Vec<String> {
    let taken = taken.iter().map(|sid| (*sid).to_owned()).collect();
    let found = candidates(sought, list, &taken, skew, named);
    found.into_iter().map(|call| call.call_sid.clone()).collect()
}

#[test]
fn another_rows_call_and_a_strangers_are_left_out() {
    let now = Some(TimeDelta::zero());
    let sought = sought(Some(330));
    let at = |sid| listed(sid, 330, TimeDelta::seconds(1));
    let with = |sid, field: &str| CallDetails {
        custom_field: Some(field.to_owned()),
        ..at(sid)
    };
    let plain = [at("sid-a"), at("sid-b"), at("sid-a")];
    assert_eq!(found(&sought, &plain, &[], now), ["sid-a", "sid-b"]);
    assert_eq!(found(&sought, &plain, &["sid-a"], now), ["sid-b"]);
    let fields = [with("sid-a", "order_1"), with("sid-b", "2.ok"), at("sid-c")];
    assert_eq!(found(&sought, &fields, &[], now), ["sid-c"]);
    let ours = [with("sid-a", "1.ok"), at("sid-b")];
    assert_eq!(found(&sought, &ours, &[], now), ["sid-a"]);
    assert_eq!(found(&sought, &ours, &["sid-a"], now), ["sid-b"]);
    // An Exotel that ignores a filter must not sell us somebody else's call.
    let other = |change: fn(&mut CallDetails)| {
        let mut call = at("sid-a");
        change(&mut call);
        found(&sought, &[call], &[], now)
    };
    assert!(other(|call| call.from = Caller::read("09812345679")).is_empty());
    assert!(other(|call| call.phone_number = Caller::read("08040000156")).is_empty());
    assert!(other(|call| call.direction = Some(Way::Inbound)).is_empty());
    assert_eq!(other(|call| call.from = Caller::read("0XXXXX38847")), ["sid-a"]);
}

#[test]
fn only_what_was_made_while_the_dial_was_sent_can_be_it() {
    let minutes = TimeDelta::minutes;
    for (skew, late, is) in [
        (Some(0), TimeDelta::zero(), true),
        (Some(0), TimeDelta::seconds(-9), true),
        (Some(0), TimeDelta::seconds(47), true),
        (Some(0), TimeDelta::seconds(49), false),
        (Some(0), TimeDelta::seconds(-11), false),
        // F57: Exotel's clock is nine minutes ahead; its answer tells, or the window is wide enough.
        (Some(9), minutes(9), true),
        (Some(9), minutes(0), false),
        (None, minutes(9), true),
        (None, minutes(-10), true),
        (None, minutes(14), false),
    ] {
        let list = [listed("sid-a", 480, late)];
        let there = !found(&sought(Some(480)), &list, &[], skew.map(minutes)).is_empty();
        assert_eq!(there, is, "{skew:?} {late}");
    }
}

#[test]
fn every_zone_is_looked_at_until_the_accounts_is_known() {
    let query = |offset| sought(offset).window();
    let hours = |(from, to): (NaiveDateTime, NaiveDateTime)| (to - from).num_minutes();
    assert_eq!((hours(query(Some(330))), hours(query(None))), (20, 26 * 60 + 20));
    for offset in [-720, -300, 0, 330, 345, 480, 840] {
        let list = [listed("sid-a", offset, TimeDelta::seconds(5))];
        let sought = sought(None);
        let (from, to) = sought.window();
        assert!(list[0].date_created_naive.is_some_and(|at| from <= at && at <= to));
        assert_eq!(
            found(&sought, &list, &[], Some(TimeDelta::zero())),
            ["sid-a"],
            "{offset}"
        );
        // Made at a time that no zone explains.
        let list = [listed("sid-a", offset, TimeDelta::minutes(7))];
        assert!(
            found(&sought, &list, &[], Some(TimeDelta::zero())).is_empty(),
            "{offset}"
        );
    }
}

/// What a sequence of looks at the list comes to: each shows so many candidates, or none can be had.
fn settle(window: TimeDelta, looks: &[Option<usize>]) -> (usize, DateTime<Utc>, Option<Decision<'static>>) {
    let (mut now, mut clean_polls) = (first_poll(posted(), window), 0);
    for (index, look) in looks.iter().enumerate() {
        let list: Vec<CallDetails> = (0..look.unwrap_or(0))
            .map(|n| listed(&format!("sid-{n}"), 330, TimeDelta::zero()))
            .collect();
        let list: Vec<&CallDetails> = list.iter().collect();
        match decide(posted(), window, clean_polls, look.map(|_| &list[..]), now) {
            Decision::Wait { clean, until } => {
                assert!(until > now, "a look at the list leads to the next one");
                assert_eq!(clean, *look == Some(0));
                assert!(now >= posted() + window || until <= posted() + window);
                clean_polls += i32::from(clean);
                now = until;
            }
            Decision::Found(_) => {
                assert_eq!(list.len(), 1);
                return (index, now, None);
            }
            Decision::GiveUp {
                presumption,
                needs_review,
            } => {
                let decision = Decision::GiveUp {
                    presumption,
                    needs_review,
                };
                return (index, now, Some(decision));
            }
        }
    }
    (looks.len(), now, None)
}

#[test]
fn a_dial_without_a_trace_is_given_up_when_the_window_is_over() {
    let window = TimeDelta::minutes(15);
    let (looks, at, decision) = settle(window, &[Some(0); 9]);
    assert_eq!((looks, at), (4, posted() + window));
    let unconfirmed = Decision::GiveUp {
        presumption: Presumption::Unconfirmed,
        needs_review: false,
    };
    assert_eq!(decision, Some(unconfirmed.clone()));
    // Three looks without a trace are needed, the last of them after the window.
    let mut looks = vec![None; 10];
    looks.extend([Some(0), Some(0), Some(2), Some(0)]);
    let (_, _, ambiguous) = settle(window, &looks);
    assert!(matches!(ambiguous, Some(Decision::GiveUp { needs_review: true, .. })));
    let mut looks = vec![None; 10];
    looks.extend([Some(0); 9]);
    let (asked, at, decision) = settle(window, &looks);
    assert_eq!((asked, decision), (12, Some(unconfirmed)));
    assert_eq!(at, posted() + window + TimeDelta::minutes(8));
}

#[test]
fn an_exotel_that_cannot_be_asked_keeps_a_dial_open_for_a_day() {
    let (looks, at, decision) = settle(TimeDelta::minutes(15), &vec![None; 1500]);
    assert!((1400..1500).contains(&looks), "{looks}");
    assert_eq!(at, posted() + PATIENCE);
    let given_up = Decision::GiveUp {
        presumption: Presumption::Unconfirmed,
        needs_review: true,
    };
    assert_eq!(decision, Some(given_up));
}

proptest! {
    /// Only one candidate is ever taken, and nothing is given up before its time.
    #[test]
    fn nothing_is_guessed(
        window in 1_i64..20_000, looks in prop::collection::vec(prop::option::of(0_usize..4), 1..40)
    ) {
        let window = TimeDelta::seconds(window);
        let (index, at, decision) = settle(window, &looks);
        let before = &looks[..index.min(looks.len())];
        prop_assert!(!before.contains(&Some(1)), "the first single candidate is taken");
        if let Some(Decision::GiveUp { presumption, .. }) = decision {
            prop_assert!(at >= posted() + window);
            let clean = before.iter().filter(|look| **look == Some(0)).count();
            match presumption {
                Presumption::UnconfirmedAmbiguous => prop_assert!(looks[index] > Some(1)),
                _ => prop_assert!(looks[index] == Some(0) && clean >= 2),
            }
        }
    }

    /// With an Exotel that answers, every dial is settled at the end of the window.
    #[test]
    fn every_dial_is_settled_in_time(
        window in 1_i64..20_000, looks in prop::collection::vec(prop::sample::select(vec![0_usize, 2]), 8)
    ) {
        let window = TimeDelta::seconds(window);
        let looks: Vec<Option<usize>> = looks.into_iter().map(Some).collect();
        let (index, at, _) = settle(window, &looks);
        let clean = looks[..5].iter().filter(|look| **look == Some(0)).count();
        prop_assert!(index == 4 || (looks[4] == Some(0) && clean < 3), "{index}");
        prop_assert!(at <= posted() + window * 3 / 2);
    }

    #[test]
    fn a_call_of_the_dial_is_always_a_candidate(
        quarter in zone::quarters(), late in 0_i64..38, skew in -600_i64..600, knows in any::<bool>(), tells in any::<bool>()
    ) {
        let minutes = i32::try_from(quarter * 15).unwrap();
        let sought = sought(knows.then_some(minutes));
        let list = [listed("sid-a", minutes, TimeDelta::seconds(late + skew))];
        let created = list[0].date_created_naive.unwrap();
        let (from, to) = sought.window();
        prop_assert!(from <= created && created <= to);
        prop_assert_eq!(found(&sought, &list, &[], tells.then(|| TimeDelta::seconds(skew))), ["sid-a"]);
    }

    #[test]
    fn numbers_are_compared_whatever_their_form(digits in 6_000_000_000_u64..=9_999_999_999) {
        let number = PhoneNumber::parse(&format!("+91{digits}")).unwrap();
        let sought = Sought { customer: number.expose(), ..sought(Some(330)) };
        let call = CallDetails { from: Caller::read(&number.national()), ..listed("sid-a", 330, TimeDelta::zero()) };
        prop_assert_eq!(found(&sought, &[call], &[], None), ["sid-a"]);
    }
}
