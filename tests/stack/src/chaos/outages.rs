//! PostgreSQL stops at once, at a random time, and comes back with its data.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest, WaitFor, place_call_request::From};
use tokio::time::{sleep, timeout};
use tonic::Request;

use super::{dice::Dice, figures::Figures, load, part::Stage, people};
use crate::{Clients, child::Child};

/// Between two stops, in milliseconds: the load runs, and now and then no replica has recovered yet.
const UP: (u64, u64) = (100, 900);
/// How long it is away, in milliseconds; a second is what a restart takes, and longer than any pause before a retry.
const AWAY: (u64, u64) = (10, 1_000);
/// One try of a call that tells whether the system is back.
const TRY: Duration = Duration::from_millis(500);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);
/// Longer is no recovery.
const RECOVERED: Duration = Duration::from_secs(30);

/// Runs the rounds; the replicas live through them.
pub(super) async fn run(stage: &Stage<'_>, mut children: Vec<Child>) -> anyhow::Result<(Figures, Vec<Child>)> {
    let mut figures = Figures::default();
    let part = &stage.part;
    for round in part.first..part.first + part.rounds {
        let mut dice = Dice::new(part.seed, "outage", round);
        sleep(dice.millis(UP.0, UP.1)).await;
        stage.system.postgres.crash().await?;
        sleep(dice.millis(AWAY.0, AWAY.1)).await;
        stage.system.postgres.revive().await?;
        let back = Instant::now();
        let took = recovered(stage, round, back).await?;
        figures.recoveries_ms.push(u64::try_from(took.as_millis())?);
        figures.stops += 1;
        for child in &mut children {
            let death = child.ended_within(Duration::ZERO).await?;
            ensure!(
                death.is_none(),
                "a replica did not live through an outage of PostgreSQL: {death:?}"
            );
        }
        stage.screen.show(round + 1, &stage.pulse.words());
    }
    Ok((figures, children))
}

/// The time until a call is placed and dialled. Each replica is asked in turn with calls of its own, as new clients would.
async fn recovered(stage: &Stage<'_>, round: u64, back: Instant) -> anyhow::Result<Duration> {
    let system = stage.system;
    // Without a cap: what is measured is not another call's end.
    let member = system.members.first().context("there is no account")?;
    let to = people::stranger(&system.control, round, people::busy())?;
    let request = PlaceCallRequest {
        idempotency_key: format!("{}-after-{round}", stage.part.seed),
        to,
        from: Some(From::PhoneId(member.registered.phone_id.clone())),
        ring_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        time_limit: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        wait_for: WaitFor::Placed.into(),
        ..PlaceCallRequest::default()
    };
    let mut replicas = system.clients.iter().cycle();
    while back.elapsed() < RECOVERED {
        let replica = replicas.next().context("there is no replica")?;
        match dialled(replica, &request).await {
            Ok(true) => return Ok(back.elapsed()),
            Ok(false) => {}
            Err(status) => ensure!(
                load::may_come_right(status.code()),
                "a call after an outage was refused: {status}"
            ),
        }
        sleep(AGAIN).await;
    }
    anyhow::bail!(
        "no call was placed and dialled within {} s of PostgreSQL's return; see the logs in {}",
        RECOVERED.as_secs(),
        system.folder.display()
    )
}

/// Whether the call is placed, and Exotel has it.
async fn dialled(replica: &Clients, request: &PlaceCallRequest) -> Result<bool, tonic::Status> {
    let mut asked = Request::new(request.clone());
    asked.set_timeout(TRY);
    let answer = timeout(TRY, replica.calls().place_call(asked)).await;
    let answer = answer.map_err(|_| tonic::Status::deadline_exceeded("no answer"))??;
    let call = answer.into_inner().call.unwrap_or_default();
    Ok(!call.exotel_call_sid.is_empty() && call.state() != CallState::Queued)
}
