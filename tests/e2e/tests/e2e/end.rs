//! Ending, steering and finding calls.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{
    Call, CallFilter, CallState, Direction, EndCallRequest, GetTranscriptRequest, ListCallsRequest, PlaceCallRequest,
    SendToAgentRequest, Speaker, TransferCallRequest, WaitFor, call_service_client::CallServiceClient,
};
use chrono::TimeDelta;
use e2e::{CUSTOMER, Story, invalid, kinds, refusal, refused};
use exotel_sim::{Applet, Callee, CallerScript, Outcome, Settings, StreamReport};
use prost_types::Timestamp;
use runtime::Clock;
use stack::Keyed;
use tonic::{Code, Status};

fn calls(story: &Story) -> CallServiceClient<Keyed> {
    story.stack.clients().calls()
}

async fn end(story: &Story, id: &str) -> Result<Call, Status> {
    let request = EndCallRequest {
        call_id: id.to_owned(),
        reason: "changed our mind".to_owned(),
    };
    let answer = calls(story).end_call(request).await?.into_inner();
    answer.call.ok_or_else(|| Status::internal("an answer without a call"))
}

fn in_an_hour() -> Timestamp {
    let at = Clock::system().now() + TimeDelta::hours(1);
    Timestamp {
        seconds: at.timestamp(),
        nanos: 0,
    }
}

/// Places a call that is answered and stays so until somebody ends it.
async fn live(story: &Story) -> Result<Call> {
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    // The agent has the audio.
    story
        .until(&call.id, "the agent to be on the call", |call| call.version >= 6)
        .await?;
    let call = story.until_state(&call.id, CallState::InProgress).await?;
    assert_eq!(
        kinds(&story.events(&call.id).await?)[..5],
        ["queued", "dialing", "placed", "answered", "media_started"]
    );
    Ok(call)
}

fn stream(report: &exotel_sim::CallReport) -> Result<&StreamReport> {
    report.streams.first().context("no stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_is_canceled_at_once() -> Result<()> {
    let story = Story::start().await?;
    let request = PlaceCallRequest {
        not_before: Some(in_an_hour()),
        ..story.request(CUSTOMER)
    };
    let call = story.place(request).await?;
    assert_eq!(
        (call.state(), call.waiting_reason.as_str()),
        (CallState::Queued, "not_before")
    );

    let canceled = end(&story, &call.id).await?;
    assert_eq!(canceled.state(), CallState::Canceled);
    assert_eq!(
        (canceled.end_reason.as_str(), canceled.ended_by.as_str()),
        ("ended_by_request", "caller")
    );
    let (_, events) = story.ended(&call.id).await?;
    assert_eq!(kinds(&events), ["queued", "ended"]);
    assert_eq!(events[1].source, "api");
    assert_eq!(events[1].data.get("caller").map(String::as_str), Some("stack"));
    assert_eq!(
        events[1].data.get("reason").map(String::as_str),
        Some("ended_by_request")
    );

    // Again is no mistake, and no news.
    let again = end(&story, &call.id).await?;
    assert_eq!((again.state(), again.version), (CallState::Canceled, canceled.version));
    assert_eq!(story.posts()?, 0);

    let unknown = end(&story, "call_00000000000070008000000000000000").await.unwrap_err();
    assert_eq!(refusal(&unknown), refused(Code::NotFound, "NOT_FOUND"));
    let request = EndCallRequest {
        call_id: call.id,
        reason: "x".repeat(129),
    };
    assert_eq!(
        refusal(&calls(&story).end_call(request).await.unwrap_err()),
        invalid(&["reason"])
    );
    Ok(())
}

/// Exotel documents no request that hangs up; where it takes one, the call ends by its word.
#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_call_ends_when_exotel_says_so() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.change_settings(|settings: &mut Settings| settings.hang_up_by_rest = true);
    control.set_outcome(
        CUSTOMER,
        Outcome {
            answer_after_ms: Some(60_000),
            ..Outcome::default()
        },
    )?;
    let request = PlaceCallRequest {
        wait_for: WaitFor::Placed.into(),
        ..story.request(CUSTOMER)
    };
    let call = story.place(request).await?;
    let ending = end(&story, &call.id).await?;
    assert!(ending.end_requested);
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::Canceled, "ended_by_request")
    );
    assert_eq!(
        kinds(&events),
        ["queued", "dialing", "placed", "end_requested", "ended"]
    );
    assert_eq!(events[4].source, "callback");
    assert_eq!(end(&story, &call.id).await?.version, story.get(&call.id).await?.version);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_call_that_is_answered_all_the_same_meets_no_agent() -> Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome {
            answer_after_ms: Some(600),
            ..Outcome::default()
        },
    )?;
    let request = PlaceCallRequest {
        wait_for: WaitFor::Placed.into(),
        ..story.request(CUSTOMER)
    };
    let call = story.place(request).await?;
    let ending = end(&story, &call.id).await?;
    assert_eq!((ending.state(), ending.end_requested), (CallState::Placed, true));
    let again = end(&story, &call.id).await?;
    assert_eq!(again.version, ending.version);

    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::Canceled, "ended_by_request")
    );
    assert_eq!(call.ended_by, "caller");
    assert_eq!(
        kinds(&events)[..5],
        ["queued", "dialing", "placed", "end_requested", "answered"]
    );
    assert!(
        call.media_sessions.iter().all(|session| session.started_at.is_none()),
        "{:?}",
        call.media_sessions
    );
    let report = story.report(&call).await?;
    assert!(
        report.streams.iter().all(|stream| stream.sent_messages == 0),
        "{report:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_call_that_nobody_answers_is_not_answered() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::callee(Callee::NoAnswer))?;
    let request = PlaceCallRequest {
        wait_for: WaitFor::Placed.into(),
        ring_timeout: None,
        ..story.request(CUSTOMER)
    };
    story
        .stack
        .control()
        .change_settings(|settings| settings.time_scale = 40.0);
    let call = story.place(request).await?;
    assert!(end(&story, &call.id).await?.end_requested);
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::NoAnswer, "no_answer")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_is_left_by_its_agent() -> Result<()> {
    let story = Story::start().await?;
    let call = live(&story).await?;
    let ending = end(&story, &call.id).await?;
    assert_eq!((ending.state(), ending.end_requested), (CallState::InProgress, true));
    // Once more while it ends.
    end(&story, &call.id).await?;

    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(call.state(), CallState::Completed);
    assert_eq!(
        (call.end_reason.as_str(), call.ended_by.as_str()),
        ("ended_by_request", "caller")
    );
    // Exotel's Passthru may be faster than the edge, whose word counts all the same.
    let told = |call: &Call| {
        call.media_sessions
            .iter()
            .all(|session| session.end_reason == "ended_by_request")
    };
    let now = story
        .until(&call.id, "the edge to tell how the session ended", told)
        .await?;
    let sessions: Vec<_> = now
        .media_sessions
        .iter()
        .map(|session| session.ended_by.as_str())
        .collect();
    assert_eq!(sessions, ["caller"]);
    let kinds = kinds(&events);
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "end_requested").count(),
        1,
        "{kinds:?}"
    );
    assert!(kinds.contains(&"leave_requested"), "{kinds:?}");
    let report = story.report(&call).await?;
    assert_eq!(stream(&report)?.disconnected_by.as_deref(), Some("bot"));
    assert_eq!(report.applets, ["voicebot", "passthru", "hangup"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_the_live_agent_and_what_it_says_is_kept() -> Result<()> {
    let story = Story::start().await?;
    let message = |call_id: &str, json: &str| SendToAgentRequest {
        call_id: call_id.to_owned(),
        json: json.to_owned(),
    };
    let waiting = PlaceCallRequest {
        not_before: Some(in_an_hour()),
        ..story.request(CUSTOMER)
    };
    let waiting = story.place(waiting).await?;
    let nobody = calls(&story)
        .send_to_agent(message(&waiting.id, "{}"))
        .await
        .unwrap_err();
    assert_eq!(refusal(&nobody), refused(Code::FailedPrecondition, "NO_LIVE_SESSION"));

    let call = live(&story).await?;
    for json in ["", "{", &format!("\"{}\"", "x".repeat(16 * 1_024))] {
        let status = calls(&story).send_to_agent(message(&call.id, json)).await.unwrap_err();
        assert_eq!(refusal(&status), invalid(&["json"]));
    }
    let command = calls(&story)
        .send_to_agent(message(&call.id, r#"{"say_digits":"42"}"#))
        .await?
        .into_inner()
        .command_id;
    let call = story
        .until(&call.id, "the agent to have the message", |now| {
            now.version >= call.version + 2
        })
        .await?;
    let events = story.events(&call.id).await?;
    let about: Vec<_> = events
        .iter()
        .filter(|event| event.data.get("command_id") == Some(&command))
        .collect();
    assert_eq!(
        about.iter().map(|event| event.r#type.as_str()).collect::<Vec<_>>(),
        ["agent_message", "command_done"]
    );
    assert_eq!(about[1].data.get("done").map(String::as_str), Some("true"));

    calls(&story)
        .send_to_agent(message(&call.id, r#"{"hang_up":true}"#))
        .await?;
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str()),
        (CallState::Completed, "agent_hung_up")
    );
    let request = GetTranscriptRequest {
        call_id: call.id.clone(),
    };
    let said = calls(&story).get_transcript(request).await?.into_inner().entries;
    let session = &call.media_sessions[0].id;
    assert!(
        said.iter()
            .all(|piece| piece.speaker() == Speaker::Agent && piece.media_session_id == *session)
    );
    let texts: Vec<_> = said.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert_eq!(texts[0], "(digits)");
    let report = story.report(&call).await?;
    assert!(stream(&report)?.received_bytes > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_is_handed_over_to_a_person() -> Result<()> {
    const COLLEAGUE: &str = "+919812355555";
    let story = Story::start().await?;
    let control = story.stack.control();
    let mut account = control
        .accounts()
        .into_iter()
        .find(|one| one.sid == story.registered.account_sid)
        .context("none")?;
    let connect = Applet::Connect {
        url: Some(story.registered.urls.transfer_url.clone()),
        fallback_url: None,
        numbers: Vec::new(),
    };
    account.flows[0].applets.insert(2, connect);
    control.put_account(account)?;

    let transfer = |call_id: &str, to: &str| TransferCallRequest {
        call_id: call_id.to_owned(),
        to: to.to_owned(),
        reason: "wants a person".to_owned(),
    };
    let call = live(&story).await?;
    let status = calls(&story)
        .transfer_call(transfer(&call.id, "nobody"))
        .await
        .unwrap_err();
    assert_eq!(refusal(&status), invalid(&["to"]));
    let command = calls(&story)
        .transfer_call(transfer(&call.id, COLLEAGUE))
        .await?
        .into_inner()
        .command_id;

    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(call.state(), CallState::Completed);
    let asked = events
        .iter()
        .find(|event| event.r#type == "leave_requested")
        .context("no leave_requested")?;
    assert_eq!(asked.data.get("command_id"), Some(&command));
    assert_eq!(asked.data.get("transfer_to").map(String::as_str), Some("+91******5555"));
    let report = story.report(&call).await?;
    assert_eq!(report.applets, ["voicebot", "passthru", "connect", "hangup"]);
    let legs: Vec<_> = report
        .legs
        .iter()
        .map(|leg| (leg.number.as_str(), leg.status.as_str()))
        .collect();
    assert_eq!(legs, [("09812355555", "completed")]);

    let late = calls(&story)
        .transfer_call(transfer(&call.id, COLLEAGUE))
        .await
        .unwrap_err();
    assert_eq!(refusal(&late), refused(Code::FailedPrecondition, "NO_LIVE_SESSION"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_found_by_what_they_are_and_read_page_by_page() -> Result<()> {
    let story = Story::start().await?;
    let mut ids = Vec::new();
    for to in [
        "+919812300001",
        "+919812300002",
        "+919812300003",
        "+919812300001",
        "+919812300002",
    ] {
        let request = PlaceCallRequest {
            not_before: Some(in_an_hour()),
            ..story.request(to)
        };
        ids.push(story.place(request).await?);
    }
    end(&story, &ids[3].id).await?;
    let list = async |filter: CallFilter, page_size: i32, page_token: String| {
        let request = ListCallsRequest {
            filter: Some(filter),
            page_size,
            page_token,
        };
        let page = calls(&story).list_calls(request).await?.into_inner();
        let found: Vec<_> = page
            .calls
            .iter()
            .filter_map(|call| ids.iter().position(|id| id.id == call.id))
            .collect();
        Ok::<_, Status>((found, page.next_page_token))
    };
    let all = CallFilter::default;
    let phone_id = story.registered.phone_id.clone();
    let agent_id = story.registered.agent.id.clone();
    let third = ids[2].queued_at;
    let cases = [
        (all(), vec![4, 3, 2, 1, 0]),
        (
            CallFilter {
                states: vec![CallState::Canceled.into()],
                ..all()
            },
            vec![3],
        ),
        (
            CallFilter {
                states: vec![CallState::Canceled.into(), CallState::Queued.into()],
                ..all()
            },
            vec![4, 3, 2, 1, 0],
        ),
        (
            CallFilter {
                customer_number: "098123 00002".to_owned(),
                ..all()
            },
            vec![4, 1],
        ),
        (
            CallFilter {
                direction: Direction::Inbound.into(),
                ..all()
            },
            vec![],
        ),
        (
            CallFilter {
                direction: Direction::Outbound.into(),
                phone_id,
                agent_id,
                ..all()
            },
            vec![4, 3, 2, 1, 0],
        ),
        (
            CallFilter {
                caller: "stack".to_owned(),
                queued_before: third,
                ..all()
            },
            vec![1, 0],
        ),
        (
            CallFilter {
                caller: "nobody".to_owned(),
                ..all()
            },
            vec![],
        ),
        (
            CallFilter {
                queued_after: third,
                ..all()
            },
            vec![4, 3, 2],
        ),
        (
            CallFilter {
                needs_review: true,
                ..all()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let told = format!("{filter:?}");
        assert_eq!(
            list(filter, 0, String::new()).await?,
            (expected, String::new()),
            "{told}"
        );
    }

    let queued = CallFilter {
        states: vec![CallState::Queued.into()],
        ..all()
    };
    let (first, token) = list(queued.clone(), 2, String::new()).await?;
    // Calls that come in between do not move the pages.
    story
        .place(PlaceCallRequest {
            not_before: Some(in_an_hour()),
            ..story.request("+919812300009")
        })
        .await?;
    let (second, end_token) = list(queued.clone(), 2, token.clone()).await?;
    assert_eq!((first, second, end_token.as_str()), (vec![4, 2], vec![1, 0], ""));

    for (filter, size, token, field) in [
        (all(), 2, token, "page_token"),
        (all(), 201, String::new(), "page_size"),
        (
            CallFilter {
                states: vec![99],
                ..all()
            },
            2,
            String::new(),
            "filter.states",
        ),
        (
            CallFilter {
                phone_id: "call_1".to_owned(),
                ..all()
            },
            2,
            String::new(),
            "filter.phone_id",
        ),
        (
            CallFilter {
                customer_number: "x".to_owned(),
                ..all()
            },
            2,
            String::new(),
            "filter.customer_number",
        ),
    ] {
        assert_eq!(
            refusal(&list(filter, size, token).await.unwrap_err()),
            invalid(&[field])
        );
    }
    Ok(())
}
