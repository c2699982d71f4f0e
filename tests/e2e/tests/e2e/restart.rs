//! Pieces that end and come again while calls go on.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::converse_request::Event,
    call::v1::{Call, CallEvent, CallState, PlaceCallRequest, WaitFor, WatchCallRequest},
};
use chrono::TimeDelta;
use e2e::{Agent, CUSTOMER, PATIENCE, Session, Story, kinds, quick, registration, tone};
use exotel_sim::{CallerScript, Outcome};
use prost_types::Timestamp;
use runtime::{Clock, Tasks};
use stack::{Builder, poll};
use tokio::time::timeout;

/// A live call with an agent that the story plays.
pub(super) async fn live(builder: Builder) -> Result<(Story, Agent, Session, Call)> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let story = Story::with(builder, registration).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let mut session = agent.session().await?;
    assert_eq!(session.start().await?.call_id, call.id);
    story
        .until(&call.id, "the agent to be on the call", |call| call.version >= 6)
        .await?;
    let call = story.until_state(&call.id, CallState::InProgress).await?;
    Ok((story, agent, session, call))
}

/// Says something, and waits until it was heard; and until something was said in turn.
pub(super) async fn talk(session: &mut Session, mark: &str) -> Result<()> {
    session.speak(&tone(800), 0).await;
    session.mark(mark).await;
    let heard = |event| match event {
        Event::MarkPlayed(played) if played.name == mark => Some(played.cleared),
        _ => None,
    };
    assert!(!session.until(heard).await?, "what was said was not heard");
    session
        .until(|event| matches!(event, Event::Audio(_)).then_some(()))
        .await
}

/// F75.
#[tokio::test(flavor = "multi_thread")]
async fn audio_goes_on_while_call_service_is_away() -> Result<()> {
    let (mut story, agent, mut session, call) = live(quick()).await?;
    talk(&mut session, "before").await?;
    story.stack.call_services[0].kill().await;
    talk(&mut session, "while it is away").await?;
    story.stack.restart_call_service(0).await?;
    talk(&mut session, "after").await?;

    let now = story.get(&call.id).await?;
    assert_eq!((now.state(), now.media_sessions.len()), (CallState::InProgress, 1));
    assert!(now.media_sessions[0].ended_at.is_none());
    story.stack.control().hang_up(&call.exotel_call_sid)?;
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!(
        (ended.state(), ended.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    let kinds = kinds(&events);
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "media_started").count(),
        1,
        "{kinds:?}"
    );
    assert_eq!(ended.media_sessions.len(), 1);
    assert_eq!((agent.has_session(), story.posts()?), (false, 1));
    Ok(())
}

/// What the edge has to tell while nobody listens is told when it is attached again.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_call_service_is_away_is_told_later() -> Result<()> {
    let (mut story, _agent, mut session, call) = live(quick()).await?;
    story.stack.call_services[0].kill().await;
    story.stack.control().press(&call.exotel_call_sid, "7")?;
    session
        .until(|event| matches!(event, Event::Dtmf(_)).then_some(()))
        .await?;
    story.stack.control().hang_up(&call.exotel_call_sid)?;
    session
        .until(|event| matches!(event, Event::Stop(_)).then_some(()))
        .await?;
    story.stack.restart_call_service(0).await?;
    let (ended, _) = story.ended(&call.id).await?;
    assert_eq!(
        (ended.state(), ended.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    // Exotel's webhooks may be faster than the edge's next attachment.
    poll("the key that was pressed", PATIENCE, async || {
        let events = story.events(&call.id).await.map_err(|error| error.to_string())?;
        if kinds(&events).contains(&"dtmf") {
            Ok(())
        } else {
            Err(format!("{:?}", kinds(&events)))
        }
    })
    .await?;
    let [media] = &ended.media_sessions[..] else {
        anyhow::bail!("{:?}", ended.media_sessions)
    };
    assert_eq!(media.ended_by, "customer");
    Ok(())
}

/// F3.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_outlives_every_process_and_is_dialled_once() -> Result<()> {
    let mut story = Story::start().await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome::answered_by(CallerScript::new().silence(100).hang_up()),
    )?;
    let call = story
        .place(PlaceCallRequest {
            not_before: Some(soon()),
            ..story.request(CUSTOMER)
        })
        .await?;
    assert_eq!(call.state(), CallState::Queued);
    story.stack.call_services[0].kill().await;
    assert_eq!(story.posts()?, 0);
    story.stack.restart_call_service(0).await?;
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
    assert_eq!(kinds(&events)[..3], ["queued", "dialing", "placed"]);
    assert!(
        not_before(&ended) <= ended.dialed_at.map(nanos),
        "{:?}",
        ended.dialed_at
    );
    assert_eq!((story.posts()?, story.stack.control().ledger().await?.len()), (1, 1));
    Ok(())
}

/// F2, F3: the replica that took the call is gone for good.
#[tokio::test(flavor = "multi_thread")]
async fn another_replica_dials_what_a_dead_one_took() -> Result<()> {
    let mut story = Story::with(quick().replicas(2), registration()?).await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome::answered_by(CallerScript::new().silence(100).hang_up()),
    )?;
    let request = PlaceCallRequest {
        not_before: Some(soon()),
        ..story.request(CUSTOMER)
    };
    // Edges talk to the first replica, so the second one dies.
    let placed = story
        .stack
        .clients_of(1)
        .calls()
        .place_call(request.clone())
        .await?
        .into_inner();
    let call = placed.call.context("no call")?;
    story.stack.call_services[1].kill().await;
    let (ended, _) = story.ended(&call.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
    // The client that heard nothing asks again.
    let again = story.stack.clients().calls().place_call(request).await?.into_inner();
    assert_eq!((again.repeated, again.call.unwrap_or_default().id), (true, call.id));
    assert_eq!(story.stack.control().ledger().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_places_and_the_other_one_watches() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome::answered_by(CallerScript::new().silence(100).hang_up()),
    )?;
    let call = story
        .place(PlaceCallRequest {
            wait_for: WaitFor::Queued.into(),
            ..story.request(CUSTOMER)
        })
        .await?;
    let request = WatchCallRequest {
        call_id: call.id.clone(),
        ..WatchCallRequest::default()
    };
    let mut stream = story
        .stack
        .clients_of(1)
        .calls()
        .watch_call(request)
        .await?
        .into_inner();
    let mut seen = Vec::new();
    while let Some(response) = timeout(PATIENCE, stream.message()).await.context("it does not end")?? {
        seen.extend(response.event);
    }
    assert_eq!(seen, story.events(&call.id).await?[..seen.len()]);
    assert_eq!(seen.last().map(CallEvent::state), Some(CallState::Completed));
    Ok(())
}

/// F76.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_shall_stop_lets_its_calls_end_first() -> Result<()> {
    let builder = quick()
        .edge_setting("EDGE_DRAIN_SECONDS", "30")
        .edge_setting("EDGE_ACCEPT_SECONDS", "1");
    let (mut story, _agent, mut session, call) = live(builder).await?;
    let mut edge = story.stack.edges.remove(0);
    let ready = format!("http://{}/readyz", edge.internal.context("no internal listener")?);
    let stopping = Tasks::new().spawn(async move { edge.stop().await });
    let client = reqwest::Client::builder().no_proxy().build()?;
    poll("the edge to be not ready", PATIENCE, async || {
        match client.get(&ready).send().await {
            Ok(answer) if answer.status() == 503 => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    talk(&mut session, "during the drain").await?;
    assert!(!stopping.is_finished(), "the edge ended with a live call");
    assert_eq!(story.get(&call.id).await?.state(), CallState::InProgress);

    story.stack.control().hang_up(&call.exotel_call_sid)?;
    timeout(PATIENCE, stopping)
        .await
        .context("the edge does not end")??
        .context("it was dropped")??;
    let (ended, _) = story.ended(&call.id).await?;
    assert_eq!(
        (ended.state(), ended.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    Ok(())
}

/// F76, when the time for it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlasts_the_drain_is_left_and_told_so() -> Result<()> {
    let (mut story, _agent, mut session, call) = live(quick()).await?;
    story.stack.edges[0].stop().await?;
    let reason = session.until(|event| match event {
        Event::Stop(stop) => Some(stop.reason),
        _ => None,
    });
    assert_eq!(
        timeout(Duration::from_secs(5), reason)
            .await
            .context("the agent was not told")??,
        "drained"
    );
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!(ended.state(), CallState::Completed, "{:?}", kinds(&events));
    let [media] = &ended.media_sessions[..] else {
        anyhow::bail!("{:?}", ended.media_sessions)
    };
    assert_eq!(
        (media.end_reason.as_str(), media.ended_by.as_str()),
        ("drained", "callbridge")
    );
    Ok(())
}

/// Long enough to place a call and to stop a process before it.
pub(super) fn soon() -> Timestamp {
    let at = Clock::system().now() + TimeDelta::milliseconds(1_500);
    Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

fn nanos(at: Timestamp) -> i128 {
    i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos)
}

fn not_before(call: &Call) -> Option<i128> {
    // The database keeps microseconds.
    call.not_before.map(|at| nanos(at) / 1_000 * 1_000)
}
