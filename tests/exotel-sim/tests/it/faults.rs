//! Scripted faults of REST, as they are on the wire.

use std::{io::ErrorKind, time::Duration};

use exotel_sim::{Account, Answer, Applet, Callee, Mode, Outcome};
use serde_json::Value;

use crate::{
    CUSTOMER, EXOPHONE, PATIENCE, World,
    raw::{connect_bytes, receive},
};

async fn hanging_up() -> World {
    let world = World::start().await;
    world.flow(vec![Applet::Hangup]);
    world
}

async fn dials(world: &World) -> usize {
    world.control.ledger().await.expect("a ledger").len()
}

async fn listed(world: &World, query: &str) -> Vec<Value> {
    let body = world.get_json(&format!("Calls.json?{query}")).await;
    body["Calls"].as_array().expect("a list").clone()
}

/// F20: the answer ends with an RST after any byte, in the head and in the body.
#[tokio::test]
async fn answers_are_cut_at_any_byte() {
    let world = hanging_up().await;
    let whole = world.raw_dial(CUSTOMER, &[]).await;
    assert_eq!(whole.error, None);
    let length = whole.bytes.len();
    assert!(whole.text().starts_with("HTTP/1.1 200 OK\r\n"), "{}", whole.text());
    for cut in [0, 1, 15, 17, 100, 130, length / 2, length - 2, length - 1] {
        let script = Outcome {
            cut_at_byte: Some(u64::try_from(cut).expect("small")),
            ..Outcome::default()
        };
        world.control.set_outcome(CUSTOMER, script).expect("a number");
        let before = dials(&world).await;
        let received = world.raw_dial(CUSTOMER, &[]).await;
        assert_eq!(
            (received.bytes.len(), received.error),
            (cut, Some(ErrorKind::ConnectionReset)),
            "{}",
            received.text()
        );
        assert_eq!(dials(&world).await, before + 1, "it was dialled all the same");
    }
    let beyond = Outcome {
        cut_at_byte: Some(100_000),
        ..Outcome::default()
    };
    world.control.set_outcome(CUSTOMER, beyond).expect("a number");
    let received = world.raw_dial(CUSTOMER, &[]).await;
    assert_eq!(
        (received.bytes.len(), received.error),
        (length, None),
        "a short answer comes whole"
    );
}

/// A cut belongs to one answer, not to the connection.
#[tokio::test]
async fn a_connection_outlives_a_cut_that_was_not_reached() {
    let world = hanging_up().await;
    let beyond = Outcome {
        cut_at_byte: Some(1_500),
        times: Some(1),
        ..Outcome::default()
    };
    world.control.set_outcome(CUSTOMER, beyond).expect("a number");
    for _ in 0..4 {
        // One pooled connection: without a fresh start the second answer would be cut.
        world.call(&[]).await;
    }
}

/// F19, F20: reset before anything rings.
#[tokio::test]
async fn a_lost_answer_may_belong_to_no_dial() {
    let world = hanging_up().await;
    for dialled in [false, true] {
        let script = Outcome {
            dialled: Some(dialled),
            ..Outcome::answer(Answer::Lost)
        };
        world.control.set_outcome(CUSTOMER, script).expect("a number");
        let received = world.raw_dial(CUSTOMER, &[]).await;
        assert_eq!(
            (received.bytes.len(), received.error),
            (0, Some(ErrorKind::ConnectionReset))
        );
        assert_eq!(dials(&world).await, usize::from(dialled));
    }
}

/// F19: the request is read and never answered; the client's end frees everything.
#[tokio::test]
async fn stalled_connects_wait_until_the_client_goes_away() {
    let world = hanging_up().await;
    for (dialled, count) in [(Some(false), 0), (None, 1)] {
        let script = Outcome {
            dialled,
            ..Outcome::answer(Answer::Stall)
        };
        world.control.set_outcome(CUSTOMER, script).expect("a number");
        let stream = world.open(&connect_bytes(CUSTOMER, &[])).await;
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(300), stream.peek(&mut byte)).await;
        assert!(read.is_err(), "nothing comes: {read:?}");
        assert_eq!(dials(&world).await, count);
        assert_eq!(world.control.open_connections(), 1);
        drop(stream);
        let gone = async {
            while world.control.open_connections() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone)
            .await
            .expect("the connection is given up");
    }
    let script = Outcome::answer(Answer::Stall);
    world.control.set_outcome(CUSTOMER, script).expect("a number");
    let stream = world.open(&connect_bytes(CUSTOMER, &[])).await;
    let dialled = |report: &exotel_sim::CallReport| report.has_ended();
    world
        .control
        .wait_for_any(PATIENCE, dialled)
        .await
        .expect("dialled and over");
    // The stop does not wait for a stalled client.
    world.simulator.shutdown().await;
    let received = receive(stream).await;
    assert!(received.bytes.is_empty());
}

/// 200 and a Sid, and then nothing at all.
#[tokio::test]
async fn a_vanished_call_is_known_to_nobody() {
    let world = hanging_up().await;
    world
        .control
        .set_outcome(CUSTOMER, Outcome::answer(Answer::Vanished))
        .expect("a number");
    let sid = world.call(&[]).await;
    assert_eq!(sid.len(), 32);
    assert_eq!(world.get(&format!("Calls/{sid}.json")).await.0, 404);
    assert!(listed(&world, &format!("Sid={sid}")).await.is_empty());
    assert_eq!((dials(&world).await, world.control.calls().len()), (0, 0));
}

/// Late appearance in the list, for one number alone.
#[tokio::test]
async fn a_call_comes_late_into_the_list() {
    let world = hanging_up().await;
    let late = Outcome {
        list_delay_ms: Some(60_000),
        ..Outcome::default()
    };
    world.control.set_outcome(CUSTOMER, late).expect("a number");
    let sid = world.call(&[]).await;
    let response = world.dial("09812345678", &[]).await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(listed(&world, "").await.len(), 1, "the other number's call is there");
    for query in [format!("From={CUSTOMER}"), format!("Sid={sid}")] {
        assert!(listed(&world, &query).await.is_empty(), "{query}");
    }
    assert_eq!(
        world.get(&format!("Calls/{sid}.json")).await.0,
        200,
        "details know it at once"
    );
    // Ten thousand times faster, a minute is over.
    world.control.change_settings(|settings| settings.time_scale = 10_000.0);
    let listing = async { while listed(&world, &format!("From={CUSTOMER}")).await.is_empty() {} };
    tokio::time::timeout(PATIENCE, listing).await.expect("appears");
}

/// Somebody else's calls to the same person from the same ExoPhone.
#[tokio::test]
async fn strangers_call_the_same_person() {
    let world = hanging_up().await;
    let script = Outcome {
        strangers: 3,
        callee: Callee::Busy,
        ..Outcome::default()
    };
    world.control.set_outcome(CUSTOMER, script.clone()).expect("a number");
    let sid = world.call(&[("CustomField", "ours")]).await;
    let all = listed(
        &world,
        &format!("From={CUSTOMER}&PhoneNumber={EXOPHONE}&Direction=outbound-api"),
    )
    .await;
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|call| call.get("CustomField").is_none()));
    let ledger = world.control.ledger().await.expect("a ledger");
    let ours: Vec<&str> = ledger
        .iter()
        .filter(|entry| entry.mode.is_connect())
        .map(|entry| entry.call_sid.as_str())
        .collect();
    assert_eq!(ours, [sid.as_str()]);
    let strangers: Vec<_> = ledger.iter().filter(|entry| entry.mode == Mode::Stranger).collect();
    assert_eq!(strangers.len(), 3);
    assert!(
        strangers
            .iter()
            .all(|entry| entry.custom_field.as_deref() != Some("ours"))
    );
    assert!(strangers.iter().any(|entry| entry.custom_field.is_some()));
    for stranger in strangers {
        let report = world.control.wait_for_end(&stranger.call_sid, PATIENCE).await;
        assert_eq!(report.expect("ends").status.as_deref(), Some("busy"));
    }
    let load = world.control.load("examplesid1").expect("known");
    assert_eq!((load.connects, load.peak_calls), (1, 1), "strangers are not our load");
    assert_eq!(load.exophone(EXOPHONE).map(|phone| phone.peak_calls), Some(1));

    // Theirs alone, where ours was never dialled.
    let script = Outcome {
        answer: Answer::Unavailable,
        ..script
    };
    world.control.set_outcome("09812345678", script).expect("a number");
    world.dial("09812345678", &[]).await.expect("an answer");
    assert_eq!(listed(&world, "From=09812345678").await.len(), 3);
}

/// An account whose clock is not India's.
#[tokio::test]
async fn an_account_lives_in_its_own_zone() {
    let world = hanging_up().await;
    let sid = world.call(&[]).await;
    let created = async |offset| {
        let mut account = world.control.accounts().remove(0);
        account.utc_offset_minutes = offset;
        world.control.put_account(account).expect("valid");
        let call = world.get_json(&format!("Calls/{sid}.json")).await["Call"].clone();
        call["DateCreated"].as_str().expect("a time").to_owned()
    };
    let (india, utc) = (created(330).await, created(0).await);
    let parse = |text: &str| chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").expect("a time");
    assert_eq!((parse(&india) - parse(&utc)).num_minutes(), 330);
    assert!(
        listed(&world, &format!("DateCreated=gte:{}", india.replace(' ', "+")))
            .await
            .is_empty(),
        "filters are in the account's time"
    );
    assert_eq!(Account::default().utc_offset_minutes, 330);
}
