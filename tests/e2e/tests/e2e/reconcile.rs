//! What Exotel is asked about, in bulk: lost callbacks, contradictions, rows that cannot be read, and what is too old.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{Call, CallEvent, CallState, GetTranscriptRequest, PlaceCallRequest};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use e2e::{
    CUSTOMER, PATIENCE, Story, callback_url, http, kinds, quick, refusal, refused, registration, seconds_from_now,
};
use exotel_sim::{Callbacks, Callee, CallerScript, Outcome};
use stack::poll;
use tonic::Code;

/// An Exotel that sends no callbacks.
async fn silent() -> Result<Story> {
    let mut registration = registration()?;
    registration.simulated.callbacks = Some(Callbacks {
        drop: 1.0,
        ..Callbacks::default()
    });
    Story::with(quick(), registration).await
}

/// Statements that no RPC can make.
async fn sql(story: &Story, statements: &str) -> Result<()> {
    let mut conn = AsyncPgConnection::establish(&story.stack.database_url).await?;
    Ok(conn.batch_execute(statements).await?)
}

/// How often the simulator was asked for this path's end.
async fn requests(story: &Story, ends: &str) -> Result<usize> {
    let events = story.stack.control().events(None).await?;
    Ok(events
        .iter()
        .filter(|event| event.kind == "rest" && event.facts["method"] == "GET")
        .filter(|event| event.facts["path"].as_str().is_some_and(|path| path.ends_with(ends)))
        .count())
}

/// Calls that Exotel has ended without telling.
async fn ended_unheard(story: &Story, count: usize) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    for n in 0..count {
        let number = format!("+9198123410{n:02}");
        story
            .stack
            .control()
            .set_outcome(&number, Outcome::callee(Callee::Busy))?;
        calls.push(story.place(story.request(&number)).await?);
    }
    for call in &mut calls {
        *call = story.until_state(&call.id, CallState::Placed).await?;
        story.report(call).await?;
    }
    Ok(calls)
}

const ALL_DUE: &str = "UPDATE calls SET read_back_at = now() WHERE read_back_at IS NOT NULL";

fn last<'a>(events: &'a [CallEvent], kind: &str) -> Result<&'a CallEvent> {
    events
        .iter()
        .rev()
        .find(|event| event.r#type == kind)
        .with_context(|| format!("no {kind} in {:?}", kinds(events)))
}

/// F45: every callback is lost. Twenty calls are one request.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_an_account_are_asked_about_together() -> Result<()> {
    let story = silent().await?;
    let calls = ended_unheard(&story, 25).await?;
    sql(&story, ALL_DUE).await?;
    for call in &calls {
        let (call, events) = story.ended(&call.id).await?;
        assert_eq!((call.state(), call.end_presumed), (CallState::Busy, false));
        assert_eq!(last(&events, "ended")?.source, "read_back");
    }
    assert_eq!(requests(&story, "/Calls.json").await?, 2, "25 calls");
    assert_eq!(story.posts()?, 25);
    assert_eq!(story.stack.control().ledger().await?.len(), 25);
    story.stack.shut_down().await
}

/// Exotel's list lags; a call that it leaves out is asked about by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_list_leaves_out_is_asked_about_singly() -> Result<()> {
    let story = silent().await?;
    story
        .stack
        .control()
        .change_settings(|settings| settings.list_delay_ms = 3_600_000);
    let calls = ended_unheard(&story, 2).await?;
    sql(&story, ALL_DUE).await?;
    for call in &calls {
        let (call, _) = story.ended(&call.id).await?;
        assert_eq!(call.state(), CallState::Busy);
        let path = format!("/Calls/{}.json", call.exotel_call_sid);
        assert_eq!(requests(&story, &path).await?, 1);
    }
    assert_eq!(story.posts()?, 2);
    story.stack.shut_down().await
}

/// F51: two callbacks contradict each other; Exotel's own record decides, at once.
#[tokio::test(flavor = "multi_thread")]
async fn contradictory_ends_are_settled_by_exotels_record() -> Result<()> {
    let story = silent().await?;
    for (first, second) in [("failed", "no-answer"), ("no-answer", "failed")] {
        let [call] = &ended_unheard(&story, 1).await?[..] else {
            anyhow::bail!("one call")
        };
        let url = callback_url(&story, &call.id, seconds_from_now(60))?;
        for status in [first, second] {
            let form = [("CallSid", call.exotel_call_sid.as_str()), ("Status", status)];
            let told = http()?.post(&url).form(&form).send().await?;
            assert_eq!(told.status().as_u16(), 200, "{status}");
        }
        let call = story.until_state(&call.id, CallState::Busy).await?;
        let events = story.events(&call.id).await?;
        assert_eq!(last(&events, "corrected")?.source, "read_back", "{:?}", kinds(&events));
        let told = format!(
            "webhook_inbox WHERE convert_from(body, 'UTF8') LIKE '%{}%'",
            call.exotel_call_sid
        );
        assert_eq!(story.count(&told).await?, 2, "both are kept");
        // Nothing more comes of a repeat.
        let again = http()?
            .post(&url)
            .form(&[("CallSid", call.exotel_call_sid.as_str()), ("Status", first)])
            .send()
            .await?;
        assert_eq!(again.status().as_u16(), 200);
        assert_eq!(story.get(&call.id).await?.version, call.version);
    }
    assert_eq!(story.posts()?, 2);
    story.stack.shut_down().await
}

/// F40: a row that cannot be read is set aside, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_read_hold_up_nobody() -> Result<()> {
    let story = silent().await?;
    let calls = ended_unheard(&story, 3).await?;
    let id = |call: &Call| call.id.replace("call_", "");
    // Words of another release, and of nobody.
    sql(&story, "ALTER TYPE call_state ADD VALUE 'levitating'").await?;
    sql(
        &story,
        &format!(
            "UPDATE calls SET state = 'levitating' WHERE replace(id::text, '-', '') = '{}';
            UPDATE calls SET facts = '{{\"attempt\":\"some\"}}' WHERE replace(id::text, '-', '') = '{}';
            UPDATE calls SET read_back_at = now() - interval '1 minute' WHERE replace(id::text, '-', '') <> '{}';
            UPDATE calls SET read_back_at = now() WHERE replace(id::text, '-', '') = '{}'",
            id(&calls[0]),
            id(&calls[1]),
            id(&calls[2]),
            id(&calls[2]),
        ),
    )
    .await?;
    let (call, _) = story.ended(&calls[2].id).await?;
    assert_eq!(call.state(), CallState::Busy);
    poll("the rows to be set aside", PATIENCE, async || {
        let aside = "calls WHERE needs_review AND read_back_at > now() + interval '23 hours'";
        match story.count(aside).await {
            Ok(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    // Nothing of them was touched, so that whoever can read them goes on.
    assert_eq!(
        story.count("calls WHERE state = 'levitating' AND version = 3").await?,
        1
    );
    assert_eq!(story.posts()?, 3);
    story.stack.shut_down().await
}

/// F23, F40: an account whose keys are wrong is left alone, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_wrong_keys_holds_up_nobody_and_does_not_storm() -> Result<()> {
    let mut story = silent().await?;
    let wrong = ended_unheard(&story, 3).await?;
    story.at_account(|account| "changed".clone_into(&mut account.api_token))?;
    let wrong_path = format!("/{}/Calls.json", story.registered.account_sid);
    let mut other = registration()?;
    other.simulated.callbacks = Some(Callbacks {
        drop: 1.0,
        ..Callbacks::default()
    });
    story.registered = story.stack.register(other).await?;
    let busy = "+919812341099";
    story.stack.control().set_outcome(busy, Outcome::callee(Callee::Busy))?;
    let call = story.place(story.request(busy)).await?;
    let call = story.until_state(&call.id, CallState::Placed).await?;
    story.report(&call).await?;
    for _ in 0..5 {
        sql(&story, ALL_DUE).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(call.state(), CallState::Busy);
    assert_eq!(requests(&story, &wrong_path).await?, 1, "one request, then a rest");
    for call in wrong {
        assert_eq!(story.get(&call.id).await?.state(), CallState::Placed);
    }
    story.stack.shut_down().await
}

/// A call that Exotel does not know any more ends when its time limit is long past.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_ends_is_over_when_its_time_limit_is_long_past() -> Result<()> {
    let story = silent().await?;
    let outcome = Outcome {
        answer_after_ms: Some(60_000),
        ..Outcome::answered_by(CallerScript::new())
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let call = story.until_state(&call.id, CallState::Placed).await?;
    sql(
        &story,
        "UPDATE calls SET call_sid = 'nobodysid0', post_started_at = now() - interval '3 hours', read_back_at = now()",
    )
    .await?;
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.end_presumed),
        (CallState::Failed, "time_limit", true)
    );
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

/// Exotel's count of open streams is compared with ours, once in two minutes in all replicas together.
#[tokio::test(flavor = "multi_thread")]
async fn open_streams_are_counted_once_while_there_are_calls() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    assert_eq!(requests(&story, "/ActiveStreams").await?, 0, "no call, no question");
    let call = story.place(story.request(CUSTOMER)).await?;
    story.until_state(&call.id, CallState::InProgress).await?;
    poll("a count", PATIENCE, async || {
        match requests(&story, "/ActiveStreams").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    // Both replicas look again meanwhile.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(requests(&story, "/ActiveStreams").await?, 1);
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

/// What is too old loses the person, and stays the call of its key.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_call_is_blanked_and_its_key_is_still_used() -> Result<()> {
    let builder = quick().call_setting("RETENTION", "3s");
    let story = Story::with(builder, registration()?).await?;
    let script = CallerScript::new().silence(300).hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let request = PlaceCallRequest {
        metadata: [("order".to_owned(), "42".to_owned())].into(),
        calling_hours_override: "because".to_owned(),
        record: true,
        ..story.request(CUSTOMER)
    };
    let placed = story.place(request.clone()).await?;
    let (call, _) = story.ended(&placed.id).await?;
    story.told(&call.exotel_call_sid).await?;
    sql(
        &story,
        "INSERT INTO transcripts (media_session_id, sequence, call_id, speaker, text)
            SELECT id, 1, call_id, 1, 'a secret' FROM media_sessions;
        INSERT INTO webhook_inbox (call_id, body, received_at, problem)
            SELECT id, '+919812340017', now() + interval '1 hour', 'for a person' FROM calls",
    )
    .await?;
    let blank = story
        .until(&call.id, "the blanked call", |call| call.customer_number.is_empty())
        .await?;
    assert_eq!(
        (blank.state(), blank.metadata.len(), blank.recording_url.as_str()),
        (call.state(), 0, "")
    );
    assert_eq!(blank.phone_number, call.phone_number);
    let transcript = GetTranscriptRequest {
        call_id: call.id.clone(),
    };
    let said = story
        .stack
        .clients()
        .calls()
        .get_transcript(transcript)
        .await?
        .into_inner();
    assert!(said.entries.is_empty());
    let gone = "calls WHERE blanked_at IS NOT NULL AND customer = '' AND traceparent IS NULL
        AND calling_hours_override IS NULL AND read_back_at IS NULL AND fingerprint IS NOT NULL";
    assert_eq!(story.count(gone).await?, 1);
    assert_eq!(story.count("webhook_inbox WHERE length(body) > 0").await?, 0);
    poll("the old webhooks to go", PATIENCE, async || {
        match story.count("webhook_inbox WHERE received_at < now()").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;

    // F46: what comes now is kept without the number, and changes nothing.
    let url = callback_url(&story, &call.id, seconds_from_now(60))?;
    let late = [
        ("CallSid", call.exotel_call_sid.as_str()),
        ("Status", "busy"),
        ("From", CUSTOMER),
    ];
    assert_eq!(http()?.post(url).form(&late).send().await?.status(), 200);
    let kept = "webhook_inbox WHERE problem LIKE 'late%' AND position('9812340017' IN encode(body, 'escape')) = 0";
    assert_eq!(story.count(kept).await?, 1);
    assert_eq!(story.get(&call.id).await?.version, blank.version);

    let again = story.place(request.clone()).await?;
    assert_eq!((&again.id, again.state()), (&call.id, call.state()), "the same call");
    let other = PlaceCallRequest {
        to: "+919812340018".to_owned(),
        ..request
    };
    let reused = story.stack.clients().calls().place_call(other).await.unwrap_err();
    assert_eq!(refusal(&reused), refused(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (1, 1));
    story.stack.shut_down().await
}
