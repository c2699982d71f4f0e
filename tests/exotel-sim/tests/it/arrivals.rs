//! The journal of connects that came, and what a checker learns from the files alone.

use exotel_sim::{Account, Answer, Applet, Fate, Outcome, ledger};
use tokio::io::AsyncWriteExt as _;

use crate::{
    CUSTOMER, EXOPHONE, PATIENCE, World,
    raw::{connect_bytes, receive},
};

/// F26: every connect that came is there with its `CustomField`, whatever became of it.
#[tokio::test]
async fn every_connect_is_journalled_whatever_becomes_of_it() {
    let world = World::start().await;
    world.flow(vec![Applet::Hangup]);
    let script = |number: &str, outcome| world.control.set_outcome(number, outcome).expect("a number");
    world.call(&[("CustomField", "good")]).await;
    world.call(&[("CustomField", "good")]).await;
    script("09812340001", Outcome::answer(Answer::Unavailable));
    script("09812340002", Outcome::answer(Answer::Lost));
    script("09812340003", Outcome::answer(Answer::Stall));
    script("09812340004", Outcome::answer(Answer::Vanished));
    world.raw_dial("09812340001", &[("CustomField", "unavailable")]).await;
    world.raw_dial("09812340002", &[("CustomField", "lost")]).await;
    let stalled = world
        .open(&connect_bytes("09812340003", &[("CustomField", "stalled")]))
        .await;
    world.raw_dial("09812340004", &[("CustomField", "vanished")]).await;
    world
        .raw_dial(CUSTOMER, &[("CustomField", "refused"), ("Colour", "blue")])
        .await;
    let wrong_key = world
        .http
        .post(world.url("Calls/connect.json"))
        .basic_auth("simkey", Some("x"))
        .form(&[("CustomField", "unauthorized"), ("From", CUSTOMER)]);
    assert_eq!(wrong_key.send().await.expect("an answer").status(), 401);
    // Half a body, and gone.
    let whole = connect_bytes(CUSTOMER, &[("CustomField", "half")]);
    let mut half = world.open(&whole[..whole.len() - 5]).await;
    half.shutdown().await.expect("ends");
    receive(half).await;
    let mut account: Account = world.control.accounts().remove(0);
    account.calls_per_minute = 1;
    world.control.put_account(account).expect("valid");
    world.raw_dial(CUSTOMER, &[("CustomField", "rate")]).await;

    let path = world.state.path().join("arrivals.jsonl");
    let wait = async {
        loop {
            let arrivals = ledger::read_arrivals(&path).expect("readable");
            if arrivals.len() >= 10 {
                return arrivals;
            }
            tokio::task::yield_now().await;
        }
    };
    let arrivals = tokio::time::timeout(PATIENCE, wait).await.expect("all of them");
    let fate = |field: &str| {
        let mut found = arrivals
            .iter()
            .filter(|arrival| arrival.custom_field.as_deref() == Some(field));
        found.next().map(|arrival| arrival.fate)
    };
    for (field, expected) in [
        ("good", Fate::Dialled),
        ("unavailable", Fate::NotDialled),
        ("lost", Fate::Dialled),
        ("stalled", Fate::Dialled),
        ("vanished", Fate::NotDialled),
        ("refused", Fate::Refused),
        ("unauthorized", Fate::Unauthorized),
        ("rate", Fate::RateLimited),
    ] {
        assert_eq!(fate(field), Some(expected), "{field}");
    }
    let unreadable = arrivals.iter().filter(|arrival| arrival.fate == Fate::Unreadable);
    assert_eq!(unreadable.count(), 1);
    assert_eq!(arrivals.len(), 10);
    assert_eq!(arrivals[0].caller_id.as_deref(), Some(EXOPHONE));
    assert_eq!(ledger::arrivals(&arrivals).get("good"), Some(&2));

    let entries = ledger::read(world.state.path().join("ledger.jsonl")).expect("readable");
    let dials = ledger::dials(&entries);
    assert_eq!(
        dials.into_iter().collect::<Vec<_>>(),
        [("good", 2), ("lost", 1), ("stalled", 1)]
    );
    let over_http: Vec<exotel_sim::Arrival> = world
        .http
        .get(format!("{}/control/arrivals", world.simulator.base_url()))
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(over_http.len(), 10);
    drop(stalled);
}
