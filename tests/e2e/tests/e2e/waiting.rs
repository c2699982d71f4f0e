//! Calls that are not dialled at once.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{CallState, PlaceCallRequest},
    directory::v1::CallingHours,
};
use chrono::{TimeDelta, Timelike as _};
use e2e::{CUSTOMER, Story, kinds, quick, registration};
use exotel_sim::Outcome;
use prost_types::Timestamp;
use runtime::Clock;

use crate::outbound::short;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_later_waits_and_is_dialled_when_it_is_due() -> Result<()> {
    let story = Story::start().await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let due = Clock::system().now() + TimeDelta::milliseconds(1_200);
    let not_before = Some(Timestamp {
        seconds: due.timestamp(),
        nanos: i32::try_from(due.timestamp_subsec_nanos())?,
    });
    let call = story
        .place(PlaceCallRequest {
            not_before,
            ..story.request(CUSTOMER)
        })
        .await?;
    assert_eq!(
        (call.state(), call.waiting_reason.as_str(), call.attempt),
        (CallState::Queued, "not_before", 0)
    );
    assert_eq!(story.posts()?, 0);

    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.attempt, call.waiting_reason.as_str()),
        (CallState::Completed, 1, "")
    );
    assert_eq!(kinds(&events)[..4], ["queued", "dialing", "placed", "answered"]);
    assert_eq!(events[0].data.get("waits_for").map(String::as_str), Some("not_before"));
    let dial = &story.stack.control().ledger().await?[0];
    assert!(
        dial.time >= due && dial.time < due + TimeDelta::seconds(5),
        "dialled at {}, due at {due}",
        dial.time
    );
    assert_eq!(story.posts()?, 1);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calling_hours_hold_a_call_back_unless_somebody_says_why_not() -> Result<()> {
    let now = Clock::system().now();
    // A window on the other side of the day.
    let (start_minute, end_minute) = if now.hour() < 12 { (1_380, 1_439) } else { (1, 60) };
    let mut registration = registration()?;
    registration.account.calling_hours = Some(CallingHours {
        off: false,
        start_minute,
        end_minute,
        time_zone: "Etc/UTC".to_owned(),
    });
    let story = Story::with(quick(), registration).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(short()))?;

    let held = story.place(story.request("+919812340041")).await?;
    assert_eq!(
        (held.state(), held.waiting_reason.as_str()),
        (CallState::Queued, "calling_hours")
    );
    let urgent = PlaceCallRequest {
        calling_hours_override: "the customer asked for a call at night".to_owned(),
        ..story.request(CUSTOMER)
    };
    let (urgent, _) = story.ended(&story.place(urgent).await?.id).await?;
    assert_eq!(urgent.state(), CallState::Completed);

    let held = story.get(&held.id).await?;
    assert_eq!(
        (held.state(), held.waiting_reason.as_str(), held.attempt),
        (CallState::Queued, "calling_hours", 0)
    );
    let expires = held.expire_at.context("an expiry")?.seconds;
    assert!(
        expires > now.timestamp() + 3_600,
        "it does not expire before the window opens"
    );
    assert_eq!((story.posts()?, story.dials("09812340041").await?), (1, 0));
    story.stack.shut_down().await
}
