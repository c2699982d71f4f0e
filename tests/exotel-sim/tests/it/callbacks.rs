//! Status callbacks: encodings, payloads, faults.

use exotel_sim::{Applet, CallbackEncoding, Callbacks, Callee, Outcome, Payload};

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
