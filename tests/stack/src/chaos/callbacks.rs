//! Exotel's callbacks go wrong, a batch of calls at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use callbridge_proto::call::v1::{PlaceCallRequest, WaitFor, place_call_request::From};
use exotel_sim::{Callbacks, Outcome};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    check::Accepted,
    dice::Dice,
    figures::Figures,
    load::{self, Told},
    part::{Broken, Stage},
    people,
};
use crate::child::Child;

/// Calls in a batch.
const BATCH: u64 = 16;
/// Batches side by side: most of a batch's time is waiting.
const SIDE_BY_SIDE: u64 = 6;
/// A batch whose calls have not all ended by then goes on to the checks as it is, which then fail: a ring time-out, the pause
/// before the first question to Exotel, and some questions in a queue.
const ENDED: Duration = Duration::from_secs(45);
/// One try to place a call.
const PATIENCE: Duration = Duration::from_secs(5);
/// How late a callback is at most, by the simulator's clock, which runs twenty times as fast.
const LATE_MS: u64 = 40_000;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How often a call is asked for; each time is [`LOOK`] after the one before.
const TRIES: u32 = 20;

/// What happens to the callbacks of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AllLost,
    AllDoubled,
    LateAndInAnyOrder,
}

/// The faults take turns.
fn fault(round: u64) -> Fault {
    match round % 3 {
        0 => Fault::AllLost,
        1 => Fault::AllDoubled,
        _ => Fault::LateAndInAnyOrder,
    }
}

fn callbacks(fault: Fault, dice: &mut Dice) -> Callbacks {
    let usual = Callbacks {
        drop: 0.0,
        ..people::settings().callbacks
    };
    match fault {
        Fault::AllLost => Callbacks { drop: 1.0, ..usual },
        Fault::AllDoubled => Callbacks {
            duplicates: 1 + u32::try_from(dice.below(3)).unwrap_or(0),
            ..usual
        },
        // Each has a delay of its own, so that they come in another order than their events.
        Fault::LateAndInAnyOrder => Callbacks {
            delay_spread_ms: LATE_MS,
            reorder: dice.percent(50),
            duplicates: u32::try_from(dice.below(2)).unwrap_or(0),
            ..usual
        },
    }
}

/// Runs the rounds; nothing of ours dies.
pub(super) async fn run(stage: &Stage<'_>, children: Vec<Child>) -> anyhow::Result<Broken> {
    let part = &stage.part;
    let done = Mutex::new((Figures::default(), Told::default(), part.first));
    let lanes = (0..SIDE_BY_SIDE).map(|lane| {
        let done = &done;
        async move {
            let rounds = part.first..part.first + part.rounds;
            for round in rounds.filter(|round| round % SIDE_BY_SIDE == lane) {
                let (took, told) = batch(stage, round).await?;
                let mut done = done.lock().await;
                done.0.settled_ms.push(u64::try_from(took.as_millis())?);
                done.1.add(told);
                done.2 += 1;
                stage.screen.show(done.2, &stage.pulse.words());
            }
            anyhow::Ok(())
        }
    });
    futures_util::future::try_join_all(lanes).await?;
    let (figures, told, _) = done.into_inner();
    Ok(Broken {
        figures,
        told,
        campaigns: BTreeMap::new(),
        pauses: Vec::new(),
        children,
        talks: Vec::new(),
        windows: Vec::new(),
        cut: BTreeSet::new(),
        not_taken: Vec::new(),
    })
}

/// Places a batch and waits for its end; how long that took.
async fn batch(stage: &Stage<'_>, round: u64) -> anyhow::Result<(Duration, Told)> {
    let system = stage.system;
    let mut dice = Dice::new(stage.part.seed, "batch", round);
    let prefix = format!("{}-batch-{round}-", stage.part.seed);
    let mut told = Told::default();
    for number in 0..BATCH {
        let outcome = Outcome {
            callbacks: Some(callbacks(fault(round), &mut dice)),
            ..people::ordinary(&mut dice)
        };
        let to = people::stranger(&system.control, round * BATCH + number, outcome)?;
        let member = dice.pick(&system.members).context("there is no account")?;
        let request = PlaceCallRequest {
            idempotency_key: format!("{prefix}{number}"),
            to,
            from: Some(From::PhoneId(member.registered.phone_id.clone())),
            ring_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            time_limit: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            wait_for: WaitFor::Queued.into(),
            ..PlaceCallRequest::default()
        };
        let replica = dice.pick(&system.clients).context("there is no replica")?;
        let key = request.idempotency_key.clone();
        // A machine with other work may be too slow for a try.
        let mut tries = 1..=TRIES;
        let answer = loop {
            tries.next();
            match load::ask(replica, request.clone(), PATIENCE, true).await {
                Err(status) if load::may_come_right(status.code()) && !tries.is_empty() => sleep(LOOK).await,
                answer => break answer,
            }
        };
        match answer {
            Ok(call) => told.accepted.push(Accepted { key, call }),
            Err(status) => told
                .refused
                .push((key, format!("{:?}: {}", status.code(), status.message()))),
        }
    }
    let begun = Instant::now();
    let client = system.connect().await?;
    let statement = "SELECT count(*) FROM calls WHERE idempotency_key LIKE $1 || '%' AND state IN ('queued', 'dialing', \
                     'unconfirmed', 'placed', 'ringing', 'in_progress')";
    let ended = async {
        loop {
            let open: i64 = client.query_one(statement, &[&prefix]).await?.get(0);
            if open == 0 {
                return Ok::<_, tokio_postgres::Error>(());
            }
            sleep(LOOK).await;
        }
    };
    if let Ok(ended) = timeout(ENDED, ended).await {
        ended.context("cannot count calls")?;
    }
    Ok((begun.elapsed(), told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faults_are_what_they_are_called() {
        let mut dice = Dice::new(1, "batch", 0);
        let lost = callbacks(fault(0), &mut dice);
        assert!((lost.drop - 1.0).abs() < f64::EPSILON);
        assert!(callbacks(fault(1), &mut dice).duplicates > 0);
        assert_eq!(callbacks(fault(2), &mut dice).delay_spread_ms, LATE_MS);
    }
}
