//! F37, F93: a process whose clock is wrong, or jumps. The database's clock alone decides, and audio has one of its own.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::LeaveAction,
    call::v1::{CallState, PlaceCallRequest},
};
use chrono::TimeDelta;
use e2e::{Agent, CUSTOMER, PATIENCE, Replica, Story, kinds, quick, read_wav, registration, session, tone};
use edge::{Config, Listeners};
use exotel_sim::{CallerScript, Outcome};
use runtime::{Clock, Tasks, config::Vars};
use stack::poll;
use tokio::net::TcpListener;

use crate::{
    commits::in_ms,
    outbound::short,
    restart::talk,
    webhook_faults::{nobody_answered, ringing},
};

/// F37: a day ahead, and a day behind. Nothing is due, over or given up for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_wrong_about_the_day_calls_as_the_others_do() -> Result<()> {
    for days in [1, -1] {
        let mut story = Story::start().await?;
        let (ringing, url) = ringing(&story, "+919812340071").await?;
        let clock = Clock::manual(Clock::system().now() + TimeDelta::days(days));
        let _wrong = Replica::in_place_of(&mut story.stack, clock).await?;
        story
            .stack
            .control()
            .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
        let request = PlaceCallRequest {
            not_before: Some(in_ms(1_000)),
            ..story.request(CUSTOMER)
        };
        let call = story.place(request.clone()).await?;
        assert_eq!(
            (call.state(), call.waiting_reason.as_str()),
            (CallState::Queued, "not_before"),
            "{days}"
        );
        let (ended, events) = story.ended(&call.id).await?;
        assert_eq!(
            (ended.state(), ended.attempt),
            (CallState::Completed, 1),
            "{days}: {:?}",
            kinds(&events)
        );
        let (due, dialled) = (
            request.not_before.unwrap_or_default(),
            ended.dialed_at.unwrap_or_default(),
        );
        assert!(
            (due.seconds..due.seconds + 5).contains(&dialled.seconds),
            "{days}: due {due}, dialled {dialled}"
        );

        // A callback that cannot be applied at once is not set aside: it has been there for a second, not for a day.
        let holder = session(&story.stack.database_url).await?;
        holder
            .batch_execute("BEGIN; SELECT FROM calls WHERE state = 'placed' FOR UPDATE")
            .await?;
        assert_eq!(nobody_answered(&ringing, &url).await?.0, 200);
        assert_eq!(story.get(&ringing.id).await?.state(), CallState::Placed, "{days}");
        assert_eq!(
            story.count("webhook_inbox WHERE problem IS NOT NULL").await?,
            0,
            "{days}"
        );
        holder.batch_execute("ROLLBACK").await?;
        story.until_state(&ringing.id, CallState::NoAnswer).await?;
        assert_eq!(story.posts()?, 2, "{days}");
    }
    Ok(())
}

/// F37, F57: an edge whose clock is ten minutes ahead of everybody's, and one that is behind. Sockets are opened, and nobody is
/// cut off before the call's time limit.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_wrong_about_the_time_lets_people_talk() -> Result<()> {
    for minutes in [10, -10] {
        let mut agent = Agent::start().await?;
        let mut registration = registration()?;
        registration.agent.endpoints = vec![agent.url.clone()];
        let mut story = Story::with(quick(), registration).await?;
        story.stack.edges[0].stop().await?;
        let clock = Clock::manual(Clock::system().now() + TimeDelta::minutes(minutes));
        let tasks = edge_with(&story, clock).await?;

        story
            .stack
            .control()
            .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
        let call = story
            .place(PlaceCallRequest {
                time_limit: Some(prost_types::Duration { seconds: 300, nanos: 0 }),
                ..story.request(CUSTOMER)
            })
            .await?;
        let mut session = agent.session().await?;
        session.start().await?;
        talk(&mut session, "under way").await?;
        let call = story.until_state(&call.id, CallState::InProgress).await?;
        story.stack.control().hang_up(&call.exotel_call_sid)?;
        let (ended, events) = story.ended(&call.id).await?;
        assert_eq!(
            (ended.state(), ended.end_reason.as_str()),
            (CallState::Completed, "customer_hung_up"),
            "{minutes}: {:?}",
            kinds(&events)
        );
        tasks.stop();
    }
    Ok(())
}

/// F93: the time of day jumps a day ahead and two back while the agent speaks. Audio goes by a clock that does not jump: it is
/// neither hurried nor held up, and nobody is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_in_mid_call_is_not_heard() -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let mut story = Story::with(quick(), registration).await?;
    story.stack.edges[0].stop().await?;
    let clock = Clock::manual(Clock::system().now());
    let tasks = edge_with(&story, clock.clone()).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let mut session = agent.session().await?;
    session.start().await?;
    let said = tone(16_000);
    // Two seconds of speech wait while it happens.
    session.speak(&said, 0).await;
    clock.advance(TimeDelta::days(1));
    talk(&mut session, "after a day").await?;
    session.speak(&said, 0).await;
    clock.advance(TimeDelta::days(-2));
    talk(&mut session, "a day before").await?;
    session.leave(LeaveAction::HangUp, false, "").await;
    let (ended, _) = story.ended(&call.id).await?;
    assert_eq!(
        (ended.state(), ended.end_reason.as_str()),
        (CallState::Completed, "agent_hung_up")
    );
    let report = story.report(&ended).await?;
    let stream = &report.streams[0];
    let received = read_wav(stream.received.as_deref())?;
    assert_eq!(received[..said.len()], said[..]);
    assert!(
        stream.longest_queue_ms < 1_000,
        "{} ms at once",
        stream.longest_queue_ms
    );
    tasks.stop();
    Ok(())
}

/// An edge with this clock, in the place of the stack's.
async fn edge_with(story: &Story, clock: Clock) -> Result<Tasks> {
    let settings = [
        ("CALL_SERVICE_URL", format!("http://{}", story.stack.grpc_address())),
        ("CALL_SERVICE_API_KEY", story.stack.keys.edge_api_key.clone()),
        ("EDGE_TOKEN_KEYS", story.stack.keys.edge_token_keys()?),
        ("WEBHOOK_BASE_URL", story.stack.edge_url()),
        ("AGENT_ENDPOINT_ALLOW", "loopback,127.0.0.0/8".to_owned()),
        ("EDGE_DRAIN_SECONDS", "1".to_owned()),
        ("EDGE_ACCEPT_SECONDS", "0".to_owned()),
    ];
    let config = Config::read(settings.into_iter().collect::<Vars>()).context("edge")?;
    let bind = async |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let (public, internal) = (bind(story.stack.edges[0].address.port()).await?, bind(0).await?);
    let inside = internal.local_addr()?;
    let tasks = Tasks::new();
    let serving = edge::run_with_clock(config, Listeners { public, internal }, tasks.clone(), clock);
    // Apart from its own tasks, whose end it waits for.
    Tasks::new().spawn(async move {
        let _ = serving.await;
    });
    let client = e2e::http()?;
    poll("the edge to be ready", PATIENCE, async || {
        match client.get(format!("http://{inside}/readyz")).send().await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    Ok(tasks)
}
