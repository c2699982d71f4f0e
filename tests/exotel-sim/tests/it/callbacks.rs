//! Status callbacks: encodings, payloads, faults.

use exotel_sim::{Account, Applet, CallbackEncoding, Callbacks, Callee, Forged, ForgeryReport, Outcome, Payload};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{CUSTOMER, EXOPHONE, PATIENCE, World, server::Hit};

const BOTH: [(&str, &str); 2] = [
    ("StatusCallbackEvents[0]", "terminal"),
    ("StatusCallbackEvents[1]", "answered"),
];

async fn ended_with(world: &World, more: &[(&str, &str)]) -> String {
    world.flow(vec![Applet::Hangup]);
    let url = world.server.http("/status?k=v");
    let sid = world
        .call(&[&[("StatusCallback", url.as_str())], &BOTH[..], more].concat())
        .await;
    world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    sid
}

async fn events(hits: &[Hit]) -> Vec<String> {
    let mut events = Vec::new();
    for hit in hits {
        events.push(hit.field("EventType").await.unwrap_or_else(|| "(none)".to_owned()));
    }
    events
}

#[tokio::test]
async fn a_flow_gets_three_fields_as_seen_live() {
    let world = World::start().await;
    let sid = ended_with(&world, &[]).await;
    let hit = world.server.wait("/status", 1).await.remove(0);
    assert_eq!((hit.method.as_str(), hit.get("k")), ("POST", Some("v")));
    assert!(
        hit.header("content-type")
            .starts_with("multipart/form-data; boundary=form-data-boundary-")
    );
    let fields = hit.fields().await;
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["CallSid", "Status", "DateUpdated"]);
    assert_eq!(
        (fields[0].1.as_str(), fields[1].1.as_str()),
        (sid.as_str(), "completed")
    );
    assert_eq!(fields[2].1.len(), "2025-01-15 18:14:07".len());
}

#[tokio::test]
async fn the_full_payload_comes_in_every_encoding() {
    for (encoding, content_type) in [
        (CallbackEncoding::Multipart, "multipart/form-data"),
        (CallbackEncoding::UrlEncoded, "application/x-www-form-urlencoded"),
        (CallbackEncoding::Json, "application/json"),
    ] {
        let callbacks = Callbacks {
            encoding,
            payload: Payload::Full,
            ..Callbacks::default()
        };
        let world = World::with(|config| config.settings.callbacks = callbacks).await;
        let sid = ended_with(&world, &[("CustomField", "id 1"), ("Record", "true")]).await;
        let hits = world.server.wait("/status", 2).await;
        assert_eq!(events(&hits).await, ["answered", "terminal"]);
        let terminal = &hits[1];
        assert!(terminal.header("content-type").starts_with(content_type));
        for (key, value) in [
            ("CallSid", sid.as_str()),
            ("Status", "completed"),
            ("From", CUSTOMER),
            ("To", EXOPHONE),
            ("PhoneNumberSid", EXOPHONE),
            ("Direction", "outbound-api"),
            ("CustomField", "id 1"),
        ] {
            assert_eq!(terminal.field(key).await.as_deref(), Some(value), "{key}");
        }
        assert!(
            terminal
                .field("RecordingUrl")
                .await
                .expect("a URL")
                .contains("/exotelrecordings/examplesid1/")
        );
        let leg = if encoding == CallbackEncoding::Json {
            "Legs"
        } else {
            "Legs[0][Status]"
        };
        assert!(terminal.field(leg).await.expect("legs").contains("completed"));
        assert_eq!(hits[0].field("Status").await.as_deref(), Some("in-progress"));
        assert_eq!(hits[0].field("CustomField").await, None);
    }
}

#[tokio::test]
async fn json_comes_when_it_is_asked_for() {
    let world = World::start().await;
    ended_with(&world, &[("StatusCallbackContentType", "application/json")]).await;
    assert_eq!(
        world.server.wait("/status", 1).await[0].header("content-type"),
        "application/json"
    );
}

#[tokio::test]
async fn unanswered_calls_say_why() {
    let world = World::start().await;
    for (callee, status) in [
        (Callee::Busy, "busy"),
        (Callee::NoAnswer, "no-answer"),
        (Callee::Fails, "failed"),
    ] {
        world
            .control
            .set_outcome(CUSTOMER, Outcome::callee(callee))
            .expect("a number");
        let sid = ended_with(&world, &[("TimeOut", "1")]).await;
        assert_eq!(world.control.call(&sid).expect("known").status.as_deref(), Some(status));
    }
    let hits = world.server.wait("/status", 3).await;
    assert_eq!(hits[2].field("Status").await.as_deref(), Some("failed"));
}

/// F44: `terminal` before `answered`.
#[tokio::test]
async fn events_are_reordered_by_setting() {
    let callbacks = Callbacks {
        reorder: true,
        payload: Payload::Full,
        ..Callbacks::default()
    };
    let world = World::start().await;
    world
        .control
        .set_outcome(
            CUSTOMER,
            Outcome {
                callbacks: Some(callbacks),
                ..Outcome::default()
            },
        )
        .expect("a number");
    ended_with(&world, &[]).await;
    assert_eq!(
        events(&world.server.wait("/status", 2).await).await,
        ["terminal", "answered"]
    );
}

/// F43: duplicates.
#[tokio::test]
async fn events_are_duplicated_by_setting() {
    let world = World::with(|config| config.settings.callbacks.duplicates = 4).await;
    let sid = ended_with(&world, &[]).await;
    let hits = world.server.wait("/status", 5).await;
    assert!(
        hits.iter()
            .all(|hit| hit.body.windows(sid.len()).any(|part| part == sid.as_bytes()))
    );
}

/// F45: the terminal callback is lost.
#[tokio::test]
async fn events_are_lost_by_setting() {
    let world = World::with(|config| config.settings.callbacks.drop = 1.0).await;
    let sid = ended_with(&world, &[]).await;
    let report = world
        .control
        .wait_for(&sid, PATIENCE, |report| !report.callbacks.is_empty())
        .await
        .expect("a record");
    assert!(report.callbacks[0].lost && report.callbacks[0].status.is_none());
    assert_eq!(world.server.hits("/status").len(), 0);
}

/// F54: the receiver is down and comes back.
#[tokio::test]
async fn what_is_not_answered_with_2xx_is_tried_three_times() {
    let world = World::start().await;
    for status in [500, 302, 200] {
        world.server.answer("/status", status, "text/plain", "");
    }
    let sid = ended_with(&world, &[]).await;
    world.server.wait("/status", 3).await;
    let report = world
        .control
        .wait_for(&sid, PATIENCE, |report| report.callbacks.len() == 3)
        .await
        .expect("three");
    let tries: Vec<_> = report
        .callbacks
        .iter()
        .map(|callback| (callback.attempt, callback.status))
        .collect();
    assert_eq!(tries, [(1, Some(500)), (2, Some(302)), (3, Some(200))]);
}

/// F44: `terminal` comes first even when it has to be sent again.
#[tokio::test]
async fn the_others_wait_for_a_terminal_that_is_refused() {
    let world = World::start().await;
    world.server.answer("/status", 503, "text/plain", "");
    world.server.answer("/status", 503, "text/plain", "");
    world.server.answer("/status", 200, "text/plain", "");
    let callbacks = Callbacks {
        reorder: true,
        payload: Payload::Full,
        retry_delays_ms: vec![20, 20],
        ..Callbacks::default()
    };
    world.control.change_settings(|settings| settings.callbacks = callbacks);
    ended_with(&world, &[]).await;
    assert_eq!(
        events(&world.server.wait("/status", 4).await).await,
        ["terminal", "terminal", "terminal", "answered"]
    );
}

/// F43: all copies are on their way at the same moment: none is answered before the last has come.
#[tokio::test]
async fn duplicates_go_out_at_the_same_moment() {
    const COPIES: usize = 20;
    let world = World::start().await;
    world.flow(vec![Applet::Hangup]);
    let duplicates = u32::try_from(COPIES - 1).expect("small");
    let callbacks = Callbacks {
        duplicates,
        retry_delays_ms: vec![],
        ..Callbacks::default()
    };
    let mut account: Account = world.control.accounts().remove(0);
    account.callbacks = Some(callbacks);
    world.control.put_account(account).expect("valid");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/status", listener.local_addr().expect("an address"));
    let sid = world.call(&[("StatusCallback", &url)]).await;
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..COPIES {
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (mut stream, _) = accepted.expect("a copy in time").expect("accepts");
        let mut some = [0; 16];
        stream.read_exact(&mut some).await.expect("a request");
        assert!(some.starts_with(b"POST /status"));
        waiting.push(stream);
    }
    for stream in &mut waiting {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer).await.expect("sends");
    }
    let report = world
        .control
        .wait_for(&sid, PATIENCE, |report| report.callbacks.len() == COPIES)
        .await
        .expect("all of them");
    assert!(report.callbacks.iter().all(|callback| callback.attempt == 1));
}

/// F43: or one after the other.
#[tokio::test]
async fn duplicates_may_come_later() {
    let world = World::with(|config| {
        config.settings.callbacks.duplicates = 2;
        config.settings.callbacks.duplicates_apart_ms = 150;
    })
    .await;
    let began = std::time::Instant::now();
    ended_with(&world, &[]).await;
    world.server.wait("/status", 1).await;
    assert_eq!(world.server.hits("/status").len(), 1);
    world.server.wait("/status", 3).await;
    assert!(began.elapsed().as_millis() >= 300);
}

/// F44: callbacks with delays of their own overtake each other, the way chance has it.
#[tokio::test]
async fn delayed_callbacks_overtake() {
    let callbacks = Callbacks {
        delay_spread_ms: 300,
        payload: Payload::Full,
        ..Callbacks::default()
    };
    let world = World::with(|config| config.settings.callbacks = callbacks).await;
    for at in 0..12 {
        ended_with(&world, &[("CustomField", &at.to_string())]).await;
    }
    let hits = world.server.wait("/status", 24).await;
    let mut first = std::collections::BTreeMap::new();
    for hit in &hits {
        let sid = hit.field("CallSid").await.expect("a Sid");
        let event = hit.field("EventType").await.expect("an event");
        first.entry(sid).or_insert(event);
    }
    let overtaken = first.values().filter(|event| *event == "terminal").count();
    assert!(first.len() == 12 && (1..12).contains(&overtaken), "{overtaken}");
}

/// F48, F49: a wrong token, and the right one with another call's Sid.
#[tokio::test]
async fn forged_callbacks_are_sent_besides() {
    let world = World::with(|config| config.settings.callbacks.forge = true).await;
    world.flow(vec![Applet::Hangup]);
    world.server.answer("/status/tokenA", 200, "text/plain", "");
    world.server.answer("/status/tokeng", 404, "text/plain", "");
    let other = world.call(&[]).await;
    world.control.wait_for_end(&other, PATIENCE).await.expect("ends");
    let url = world.server.http("/status/tokenA?k=v");
    let sid = world.call(&[("StatusCallback", &url)]).await;
    let report = world
        .control
        .wait_for(&sid, PATIENCE, |report| report.forgeries.len() == 2)
        .await
        .expect("two forgeries");
    let forgery = |forged, status| ForgeryReport {
        event: "terminal".to_owned(),
        forged,
        status: Some(status),
    };
    assert_eq!(
        report.forgeries,
        [forgery(Forged::Token, 404), forgery(Forged::CallSid, 200)]
    );
    assert_eq!(report.callbacks.len(), 1, "and one that is genuine");
    let wrong = world.server.hits("/status/tokeng").remove(0);
    assert_eq!(wrong.get("k"), Some("v"));
    assert_eq!(wrong.field("CallSid").await.as_deref(), Some(sid.as_str()));
    assert_eq!(wrong.field("Status").await.as_deref(), Some("failed"));
    let right = world.server.hits("/status/tokenA");
    let mut sids = Vec::new();
    for hit in &right {
        sids.push((hit.field("CallSid").await, hit.field("Status").await));
    }
    let completed = Some("completed".to_owned());
    assert_eq!(sids, [(Some(sid.clone()), completed.clone()), (Some(other), completed)]);
    let events = world.control.events(Some(&sid)).await.expect("a journal");
    let statuses: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "forgery")
        .map(|event| event.facts["status"].as_u64())
        .collect();
    assert_eq!(statuses, [Some(404), Some(200)]);
}
