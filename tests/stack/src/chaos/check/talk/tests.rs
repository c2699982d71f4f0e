use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::{Hole, Sound},
    *,
};

fn at(ms: i64) -> DateTime<Utc> {
    let begin: DateTime<Utc> = "2026-11-25T10:00:00Z".parse().unwrap();
    begin + TimeDelta::milliseconds(ms)
}

fn row() -> TalkRow {
    TalkRow {
        call: "call_1".to_owned(),
        call_sid: "s1".to_owned(),
        state: "completed".to_owned(),
        end_reason: Some("customer_hung_up".to_owned()),
        ends: 1,
        sessions: 1,
        session_ends: 1,
        presumed: false,
    }
}

fn talk() -> Talk {
    Talk {
        call_sid: "s1".to_owned(),
        ..Talk::default()
    }
}

fn verdict(talk: Talk, row: Option<TalkRow>) -> Verdict {
    let evidence = Evidence {
        talks: vec![talk],
        talk_rows: row.into_iter().collect(),
        ..Evidence::default()
    };
    let mut verdict = Verdict::default();
    check(&evidence, &mut verdict);
    verdict
}

#[test]
fn a_call_is_as_it_was_heard_and_as_the_row_says() {
    assert_eq!(verdict(talk(), Some(row())), Verdict::default());
    let dropped = Talk {
        wrong: Some("the bot ended it".to_owned()),
        ..talk()
    };
    assert_eq!(verdict(dropped, Some(row())).dropped, 1);
    let cut = Talk {
        sound: Sound {
            lost: 160,
            doubled: 3,
            holes: Vec::new(),
        },
        ..talk()
    };
    let found = verdict(cut, Some(row()));
    assert_eq!(
        (found.samples_lost, found.samples_doubled, found.violations.len()),
        (160, 3, 1)
    );
    assert_eq!(verdict(talk(), None).violations.len(), 1);
    let wrong: [fn(&mut TalkRow); 6] = [
        |row| row.state = "failed".to_owned(),
        |row| row.end_reason = Some("time_limit".to_owned()),
        |row| row.ends = 2,
        |row| row.sessions = 2,
        |row| row.session_ends = 0,
        |row| row.presumed = true,
    ];
    for change in wrong {
        let mut row = row();
        change(&mut row);
        assert_eq!(verdict(talk(), Some(row.clone())).violations.len(), 1, "{row:?}");
    }
}

#[test]
fn a_call_whose_edge_died_ends_otherwise_but_once() {
    let cut = |row: TalkRow| {
        let evidence = Evidence {
            talks: vec![Talk {
                wrong: Some("the bot ended it".to_owned()),
                ..talk()
            }],
            talk_rows: vec![row],
            cut: ["s1".to_owned()].into(),
            ..Evidence::default()
        };
        let mut verdict = Verdict::default();
        check(&evidence, &mut verdict);
        (verdict.dropped, verdict.violations.len())
    };
    let ended = TalkRow {
        end_reason: Some("completed".to_owned()),
        presumed: true,
        ..row()
    };
    assert_eq!(cut(ended.clone()), (0, 0));
    assert_eq!(
        cut(TalkRow {
            session_ends: 0,
            ..ended
        }),
        (0, 1)
    );
}

#[test]
fn what_nobody_took_and_calls_that_were_refused_are_counted() {
    let evidence = Evidence {
        talks: vec![talk()],
        talk_rows: vec![row()],
        refused: vec![("key".to_owned(), "Unavailable".to_owned())],
        not_taken: vec!["a handshake".to_owned()],
        ..Evidence::default()
    };
    let mut verdict = Verdict::default();
    check(&evidence, &mut verdict);
    assert_eq!((verdict.refused, verdict.violations.len()), (2, 1));
}

/// Pairs of windows, each with the longest hole of both: at other times, and while edges are detached.
fn windows(pairs: &[(u64, u64)]) -> Verdict {
    let (mut windows, mut holes) = (Vec::new(), Vec::new());
    for (number, ms) in pairs
        .iter()
        .flat_map(|(control, detached)| [control, detached])
        .enumerate()
    {
        let from = i64::try_from(number).unwrap() * 1_000;
        windows.push(Window {
            from: at(from),
            until: at(from + 900),
            attached: number % 2 == 1,
        });
        holes.push(Hole {
            at: at(from + 100),
            ms: *ms,
        });
        // Between two windows nobody looks.
        holes.push(Hole {
            at: at(from + 950),
            ms: 5_000,
        });
    }
    let mut verdict = Verdict::default();
    let talks = vec![Talk {
        sound: Sound {
            holes,
            ..Sound::default()
        },
        ..talk()
    }];
    let evidence = Evidence {
        talks,
        talk_rows: vec![row()],
        windows,
        ..Evidence::default()
    };
    check(&evidence, &mut verdict);
    verdict
}

#[test]
fn holes_count_when_they_are_longer_or_more_often_there() {
    let found = windows(&[(20, 80), (60, 20), (0, 0)]);
    assert_eq!((found.hole_ms, found.hole_control_ms), (80, 60));
    assert_eq!(
        (found.holes, found.holes_control, found.violations.len()),
        (1, 1, 0),
        "a busy machine"
    );
    assert_eq!(windows(&[(40, 500), (20, 400), (20, 600)]).violations.len(), 1, "long");
    assert_eq!(windows(&[(40, 500), (20, 400), (20, 60)]).violations.len(), 0);
    assert_eq!(windows(&[(20, 60); 10]).violations.len(), 1, "always");
    assert_eq!(windows(&[(60, 20); 10]).violations.len(), 0);
}

#[test]
fn the_sign_test_knows_its_binomials() {
    for (first, second, expected) in [
        (0, 0, 1.0),
        (3, 0, 0.125),
        (1, 1, 0.75),
        (2, 1, 0.5),
        (10, 0, 1.0 / 1_024.0),
    ] {
        let found = tail(first, second);
        assert!((found - expected).abs() < 1e-12, "{first} and {second}: {found}");
    }
}
