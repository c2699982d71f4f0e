//! Sessions that cannot write any more, and news that does not come: what a replica has of its database is not what it thinks.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{CallEvent, CallState, PlaceCallRequest, WaitFor, WatchCallRequest};
use e2e::{CUSTOMER, Database, PATIENCE, Story, kinds, quick, registration};
use exotel_sim::Outcome;
use tokio::time::{Instant, timeout};

use crate::{
    commits::in_ms,
    outbound::short,
    postgres::{assert_away, taken},
};

/// F34: a fail-over has made our sessions read-only. Nobody is dialled, and when the database can be written again no session
/// that could not is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_refused_before_the_dial_and_left_as_soon_as_it_can_be() -> Result<()> {
    let database = Database::proxied().await?;
    let admin = database.session().await?;
    // So few that all of them are sessions that cannot write.
    let builder = database
        .builder()
        .call_setting("DB_POOL_SIZE", "2")
        .call_setting("DB_RESERVED_SIZE", "1");
    let story = Story::with(builder, registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await?.get(0);
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    admin.batch_execute(&read_only).await?;
    let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    admin.execute(others, &[]).await?;
    let request = story.request(CUSTOMER);
    let mut client = story.stack.clients().calls();
    for _ in 0..5 {
        let began = Instant::now();
        let status = client
            .place_call(request.clone())
            .await
            .err()
            .context("it can be written")?;
        assert_away(&status, began);
    }
    assert_eq!(story.posts()?, 0);
    let writable =
        format!("SET default_transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only");
    admin.batch_execute(&writable).await?;
    let began = Instant::now();
    let call = taken(&story, &request).await?;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "writable after {:?}",
        began.elapsed()
    );
    story.until_state(&call.id, CallState::Completed).await?;
    assert_eq!((story.posts()?, story.count("calls").await?), (1, 1));
    Ok(())
}

/// F41: nobody hears a NOTIFY. What one replica writes is seen by the other one all the same, and what it leaves is dialled.
#[tokio::test(flavor = "multi_thread")]
async fn news_and_work_reach_the_other_replica_without_a_notification() -> Result<()> {
    let builder = quick().call_setting("POLL_INTERVAL", "1s").replicas(2);
    let mut story = Story::with(builder, registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let admin = e2e::session(&story.stack.database_url).await?;
    let deaf = async || {
        admin
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND query LIKE 'LISTEN %'",
                &[],
            )
            .await
    };
    assert_eq!(deaf().await?, 2, "each replica listens");
    let call = story
        .stack
        .clients_of(1)
        .calls()
        .place_call(PlaceCallRequest {
            not_before: Some(in_ms(1_200)),
            wait_for: WaitFor::Queued.into(),
            ..story.request(CUSTOMER)
        })
        .await?
        .into_inner()
        .call
        .context("no call")?;
    let request = WatchCallRequest {
        call_id: call.id.clone(),
        ..WatchCallRequest::default()
    };
    let mut events = story.stack.clients().calls().watch_call(request).await?.into_inner();
    story.stack.call_services[1].kill().await;
    let mut seen = Vec::new();
    let watching = async {
        while let Some(response) = events.message().await? {
            // Whoever listens again is made deaf again.
            deaf().await?;
            seen.extend(response.event);
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, watching).await.context("it does not end")??;
    assert_eq!(
        seen.last().map(CallEvent::state),
        Some(CallState::Completed),
        "{:?}",
        kinds(&seen)
    );
    let late = call.not_before.context("no time")?;
    let dialled = story.get(&call.id).await?.dialed_at.context("no dial")?;
    assert!(
        dialled.seconds - late.seconds <= 3,
        "due at {late}, dialled at {dialled}"
    );
    assert_eq!(story.posts()?, 1);
    Ok(())
}
