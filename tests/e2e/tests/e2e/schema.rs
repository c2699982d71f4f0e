//! Where the timelines are kept. That the migrations go up, down and up again is told in call-service's own tests.

use anyhow::Result;
use callbridge_proto::call::v1::CallState;
use e2e::{CUSTOMER, Story};
use exotel_sim::{Callee, Outcome};

#[tokio::test(flavor = "multi_thread")]
async fn events_are_in_the_partition_of_their_month_and_three_more_wait() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::callee(Callee::Busy))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(call.state(), CallState::Busy);

    let months = "generate_series(0, 3) AS ahead WHERE to_regclass('call_events_' || to_char( \
                  date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => ahead), 'YYYY_MM')) IS NOT NULL";
    assert_eq!(story.count(months).await?, 4);
    let of_this_month =
        "call_events WHERE tableoid = to_regclass('call_events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM'))";
    assert!(story.count(of_this_month).await? >= i64::try_from(events.len())?);
    assert_eq!(story.count("call_events_default").await?, 0);
    // Made again, nothing is made.
    assert_eq!(
        story.count("call_events_partitions(3) AS made WHERE made > 0").await?,
        0
    );
    Ok(())
}
