//! F29: a commit is asked for, and its answer never comes.

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest, WaitFor};
use chrono::TimeDelta;
use e2e::{
    CUSTOMER, Database, Fate, PATIENCE, Replica, Story, callback_url, http, kinds, registration, seconds_from_now,
};
use exotel_sim::Outcome;
use prost_types::Timestamp;
use runtime::Clock;
use stack::poll;
use tonic::Code;

use crate::outbound::short;

/// A moment that is soon.
pub(super) fn in_ms(ms: i64) -> Timestamp {
    let at = Clock::system().now() + TimeDelta::milliseconds(ms);
    Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

async fn story(database: &Database) -> Result<Story> {
    let story = Story::with(database.builder(), registration()?).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    Ok(story)
}

/// F29: the row and the intent to dial are committed, and the worker does not know. It dials nobody; the same key is the same
/// call, which goes back to the queue and is dialled once.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_call_whose_commit_is_not_answered_is_dialled_once_in_the_end() -> Result<()> {
    let database = Database::proxied().await?;
    let story = story(&database).await?;
    database
        .lose_commit("INSERT", "calls", "NEW.state = 'dialing'", Fate::Committed)
        .await?;
    let request = PlaceCallRequest {
        wait_for: WaitFor::Queued.into(),
        ..story.request(CUSTOMER)
    };
    let first = story.stack.clients().calls().place_call(request.clone()).await;
    database.cut(1).await?;
    // Either the row is found again at once, or the caller hears that it may try again.
    let known = match first {
        Ok(answer) => Some(answer.into_inner().call.context("no call")?.id),
        Err(status) => {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            None
        }
    };
    let again = story.stack.clients().calls().place_call(request).await?.into_inner();
    let call = again.call.context("no call")?;
    assert!(again.repeated);
    assert!(known.is_none_or(|known| known == call.id));
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 2));
    assert_eq!(
        kinds(&events)[..5],
        ["queued", "dialing", "requeued", "dialing", "placed"]
    );
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (1, 1));
    assert_eq!(story.count("calls").await?, 1);
    Ok(())
}

/// F29: the same for the claim of a call that waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_commit_is_not_answered_is_dialled_once_in_the_end() -> Result<()> {
    let database = Database::proxied().await?;
    let story = story(&database).await?;
    database
        .lose_commit(
            "UPDATE",
            "calls",
            "OLD.state = 'queued' AND NEW.state = 'dialing'",
            Fate::Committed,
        )
        .await?;
    let call = story
        .place(PlaceCallRequest {
            not_before: Some(in_ms(2_000)),
            ..story.request(CUSTOMER)
        })
        .await?;
    assert_eq!(call.state(), CallState::Queued);
    database.cut(1).await?;
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 2));
    assert_eq!(
        kinds(&events)[..5],
        ["queued", "dialing", "requeued", "dialing", "placed"]
    );
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (1, 1));
    Ok(())
}

/// F29: the claim was not committed after all, and another replica has dialled the call before the first worker hears that its
/// wire is cut. What that one did not do says nothing about the other's dial.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_lost_does_not_take_back_another_replicas_dial() -> Result<()> {
    let database = Database::proxied().await?;
    let story = story(&database).await?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome {
            // Longer than a call that is given back waits for its next dial; until then nothing is known of this one.
            dial_delay_ms: 2_500,
            ..Outcome::answered_by(short())
        },
    )?;
    database
        .lose_commit(
            "UPDATE",
            "calls",
            "OLD.state = 'queued' AND NEW.state = 'dialing'",
            Fate::RolledBack,
        )
        .await?;
    let call = story
        .place(PlaceCallRequest {
            not_before: Some(in_ms(2_000)),
            ..story.request(CUSTOMER)
        })
        .await?;
    let session = database.session().await?;
    poll("the claim to be committed", PATIENCE, async || {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
        match session.query_one(waits, &[]).await {
            Ok(row) if row.get::<_, i64>(0) == 1 => Ok(()),
            Ok(row) => Err(format!("{} sessions sleep", row.get::<_, i64>(0))),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    let faults = database.proxy.faults();
    faults.set_black_hole(true);
    let _other = Replica::start(&story.stack, &database.direct, Clock::system()).await?;
    poll("the other replica's claim", PATIENCE, async || {
        match session.query_one("SELECT state::text FROM calls", &[]).await {
            Ok(row) if row.get::<_, &str>(0) == "dialing" => Ok(()),
            Ok(row) => Err(row.get::<_, String>(0)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    faults.reset_all();
    faults.heal();
    let ended = story.until_state(&call.id, CallState::Completed).await?;
    let events = story.events(&call.id).await?;
    let dials = (story.posts()?, story.dials("09812340017").await?);
    assert_eq!(dials, (1, 1), "{:?}", kinds(&events));
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
    assert_eq!(kinds(&events)[..3], ["queued", "dialing", "placed"]);
    Ok(())
}

/// F29: the outcome is written, and its worker does not know.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_whose_commit_is_not_answered_is_on_the_timeline_once() -> Result<()> {
    let database = Database::proxied().await?;
    let story = story(&database).await?;
    database
        .lose_commit(
            "UPDATE",
            "calls",
            "OLD.call_sid IS NULL AND NEW.call_sid IS NOT NULL",
            Fate::Committed,
        )
        .await?;
    let call = story.place(story.request(CUSTOMER)).await?;
    database.cut(1).await?;
    let (ended, events) = story.ended(&call.id).await?;
    assert_eq!((ended.state(), ended.attempt), (CallState::Completed, 1));
    let kinds = kinds(&events);
    assert_eq!(kinds.iter().filter(|kind| **kind == "placed").count(), 1, "{kinds:?}");
    assert!(!ended.needs_review);
    assert_eq!((story.posts()?, story.dials("09812340017").await?), (1, 1));
    Ok(())
}

/// F29: a callback is kept, or applied, and nobody hears of it. It is kept again, answered 200, and ends the call once.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_whose_commit_is_not_answered_ends_the_call_once() -> Result<()> {
    let database = Database::proxied().await?;
    let story = story(&database).await?;
    let cases = [
        ("INSERT", "true", "+919812340018"),
        ("UPDATE", "NEW.applied_at IS NOT NULL", "+919812340019"),
    ];
    for (event, condition, number) in cases {
        // Nobody answers, and Exotel keeps its own callbacks to itself.
        let outcome = Outcome {
            answer_after_ms: Some(60_000),
            ..Outcome::default()
        };
        story.stack.control().set_outcome(number, outcome)?;
        let call = story.place(story.request(number)).await?;
        let call = story.until_state(&call.id, CallState::Placed).await?;
        let cuts = database.proxy.faults().counters().pattern_cuts;
        database
            .lose_commit(event, "webhook_inbox", condition, Fate::Committed)
            .await?;
        let url = callback_url(&story, &call.id, seconds_from_now(3600))?;
        let form = [("CallSid", call.exotel_call_sid.as_str()), ("Status", "no-answer")];
        let answer = http()?.post(&url).form(&form).send().await?;
        assert_eq!(answer.status(), 200, "{event}");
        database.cut(cuts + 1).await?;
        let (ended, _) = story.ended(&call.id).await?;
        assert_eq!(ended.state(), CallState::NoAnswer, "{event}");
        poll("all callbacks to be applied", PATIENCE, async || {
            match story.count("webhook_inbox WHERE applied_at IS NULL").await {
                Ok(0) => Ok(()),
                Ok(left) => Err(format!("{left} are left")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await?;
        let events = story.events(&call.id).await?;
        let ends = kinds(&events).iter().filter(|kind| **kind == "ended").count();
        ensure!(ends == 1, "{event}: {:?}", kinds(&events));
        assert_eq!(story.count("webhook_inbox WHERE problem IS NOT NULL").await?, 0);
    }
    Ok(())
}
