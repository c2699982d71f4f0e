//! The control API over HTTP.

use serde_json::{Value, json};

use crate::{CUSTOMER, EXOPHONE, World};

impl World {
    async fn control(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}/control/{path}", self.simulator.base_url());
        let request = self.http.request(method.parse().expect("a method"), url);
        let request = body.iter().fold(request, reqwest::RequestBuilder::json);
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn a_call_is_steered_over_http() {
    let world = World::start().await;
    let account = json!({
        "sid": "examplesid1", "api_key": "k", "api_token": "secret",
        "exophones": [{"number": EXOPHONE, "flow": "9"}],
        "flows": [{"app_id": "9", "applets": [
            {"applet": "voicebot", "url": world.server.ws("/bot/a")},
            {"applet": "passthru", "url": world.server.http("/end"), "branch_b": [{"applet": "hangup"}]},
            {"applet": "hangup"},
        ]}],
    });
    assert_eq!(world.control("POST", "accounts", Some(account)).await.0, 204);
    let accounts = world.control("GET", "accounts", None).await.1;
    assert_eq!(accounts[0]["api_token"], "(hidden)");

    let script =
        json!({"steps": [{"speak": "question"}, {"wait_for_audio_end": {"silent_ms": 100, "timeout_ms": 60000}}]});
    let call = json!({"account": "examplesid1", "from": CUSTOMER, "to": EXOPHONE, "script": script});
    let (status, answer) = world.control("POST", "inbound", Some(call)).await;
    assert_eq!(status, 200, "{answer}");
    let sid = answer["call_sid"].as_str().expect("a sid").to_owned();
    let mut session = world.server.session().await;
    session.open().await;

    assert_eq!(
        world
            .control("POST", &format!("calls/{sid}/press"), Some(json!({"digits": "1"})))
            .await
            .0,
        204
    );
    assert_eq!(session.until("dtmf").await["dtmf"]["digit"], "1");
    let live = world.control("GET", "calls?phase=in_progress", None).await.1;
    assert_eq!(live[0]["call_sid"], json!(sid));
    let (status, _) = world
        .control("GET", &format!("calls/{sid}/wait?timeout_ms=50"), None)
        .await;
    assert_eq!(status, 408);
    let steps = json!([{"press": "2"}, "hang_up"]);
    assert_eq!(
        world
            .control("POST", &format!("calls/{sid}/steps"), Some(steps))
            .await
            .0,
        204
    );
    assert_eq!(session.until("dtmf").await["dtmf"]["digit"], "2");
    session.until("stop").await;
    session.rest().await;
    let (status, report) = world
        .control("GET", &format!("calls/{sid}/wait?timeout_ms=5000"), None)
        .await;
    assert_eq!(
        (status, &report["phase"], &report["cause"]),
        (200, &json!("ended"), &json!("caller"))
    );
    assert_eq!(world.control("POST", &format!("calls/{sid}/hangup"), None).await.0, 409);

    let ledger = world.control("GET", "ledger", None).await.1;
    assert_eq!(
        (ledger.as_array().map(Vec::len), &ledger[0]["mode"]),
        (Some(1), &json!("inbound"))
    );
    let events = world.control("GET", &format!("events?call_sid={sid}"), None).await.1;
    let kinds: Vec<&str> = events
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|event| event["kind"].as_str())
        .collect();
    assert!(
        kinds.contains(&"stream") && kinds.contains(&"applet") && kinds.contains(&"call"),
        "{kinds:?}"
    );
    let url = format!("{}/control/calls/{sid}/audio/said", world.simulator.base_url());
    let wav = world
        .http
        .get(url)
        .send()
        .await
        .expect("an answer")
        .bytes()
        .await
        .expect("a body");
    assert!(wav.starts_with(b"RIFF") && wav.len() > 44);
}

#[tokio::test]
async fn settings_and_outcomes_are_changed_over_http() {
    let world = World::start().await;
    let (status, settings) = world
        .control("PATCH", "settings", Some(json!({"stream": {"chunks": {"bytes": 320}}})))
        .await;
    assert_eq!((status, &settings["stream"]["chunks"]), (200, &json!({"bytes": 320})));
    assert_eq!(settings["stream"]["start"], "live", "the others stay");
    assert_eq!(
        world.control("PATCH", "settings", Some(json!({"nonsense": 1}))).await.0,
        400
    );
    assert_eq!(
        world
            .control("PUT", "outcomes/09812345678", Some(json!({"callee": "busy"})))
            .await
            .0,
        204
    );
    let outcome = world.control("GET", "outcomes/+919812345678", None).await.1;
    assert_eq!(outcome["callee"], "busy");
    assert_eq!(
        world
            .control("GET", "outcomes", None)
            .await
            .1
            .as_object()
            .map(serde_json::Map::len),
        Some(1)
    );
    assert_eq!(world.control("DELETE", "outcomes", None).await.0, 204);
    assert_eq!(
        world.control("GET", "outcomes/09812345678", None).await.1["callee"],
        "answers"
    );
    assert_eq!(world.control("PUT", "outcomes/12", Some(json!({}))).await.0, 400);
    assert_eq!(world.control("GET", "calls/nosuchcall", None).await.0, 404);
    assert_eq!(world.control("GET", "health", None).await.0, 200);
}
