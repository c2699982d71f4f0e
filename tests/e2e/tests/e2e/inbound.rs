//! Calls that people make to the company.

use anyhow::Result;
use callbridge_proto::{
    agent::v1::Direction as Heard,
    call::v1::{CallState, Direction},
    directory::v1::{Phone, UpdatePhoneRequest},
};
use e2e::{Agent, Story, kinds, quick, registration};
use exotel_sim::{AppendQuery, Applet, CallerScript, ExoPhone, InboundCall};
use prost_types::FieldMask;

const CALLER: &str = "+919812340018";

fn short() -> CallerScript {
    CallerScript::new().silence(300).hang_up()
}

/// The applet requests of the simulator and their statuses.
async fn requests(story: &Story, call_sid: &str) -> Result<Vec<(String, u64)>> {
    let events = story.stack.control().events(Some(call_sid)).await?;
    let applets = events.into_iter().filter(|event| event.kind == "applet");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(applets
        .map(|event| {
            (
                word(&event.facts["applet"]),
                event.facts["status"].as_u64().unwrap_or(0),
            )
        })
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_known_number_reaches_the_agent() -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let story = Story::with(quick(), registration).await?;
    let sid = story.call_in(CALLER, short()).await?;
    let mut session = agent.session().await?;
    let start = session.start().await?;
    assert_eq!(
        (start.direction(), start.customer_number.as_str()),
        (Heard::Inbound, CALLER)
    );
    assert_eq!(start.phone_number, story.registered.phone_number);
    session.speak(&e2e::tone(1_600), 1).await;

    let row = story.inbound_row().await?;
    assert_eq!(start.call_id, row.id);
    let (call, _) = story.ended(&row.id).await?;
    assert_eq!(
        (call.direction(), call.state()),
        (Direction::Inbound, CallState::Completed)
    );
    assert_eq!(
        (call.end_reason.as_str(), call.ended_by.as_str()),
        ("customer_hung_up", "customer")
    );
    assert_eq!(
        (call.customer_number.as_str(), call.caller.as_str(), call.attempt),
        (CALLER, "", 0)
    );
    assert_eq!(
        (&call.phone_id, &call.agent_id),
        (&story.registered.phone_id, &story.registered.agent.id)
    );
    assert_eq!(call.exotel_call_sid, sid);
    let report = story.report(&call).await?;
    assert_eq!(report.streams[0].received_bytes, 3_200, "what the agent said");
    let events = story.events(&call.id).await?;
    assert_eq!(kinds(&events)[..3], ["placed", "media_started", "agent_connected"]);
    assert_eq!(events[0].source, "connect");
    assert_eq!(story.list(Direction::Unspecified).await?.len(), 1);
    assert_eq!(story.posts()?, 0);
    story.stack.shut_down().await
}

/// F60: a row says why, and no agent hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_can_take_is_refused_and_kept() -> Result<()> {
    let agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let story = Story::with(quick(), registration).await?;
    // A number of the account that callbridge does not know.
    story.at_account(|account| {
        let flow = account.flows[0].app_id.clone();
        account.exophones.push(ExoPhone {
            number: "08049999999".to_owned(),
            flow,
        });
    })?;
    // And one that has no agent.
    let update = UpdatePhoneRequest {
        phone: Some(Phone {
            id: story.registered.phone_id.clone(),
            ..Phone::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["agent_id".to_owned()],
        }),
    };
    story.stack.clients().phones().update_phone(update).await?;

    for (number, reason) in [
        ("+918049999999", "unknown_number"),
        (story.registered.phone_number.as_str(), "no_agent"),
    ] {
        let call = InboundCall {
            account: story.registered.account_sid.clone(),
            from: CALLER.to_owned(),
            to: number.to_owned(),
            script: Some(short()),
        };
        let sid = story.stack.control().inbound(call).await?;
        let report = story.stack.control().wait_for_end(&sid, e2e::PATIENCE).await?;
        assert_eq!(report.streams[0].handshakes, 0, "no socket");
        assert_eq!(requests(&story, &sid).await?[0], ("voicebot".to_owned(), 404));
        let rows = story.list(Direction::Inbound).await?;
        let call = rows.iter().find(|row| row.exotel_call_sid == sid).expect("a row");
        assert_eq!(
            (call.state(), call.end_reason.as_str(), call.ended_by.as_str()),
            (CallState::Failed, reason, "callbridge")
        );
        assert_eq!(
            (call.customer_number.as_str(), call.phone_number.as_str()),
            (CALLER, number)
        );
        assert_eq!(call.agent_id, "");
        let (_, events) = story.ended(&call.id).await?;
        // The flow's Passthru tells of a stream that failed; the end stands.
        assert_eq!(kinds(&events)[0], "ended");
        assert_eq!(kinds(&events).iter().filter(|kind| **kind == "ended").count(), 1);
        assert_eq!(events[0].data.get("reason").map(String::as_str), Some(reason));
    }
    assert!(!agent.has_session());
    assert_eq!(story.list(Direction::Unspecified).await?.len(), 2);
    story.stack.shut_down().await
}

/// F59: the flow asks twice before it connects.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_connect_request_is_one_call_and_one_session() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .change_settings(|settings| settings.stream.ask_url_twice = true);
    let sid = story.call_in(CALLER, short()).await?;
    let row = story.inbound_row().await?;
    let (call, events) = story.ended(&row.id).await?;
    assert_eq!(
        (call.state(), call.exotel_call_sid.as_str()),
        (CallState::Completed, sid.as_str())
    );
    assert_eq!(call.media_sessions.len(), 1);
    assert_eq!(kinds(&events)[..3], ["placed", "media_started", "agent_connected"]);
    assert_eq!(story.list(Direction::Unspecified).await?.len(), 1);
    let asked = requests(&story, &sid).await?;
    assert_eq!(asked[..2], [("voicebot".to_owned(), 200), ("voicebot".to_owned(), 200)]);
    story.stack.shut_down().await
}

/// A whole call through the paths of older set-ups, with the query behind a second question mark.
#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_older_set_ups_carry_a_whole_call() -> Result<()> {
    let story = Story::start().await?;
    let (edge, token) = (story.stack.edge_url(), &story.registered.urls.account_token);
    let legacy = |name: &str| format!("{edge}/api/v1/exotel/voice/{name}?key={token}");
    for append in [AppendQuery::QuestionMark, AppendQuery::Ampersand] {
        story
            .stack
            .control()
            .change_settings(|settings| settings.append_query = append);
        story.at_account(|account| {
            let passthru = Applet::Passthru {
                url: legacy("end"),
                branch_b: Vec::new(),
                asynchronous: false,
            };
            let voicebot = Applet::Voicebot {
                url: legacy("connect"),
                record: false,
            };
            account.flows[0].applets = vec![voicebot, passthru, Applet::Hangup];
        })?;
        let sid = story.call_in(CALLER, short()).await?;
        story.stack.control().wait_for_end(&sid, e2e::PATIENCE).await?;
        let rows = story.list(Direction::Inbound).await?;
        let row = rows.iter().find(|row| row.exotel_call_sid == sid).expect("a row");
        let (call, events) = story.ended(&row.id).await?;
        assert_eq!(
            (call.state(), call.end_reason.as_str()),
            (CallState::Completed, "customer_hung_up")
        );
        let end = events
            .iter()
            .find(|event| event.r#type == "ended")
            .map(|event| event.source.as_str());
        assert_eq!(end, Some("passthru"));
        let asked = requests(&story, &sid).await?;
        assert_eq!(asked, [("voicebot".to_owned(), 200), ("passthru".to_owned(), 200)]);
    }
    story.stack.shut_down().await
}
