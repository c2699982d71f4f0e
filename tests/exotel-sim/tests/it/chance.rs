//! Faults that hit whatever comes, by the seed.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use exotel_sim::{Applet, Fault, Faults, Outcome};
use serde_json::json;

use crate::{CUSTOMER, EXOPHONE, World};

async fn with(faults: Faults) -> World {
    let world = World::with(|config| config.settings.faults = faults).await;
    world.flow(vec![Applet::Hangup]);
    world
}

const RESET: Option<ErrorKind> = Some(ErrorKind::ConnectionReset);

fn none() -> Faults {
    Faults {
        stall_ms: 200,
        slow_ms: 50,
        ..Faults::default()
    }
}

/// Switches a fault on.
type Change = fn(&mut Faults);

/// F19 to F22, F24: each fault alone, on the wire, in the journal and in the ledger.
#[tokio::test]
async fn every_fault_is_what_it_says() {
    let world = with(none()).await;
    let whole = world.raw_dial(CUSTOMER, &[]).await;
    let cases: [(Fault, Change, &str, Option<usize>); 10] = [
        (Fault::Lost, |f| f.lost = 1.0, "", Some(1)),
        (Fault::LostUndialled, |f| f.lost_undialled = 1.0, "", Some(0)),
        (Fault::Unavailable, |f| f.unavailable = 1.0, "HTTP/1.1 503", Some(1)),
        (
            Fault::UnavailableUndialled,
            |f| f.unavailable_undialled = 1.0,
            "HTTP/1.1 503",
            Some(0),
        ),
        (Fault::Html, |f| f.html = 1.0, "HTTP/1.1 50", None),
        (Fault::Stall, |f| f.stall = 1.0, "", None),
        (Fault::Truncated, |f| f.truncated = 1.0, "HTTP/1.1 200", Some(1)),
        (Fault::Cut, |f| f.cut = 1.0, "", Some(1)),
        (Fault::RateLimited, |f| f.rate_limited = 1.0, "HTTP/1.1 429", Some(0)),
        (Fault::Slow, |f| f.slow = 1.0, "HTTP/1.1 200", Some(1)),
    ];
    for (fault, change, head, dials) in cases {
        world.control.change_settings(|settings| {
            settings.faults = none();
            change(&mut settings.faults);
        });
        let before = world.control.ledger().await.expect("a ledger").len();
        let began = Instant::now();
        let received = world.raw_dial(CUSTOMER, &[]).await;
        let (text, took) = (received.text(), began.elapsed());
        assert!(text.starts_with(head), "{fault:?}: {text}");
        let dialled = world.control.ledger().await.expect("a ledger").len() - before;
        assert!(dials.is_none_or(|dials| dials == dialled), "{fault:?}: {dialled}");
        let resets = matches!(fault, Fault::Lost | Fault::LostUndialled | Fault::Stall | Fault::Cut);
        assert_eq!(received.error, if resets { RESET } else { None }, "{fault:?}");
        let length = received.bytes.len();
        match fault {
            Fault::Lost | Fault::LostUndialled => assert_eq!(length, 0),
            Fault::Stall => assert!(length == 0 && took >= Duration::from_millis(200), "{took:?}"),
            Fault::Cut | Fault::Truncated => assert!(length < whole.bytes.len(), "{length}"),
            Fault::Html => assert!(text.contains("content-type: text/html") && text.contains("</html>")),
            Fault::Slow => assert_eq!(length, whole.bytes.len()),
            Fault::Unavailable | Fault::UnavailableUndialled | Fault::RateLimited => {}
        }
        let arrivals = world.control.arrivals().await.expect("a journal");
        assert_eq!(arrivals.last().and_then(|arrival| arrival.fault), Some(fault));
    }
}

/// F20: over many connects the cut comes in the head and in the body.
#[tokio::test]
async fn random_cuts_come_anywhere() {
    let faults = Faults { cut: 1.0, ..none() };
    let world = with(faults).await;
    world.control.change_settings(|settings| settings.convention = false);
    let mut lengths = Vec::new();
    for _ in 0..40 {
        let received = world.raw_dial(CUSTOMER, &[]).await;
        assert_eq!(received.error, RESET);
        lengths.push(received.bytes.len());
    }
    let (shortest, longest) = (lengths.iter().min(), lengths.iter().max());
    assert!(
        shortest.is_some_and(|length| *length < 100) && longest.is_some_and(|length| *length > 400),
        "{lengths:?}"
    );
}

/// F22: `Retry-After` in all the forms in which nobody should send it.
#[tokio::test]
async fn odd_retry_after() {
    let faults = Faults {
        rate_limited: 1.0,
        ..none()
    };
    let world = with(faults).await;
    let mut seen = Vec::new();
    for _ in 0..60 {
        let response = world.dial(CUSTOMER, &[]).await.expect("an answer");
        let value = response.headers().get("retry-after");
        seen.push(value.map(|value| value.to_str().expect("text").to_owned()));
    }
    for wanted in [Some("-1"), Some("1000000000"), Some("soon"), None] {
        assert!(seen.contains(&wanted.map(str::to_owned)), "{wanted:?} in {seen:?}");
    }
    assert!(
        seen.iter().flatten().any(|value| value.ends_with("GMT")),
        "an HTTP date"
    );
}

/// A number's own script wins; what the last digits say of the answer does too.
#[tokio::test]
async fn scripts_win() {
    let faults = Faults {
        unavailable: 1.0,
        ..none()
    };
    let world = with(faults).await;
    let status = async |number: &str| world.dial(number, &[]).await.expect("an answer").status().as_u16();
    let script = |random_faults| Outcome {
        random_faults,
        ..Outcome::default()
    };
    assert_eq!(status(CUSTOMER).await, 503);
    world.control.set_outcome(CUSTOMER, script(false)).expect("a number");
    assert_eq!(status(CUSTOMER).await, 200);
    world.control.set_outcome(CUSTOMER, script(true)).expect("a number");
    assert_eq!(status(CUSTOMER).await, 503);
    assert_eq!(status("09812349904").await, 403, "the digits say what is answered");
    assert_eq!(
        status("09812349901").await,
        503,
        "the digits say that the phone is busy"
    );
    let dials = world.control.ledger().await.expect("a ledger");
    assert_eq!(
        dials.last().map(|entry| entry.outcome.callee),
        Some(exotel_sim::Callee::Busy)
    );
    // What happens to everybody else is a setting.
    world.control.change_settings(|settings| {
        settings.faults = none();
        settings.unscripted = Outcome::callee(exotel_sim::Callee::Fails);
    });
    let sid = {
        let response = world.dial("09812345678", &[]).await.expect("an answer");
        let body: serde_json::Value = response.json().await.expect("JSON");
        body["Call"]["Sid"].as_str().expect("a Sid").to_owned()
    };
    let report = world.control.wait_for_end(&sid, crate::PATIENCE).await.expect("ends");
    assert_eq!(report.status.as_deref(), Some("failed"));
}

/// The order of arrival and the seed say everything.
#[tokio::test]
async fn the_same_seed_repeats_a_run() {
    let run = async |seed: u64, script: bool| {
        let faults = Faults {
            lost: 0.2,
            unavailable_undialled: 0.2,
            cut: 0.2,
            html: 0.2,
            ..none()
        };
        let world = World::with(|config| {
            config.seed = seed;
            config.settings.faults = faults;
        })
        .await;
        world.flow(vec![Applet::Hangup]);
        if script {
            world
                .control
                .set_outcome("09812340003", Outcome::default())
                .expect("a number");
        }
        let mut received = Vec::new();
        for at in 0..30 {
            received.push(world.raw_dial(&format!("098123400{at:02}"), &[]).await.bytes.len());
            // Reads draw from elsewhere.
            world.get("Calls.json").await;
        }
        let arrivals = world.control.arrivals().await.expect("a journal");
        let faults: Vec<_> = arrivals.iter().map(|arrival| (arrival.fate, arrival.fault)).collect();
        (received, faults)
    };
    let first = run(5, false).await;
    assert_eq!(first, run(5, false).await);
    assert_ne!(first.1, run(6, false).await.1);
    // A script for one number changes nothing for the others.
    let (mut scripted, mut free) = (run(5, true).await.1, first.1);
    assert_eq!(scripted.remove(3).1, None);
    free.remove(3);
    assert_eq!(scripted, free);
}

/// Lists and details, and nothing else.
#[tokio::test]
async fn reads_have_faults_of_their_own() {
    let world = with(none()).await;
    let sid = world.call(&[("CustomField", "x")]).await;
    let paths = ["Calls.json".to_owned(), format!("Calls/{sid}.json?details=true")];
    let change = |change: fn(&mut Faults)| {
        world.control.change_settings(|settings| {
            settings.faults = none();
            change(&mut settings.faults);
        });
    };
    change(|faults| faults.read_unavailable = 1.0);
    for path in &paths {
        assert!((500..=504).contains(&world.get(path).await.0));
    }
    assert_eq!(world.get(&format!("Numbers/{CUSTOMER}.json")).await.0, 200);
    assert_eq!(world.dial(CUSTOMER, &[]).await.expect("an answer").status(), 200);
    change(|faults| faults.read_rate_limited = 1.0);
    for path in &paths {
        assert_eq!(world.get(path).await.0, 429);
    }
    change(|faults| faults.read_stall = 1.0);
    for path in &paths {
        let began = Instant::now();
        let request = world.http.get(world.url(path)).basic_auth("simkey", Some("simtoken"));
        let error = request.send().await.expect_err("a reset");
        assert!(
            !error.is_connect() && began.elapsed() >= Duration::from_millis(200),
            "{error:?}"
        );
    }
}

/// `CustomField` in lists and details is a setting.
#[tokio::test]
async fn custom_fields_are_listed_by_setting() {
    let world = with(none()).await;
    let sid = world.call(&[("CustomField", "x")]).await;
    let other = world.call(&[]).await;
    let shown = async |sid: &str| {
        let listed = world.get_json(&format!("Calls.json?Sid={sid}")).await["Calls"][0].clone();
        let details = world.get_json(&format!("Calls/{sid}.json")).await["Call"].clone();
        assert_eq!(listed.get("CustomField"), details.get("CustomField"));
        listed.get("CustomField").cloned()
    };
    assert_eq!(shown(&sid).await, None);
    world
        .control
        .change_settings(|settings| settings.list_custom_field = true);
    assert_eq!(shown(&sid).await, Some(json!("x")));
    assert_eq!(shown(&other).await, Some(json!(null)));
    let xml = world.get(&format!("Calls/{sid}")).await.1;
    assert!(xml.contains("<CustomField>x</CustomField>"), "{xml}");
    let dialled = world.dial(CUSTOMER, &[("CustomField", "x")]).await.expect("an answer");
    assert!(!dialled.text().await.expect("a body").contains("CustomField"));
}

#[tokio::test]
async fn faults_change_over_http() {
    let world = with(none()).await;
    let url = format!("{}/control/settings", world.simulator.base_url());
    let patch = async |body: serde_json::Value| {
        let response = world.http.patch(&url).json(&body).send().await.expect("an answer");
        response.status().as_u16()
    };
    assert_eq!(patch(json!({"faults": {"unavailable": 1.0}})).await, 200);
    assert_eq!(world.control.settings().faults.slow_ms, 50, "the others stay");
    assert_eq!(
        world
            .dial(CUSTOMER, &[("CallerId", EXOPHONE)])
            .await
            .expect("an answer")
            .status(),
        503
    );
    assert_eq!(patch(json!({"faults": {"unavailable": 0.0}})).await, 200);
    assert_eq!(world.dial(CUSTOMER, &[]).await.expect("an answer").status(), 200);
    assert_eq!(patch(json!({"faults": {"no_such_fault": 1.0}})).await, 400);
}
