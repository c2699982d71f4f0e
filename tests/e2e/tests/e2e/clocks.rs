//! F37: a process whose clock is wrong. The database's clock alone decides.

use anyhow::Result;
use callbridge_proto::call::v1::{CallState, PlaceCallRequest};
use chrono::TimeDelta;
use e2e::{CUSTOMER, Replica, Story, kinds, session};
use exotel_sim::Outcome;
use runtime::Clock;

use crate::{
    commits::in_ms,
    outbound::short,
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
            not_before: in_ms(1_000),
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
