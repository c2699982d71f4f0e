//! Flows: which requests applets send, and what their answers do.

use exotel_sim::{Applet, Callee, CallerScript, InboundCall, Outcome, StreamFacts};
use serde_json::json;

use crate::{CUSTOMER, EXOPHONE, PATIENCE, World, server::Hit};

fn voicebot(url: String) -> Applet {
    Applet::Voicebot { url, record: false }
}

fn passthru(url: String) -> Applet {
    Applet::Passthru {
        url,
        branch_b: Vec::new(),
        asynchronous: false,
    }
}

fn keys(hit: &Hit) -> Vec<&str> {
    hit.query.iter().map(|(key, _)| key.as_str()).collect()
}

async fn call_in(world: &World, script: Option<CallerScript>) -> String {
    let call = InboundCall {
        account: "examplesid1".to_owned(),
        from: CUSTOMER.to_owned(),
        to: EXOPHONE.to_owned(),
        script,
    };
    world.control.inbound(call).await.expect("a call")
}

#[tokio::test]
async fn an_inbound_call_asks_the_dynamic_url_as_captured() {
    let world = World::start().await;
    world
        .server
        .answer_json("/connect", &json!({"url": world.server.ws("/bot/x")}));
    world.flow(vec![
        voicebot(world.server.http("/connect?key=a")),
        passthru(world.server.http("/end")),
        Applet::Hangup,
    ]);
    let sid = call_in(&world, None).await;
    let mut session = world.server.session().await;
    let start = session.open().await;
    assert_eq!(start["start"]["from"], CUSTOMER);
    let hit = world.server.wait("/connect", 1).await.remove(0);
    assert_eq!(
        keys(&hit),
        [
            "key",
            "CallSid",
            "CallFrom",
            "CallTo",
            "Direction",
            "Created",
            "DialWhomNumber",
            "HangupLatencyStartTimeExocc",
            "HangupLatencyStartTime",
            "ServerCode",
            "From",
            "To",
            "CurrentTime",
        ]
    );
    assert_eq!(hit.method, "GET");
    assert_eq!(
        (hit.get("CallSid"), hit.get("Direction")),
        (Some(sid.as_str()), Some("incoming"))
    );
    assert_eq!(
        (hit.get("CallFrom"), hit.get("CallTo")),
        (Some(CUSTOMER), Some(EXOPHONE))
    );
    assert_eq!(hit.get("To"), Some("09513886363"), "not the ExoPhone");
    session.close().await;

    let end = world.server.wait("/end", 1).await.remove(0);
    assert_eq!(
        (end.get("Stream[Status]"), end.get("Stream[DisconnectedBy]")),
        (Some("completed"), Some("bot"))
    );
    assert_eq!(
        (end.get("To"), end.get("EndTime")),
        (Some(EXOPHONE), Some("1970-01-01 05:30:00"))
    );
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.applets, ["voicebot", "passthru", "hangup"]);
    assert_eq!(report.cause, Some(exotel_sim::Cause::Flow));
    let ledger = world.control.ledger().await.expect("a ledger");
    assert_eq!((ledger.len(), &ledger[0].call_sid), (1, &sid));
}

#[tokio::test]
async fn an_outbound_call_carries_its_custom_field() {
    let world = World::start().await;
    world
        .server
        .answer_json("/connect", &json!({"url": world.server.ws("/bot/x")}));
    world.flow(vec![
        voicebot(world.server.http("/connect")),
        passthru(world.server.http("/end")),
        Applet::Hangup,
    ]);
    let sid = world.call(&[("CustomField", "call_1.mac")]).await;
    let mut session = world.server.session().await;
    session.open().await;
    let hit = world.server.wait("/connect", 1).await.remove(0);
    assert_eq!(
        keys(&hit),
        [
            "CallSid",
            "CallFrom",
            "CallTo",
            "Direction",
            "Created",
            "DialWhomNumber",
            "HangupLatencyStartTimeExocc",
            "HangupLatencyStartTime",
            "From",
            "To",
            "CustomField",
            "CurrentTime",
        ]
    );
    assert_eq!(
        (hit.get("Direction"), hit.get("CustomField")),
        (Some("outbound-dial"), Some("call_1.mac"))
    );
    assert_eq!(
        (hit.get("CallFrom"), hit.get("CallTo")),
        (Some(CUSTOMER), Some(EXOPHONE))
    );
    world.control.hang_up(&sid).expect("a live call");
    session.until("stop").await;
    // The Passthru after the stream is told even though the person is gone.
    let end = world.server.wait("/end", 1).await.remove(0);
    assert_eq!(
        (end.get("Stream[Status]"), end.get("Stream[DisconnectedBy]")),
        (Some("cancelled"), Some("user"))
    );
    assert_eq!(end.get("CustomField"), Some("call_1.mac"));
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(
        (report.applets, report.cause),
        (
            vec!["voicebot".to_owned(), "passthru".to_owned()],
            Some(exotel_sim::Cause::Caller)
        )
    );
}

#[tokio::test]
async fn a_bad_dynamic_url_fails_the_stream_and_the_flow_goes_on() {
    for (status, content_type, body) in [
        (404, "application/json", r#"{"error":"no"}"#),
        (200, "text/plain", r#"{"url":"ws://127.0.0.1:1/x"}"#),
        (200, "application/json", "nonsense"),
        (200, "application/json", r#"{"url":"ws://bot.example/x"}"#),
        (200, "application/json", r#"{"url":"ws://127.0.0.1:1/x"}"#),
    ] {
        let world = World::with(|config| config.settings.stream_facts = StreamFacts::Json).await;
        world.server.answer("/connect", status, content_type, body);
        world.flow(vec![
            voicebot(world.server.http("/connect")),
            passthru(world.server.http("/end")),
            Applet::Hangup,
        ]);
        let sid = call_in(&world, None).await;
        let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
        assert_eq!(report.streams[0].status.as_deref(), Some("failed"), "{body}");
        let end = world.server.wait("/end", 1).await.remove(0);
        let facts: serde_json::Value = serde_json::from_str(end.get("Stream").expect("facts")).expect("JSON");
        assert_eq!(
            (&facts["Status"], &facts["DisconnectedBy"]),
            (&json!("failed"), &json!("NA"))
        );
        assert!(facts["Error"].is_string());
    }
}

#[tokio::test]
async fn a_302_takes_branch_b_and_gather_quotes_its_digits() {
    let world = World::start().await;
    let menu =
        json!({"gather_prompt": {"text": "Press"}, "max_input_digits": 1, "finish_on_key": "#", "input_timeout": 5});
    world.server.answer_json("/gather", &menu);
    world.server.answer("/input", 302, "text/plain", "");
    world.flow(vec![
        Applet::Gather {
            url: Some(world.server.http("/gather")),
            digits: "8".to_owned(),
        },
        Applet::Passthru {
            url: world.server.http("/input"),
            branch_b: vec![
                Applet::Greeting {
                    url: None,
                    text: Some("B".to_owned()),
                },
                Applet::Hangup,
            ],
            asynchronous: false,
        },
        Applet::Connect {
            url: None,
            fallback_url: None,
            numbers: vec!["09812345678".to_owned()],
        },
    ]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.applets, ["gather", "passthru", "greeting", "hangup"]);
    assert_eq!(report.said, ["Press", "B"]);
    assert_eq!(world.server.hits("/gather")[0].header("exotel-version"), "1.0");
    let input = &world.server.hits("/input")[0];
    assert_eq!(
        (input.get("digits"), input.get("CallType")),
        (Some("\"8\""), Some("call-attempt"))
    );
    assert_eq!(input.get("flow_id"), Some("77"));
}

#[tokio::test]
async fn pressed_keys_reach_gather() {
    let world = World::start().await;
    world.flow(vec![
        Applet::Gather {
            url: None,
            digits: String::new(),
        },
        passthru(world.server.http("/input")),
        Applet::Hangup,
    ]);
    let sid = call_in(&world, None).await;
    world.control.press(&sid, "42#").expect("a live call");
    world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(world.server.hits("/input")[0].get("digits"), Some("\"42\""));
}

#[tokio::test]
async fn a_gather_without_json_drops_the_call() {
    let world = World::start().await;
    world.server.answer("/gather", 200, "text/html", "<p>");
    world.flow(vec![
        Applet::Gather {
            url: Some(world.server.http("/gather")),
            digits: String::new(),
        },
        passthru(world.server.http("/input")),
    ]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.applets, ["gather"]);
}

#[tokio::test]
async fn greetings_are_asked_for_twice_and_spoken_or_played() {
    let world = World::start().await;
    world.server.answer("/text", 200, "text/plain", "Namaste");
    world
        .server
        .answer("/files", 200, "text/plain", world.server.http("/none.wav"));
    world.server.answer("/wrong", 200, "application/json", "{}");
    let greeting = |path| Applet::Greeting {
        url: Some(world.server.http(path)),
        text: None,
    };
    world.flow(vec![
        greeting("/text"),
        greeting("/files"),
        greeting("/wrong"),
        Applet::Hangup,
    ]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    let methods: Vec<String> = world.server.hits("/text").into_iter().map(|hit| hit.method).collect();
    assert_eq!(methods, ["HEAD", "GET"]);
    assert_eq!(
        report.said,
        [
            "Namaste",
            "(the greeting was no WAV file)",
            "(the greeting was no text/plain)"
        ]
    );
}

#[tokio::test]
async fn connect_dials_until_somebody_answers_and_the_next_applet_is_told() {
    let world = World::start().await;
    world.server.answer("/transfer", 503, "text/plain", "");
    let plan = json!({"destination": {"numbers": ["09900000001", "+919900000002"]}, "record": true});
    world.server.answer_json("/fallback", &plan);
    world
        .control
        .set_outcome("09900000001", Outcome::callee(Callee::Busy))
        .expect("a number");
    world.flow(vec![
        Applet::Connect {
            url: Some(world.server.http("/transfer")),
            fallback_url: Some(world.server.http("/fallback")),
            numbers: Vec::new(),
        },
        passthru(world.server.http("/after")),
        Applet::Hangup,
    ]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    let statuses: Vec<&str> = report.legs.iter().map(|leg| leg.status.as_str()).collect();
    assert_eq!(statuses, ["busy", "completed"]);
    assert_eq!(world.server.hits("/transfer")[0].header("exotel-version"), "1.0");
    let after = &world.server.hits("/after")[0];
    assert_eq!(
        (after.get("DialCallStatus"), after.get("DialWhomNumber")),
        (Some("completed"), Some("09900000002"))
    );
    assert_eq!(after.get("CallType"), Some("completed"));
    assert!(after.get("RecordingUrl").is_some() && after.get("Legs[0][OnCallDuration]").is_some());
}

#[tokio::test]
async fn an_empty_list_of_numbers_dials_nobody() {
    let world = World::start().await;
    world
        .server
        .answer_json("/transfer", &json!({"destination": {"numbers": []}}));
    world.flow(vec![
        Applet::Connect {
            url: Some(world.server.http("/transfer")),
            fallback_url: None,
            numbers: Vec::new(),
        },
        Applet::Hangup,
    ]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!((report.legs.len(), report.applets.len()), (0, 2));
}

/// As seen live: a flow without Hangup leaves the caller on a silent line.
#[tokio::test]
async fn a_flow_without_hangup_leaves_an_open_line_until_the_time_limit() {
    let world = World::with(|config| (config.settings.time_scale, config.settings.time_limit_s) = (100.0, 50)).await;
    world.flow(vec![passthru(world.server.http("/end"))]);
    let sid = call_in(&world, None).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(
        (report.applets, report.cause),
        (vec!["passthru".to_owned()], Some(exotel_sim::Cause::TimeLimit))
    );
}
