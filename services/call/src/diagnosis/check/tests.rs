use std::time::Duration;

use exotel::rest::{ActiveStreams, Rejection, RestError};

use super::*;

fn outcomes<const N: usize>(checks: &[Check; N]) -> [(&'static str, Outcome); N] {
    checks.each_ref().map(|check| (check.name, check.outcome))
}

/// Whatever is wrong comes with what to do, and what is well with nothing.
fn is_told_what_to_do(checks: &[Check]) {
    for check in checks {
        let wrong = matches!(check.outcome, Outcome::Warning | Outcome::Failed);
        assert_eq!(wrong, !check.advice.is_empty(), "{check:?}");
        assert!(!check.seen.is_empty(), "{check:?}");
    }
}

#[test]
fn what_exotel_says_of_the_account() {
    use Outcome::{Failed, Passed, Skipped};
    let no_key = || Exophones::NoCredentials("there are none".to_owned());
    for (exophones, elsewhere, expected) in [
        (Exophones::Owned, None, [Passed, Passed, Passed]),
        (Exophones::NotOwned, None, [Passed, Passed, Failed]),
        (Exophones::BadCredentials, None, [Failed, Skipped, Skipped]),
        (
            Exophones::BadCredentials,
            Some("api.in.exotel.com"),
            [Passed, Failed, Skipped],
        ),
        (no_key(), None, [Failed, Skipped, Skipped]),
        (Exophones::Unreachable("dns"), None, [Failed, Skipped, Skipped]),
        (Exophones::Refused("no".to_owned()), None, [Failed, Skipped, Skipped]),
    ] {
        let checks = account(&Account {
            source: "account",
            subdomain: "api.exotel.com".to_owned(),
            elsewhere,
            exophones,
        });
        let [first, second, third] = expected;
        assert_eq!(
            outcomes(&checks),
            [("credentials", first), ("cluster", second), ("number", third)]
        );
        is_told_what_to_do(&checks);
    }
}

#[test]
fn a_key_of_the_other_cluster_is_told_which() {
    let [_, cluster, _] = account(&Account {
        source: "phone",
        subdomain: "api.exotel.com".to_owned(),
        elsewhere: Some("api.in.exotel.com"),
        exophones: Exophones::BadCredentials,
    });
    assert_eq!(cluster.advice, "set subdomain to api.in.exotel.com");
}

#[test]
fn a_call_needs_an_agent_and_a_flow() {
    for (agent_there, flow, app_id, ready) in [
        (true, true, true, true),
        (true, false, false, true),
        (true, true, false, false),
        (false, true, true, false),
    ] {
        let seen = Ready {
            agent: agent_there,
            flow,
            app_id,
        };
        let check = agent(seen);
        assert_eq!(check.outcome == Outcome::Passed, ready, "{seen:?}");
        assert_eq!(seen.is_ready(), ready);
        is_told_what_to_do(&[check]);
    }
}

#[test]
fn how_many_streams_there_may_be() {
    let refused = |kind| RestError::Refused {
        kind,
        provider_code: "403".to_owned(),
        retry_after: None,
    };
    let streams = |active, limit| Ok(ActiveStreams { active, limit });
    for (asked, outcome) in [
        (Some(streams(0, Some(100))), Outcome::Passed),
        (Some(streams(3, None)), Outcome::Passed),
        (Some(streams(100, Some(100))), Outcome::Warning),
        (Some(streams(0, Some(0))), Outcome::Failed),
        (Some(Err(refused(Rejection::Forbidden))), Outcome::Failed),
        (Some(Err(refused(Rejection::RateLimited))), Outcome::Warning),
        (Some(Err(RestError::Status(500))), Outcome::Warning),
        (None, Outcome::Skipped),
    ] {
        let check = streaming(asked.as_ref());
        assert_eq!(check.outcome, outcome, "{asked:?}");
        is_told_what_to_do(&[check]);
    }
}

fn reached(status: u16, edge: Option<&str>) -> Reached {
    Reached::Answered(Answered {
        status,
        edge: edge.map(str::to_owned),
        took: Duration::from_millis(12),
    })
}

fn place(applets: Vec<Reached>, socket: Reached) -> Edge {
    let asked = |reached| Asked {
        applet: "connect",
        reached,
    };
    Edge {
        host: "bridge.example.com".to_owned(),
        secure: true,
        loopback: false,
        applets: applets.into_iter().map(asked).collect(),
        socket,
    }
}

#[test]
fn whether_exotel_would_reach_the_edge() {
    use Outcome::{Failed, Passed, Skipped, Warning};
    let good = || place(vec![reached(200, Some("edge_1")); 6], reached(101, None));
    let plain = |loopback| Edge {
        secure: false,
        loopback,
        ..good()
    };
    let unreached = |why| place(vec![Reached::Unreached(why)], Reached::Unreached(why));
    let mut slow = good();
    slow.applets[3].reached = Reached::Answered(Answered {
        status: 200,
        edge: Some("edge_2".to_owned()),
        took: Duration::from_secs(3),
    });
    for (seen, expected) in [
        (good(), [Passed, Passed, Passed]),
        (slow, [Passed, Warning, Passed]),
        (plain(true), [Warning, Passed, Passed]),
        (plain(false), [Failed, Passed, Passed]),
        (unreached(Unreached::Dns), [Failed, Skipped, Skipped]),
        (unreached(Unreached::Refused), [Failed, Skipped, Skipped]),
        (unreached(Unreached::Timeout), [Failed, Skipped, Skipped]),
        (unreached(Unreached::Lost), [Failed, Skipped, Skipped]),
        (
            unreached(Unreached::Tls(TlsFault::UnknownIssuer)),
            [Failed, Skipped, Skipped],
        ),
        (unreached(Unreached::Tls(TlsFault::Expired)), [Failed, Skipped, Skipped]),
        (
            unreached(Unreached::Tls(TlsFault::WrongName)),
            [Failed, Skipped, Skipped],
        ),
        (unreached(Unreached::Tls(TlsFault::Other)), [Failed, Skipped, Skipped]),
        (
            place(vec![reached(200, None)], reached(101, None)),
            [Passed, Failed, Passed],
        ),
        (
            place(vec![reached(200, Some("edge_1"))], reached(400, None)),
            [Passed, Passed, Failed],
        ),
    ] {
        let checks = edge(&seen);
        let [first, second, third] = expected;
        assert_eq!(
            outcomes(&checks),
            [("edge_tls", first), ("applet_urls", second), ("audio_socket", third)],
            "{seen:?}"
        );
        is_told_what_to_do(&checks);
    }
}

#[test]
fn a_wrong_answer_says_where_to_look() {
    for (status, word) in [
        (404, "EDGE_TOKEN_KEYS"),
        (503, "CALL_SERVICE_URL"),
        (302, "redirect"),
        (401, "login"),
        (200, "something else"),
    ] {
        let [_, applets, _] = edge(&place(vec![reached(status, None)], reached(101, None)));
        assert!(applets.advice.contains(word), "{status}: {}", applets.advice);
    }
}

fn seen(placed: Placed) -> Seen {
    Seen {
        id: None,
        flow: true,
        placed,
        audio: None,
        end: End::Unseen,
        callback: None,
    }
}

#[test]
fn a_call_that_nobody_answered_shows_nothing_more() {
    let unanswered = |reason: &str| Placed::Unanswered("failed", reason.to_owned(), "403".to_owned());
    for (placed, outcome) in [
        (Placed::Refused("the phone has no agent".to_owned()), Outcome::Failed),
        (Placed::Waits("calling_hours".to_owned()), Outcome::Failed),
        (Placed::Unconfirmed, Outcome::Warning),
        (Placed::Silent, Outcome::Warning),
        (unanswered("busy"), Outcome::Warning),
        (unanswered("no_answer"), Outcome::Warning),
        (unanswered("expired"), Outcome::Failed),
        (unanswered("kyc"), Outcome::Failed),
        (unanswered("dnd"), Outcome::Failed),
        (unanswered("no_balance"), Outcome::Failed),
        (unanswered("bad_parameter"), Outcome::Failed),
        (unanswered("forbidden"), Outcome::Failed),
        (unanswered("a word of later"), Outcome::Failed),
    ] {
        let checks = call(&seen(placed));
        assert_eq!(
            outcomes(&checks),
            [
                ("call", outcome),
                ("audio", Outcome::Skipped),
                ("hangup_applet", Outcome::Skipped),
                ("callback", Outcome::Skipped)
            ]
        );
        is_told_what_to_do(&checks);
    }
}

#[test]
fn what_an_answered_call_shows() {
    use Outcome::{Failed, Passed, Skipped, Warning};
    let answered = || seen(Placed::Answered(Duration::from_secs(3)));
    let heard = Some(Audio {
        frames: 30,
        bytes: 9_600,
        agent: Agent::Answered { frames: 20 },
    });
    let ended = End::Ended(Duration::from_millis(400));
    let told = || Some("multipart, short".to_owned());
    for (seen, expected) in [
        (
            Seen {
                audio: heard,
                end: ended,
                callback: told(),
                ..answered()
            },
            [Passed, Passed, Passed],
        ),
        (
            Seen {
                audio: heard,
                end: ended,
                ..answered()
            },
            [Passed, Passed, Warning],
        ),
        (
            Seen {
                audio: heard,
                end: End::Open,
                ..answered()
            },
            [Passed, Failed, Skipped],
        ),
        (
            Seen {
                audio: heard,
                end: End::Unknown,
                ..answered()
            },
            [Passed, Warning, Skipped],
        ),
        (
            Seen {
                audio: Some(Audio {
                    frames: 0,
                    bytes: 0,
                    agent: Agent::Unseen,
                }),
                callback: told(),
                ..answered()
            },
            [Warning, Skipped, Passed],
        ),
        (
            Seen {
                audio: Some(Audio {
                    frames: 30,
                    bytes: 9_600,
                    agent: Agent::Silent,
                }),
                end: ended,
                callback: told(),
                ..answered()
            },
            [Failed, Passed, Passed],
        ),
        (answered(), [Failed, Skipped, Skipped]),
        (
            Seen {
                flow: false,
                ..answered()
            },
            [Failed, Skipped, Skipped],
        ),
        (
            Seen {
                flow: false,
                audio: heard,
                end: ended,
                callback: told(),
                ..answered()
            },
            [Passed, Skipped, Passed],
        ),
    ] {
        let checks = call(&seen);
        let [first, second, third] = expected;
        assert_eq!(
            outcomes(&checks),
            [
                ("call", Passed),
                ("audio", first),
                ("hangup_applet", second),
                ("callback", third)
            ],
            "{seen:?}"
        );
        is_told_what_to_do(&checks);
    }
}
