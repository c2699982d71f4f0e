//! The months of the timelines, when they are old.

use anyhow::Result;
use callbridge_proto::call::v1::CallState;
use e2e::{CUSTOMER, PATIENCE, Story, quick, registration, session};
use exotel_sim::{Callee, Outcome};
use stack::poll;

/// A month whose calls are all blanked is dropped as a whole, as soon as nobody holds the timelines; one with a call that waits for its
/// turn stays, and so do all calls. The timeline of a dropped month is empty, not endless.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_goes_when_all_of_its_calls_are_blanked() -> Result<()> {
    let story = Story::with(quick().call_setting("RETENTION", "2s"), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::callee(Callee::Busy))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    story.ended(&call.id).await?;
    let admin = session(&story.stack.database_url).await?;
    let reader = session(&story.stack.database_url).await?;
    // January has calls that are over, February one that is not.
    admin
        .batch_execute(
            "BEGIN;
            CREATE TABLE call_events_2020_01 PARTITION OF call_events
                FOR VALUES FROM (uuid_v7_floor('2020-01-01Z')) TO (uuid_v7_floor('2020-02-01Z'));
            CREATE TABLE call_events_2020_02 PARTITION OF call_events
                FOR VALUES FROM (uuid_v7_floor('2020-02-01Z')) TO (uuid_v7_floor('2020-03-01Z'));
            CREATE TEMPORARY TABLE old AS SELECT * FROM calls;
            UPDATE old SET id = uuid_v7_floor('2020-01-31 23:59Z'), idempotency_key = 'january', call_sid = NULL,
                ended_at = '2020-02-01 00:10Z', blanked_at = NULL;
            INSERT INTO calls SELECT * FROM old;
            UPDATE old SET id = uuid_v7_floor('2020-02-01 00:00Z'), idempotency_key = 'february', state = 'queued', ended_at = NULL,
                due_at = now() + interval '1 hour', not_before = now() + interval '1 hour', expire_at = now() + interval '2 hours';
            INSERT INTO calls SELECT * FROM old;
            INSERT INTO call_events (call_id, version, type, state, source)
                SELECT id, 1, 'queued', 'queued', 'api' FROM calls WHERE id < uuid_v7_floor('2021-01-01Z')",
        )
        .await?;
    // Whoever reads the timelines for long is there before anybody can drop a month.
    let reading = reader.batch_execute("BEGIN; LOCK TABLE ONLY call_events IN ACCESS SHARE MODE");
    let committed = async {
        let queued = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'call_events'::regclass";
        poll("the reader", PATIENCE, async || {
            match admin.query_one(queued, &[]).await {
                Ok(row) if row.get::<_, i64>(0) > 0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        anyhow::Ok(admin.batch_execute("COMMIT").await?)
    };
    let (reading, committed) = tokio::join!(reading, committed);
    reading?;
    committed?;
    poll("January to be looked at", PATIENCE, async || {
        match story
            .count("calls WHERE blanked_at IS NOT NULL AND idempotency_key = 'january'")
            .await
        {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let there = "pg_class WHERE relkind = 'r' AND relname LIKE 'call\\_events\\_2020\\_%'";
    assert_eq!(story.count(there).await?, 2, "somebody reads the timelines");
    // The others are not held up by whoever waits to drop it.
    let another = story.place(story.request(CUSTOMER)).await?;
    story.until_state(&another.id, CallState::Busy).await?;
    reader.batch_execute("COMMIT").await?;
    poll("January to be dropped", PATIENCE, async || {
        match story.count(there).await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(story.count("call_events_2020_02").await?, 1);
    assert_eq!(
        story
            .count("calls WHERE idempotency_key IN ('january', 'february')")
            .await?,
        2
    );
    let january: String = admin
        .query_one(
            "SELECT 'call_' || replace(id::text, '-', '') FROM calls WHERE idempotency_key = 'january'",
            &[],
        )
        .await?
        .get(0);
    let (call, events) = story.ended(&january).await?;
    assert_eq!((call.state(), events.len()), (CallState::Busy, 0));
    story.stack.shut_down().await
}
