//! Replicas that are stopped for longer than the sweep, at random or in the middle of a dial, and go on as if nothing had been.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::ensure;
use call_service::crash;
use tokio::{sync::Semaphore, time::sleep};

use super::{dice::Dice, figures::Figures, part::Stage, system::Replica};
use crate::child::Child;

/// Where a dial is stopped: its claim is committed, its POST is under way, its answer is read.
const IN_DIAL: [&str; 5] = [
    crash::FRESH_COMMITTED,
    crash::CLAIM_COMMITTED,
    crash::POSTING,
    crash::ANSWERED,
    crash::POSTING,
];
/// A replica that does not come to its point by then is stopped where it is.
const COMES_WITHIN: Duration = Duration::from_secs(4);
/// Between two looks whether it is stopped.
const LOOK: Duration = Duration::from_millis(3);
/// Beyond the sweep, which is at two seconds, in milliseconds.
const ASLEEP: (u64, u64) = (2_200, 3_800);
/// Beyond the five seconds after which a worker must not dial any more, in milliseconds.
const LONG_ASLEEP: (u64, u64) = (5_200, 6_500);
/// How long it is awake afterwards: it finishes what it had begun, in milliseconds.
const AWAKE: (u64, u64) = (300, 900);

/// What happens to a replica in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sleep {
    /// It is started armed and stops by itself; otherwise it is stopped after `after`.
    armed: Option<String>,
    after: Duration,
    asleep: Duration,
    awake: Duration,
}

fn round_of(seed: u64, round: u64) -> Sleep {
    let mut dice = Dice::new(seed, "zombie", round);
    let armed = dice.percent(60).then(|| {
        let point = dice.pick(&IN_DIAL).copied().unwrap_or(crash::POSTING);
        let (nth, delay) = (
            1 + dice.below(3),
            if point == crash::POSTING { dice.below(30) } else { 0 },
        );
        format!("{point}:{nth}+{delay}!stop")
    });
    let asleep = if dice.percent(15) { LONG_ASLEEP } else { ASLEEP };
    Sleep {
        armed,
        after: dice.millis(20, 600),
        asleep: dice.millis(asleep.0, asleep.1),
        awake: dice.millis(AWAKE.0, AWAKE.1),
    }
}

struct Shared<'a> {
    stage: &'a Stage<'a>,
    next: AtomicU64,
    done: AtomicU64,
    /// One replica is always awake, or nobody would sweep.
    beds: Semaphore,
}

/// Runs the rounds; returns the replicas awake and unarmed.
pub(super) async fn run(stage: &Stage<'_>, children: Vec<Child>) -> anyhow::Result<(Figures, Vec<Child>)> {
    let shared = Shared {
        stage,
        next: AtomicU64::new(stage.part.first),
        done: AtomicU64::new(stage.part.first),
        beds: Semaphore::new(stage.system.replicas.len().saturating_sub(1).max(1)),
    };
    let loops = stage
        .system
        .replicas
        .iter()
        .zip(children)
        .map(|(replica, child)| shared.rounds(replica, child));
    let mut figures = Figures::default();
    let mut alive = Vec::new();
    for (of_loop, child) in futures_util::future::try_join_all(loops).await? {
        figures.add(of_loop);
        alive.push(child);
    }
    Ok((figures, alive))
}

impl Shared<'_> {
    async fn rounds(&self, replica: &Replica, mut child: Child) -> anyhow::Result<(Figures, Child)> {
        let mut figures = Figures::default();
        let part = &self.stage.part;
        let mut is_armed = false;
        loop {
            let bed = self.beds.acquire().await?;
            let round = self.next.fetch_add(1, Ordering::Relaxed);
            if round >= part.first + part.rounds {
                break;
            }
            let Sleep {
                armed,
                after,
                asleep,
                awake,
            } = round_of(part.seed, round);
            if let Some(plan) = armed {
                child.kill().await?;
                child = replica.spec.start(Some(&plan))?;
                is_armed = true;
                if falls_asleep(&child).await? {
                    figures.zombies_in_dial += 1;
                } else {
                    child.stop()?;
                }
            } else {
                sleep(after).await;
                child.stop()?;
            }
            sleep(asleep).await;
            child.go_on()?;
            drop(bed);
            figures.zombies += 1;
            sleep(awake).await;
            let death = child.ended_within(Duration::ZERO).await?;
            ensure!(death.is_none(), "a replica that had been stopped ended: {death:?}");
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            self.stage.screen.show(done, &self.stage.pulse.words());
        }
        if is_armed {
            // It may not have come to its point yet.
            child.kill().await?;
            child = replica.spec.start(None)?;
        }
        Ok((figures, child))
    }
}

/// Waits for a child to stop by itself.
async fn falls_asleep(child: &Child) -> anyhow::Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < COMES_WITHIN {
        if child.is_stopped()? {
            return Ok(true);
        }
        sleep(LOOK).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_repeat_and_sleep_past_the_sweep() {
        assert_eq!(round_of(1, 7), round_of(1, 7));
        let rounds: Vec<_> = (0..500).map(|round| round_of(1, round)).collect();
        assert!(rounds.iter().all(|round| round.asleep > Duration::from_secs(2)));
        let long = rounds
            .iter()
            .filter(|round| round.asleep > Duration::from_secs(5))
            .count();
        let armed = rounds.iter().filter(|round| round.armed.is_some()).count();
        assert!(
            (40..120).contains(&long) && (250..350).contains(&armed),
            "{long} {armed}"
        );
    }
}
