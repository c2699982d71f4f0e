//! Calls that the company makes.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::LeaveAction,
    call::v1::{CallEvent, CallState, PlaceCallRequest},
    directory::v1::DialMode,
};
use e2e::{Agent, CUSTOMER, PATIENCE, Story, kinds, quick, registration};
use exotel_sim::{Answer, Applet, Callbacks, Callee, CallerScript, Cause, Leg, Mode, Outcome, Payload};
use stack::poll;

/// Somebody who answers, listens for a moment and hangs up.
pub(super) fn short() -> CallerScript {
    CallerScript::new().silence(200).hang_up()
}

fn sources(events: &[CallEvent]) -> Vec<(&str, &str)> {
    events
        .iter()
        .map(|event| (event.r#type.as_str(), event.source.as_str()))
        .collect()
}

fn count(events: &[CallEvent], kind: &str) -> usize {
    events.iter().filter(|event| event.r#type == kind).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_call_has_its_whole_timeline_and_late_facts_follow() -> Result<()> {
    let story = Story::start().await?;
    let script = CallerScript::new().silence(1_100).hang_up();
    let outcome = Outcome {
        answer_after_ms: Some(1_100),
        ..Outcome::answered_by(script)
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;
    let request = PlaceCallRequest {
        metadata: [("order".to_owned(), "42".to_owned())].into(),
        record: true,
        ..story.request("098123 40017")
    };
    let placed = story.place(request).await?;
    assert_eq!((placed.state(), placed.attempt), (CallState::Dialing, 1));
    assert_eq!(
        (placed.customer_number.as_str(), placed.caller.as_str()),
        (CUSTOMER, "stack")
    );

    let (call, _) = story.ended(&placed.id).await?;
    assert_eq!(call.state(), CallState::Completed);
    assert_eq!(
        (call.end_reason.as_str(), call.ended_by.as_str()),
        ("customer_hung_up", "customer")
    );
    assert_eq!(
        (call.attempt, call.ring_seconds, call.end_presumed, call.needs_review),
        (1, Some(1), false, false)
    );
    assert!(call.answered_at.is_some() && call.ended_at.is_some());
    let [session] = &call.media_sessions[..] else {
        panic!("{:?}", call.media_sessions)
    };
    assert_eq!(session.ended_by, "customer");
    let report = story.told(&call.exotel_call_sid).await?;
    assert_eq!(session.stream_sid, report.streams[0].stream_sid);
    assert_eq!((report.mode, report.cause), (Mode::Flow, Some(Cause::Caller)));
    assert_eq!(report.applets, ["voicebot", "passthru"]);

    let call = story
        .until(&call.id, "the agent's facts", |call| {
            call.metadata.contains_key("echo_ms")
        })
        .await?;
    assert_eq!(
        call.metadata.get("order").map(String::as_str),
        Some("42"),
        "the caller's metadata stay"
    );
    let events = story.events(&call.id).await?;
    assert_eq!(
        sources(&events)[..6],
        [
            ("queued", "api"),
            ("dialing", "dialer"),
            ("placed", "dialer"),
            ("answered", "connect"),
            ("media_started", "media"),
            ("agent_connected", "media"),
        ]
    );
    for once in ["media_ended", "stream_ended", "ended", "metadata"] {
        assert_eq!(count(&events, once), 1, "{once} in {:?}", kinds(&events));
    }
    assert!(
        events.iter().zip(1..).all(|(event, version)| event.version == version),
        "no gap in the versions"
    );
    assert!(
        events
            .iter()
            .all(|event| event.data.values().all(|text| !text.contains("40017"))),
        "no number"
    );

    // Price and duration come a while after the end: 300 ms here.
    assert_eq!((call.price.as_str(), call.talk_seconds), ("", None));
    let late = poll("the late facts", PATIENCE, async || {
        let asked = story.read_back_now(&call).await;
        match asked.and(story.get(&call.id).await) {
            Ok(late) if !late.price.is_empty() => Ok(late),
            other => Err(format!("{:?}", other.map(|call| call.version))),
        }
    });
    let late = late.await?;
    assert_eq!((late.price.as_str(), late.state()), ("0.500", CallState::Completed));
    assert_eq!(late.talk_seconds, Some(1));
    assert!(
        late.recording_url.contains(&late.exotel_call_sid),
        "where the recording is"
    );
    let last = story.events(&call.id).await?;
    assert_eq!(
        last.last().map(|event| (event.r#type.as_str(), event.source.as_str())),
        Some(("details", "read_back"))
    );

    let ledger = story.stack.control().ledger().await?;
    let [dial] = &ledger[..] else {
        panic!("one dial: {ledger:?}")
    };
    assert_eq!((&dial.call_sid, dial.mode), (&call.exotel_call_sid, Mode::Flow));
    assert!(
        dial.custom_field
            .as_deref()
            .is_some_and(|field| field.starts_with(&call.id))
    );
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_unanswered_and_unreachable_phones_are_told_apart() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    // A tenth of the time: the shortest ring time-out is five seconds. The phone rings after the dial is answered.
    control.change_settings(|settings| (settings.time_scale, settings.ring_delay_ms) = (10.0, 1_500));
    let cases = [
        (
            "+919812340021",
            Callee::Busy,
            CallState::Busy,
            "busy",
            "customer",
            "busy",
        ),
        (
            "+919812340022",
            Callee::NoAnswer,
            CallState::NoAnswer,
            "no_answer",
            "customer",
            "no-answer",
        ),
        (
            "+919812340023",
            Callee::Fails,
            CallState::Failed,
            "provider_failed",
            "provider",
            "failed",
        ),
    ];
    let mut calls = Vec::new();
    for case in cases {
        control.set_outcome(case.0, Outcome::callee(case.1))?;
        let ring_timeout = Some(prost_types::Duration { seconds: 5, nanos: 0 });
        calls.push(
            story
                .place(PlaceCallRequest {
                    ring_timeout,
                    ..story.request(case.0)
                })
                .await?,
        );
    }
    for (call, (number, _, state, reason, by, code)) in calls.iter().zip(cases) {
        let (call, events) = story.ended(&call.id).await?;
        let ended = (
            call.state(),
            call.end_reason.as_str(),
            call.ended_by.as_str(),
            call.provider_code.as_str(),
        );
        assert_eq!(ended, (state, reason, by, code));
        assert_eq!(
            sources(&events),
            [
                ("queued", "api"),
                ("dialing", "dialer"),
                ("placed", "dialer"),
                ("ended", "callback")
            ]
        );
        assert_eq!(events[3].data.get("reason").map(String::as_str), Some(reason));
        assert_eq!(
            (call.answered_at, call.media_sessions.len(), call.talk_seconds),
            (None, 0, None)
        );
        assert_eq!(story.dials(&number.replace("+91", "0")).await?, 1);
    }
    assert_eq!(story.posts()?, 3);
    story.stack.shut_down().await
}

/// F23: a refusal is final.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_dial_is_final_and_sent_once() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    let cases = [
        ("+919812340024", Answer::Dnd, "dnd"),
        ("+919812340025", Answer::Kyc, "kyc"),
    ];
    for (number, answer, reason) in cases {
        control.set_outcome(number, Outcome::answer(answer))?;
        let call = story.place(story.request(number)).await?;
        let (call, events) = story.ended(&call.id).await?;
        assert_eq!(
            (call.state(), call.end_reason.as_str(), call.attempt),
            (CallState::Failed, reason, 1)
        );
        assert_eq!(
            (call.ended_by.as_str(), call.provider_code.as_str()),
            ("provider", "403")
        );
        assert_eq!(
            sources(&events),
            [("queued", "api"), ("dialing", "dialer"), ("ended", "dialer")]
        );
        assert_eq!(
            story.dials(&number.replace("+91", "0")).await?,
            0,
            "nobody's phone rang"
        );
    }
    assert_eq!(story.posts()?, 2, "one request each");
    story.stack.shut_down().await
}

/// F22: the call goes back to the queue for as long as Exotel asks, and is dialled then.
#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limited_dial_is_tried_again_when_exotel_says() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    let limited = Answer::RateLimited {
        retry_after: Some("1".to_owned()),
    };
    control.set_outcome(CUSTOMER, Outcome::answer(limited))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let waiting = story.until_state(&call.id, CallState::Queued).await?;
    assert_eq!((waiting.waiting_reason.as_str(), waiting.attempt), ("retry", 1));
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;

    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.attempt, call.waiting_reason.as_str()),
        (CallState::Completed, 2, "")
    );
    assert_eq!(
        kinds(&events)[..5],
        ["queued", "dialing", "requeued", "dialing", "placed"]
    );
    assert_eq!(events[2].data.get("reason").map(String::as_str), Some("rate_limited"));
    let at = |index: usize| {
        events[index]
            .at
            .map(|at| f64::from(i32::try_from(at.seconds % 86_400).unwrap()) + f64::from(at.nanos) / 1e9)
    };
    let waited = at(3)
        .zip(at(2))
        .map(|(dialed, refused)| dialed - refused)
        .context("times")?;
    assert!((0.9..5.0).contains(&waited), "waited {waited} s");
    // The refused request is no dial.
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (2, 1));
    story.stack.shut_down().await
}

/// F20, F21, F24: after such an answer a phone may ring, so there is never a second request; what comes from Exotel settles it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_is_never_dialled_again_and_evidence_settles_it() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    let unavailable = Outcome {
        dialled: Some(true),
        ..Outcome::answer(Answer::Unavailable)
    };
    let cases = [
        ("+919812340031", unavailable, "server_error"),
        ("+919812340032", Outcome::answer(Answer::Lost), "connection_lost"),
        ("+919812340033", Outcome::answer(Answer::Html), "unreadable_answer"),
        ("+919812340034", Outcome::answer(Answer::Empty), "unreadable_answer"),
        ("+919812340035", Outcome::answer(Answer::Truncated), "connection_lost"),
    ];
    // Was not dialled at all, which nobody can know.
    control.set_outcome(CUSTOMER, Outcome::answer(Answer::Unavailable))?;
    let silent = story.place(story.request(CUSTOMER)).await?;
    let mut calls = Vec::new();
    for (number, outcome, _) in &cases {
        // Rings for longer than the dial's answer is awaited.
        let outcome = Outcome {
            caller: Some(short()),
            answer_after_ms: Some(400),
            ..outcome.clone()
        };
        control.set_outcome(number, outcome)?;
        calls.push(story.place(story.request(number)).await?);
    }
    for (call, (number, _, reason)) in calls.iter().zip(&cases) {
        let (call, events) = story.ended(&call.id).await?;
        assert_eq!(
            (call.state(), call.end_reason.as_str(), call.attempt),
            (CallState::Completed, "customer_hung_up", 1)
        );
        assert_eq!(
            sources(&events)[..5],
            [
                ("queued", "api"),
                ("dialing", "dialer"),
                ("unconfirmed", "dialer"),
                ("answered", "connect"),
                ("media_started", "media"),
            ]
        );
        assert_eq!(events[2].data.get("reason").map(String::as_str), Some(*reason));
        let ledger = control.ledger().await?;
        let dials: Vec<_> = ledger.iter().filter(|dial| dial.from.ends_with(&number[3..])).collect();
        assert_eq!(dials.len(), 1, "one dial");
        assert_eq!(
            dials[0].call_sid, call.exotel_call_sid,
            "the connect request told the CallSid"
        );
    }
    let silent = story.get(&silent.id).await?;
    assert_eq!(
        (silent.state(), silent.attempt, silent.exotel_call_sid.as_str()),
        (CallState::Unconfirmed, 1, "")
    );
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (6, 0));
    story.stack.shut_down().await
}

/// A dial of which no trace is found in time was not made: the call fails, presumed, and is not dialled again.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_without_any_trace_is_given_up_and_not_repeated() -> Result<()> {
    let story = Story::with(quick().call_setting("SETTLE_WINDOW", "1ms"), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answer(Answer::Unavailable))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let call = story.until_state(&call.id, CallState::Unconfirmed).await?;
    story.read_back_now(&call).await?;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.end_presumed, call.attempt),
        (CallState::Failed, "unconfirmed", true, 1)
    );
    assert_eq!(sources(&events).last(), Some(&("ended", "read_back")));
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (1, 0));
    story.stack.shut_down().await
}

/// Lost answers of phones that nobody picks up: the callback is the only evidence.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_settles_an_unknown_outcome() -> Result<()> {
    let story = Story::start().await?;
    let outcome = Outcome {
        callee: Callee::Busy,
        ..Outcome::answer(Answer::Lost)
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;
    story
        .stack
        .control()
        .change_settings(|settings| settings.ring_delay_ms = 300);
    let call = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!((call.state(), call.attempt), (CallState::Busy, 1));
    assert_eq!(
        sources(&events),
        [
            ("queued", "api"),
            ("dialing", "dialer"),
            ("unconfirmed", "dialer"),
            ("ended", "callback")
        ]
    );
    assert_eq!(call.exotel_call_sid, story.stack.control().ledger().await?[0].call_sid);
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_in_stream_mode_needs_no_flow() -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.phone.dial_mode = DialMode::Stream.into();
    registration.agent.endpoints = vec![agent.url.clone()];
    // No flow at all.
    registration.account.app_id = String::new();
    let story = Story::with(quick(), registration).await?;
    story.at_account(|account| account.flows.clear())?;
    let callbacks = Some(Callbacks {
        payload: Payload::ThreeField,
        ..Callbacks::default()
    });
    let outcome = Outcome {
        callbacks,
        ..Outcome::answered_by(CallerScript::new())
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;

    let call = story.place(story.request(CUSTOMER)).await?;
    let mut session = agent.session().await?;
    assert_eq!(session.start().await?.call_id, call.id);
    session.leave(LeaveAction::HangUp, false, "").await;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.ended_by.as_str()),
        (CallState::Completed, "agent_hung_up", "agent")
    );
    assert_eq!(
        sources(&events)[..6],
        [
            ("queued", "api"),
            ("dialing", "dialer"),
            ("placed", "dialer"),
            ("media_started", "media"),
            ("agent_connected", "media"),
            ("agent_left", "agent"),
        ]
    );
    let report = story.report(&call).await?;
    assert_eq!((report.mode, report.cause), (Mode::Stream, Some(Cause::Bot)));
    assert!(report.applets.is_empty());
    assert_eq!(
        (report.streams[0].handshakes, report.streams[0].close_code),
        (1, Some(1000))
    );
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

/// The agent hands the call over to a person and takes it back; the call ends once.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_with_two_voicebots_is_one_call_with_two_sessions() -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let story = Story::with(quick(), registration).await?;
    let urls = &story.registered.urls;
    let voicebot = || Applet::Voicebot {
        url: urls.connect_url.clone(),
        record: false,
    };
    let passthru = |branch_b| Applet::Passthru {
        url: urls.end_url.clone(),
        branch_b,
        asynchronous: false,
    };
    let connect = Applet::Connect {
        url: Some(urls.transfer_url.clone()),
        fallback_url: None,
        numbers: Vec::new(),
    };
    let human = vec![connect, voicebot(), passthru(Vec::new()), Applet::Hangup];
    story.at_account(|account| account.flows[0].applets = vec![voicebot(), passthru(human), Applet::Hangup])?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;

    let call = story.place(story.request(CUSTOMER)).await?;
    let mut first = agent.session().await?;
    let opening = first.start().await?;
    assert_eq!(
        (opening.call_id.as_str(), opening.customer_number.as_str()),
        (call.id.as_str(), CUSTOMER)
    );
    first.leave(LeaveAction::ContinueFlow, true, "+919812340055").await;

    let mut second = agent.session().await?;
    let reopening = second.start().await?;
    assert_eq!(reopening.call_id, call.id);
    assert_ne!(reopening.media_session_id, opening.media_session_id);
    assert_eq!(
        story.get(&call.id).await?.state(),
        CallState::InProgress,
        "the first session did not end the call"
    );
    second.leave(LeaveAction::HangUp, false, "").await;

    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.ended_by.as_str()),
        (CallState::Completed, "agent_hung_up", "agent")
    );
    let report = story.told(&call.exotel_call_sid).await?;
    assert_eq!(
        report.applets,
        ["voicebot", "passthru", "connect", "voicebot", "passthru", "hangup"]
    );
    assert_eq!(
        report.legs,
        [Leg {
            number: "09812340055".to_owned(),
            status: "completed".to_owned(),
            seconds: 0
        }]
    );
    assert_eq!(report.cause, Some(Cause::Flow));
    let ids: Vec<&str> = call.media_sessions.iter().map(|session| session.id.as_str()).collect();
    assert_eq!(ids, [&opening.media_session_id, &reopening.media_session_id]);
    for (session, stream) in call.media_sessions.iter().zip(&report.streams) {
        assert_eq!(
            (session.ended_by.as_str(), &session.stream_sid),
            ("agent", &stream.stream_sid)
        );
    }
    let events = story.events(&call.id).await?;
    for (kind, times) in [
        ("media_started", 2),
        ("media_ended", 2),
        ("agent_left", 2),
        ("stream_ended", 2),
        ("ended", 1),
    ] {
        assert_eq!(count(&events, kind), times, "{kind} in {:?}", kinds(&events));
    }
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}
