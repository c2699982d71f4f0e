//! Status callbacks: what they end, and what they cannot do.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, CallEvent, CallFilter, CallState, ListCallsRequest},
    id::CallId,
};
use e2e::{CUSTOMER, Story, callback_url, http, kinds, seconds_from_now};
use exotel_sim::{Applet, CallbackEncoding, Callbacks, Callee, CallerScript, Outcome, Payload};

const DAY: i64 = 86_400;

fn short() -> CallerScript {
    CallerScript::new().silence(200).hang_up()
}

fn with(callbacks: Callbacks) -> Outcome {
    Outcome {
        callbacks: Some(callbacks),
        ..Outcome::answered_by(short())
    }
}

fn count(events: &[CallEvent], kind: &str) -> usize {
    events.iter().filter(|event| event.r#type == kind).count()
}

/// Whose word ended the call.
fn end_source(events: &[CallEvent]) -> Option<&str> {
    events
        .iter()
        .find(|event| event.r#type == "ended")
        .map(|event| event.source.as_str())
}

/// Sends a form to a callback's URL.
async fn post(url: &str, form: &[(&str, &str)]) -> Result<u16> {
    Ok(http()?.post(url).form(form).send().await?.status().as_u16())
}

/// A call that is answered and waits for its end.
async fn live(story: &Story, number: &str) -> Result<Call> {
    story
        .stack
        .control()
        .set_outcome(number, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(number)).await?;
    // Queued, dialing, placed, answered, media_started, agent_connected: nothing more happens by itself.
    story.until(&call.id, "the agent", |call| call.version >= 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_is_read_full_and_with_three_fields() -> Result<()> {
    let story = Story::start().await?;
    let encodings = [
        CallbackEncoding::Multipart,
        CallbackEncoding::UrlEncoded,
        CallbackEncoding::Json,
    ];
    let cases = encodings
        .iter()
        .flat_map(|encoding| [(*encoding, Payload::Full), (*encoding, Payload::ThreeField)]);
    // Without a Passthru the callback alone ends the call.
    story.at_account(|account| {
        account.flows[0]
            .applets
            .retain(|applet| !matches!(applet, Applet::Passthru { .. }));
    })?;
    let mut calls = Vec::new();
    for (number, (encoding, payload)) in (61..).zip(cases) {
        let number = format!("+9198123400{number}");
        story.stack.control().set_outcome(
            &number,
            with(Callbacks {
                encoding,
                payload,
                ..Callbacks::default()
            }),
        )?;
        calls.push((story.place(story.request(&number)).await?, encoding, payload));
    }
    for (placed, encoding, payload) in calls {
        let (call, events) = story.ended(&placed.id).await?;
        assert_eq!(
            (call.state(), call.provider_code.as_str()),
            (CallState::Completed, "completed"),
            "{encoding:?} {payload:?}"
        );
        let end = events.iter().find(|event| event.r#type == "ended").context("an end")?;
        assert_eq!(end.source, "callback", "{encoding:?} {payload:?}");
        // The edge may tell later who left.
        story
            .until(&call.id, "who left", |call| call.end_reason == "customer_hung_up")
            .await?;
        let report = story.told(&call.exotel_call_sid).await?;
        let told: Vec<_> = report
            .callbacks
            .iter()
            .map(|told| (told.event.as_str(), told.attempt, told.status))
            .collect();
        let full = payload == Payload::Full;
        let expected = [("answered", 1, Some(200)), ("terminal", 1, Some(200))];
        assert_eq!(told, expected[usize::from(!full)..], "{encoding:?} {payload:?}");
        assert_eq!(
            call.talk_seconds.is_some(),
            full,
            "only the full one tells the duration"
        );
        assert!(!call.needs_review);
    }
    assert_eq!(
        story
            .count("webhook_inbox WHERE applied_at IS NULL OR problem IS NOT NULL")
            .await?,
        0
    );
    assert_eq!(story.count("webhook_inbox").await?, 9);
    assert_eq!(
        story
            .count("webhook_inbox WHERE convert_from(body, 'UTF8') LIKE '%98123400%'")
            .await?,
        0,
        "masked"
    );
    story.stack.shut_down().await
}

/// F43, F44: six of each, the last word first.
#[tokio::test(flavor = "multi_thread")]
async fn duplicates_in_the_wrong_order_change_nothing() -> Result<()> {
    let story = Story::start().await?;
    let callbacks = Callbacks {
        payload: Payload::Full,
        duplicates: 5,
        reorder: true,
        ..Callbacks::default()
    };
    story.stack.control().set_outcome(CUSTOMER, with(callbacks))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (call, _) = story.ended(&placed.id).await?;
    let all = |report: &exotel_sim::CallReport| report.callbacks.len() == 12;
    let report = story
        .stack
        .control()
        .wait_for(&call.exotel_call_sid, e2e::PATIENCE, all)
        .await?;
    assert!(report.callbacks.iter().all(|callback| callback.status == Some(200)));
    assert!(
        report.callbacks[..6]
            .iter()
            .all(|callback| callback.event == "terminal"),
        "the terminal ones came first"
    );

    let call = story.get(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.needs_review),
        (CallState::Completed, "customer_hung_up", false)
    );
    let events = story.events(&call.id).await?;
    for (kind, times) in [("answered", 1), ("ended", 1), ("corrected", 0)] {
        assert_eq!(count(&events, kind), times, "{kind} in {:?}", kinds(&events));
    }
    let from_callbacks = events.iter().filter(|event| event.source == "callback").count();
    assert!(
        from_callbacks <= 1,
        "twelve callbacks, at most one piece of news: {:?}",
        kinds(&events)
    );
    assert_eq!(
        story
            .count("webhook_inbox WHERE applied_at IS NOT NULL AND problem IS NULL")
            .await?,
        12
    );
    story.stack.shut_down().await
}

/// F45: the Passthru after the Voicebot ends the call, or the read-back where there is none.
#[tokio::test(flavor = "multi_thread")]
async fn calls_end_without_any_callback() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .change_settings(|settings| settings.callbacks.drop = 1.0);
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&placed.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    assert_eq!(end_source(&events), Some("passthru"));

    story.at_account(|account| {
        account.flows[0]
            .applets
            .retain(|applet| !matches!(applet, Applet::Passthru { .. }));
    })?;
    let busy = "+919812340062";
    story.stack.control().set_outcome(busy, Outcome::callee(Callee::Busy))?;
    let busy = story.place(story.request(busy)).await?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&placed.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    assert_eq!(end_source(&events), Some("read_back"));

    // Nothing came of this one: Exotel is asked after the ring time-out, which is now.
    let busy = story.get(&busy.id).await?;
    assert_eq!(busy.state(), CallState::Placed);
    story.read_back_now(&busy).await?;
    let (busy, events) = story.ended(&busy.id).await?;
    assert_eq!((busy.state(), busy.end_reason.as_str()), (CallState::Busy, "busy"));
    assert_eq!(end_source(&events), Some("read_back"));
    assert_eq!(story.count("webhook_inbox").await?, 0);
    story.stack.shut_down().await
}

/// F42: the phone was busy before Exotel answered the dial.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_may_come_before_the_dials_answer() -> Result<()> {
    let story = Story::start().await?;
    let outcome = Outcome {
        answer_delay_ms: 800,
        ..Outcome::callee(Callee::Busy)
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (early, events) = story.ended(&placed.id).await?;
    assert_eq!((early.state(), early.attempt), (CallState::Busy, 1));
    assert_eq!(kinds(&events), ["queued", "dialing", "ended"]);
    assert_eq!(
        early.exotel_call_sid,
        story.stack.control().ledger().await?[0].call_sid,
        "the callback told it"
    );

    // The answer comes now, and nothing comes of it.
    let answered = |event: &exotel_sim::Event| event.kind == "rest" && event.facts["status"] == 200;
    let journal = stack::poll("the dial's answer", e2e::PATIENCE, async || {
        let events = story
            .stack
            .control()
            .events(None)
            .await
            .map_err(|error| error.to_string())?;
        if events.iter().any(answered) {
            Ok(())
        } else {
            Err(format!("{} events", events.len()))
        }
    });
    journal.await?;
    let late = story.place(story.request("+919812340063")).await?;
    story.until_state(&late.id, CallState::InProgress).await?;
    let call = story.get(&placed.id).await?;
    assert_eq!(
        (call.state(), call.version, &call.exotel_call_sid),
        (CallState::Busy, early.version, &early.exotel_call_sid)
    );
    assert_eq!(story.dials("09812340017").await?, 1);
    story.stack.shut_down().await
}

/// F47, F48: without a genuine token nothing is stored; with one, for a call that is not there, it is kept for a person.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_genuine_token_has_anything_stored() -> Result<()> {
    let story = Story::start().await?;
    let call = live(&story, CUSTOMER).await?;
    let ended = [("CallSid", call.exotel_call_sid.as_str()), ("Status", "completed")];
    let genuine = callback_url(&story, &call.id, seconds_from_now(DAY))?;
    let expired = callback_url(&story, &call.id, seconds_from_now(-1))?;
    let (forged, last) = genuine.split_at(genuine.len() - 1);
    let forged = format!("{forged}{}", if last == "A" { "B" } else { "A" });
    let account = genuine.rsplit_once('/').context("a path")?.0.to_owned() + "/" + &story.registered.urls.account_token;
    for url in [&expired, &forged, &account, &genuine[..genuine.len() - 4].to_owned()] {
        let answer = http()?.post(url).form(&ended).send().await?;
        assert_eq!(answer.status().as_u16(), 404);
        assert_eq!(
            answer.text().await?,
            r#"{"error":"not_found"}"#,
            "the same words for all of them"
        );
    }
    assert_eq!(story.count("webhook_inbox").await?, 0);
    assert_eq!(story.get(&call.id).await?.version, call.version, "nothing happened");

    let nobody = CallId(uuid::Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0001)).to_string();
    let unknown = callback_url(&story, &nobody, seconds_from_now(DAY))?;
    assert_eq!(post(&unknown, &ended).await?, 200);
    assert_eq!(
        story
            .count("webhook_inbox WHERE problem = 'there is no such call' AND applied_at IS NULL")
            .await?,
        1
    );
    assert_eq!(story.get(&call.id).await?.version, call.version);

    assert_eq!(post(&genuine, &ended).await?, 200);
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(call.state(), CallState::Completed);
    story.stack.shut_down().await
}

/// F49: the token names the call; what contradicts it is kept for a person, never applied, and Exotel is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_about_another_call_is_set_aside() -> Result<()> {
    let story = Story::start().await?;
    let (one, other) = (
        live(&story, "+919812340064").await?,
        live(&story, "+919812340065").await?,
    );
    let url = callback_url(&story, &one.id, seconds_from_now(DAY))?;
    for _ in 0..2 {
        let status = post(&url, &[("CallSid", &other.exotel_call_sid), ("Status", "completed")]).await?;
        assert_eq!(status, 200, "it is kept");
    }
    let suspect = story.get(&one.id).await?;
    assert_eq!((suspect.state(), suspect.needs_review), (CallState::InProgress, true));
    assert_eq!(suspect.exotel_call_sid, one.exotel_call_sid);
    let untouched = story.get(&other.id).await?;
    assert_eq!(
        (untouched.state(), untouched.needs_review, untouched.version),
        (CallState::InProgress, false, other.version)
    );
    assert_eq!(
        story
            .count("webhook_inbox WHERE problem = 'contradicts the call: call_sid'")
            .await?,
        2
    );
    let events = story.events(&one.id).await?;
    assert_eq!(count(&events, "contradiction"), 1);
    let filter = Some(CallFilter {
        needs_review: true,
        ..CallFilter::default()
    });
    let request = ListCallsRequest {
        filter,
        ..ListCallsRequest::default()
    };
    let found = story
        .stack
        .clients()
        .calls()
        .list_calls(request)
        .await?
        .into_inner()
        .calls;
    assert_eq!(found.iter().map(|call| &call.id).collect::<Vec<_>>(), [&one.id]);

    // Other numbers contradict the call too, even with its own CallSid.
    let url = callback_url(&story, &other.id, seconds_from_now(DAY))?;
    let form = [
        ("CallSid", other.exotel_call_sid.as_str()),
        ("Status", "completed"),
        ("From", "09812340099"),
        ("To", "08040000000"),
    ];
    assert_eq!(post(&url, &form).await?, 200);
    let other = story.get(&other.id).await?;
    assert_eq!((other.state(), other.needs_review), (CallState::InProgress, true));
    assert_eq!(
        story
            .count("webhook_inbox WHERE problem = 'contradicts the call: numbers'")
            .await?,
        1
    );

    // Both end as they would have.
    for call in [&one, &other] {
        story.stack.control().hang_up(&call.exotel_call_sid)?;
        assert_eq!(story.ended(&call.id).await?.0.state(), CallState::Completed);
    }
    story.stack.shut_down().await
}

/// F50: what came once may come again, and reopens nothing.
#[tokio::test(flavor = "multi_thread")]
async fn old_callbacks_do_not_reopen_a_call() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::callee(Callee::Busy))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (call, _) = story.ended(&placed.id).await?;
    assert_eq!(call.state(), CallState::Busy);
    let url = callback_url(&story, &call.id, seconds_from_now(DAY))?;
    let sid = call.exotel_call_sid.as_str();
    for form in [
        &[("CallSid", sid), ("Status", "busy")][..],
        &[("CallSid", sid), ("Status", "in-progress")],
        &[("CallSid", sid), ("EventType", "ringing"), ("Status", "ringing")],
        &[("CallSid", sid), ("Status", "parked")],
        // A worse word of the same source.
        &[("CallSid", sid), ("Status", "failed")],
    ] {
        assert_eq!(post(&url, form).await?, 200, "{form:?}");
        let now = story.get(&call.id).await?;
        assert_eq!(
            (now.state(), now.end_reason.as_str()),
            (CallState::Busy, "busy"),
            "{form:?}"
        );
        assert_eq!(
            (&now.ended_at, &now.exotel_call_sid),
            (&call.ended_at, &call.exotel_call_sid)
        );
    }
    let events = story.events(&call.id).await?;
    assert_eq!((count(&events, "ended"), count(&events, "corrected")), (1, 0));
    assert_eq!(story.dials("09812340017").await?, 1);
    story.stack.shut_down().await
}
