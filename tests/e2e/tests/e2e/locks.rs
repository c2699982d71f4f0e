//! Sessions that hold what call-service needs: it waits a little, says so, and goes on.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest};
use e2e::{CUSTOMER, Database, PATIENCE, Story, kinds, refusal, refused_for_now, registration};
use exotel_sim::Outcome;
use futures_util::future::join_all;
use runtime::Tasks;
use stack::poll;
use tokio::time::Instant;
use tonic::Code;

use crate::{
    commits::in_ms,
    outbound::short,
    webhook_faults::{nobody_answered, ringing},
};

/// F30: one connection, and all of them want it. They hear so within the pool's wait, and callbacks have connections of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_used_up_says_so_and_callbacks_are_kept_meanwhile() -> Result<()> {
    let database = Database::proxied().await?;
    let story = Story::with(database.builder().call_setting("DB_POOL_SIZE", "1"), registration()?).await?;
    let (call, url) = ringing(&story, "+919812340051").await?;
    let holder = database.session().await?;
    // Whoever has the connection waits for the table.
    holder
        .batch_execute("BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE")
        .await?;
    let placing = (0..8).map(|_| {
        let (mut client, request) = (story.stack.clients().calls(), story.request(CUSTOMER));
        async move {
            let began = Instant::now();
            (client.place_call(request).await, began.elapsed())
        }
    });
    let (answers, told) = tokio::join!(join_all(placing), nobody_answered(&call, &url));
    let mut busy = 0;
    for (answer, took) in answers {
        let status = answer.err().context("it was placed")?;
        // One at a time has the connection, and waits in vain.
        if refusal(&status) == refused_for_now(Code::ResourceExhausted, "DATABASE_BUSY") {
            busy += 1;
        } else {
            assert_eq!(
                refusal(&status),
                refused_for_now(Code::Unavailable, "DATABASE_UNAVAILABLE")
            );
        }
        assert!(took < Duration::from_millis(3_500), "it took {took:?}");
    }
    assert!(busy >= 4, "{busy} of 8 were told that the pool is used up");
    let (status, took) = told?;
    assert_eq!(status, 200);
    assert!(took < Duration::from_secs(3), "the callback took {took:?}");
    holder.batch_execute("ROLLBACK").await?;
    story.until_state(&call.id, CallState::NoAnswer).await?;
    assert_eq!((story.posts()?, story.count("calls").await?), (1, 1));
    Ok(())
}

/// F31: another session wants the same rows in the other order. The transaction is done again, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_costs_a_retry_and_no_dial() -> Result<()> {
    let database = Database::proxied().await?;
    let admin = database.session().await?;
    let name: String = admin.query_one("SELECT current_database()::text", &[]).await?.get(0);
    // Sooner than the limit for locks, so that it is the deadlock that is noticed; and by us, not by the other session.
    let patience = format!("ALTER DATABASE {name} SET deadlock_timeout = '300ms'; SET deadlock_timeout = '10s'");
    admin.batch_execute(&patience).await?;
    let story = Story::with(database.builder(), registration()?).await?;
    for (waits, number) in [(false, "+919812340052"), (true, "+919812340053")] {
        story
            .stack
            .control()
            .set_outcome(number, Outcome::answered_by(short()))?;
        let request = PlaceCallRequest {
            not_before: waits.then(|| in_ms(800)),
            ..story.request(number)
        };
        let queued = if waits {
            Some(story.place(request.clone()).await?)
        } else {
            None
        };
        admin
            .batch_execute("BEGIN; LOCK TABLE call_events IN SHARE MODE")
            .await?;
        let mut client = story.stack.clients().calls();
        let placing = Tasks::new().spawn(async move { client.place_call(request).await });
        let watcher = database.session().await?;
        poll("the other transaction to wait", PATIENCE, async || {
            // Others write to timelines too: it has to be the one that has the account's row.
            let blocked =
                "SELECT (SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'call_events'::regclass),
                (SELECT count(*) FROM (SELECT FROM rates WHERE kind = 'dial' FOR UPDATE SKIP LOCKED) AS free)";
            match watcher.query_one(blocked, &[]).await {
                Ok(row) if row.get::<_, i64>(0) > 0 && row.get::<_, i64>(1) == 0 => Ok(()),
                Ok(row) => Err(format!(
                    "{} wait, {} rows are free",
                    row.get::<_, i64>(0),
                    row.get::<_, i64>(1)
                )),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        admin
            .batch_execute("SELECT FROM rates WHERE kind = 'dial' FOR UPDATE; COMMIT")
            .await?;
        let placed = placing.await?.context("dropped")??.into_inner();
        assert_eq!(placed.repeated, queued.is_some());
        let call = placed.call.context("no call")?;
        let (ended, events) = story.ended(&call.id).await?;
        assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
        assert_eq!(kinds(&events)[..3], ["queued", "dialing", "placed"]);
        assert_eq!(story.dials(&number.replace("+91", "0")).await?, 1);
    }
    poll("the deadlocks to be counted", PATIENCE, async || {
        let counted = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
        match admin.query_one(counted, &[]).await {
            Ok(row) if row.get::<_, i64>(0) >= 2 => Ok(()),
            Ok(row) => Err(format!("{} deadlocks", row.get::<_, i64>(0))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    assert_eq!(story.posts()?, 2);
    Ok(())
}

/// F32: somebody has locked the calls, for maintenance. New ones are refused at once and clearly; what Exotel tells is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_refuses_calls_at_once_and_keeps_callbacks() -> Result<()> {
    let database = Database::proxied().await?;
    let story = Story::with(database.builder(), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let (call, url) = ringing(&story, "+919812340054").await?;
    let holder = database.session().await?;
    holder
        .batch_execute("BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE")
        .await?;
    let request = story.request(CUSTOMER);
    let mut client = story.stack.clients().calls();
    let placing = async {
        let began = Instant::now();
        (client.place_call(request.clone()).await, began.elapsed())
    };
    let ((placed, took), told) = tokio::join!(placing, nobody_answered(&call, &url));
    let status = placed.err().context("it was placed")?;
    assert_eq!(
        refusal(&status),
        refused_for_now(Code::Unavailable, "DATABASE_UNAVAILABLE"),
        "{status:?}"
    );
    assert!(took < Duration::from_millis(2_500), "it took {took:?}");
    let (status, took) = told?;
    assert_eq!(status, 200, "it is kept, though it cannot be applied");
    assert!(took < Duration::from_secs(12), "the callback took {took:?}");
    holder.batch_execute("ROLLBACK").await?;
    story.until_state(&call.id, CallState::NoAnswer).await?;
    let placed = story.place(request).await?;
    let (ended, _) = story.ended(&placed.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (2, 1));
    Ok(())
}

/// F32: a statement that does not come to its end is cut off, nothing of it stays, and nobody is dialled.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_cut_off() -> Result<()> {
    let database = Database::proxied().await?;
    let story = Story::with(database.builder(), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let admin = database.session().await?;
    let slow =
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE INSERT ON calls FOR EACH ROW EXECUTE FUNCTION slow()";
    admin.batch_execute(slow).await?;
    let request = story.request(CUSTOMER);
    let began = Instant::now();
    let mut client = story.stack.clients().calls();
    let status = client
        .place_call(request.clone())
        .await
        .err()
        .context("it was placed")?;
    assert_eq!(
        refusal(&status),
        refused_for_now(Code::Unavailable, "DATABASE_UNAVAILABLE"),
        "{status:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "it took {:?}",
        began.elapsed()
    );
    assert_eq!((story.posts()?, story.count("calls").await?), (0, 0));
    admin.batch_execute("DROP TRIGGER slow ON calls").await?;
    let call = story.place(request).await?;
    assert_eq!(story.ended(&call.id).await?.0.state(), CallState::Completed);
    assert_eq!(story.posts()?, 1);
    Ok(())
}
