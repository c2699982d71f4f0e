//! REST: formats, errors, outcomes, lists.

use std::error::Error as _;

use exotel_sim::{Account, ActiveStreams, Answer, Applet, ExoPhone, FlowTo, Outcome};
use serde_json::{Value, json};

use crate::{CUSTOMER, EXOPHONE, PATIENCE, World};

async fn hanging_up() -> World {
    let world = World::start().await;
    world.flow(vec![Applet::Hangup]);
    world
}

#[tokio::test]
async fn a_connect_is_in_progress_at_once_and_in_the_ledger() {
    let world = hanging_up().await;
    let response = world
        .dial("+919440000609", &[("CustomField", "x")])
        .await
        .expect("an answer");
    let body: Value = response.json().await.expect("JSON");
    let call = &body["Call"];
    assert_eq!(
        (&call["Status"], &call["Direction"]),
        (&json!("in-progress"), &json!("outbound-api"))
    );
    assert_eq!(
        (&call["From"], &call["PhoneNumberSid"], &call["To"]),
        (&json!(CUSTOMER), &json!(EXOPHONE), &json!(null))
    );
    assert_eq!(call["EndTime"], json!(null));
    let sid = call["Sid"].as_str().expect("a Sid");
    assert_eq!(sid.len(), 32);
    assert!(
        sid.bytes().any(|byte| !byte.is_ascii_hexdigit()),
        "newer Sids are not hex"
    );
    assert_eq!(call["Uri"], format!("/v1/Accounts/examplesid1/Calls.json/{sid}"));
    let file = std::fs::read_to_string(world.state.path().join("ledger.jsonl")).expect("a ledger");
    let entry: Value = serde_json::from_str(file.trim()).expect("one line");
    assert_eq!(
        (&entry["call_sid"], &entry["from"]),
        (&json!(sid), &json!("+919440000609"))
    );
    assert_eq!((&entry["custom_field"], &entry["mode"]), (&json!("x"), &json!("flow")));
}

#[tokio::test]
async fn xml_is_the_default() {
    let world = hanging_up().await;
    let form = [
        ("From", CUSTOMER),
        ("CallerId", EXOPHONE),
        ("Url", "http://my.exotel.com/examplesid1/exoml/start_voice/77"),
    ];
    let request = world
        .http
        .post(world.url("Calls/connect"))
        .basic_auth("simkey", Some("simtoken"))
        .form(&form);
    let text = request.send().await.expect("an answer").text().await.expect("a body");
    assert!(
        text.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<TwilioResponse><Call><Sid>"),
        "{text}"
    );
    assert!(
        text.contains("<ParentCallSid/>")
            && text.contains("<Uri>/v1/Accounts/examplesid1/Calls/")
            && text.contains("<Status>in-progress</Status>"),
        "{text}"
    );
    let (status, error) = world.get("Calls/nosuchcall").await;
    assert_eq!(status, 404);
    assert!(
        error.contains("<TwilioResponse><RestException><Status>404</Status><Message>"),
        "{error}"
    );
}

#[tokio::test]
async fn wrong_keys_and_json_bodies_are_refused() {
    let world = hanging_up().await;
    for (user, password) in [("simkey", "wrong"), ("wrong", "simtoken")] {
        let request = world.http.get(world.url("Calls.json")).basic_auth(user, Some(password));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 401);
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(body["RestException"]["Status"], 401);
    }
    let request = world
        .http
        .post(world.url("Calls/connect.json"))
        .basic_auth("simkey", Some("simtoken"));
    let response = request
        .json(&json!({"From": CUSTOMER}))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), 400);
    let response = world.dial(EXOPHONE, &[]).await.expect("an answer");
    assert_eq!(response.status(), 400);
    assert!(world.control.ledger().await.expect("a ledger").is_empty());
}

#[tokio::test]
async fn multipart_bodies_are_read() {
    let world = hanging_up().await;
    let mut body = String::new();
    for (key, value) in [
        ("From", CUSTOMER),
        ("CallerId", EXOPHONE),
        ("Url", "http://my.exotel.com/examplesid1/exoml/start_voice/77"),
    ] {
        body.extend([
            "--b\r\nContent-Disposition: form-data; name=\"",
            key,
            "\"\r\n\r\n",
            value,
            "\r\n",
        ]);
    }
    body.push_str("--b--\r\n");
    let request = world
        .http
        .post(world.url("Calls/connect.json"))
        .basic_auth("simkey", Some("simtoken"));
    let request = request
        .header("content-type", "multipart/form-data; boundary=b")
        .body(body);
    assert_eq!(request.send().await.expect("an answer").status(), 200);
}

/// F22, F23: refusals that dial nobody.
#[tokio::test]
async fn scripted_refusals_dial_nobody() {
    let world = hanging_up().await;
    for (digits, status, text) in [
        ("9904", 403, "TRAI NDNC regulations"),
        ("9905", 403, "not yet KYC compliant"),
        ("9906", 429, "Too Many Requests"),
        ("9908", 503, "Service Unavailable; "),
    ] {
        let response = world.dial(&format!("0981234{digits}"), &[]).await.expect("an answer");
        assert_eq!(response.status(), status);
        let retry_after = response.headers().get("retry-after").cloned();
        assert_eq!(retry_after.is_some(), digits == "9906");
        let body: Value = response.json().await.expect("JSON");
        assert!(
            body["RestException"]["Message"]
                .as_str()
                .expect("a message")
                .contains(text),
            "{body}"
        );
        assert_eq!(
            body["RestException"]["Code"],
            if status == 503 { json!(35_008) } else { json!(null) }
        );
    }
    assert!(world.control.ledger().await.expect("a ledger").is_empty());
}

/// F20, F21, F24: answers that say nothing about the dial.
#[tokio::test]
async fn unclear_answers_have_dialled() {
    let world = hanging_up().await;
    let response = world.dial("09812349907", &[]).await.expect("an answer");
    assert_eq!(response.status(), 503);
    let error = world.dial("09812349910", &[]).await.expect_err("a reset");
    assert!(
        error.is_request() && !error.is_connect(),
        "{error:?} {:?}",
        error.source()
    );
    let html = world.dial("09812349911", &[]).await.expect("an answer");
    assert_eq!(html.headers()["content-type"], "text/html");
    world
        .control
        .set_outcome(CUSTOMER, Outcome::answer(Answer::Truncated))
        .expect("a number");
    let cut = world.dial(CUSTOMER, &[]).await.expect("a head");
    assert!(cut.bytes().await.is_err(), "the body is cut");
    let ledger = world.control.ledger().await.expect("a ledger");
    assert_eq!(ledger.len(), 4);
    for entry in ledger {
        world
            .control
            .wait_for_end(&entry.call_sid, PATIENCE)
            .await
            .expect("every dial lives and ends");
    }
}

/// F19: the client gives up, the platform does not.
#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_the_dial() {
    let world = hanging_up().await;
    let slow = Outcome {
        dial_delay_ms: 300,
        times: Some(1),
        ..Outcome::default()
    };
    world.control.set_outcome(CUSTOMER, slow).expect("a number");
    let impatient = tokio::time::timeout(std::time::Duration::from_millis(100), world.dial(CUSTOMER, &[])).await;
    assert!(impatient.is_err(), "no answer yet");
    let call = world
        .control
        .wait_for_any(PATIENCE, exotel_sim::CallReport::has_ended)
        .await
        .expect("dialled anyway");
    assert_eq!(
        world.control.ledger().await.expect("a ledger")[0].call_sid,
        call.call_sid
    );
    assert_eq!(
        world.control.outcome(CUSTOMER).expect("a number"),
        Outcome::default(),
        "used up"
    );
}

#[tokio::test]
async fn custom_answers_name_the_call() {
    let world = hanging_up().await;
    let xml = "<TwilioResponse><Call><Sid>{CallSid}</Sid></Call></TwilioResponse>";
    let answer = Answer::Custom {
        status: 200,
        headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
        body: xml.to_owned(),
        repeat: 1,
    };
    world
        .control
        .set_outcome(
            CUSTOMER,
            Outcome {
                dialled: Some(true),
                ..Outcome::answer(answer)
            },
        )
        .expect("a number");
    let text = world
        .dial(CUSTOMER, &[])
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a body");
    let sid = world.control.ledger().await.expect("a ledger")[0].call_sid.clone();
    assert_eq!(text, xml.replace("{CallSid}", &sid));
}

/// F113: never more than the limit in any sliding minute.
#[tokio::test]
async fn the_rate_limit_answers_429() {
    let world = World::with(|config| config.settings.retry_after = Some("30".to_owned())).await;
    world
        .control
        .put_account(Account {
            calls_per_minute: 2,
            ..Account::default()
        })
        .expect("valid");
    let url = "http://my.exotel.com/examplesid1/exoml/start_voice/1001";
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let response = world.dial(CUSTOMER, &[("Url", url)]).await.expect("an answer");
        statuses.push((
            response.status().as_u16(),
            response.headers().contains_key("retry-after"),
        ));
    }
    assert_eq!(statuses, [(200, false), (200, false), (429, true), (429, true)]);
    let load = world.control.load("examplesid1").expect("known");
    assert_eq!(
        (load.connects, load.refused_by_rate, load.peak_connects_per_minute),
        (4, 2, 4)
    );
}

#[tokio::test]
async fn late_facts_appear_later() {
    let world = hanging_up().await;
    let sid = world.call(&[]).await;
    world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    let path = format!("Calls/{sid}.json?details=true");
    let call = world.get_json(&path).await["Call"].clone();
    assert_eq!(
        (&call["Status"], &call["Price"], &call["EndTime"]),
        (&json!("completed"), &json!(null), &json!(null))
    );
    assert_eq!(call["Details"]["Leg1Status"], "completed");
    world.control.change_settings(|settings| settings.late_facts_ms = 0);
    let call = world.get_json(&path).await["Call"].clone();
    assert!(
        call["Price"].is_string() && call["EndTime"].is_string() && call["Duration"].is_string(),
        "{call}"
    );
    assert_eq!(
        world.get(&format!("Calls/{sid}.json?RecordingUrlValidity=4")).await.0,
        400
    );
}

#[tokio::test]
async fn lists_filter_and_page() {
    let world = hanging_up().await;
    world
        .control
        .change_settings(|settings| settings.flow_to = FlowTo::ExoPhone);
    let mut sids = Vec::new();
    for at in 0..5 {
        let response = world.dial(&format!("0981234000{at}"), &[]).await.expect("an answer");
        let body: Value = response.json().await.expect("JSON");
        sids.push(body["Call"]["Sid"].as_str().expect("a Sid").to_owned());
    }
    let listed = async |query: &str| {
        let body = world.get_json(&format!("Calls.json?{query}")).await;
        let calls = body["Calls"].as_array().expect("a list").clone();
        let sids: Vec<String> = calls
            .iter()
            .map(|call| call["Sid"].as_str().expect("a Sid").to_owned())
            .collect();
        (sids, body["Metadata"].clone())
    };
    let newest_first: Vec<String> = sids.iter().rev().cloned().collect();
    assert_eq!(listed("").await.0, newest_first);
    assert_eq!(listed("SortBy=DateCreated:asc").await.0, sids);
    assert_eq!(
        listed(&format!("Sid={},{}", sids[1], sids[3])).await.0,
        [sids[3].clone(), sids[1].clone()]
    );
    assert_eq!(
        listed("From=%2B919812340002&PhoneNumber=08040000155&Direction=outbound-api")
            .await
            .0,
        [sids[2].clone()]
    );
    assert_eq!(listed("Direction=inbound").await.0, [] as [&str; 0]);
    let created = world.get_json(&format!("Calls/{}.json", sids[0])).await["Call"]["DateCreated"].clone();
    let created = created.as_str().expect("a time").replace(' ', "+");
    assert_eq!(listed(&format!("DateCreated=gte:{created}")).await.0.len(), 5);
    assert_eq!(
        listed("DateCreated=gte:2020-01-01+00:00:00%3Blte:2020-01-20+00:00:00")
            .await
            .0
            .len(),
        0
    );

    // Forwards by NextPageUri to the end, and back by PrevPageUri.
    let mut seen = Vec::new();
    let mut uri = Some("/v1/Accounts/examplesid1/Calls.json?PageSize=2".to_owned());
    let mut pages = Vec::new();
    while let Some(path) = uri {
        let query = path.split_once('?').expect("a query").1.to_owned();
        let (page, metadata) = listed(&query).await;
        assert_eq!((&metadata["Total"], &metadata["PageSize"]), (&json!(5), &json!(2)));
        seen.extend(page.clone());
        pages.push((page, metadata["PrevPageUri"].clone()));
        uri = metadata["NextPageUri"].as_str().map(str::to_owned);
    }
    assert_eq!(seen, newest_first);
    let back = pages[2]
        .1
        .as_str()
        .and_then(|path| path.split_once('?'))
        .expect("a previous page")
        .1
        .to_owned();
    assert_eq!(listed(&back).await.0, pages[1].0);
    assert_eq!(pages[0].1, json!(null));

    world
        .control
        .change_settings(|settings| settings.list_delay_ms = 60_000);
    assert_eq!(listed("").await.0.len(), 0, "calls appear late in the list");
    assert_eq!(world.get("Calls.json?PageSize=1000").await.0, 400);
    let xml = world.get("Calls").await.1;
    assert!(xml.contains("<Metadata><Total>0</Total>"), "{xml}");
}

#[tokio::test]
async fn hang_up_by_rest_is_405_unless_it_is_switched_on() {
    let world = World::start().await;
    world.flow(vec![]);
    let sid = world.call(&[]).await;
    let post = async || {
        let request = world
            .http
            .post(world.url(&format!("Calls/{sid}.json")))
            .basic_auth("simkey", Some("simtoken"));
        request
            .form(&[("Status", "completed")])
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(post().await, 405);
    world
        .control
        .change_settings(|settings| settings.hang_up_by_rest = true);
    assert_eq!(post().await, 200);
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.cause, Some(exotel_sim::Cause::Rest));
}

#[tokio::test]
async fn the_account_s_numbers_are_listed() {
    let world = hanging_up().await;
    let url = format!(
        "{}/v2_beta/Accounts/examplesid1/IncomingPhoneNumbers",
        world.simulator.base_url()
    );
    let response = world
        .http
        .get(url)
        .basic_auth("simkey", Some("simtoken"))
        .send()
        .await
        .expect("an answer");
    let body: Value = response.json().await.expect("JSON");
    let number = &body["incoming_phone_numbers"][0];
    assert_eq!(number["phone_number"], EXOPHONE);
    assert_eq!(
        number["voice_url"],
        "http://my.exotel.in/examplesid1/exoml/start_voice/77"
    );
    let dnd = async |number: &str| world.get_json(&format!("Numbers/{number}.json")).await["Numbers"]["DND"].clone();
    assert_eq!(
        (dnd("09812349904").await, dnd(CUSTOMER).await),
        (json!("Yes"), json!("No"))
    );
    world
        .control
        .change_settings(|settings| settings.active_streams = ActiveStreams::Json);
    assert_eq!(world.get_json("ActiveStreams").await["max_allowed_streams"], 100);
    let bad = Account {
        exophones: vec![ExoPhone {
            number: "1".to_owned(),
            flow: String::new(),
        }],
        ..Account::default()
    };
    assert!(world.control.put_account(bad).is_err());
}

#[tokio::test]
async fn two_numbers_are_connected() {
    let world = hanging_up().await;
    let sid = world.call(&[("To", "09900000002")]).await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(
        (report.legs[0].number.as_str(), report.legs[0].status.as_str()),
        ("09900000002", "completed")
    );
    let call = world.get_json(&format!("Calls/{sid}.json")).await["Call"].clone();
    assert_eq!(call["To"], "09900000002");
}
