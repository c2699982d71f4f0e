use chrono::TimeZone as _;

use super::*;

fn at(ms: i64) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(1_700_000_000_000 + ms).unwrap()
}

fn id(number: u32) -> String {
    format!("call_0198000000007000800000000000{number:04x}")
}

fn row(number: u32, state: &str) -> Row {
    Row {
        call: id(number),
        key: format!("key{number}"),
        state: state.to_owned(),
        call_sid: None,
        campaign: None,
        end_reason: None,
    }
}

fn dial(number: u32, call_sid: &str, ms: i64) -> Dial {
    Dial {
        time: at(ms),
        call_sid: call_sid.to_owned(),
        account: "acme".to_owned(),
        custom_field: Some(format!("{}.mac", id(number))),
    }
}

fn post(number: u32, ms: i64) -> Post {
    Post {
        time: at(ms),
        account: "acme".to_owned(),
        custom_field: Some(format!("{}.mac", id(number))),
        may_come_again: false,
    }
}

fn accepted(number: u32) -> Accepted {
    Accepted {
        key: format!("key{number}"),
        call: id(number),
    }
}

/// Two calls, as they should be: one was dialled and busy, of the other nothing was ever sent.
fn sound() -> Evidence {
    Evidence {
        accepted: vec![accepted(1), accepted(2)],
        rows: vec![
            Row {
                call_sid: Some("s1".to_owned()),
                ..row(1, "busy")
            },
            Row {
                end_reason: Some("unconfirmed".to_owned()),
                ..row(2, "failed")
            },
        ],
        dials: vec![dial(1, "s1", 0)],
        ends: [("s1".to_owned(), at(100))].into(),
        posts: vec![post(1, 0)],
        limits: [(
            "acme".to_owned(),
            Limits {
                concurrent: 1,
                per_minute: 2,
            },
        )]
        .into(),
        ..Evidence::default()
    }
}

/// Checks that exactly these are found, and returns the counts.
#[track_caller]
fn found(evidence: &Evidence, wanted: &[Violation]) -> (u64, u64, u64) {
    let verdict = check(evidence);
    assert_eq!(verdict.violations, wanted);
    (verdict.double_dials, verdict.lost_calls, verdict.stuck_slots)
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(found(&sound(), &[]), (0, 0, 0));
    assert_eq!(found(&Evidence::default(), &[]), (0, 0, 0));
}

#[test]
fn a_second_dial_is_found() {
    let mut evidence = sound();
    evidence.dials.push(dial(1, "s2", 200));
    let double = Violation::DoubleDial {
        key: "key1".to_owned(),
        call: id(1),
        sids: vec!["s1".to_owned(), "s2".to_owned()],
    };
    assert_eq!(found(&evidence, std::slice::from_ref(&double)), (1, 0, 0));
    assert!(double.to_string().contains("key1") && double.call() == Some(id(1).as_str()));
}

#[test]
fn a_second_dial_is_found_when_it_is_another_row_of_the_same_key() {
    let mut evidence = sound();
    evidence.rows.push(Row {
        key: "key1".to_owned(),
        ..row(3, "no_answer")
    });
    evidence.dials.push(dial(3, "s3", 200));
    let (one, three) = (id(1), id(3));
    let wanted = [
        Violation::DoubleDial {
            key: "key1".to_owned(),
            call: one.clone(),
            sids: vec!["s1".to_owned(), "s3".to_owned()],
        },
        Violation::TwoRows {
            key: "key1".to_owned(),
            calls: vec![one, three],
        },
    ];
    assert_eq!(found(&evidence, &wanted), (1, 0, 0));
}

#[test]
fn a_dial_without_a_row_is_found() {
    let mut evidence = sound();
    evidence.dials.push(dial(9, "s9", 200));
    let unnamed = |custom_field: Option<&str>| Dial {
        custom_field: custom_field.map(str::to_owned),
        ..dial(0, "s0", 400)
    };
    // Neither without a name, nor with one that is not signed or not ours.
    evidence.dials.push(unnamed(None));
    evidence.dials.push(unnamed(Some(&id(1))));
    evidence.dials.push(unnamed(Some("order-7.mac")));
    let lost = |call_sid: &str, names: &str| Violation::DialWithoutRow {
        call_sid: call_sid.to_owned(),
        names: names.to_owned(),
    };
    evidence.limits.clear();
    let wanted = [
        lost("s9", &id(9)),
        lost("s0", "nothing"),
        lost("s0", "nothing"),
        lost("s0", "nothing"),
    ];
    assert_eq!(found(&evidence, &wanted), (0, 4, 0));
}

#[test]
fn an_accepted_key_without_a_row_is_found_once() {
    let mut evidence = sound();
    evidence.accepted.extend([accepted(7), accepted(7)]);
    let lost = Violation::AcceptedWithoutRow {
        key: "key7".to_owned(),
        call: id(7),
    };
    assert_eq!(found(&evidence, &[lost]), (0, 1, 0));
}

#[test]
fn an_answer_that_names_another_call_is_found() {
    let mut evidence = sound();
    evidence.accepted[0].call = id(2);
    let other = Violation::OtherCall {
        key: "key1".to_owned(),
        told: id(2),
        row: id(1),
    };
    assert_eq!(found(&evidence, &[other]), (0, 0, 0));
}

#[test]
fn rows_that_never_ended_are_found_and_active_ones_hold_slots() {
    for (state, slots) in [
        ("queued", 0),
        ("dialing", 1),
        ("unconfirmed", 1),
        ("placed", 1),
        ("ringing", 1),
        ("in_progress", 1),
        ("some_new_word", 0),
    ] {
        let mut evidence = sound();
        state.clone_into(&mut evidence.rows[1].state);
        let verdict = check(&evidence);
        assert_eq!((verdict.lost_calls, verdict.stuck_slots), (1, slots), "{state}");
        assert_eq!(verdict.violations.len() as u64, 1 + slots, "{state}");
    }
}

#[test]
fn an_end_without_a_dial_is_found() {
    for state in ["completed", "busy", "no_answer"] {
        let mut evidence = sound();
        state.clone_into(&mut evidence.rows[1].state);
        let wrong = Violation::EndWithoutDial {
            call: id(2),
            state: state.to_owned(),
        };
        assert_eq!(found(&evidence, &[wrong]), (0, 0, 0));
    }
}

#[test]
fn the_sid_of_another_call_is_found() {
    let mut evidence = sound();
    evidence.rows[1].call_sid = Some("s1".to_owned());
    let foreign = Violation::ForeignSid {
        call: id(2),
        call_sid: "s1".to_owned(),
    };
    assert_eq!(found(&evidence, &[foreign]), (0, 0, 0));
}

#[test]
fn a_dial_that_nobody_found_out_about_is_counted() {
    let mut evidence = sound();
    evidence.dials.push(dial(2, "s2", 5_000));
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
    assert_eq!(check(&evidence).untold_dials, 1);
}

#[test]
fn calls_above_the_cap_are_found() {
    let mut evidence = sound();
    evidence.rows.push(row(3, "busy"));
    // Begins at the very instant at which the first one ends: allowed.
    evidence.dials.push(dial(3, "s3", 100));
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
    // A millisecond earlier: not.
    evidence.dials[1].time = at(99);
    let over = Violation::OverCap {
        whose: "acme".to_owned(),
        calls: 2,
        cap: 1,
        at: at(99),
    };
    assert_eq!(found(&evidence, std::slice::from_ref(&over)), (0, 0, 0));
    // One whose end is not known goes on.
    evidence.dials[1].time = at(5_000);
    evidence.ends.clear();
    assert!(matches!(check(&evidence).violations[..], [Violation::OverCap { .. }]));
    // Another account has room of its own, and 0 is no cap.
    evidence.dials[1].account = "other".to_owned();
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
    evidence.dials[1].account = "acme".to_owned();
    evidence.limits.get_mut("acme").unwrap().concurrent = 0;
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
}

#[test]
fn connects_above_the_rate_are_found_in_any_sliding_minute() {
    let mut evidence = sound();
    // Over a minute's border, and not in order; the third is a minute after the first.
    evidence.posts = vec![post(1, 100_000), post(2, 40_000), post(3, 59_999)];
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
    evidence.posts[0] = post(1, 99_999);
    let over = Violation::OverRate {
        whose: "acme".to_owned(),
        limit: 2,
        from: at(40_000),
    };
    assert_eq!(found(&evidence, &[over]), (0, 0, 0));
}

#[test]
fn clients_without_a_good_answer_are_found() {
    let mut evidence = sound();
    evidence.unanswered.push("key8".to_owned());
    evidence
        .refused
        .push(("key9".to_owned(), "INVALID_ARGUMENT".to_owned()));
    let wanted = [
        Violation::Unanswered { key: "key8".to_owned() },
        Violation::Refused {
            key: "key9".to_owned(),
            status: "INVALID_ARGUMENT".to_owned(),
        },
    ];
    assert_eq!(found(&evidence, &wanted), (0, 0, 0));
}

#[test]
fn a_second_request_is_found_even_if_nothing_was_dialled() {
    let mut evidence = sound();
    evidence.limits.clear();
    // Too often: it may come again, and once more if that was too often too.
    for ms in [10, 20] {
        evidence.posts.push(Post {
            may_come_again: true,
            ..post(2, ms)
        });
    }
    evidence.posts.push(post(2, 30));
    assert_eq!(found(&evidence, &[]), (0, 0, 0));
    evidence.posts.push(post(2, 40));
    let second = Violation::SecondPost {
        call: id(2),
        first: at(30),
        second: at(40),
    };
    assert_eq!(found(&evidence, &[second]), (0, 0, 0));
}

const OURS: &str = "campaign_01980000000070008000000000000001";

/// A campaign of two contacts: one was busy and then reached, the other is on the do-not-disturb register.
fn of_campaign() -> Evidence {
    let call = |number, attempt: &str, state: &str| Row {
        key: format!("contact_{attempt}"),
        campaign: Some(OURS.to_owned()),
        ..row(number, state)
    };
    Evidence {
        rows: vec![
            call(1, "a:1", "busy"),
            call(2, "a:2", "completed"),
            call(3, "b:1", "failed"),
        ],
        dials: vec![dial(1, "s1", 0), dial(2, "s2", 70_000)],
        ends: [("s1".to_owned(), at(100)), ("s2".to_owned(), at(70_100))].into(),
        posts: vec![post(1, 0), post(2, 70_000), post(3, 140_000)],
        campaigns: [(
            OURS.to_owned(),
            Campaign {
                limits: Limits {
                    concurrent: 1,
                    per_minute: 1,
                },
                attempts: 2,
                contacts: 2,
            },
        )]
        .into(),
        contacts: [("reached", 1), ("refused", 1)]
            .map(|(state, count)| ((OURS.to_owned(), state.to_owned()), count))
            .into(),
        ..Evidence::default()
    }
}

#[test]
fn a_campaign_is_held_to_its_own_limits() {
    assert_eq!(found(&of_campaign(), &[]), (0, 0, 0));
    let mut evidence = of_campaign();
    evidence.dials[1] = dial(2, "s2", 50);
    evidence.posts[1] = post(2, 50);
    let wanted = [
        Violation::OverCap {
            whose: OURS.to_owned(),
            calls: 2,
            cap: 1,
            at: at(50),
        },
        Violation::OverRate {
            whose: OURS.to_owned(),
            limit: 1,
            from: at(0),
        },
        Violation::OnceMore {
            contact: "contact_a".to_owned(),
            first: id(1),
            second: id(2),
            at: at(50),
        },
    ];
    found(&evidence, &wanted);
    // A call of somebody else is none of its.
    evidence.rows[1].campaign = None;
    found(&evidence, &[]);
}

#[test]
fn a_contact_that_is_called_too_often_is_found() {
    let mut evidence = of_campaign();
    evidence.rows.push(Row {
        key: "contact_a:3".to_owned(),
        campaign: Some(OURS.to_owned()),
        ..row(4, "completed")
    });
    evidence.dials.push(dial(4, "s4", 200_000));
    let too_often = Violation::TooOften {
        contact: "contact_a".to_owned(),
        dials: 3,
        allowed: 2,
    };
    let reached_before = Violation::OnceMore {
        contact: "contact_a".to_owned(),
        first: id(2),
        second: id(4),
        at: at(200_000),
    };
    found(&evidence, &[too_often, reached_before]);
}

#[test]
fn a_contact_that_is_dialled_while_it_is_on_a_call_is_found() {
    let once_more = Violation::OnceMore {
        contact: "contact_a".to_owned(),
        first: id(1),
        second: id(2),
        at: at(70_000),
    };
    let mut evidence = of_campaign();
    evidence.ends.insert("s1".to_owned(), at(70_001));
    assert!(check(&evidence).violations.contains(&once_more));
    evidence.ends.remove("s1");
    assert!(
        check(&evidence).violations.contains(&once_more),
        "a call without an end goes on"
    );
    evidence.ends.insert("s1".to_owned(), at(70_000));
    found(&evidence, &[]);
}

#[test]
fn contacts_that_are_left_or_lost_are_found() {
    let mut evidence = of_campaign();
    evidence.contacts.remove(&(OURS.to_owned(), "refused".to_owned()));
    let lost = |rows| Violation::ContactsLost {
        campaign: OURS.to_owned(),
        rows,
        sent: 2,
    };
    found(&evidence, &[lost(1)]);
    evidence.contacts.insert((OURS.to_owned(), "calling".to_owned()), 1);
    let left = Violation::ContactsLeft {
        campaign: OURS.to_owned(),
        state: "calling".to_owned(),
        count: 1,
    };
    found(&evidence, &[left]);
    evidence.contacts.insert((OURS.to_owned(), "reached".to_owned()), 2);
    assert!(check(&evidence).violations.contains(&lost(3)));
}

/// F108: the second call is sent in a pause of its campaign.
#[test]
fn a_request_that_comes_long_after_a_pause_is_found() {
    let pause = |campaign: &str, from, until| Pause {
        campaign: campaign.to_owned(),
        from: at(from),
        until: at(until),
    };
    let late = |paused| Violation::LatePost {
        campaign: OURS.to_owned(),
        call: id(2),
        paused: at(paused),
        at: at(70_000),
    };
    for (from, until, is_late, latest) in [
        // On its way when it was paused, to the millisecond; and later.
        (69_000, 80_000, false, 1_000),
        (68_999, 80_000, true, 1_001),
        (60_000, 70_001, true, 10_000),
        // Before, and when it runs again.
        (70_000, 80_000, false, 0),
        (60_000, 70_000, false, 0),
    ] {
        let mut evidence = of_campaign();
        evidence.pauses = vec![pause(OURS, from, until)];
        let verdict = check(&evidence);
        let wanted: Vec<_> = is_late.then(|| late(from)).into_iter().collect();
        assert_eq!(verdict.violations, wanted, "{from} {until}");
        assert_eq!(
            (verdict.pauses, verdict.late_posts, verdict.latest_post_ms),
            (1, u64::from(is_late), latest),
            "{from} {until}"
        );
    }
    // One that was refused is a request too, a campaign has nothing to do with another's pause, and one of a second shows nothing.
    let mut evidence = of_campaign();
    evidence.dials.pop();
    evidence.rows[1].state = "failed".to_owned();
    evidence.pauses = vec![
        pause(OURS, 60_000, 80_000),
        pause("campaign_01980000000070008000000000000002", 60_000, 80_000),
        pause(OURS, 0, 1_000),
    ];
    let verdict = check(&evidence);
    assert_eq!(verdict.violations, [late(60_000)]);
    assert_eq!((verdict.pauses, verdict.late_posts), (2, 1));
    assert_eq!(late(60_000).call(), Some(id(2).as_str()));
}
