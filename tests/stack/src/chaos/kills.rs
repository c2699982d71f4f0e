//! Deaths of processes: at each crash point in turn, at random, several at once, and all together with PostgreSQL.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::bail;
use call_service::crash;
use tokio::{sync::watch, time::sleep};

use super::{dice::Dice, figures::Figures, part::Stage, system::Replica};
use crate::child::{Child, Death};

/// A point that is not hit within this is given up for the round: the process is killed where it is.
const HIT_WITHIN: Duration = Duration::from_secs(3);
/// A POST takes a few milliseconds; the process dies before, within or after it.
const IN_POST_MS: u64 = 30;

/// These are passed seldom enough that every second turn ends without a hit: they get two.
const RARE: [&str; 4] = [
    crash::QUEUED_COMMITTED,
    crash::CLAIM_COMMITTED,
    crash::SWEEPING,
    crash::SWEPT,
];

/// What happens to a replica in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// It dies at a crash point.
    Point { name: &'static str, plan: String },
    /// It dies after this time.
    Random(Duration),
    /// A dial's task panics, and the process goes on for this time before it dies (F14).
    Panic(Duration),
    /// All replicas die.
    Replicas(Duration),
    /// It dies together with the edge.
    WithEdge(Duration),
    /// All replicas, the edge and PostgreSQL die; PostgreSQL is away for the second time.
    Everything(Duration, Duration),
}

/// The fault of a round. Points take turns.
fn fault(seed: u64, round: u64) -> Fault {
    let mut dice = Dice::new(seed, "kill", round);
    let kinds = [(79, 'p'), (11, 'r'), (2, 'x'), (3, 'b'), (3, 'e'), (2, 'a')];
    let kind = dice.weighted(&kinds).unwrap_or('r');
    // From within its start to some time after it.
    let after = dice.millis(20, 400);
    match kind {
        'p' => {
            let turns: Vec<_> = crash::POINTS.into_iter().chain(RARE).collect();
            let count = u64::try_from(turns.len()).unwrap_or(1);
            let name = turns[usize::try_from(round % count).unwrap_or(0)];
            let nth = dice.weighted(&[(70, 1), (20, 2), (10, 3)]).unwrap_or(1);
            let delay = if name == crash::POSTING {
                dice.below(IN_POST_MS + 1)
            } else {
                0
            };
            let plan = format!("{name}:{nth}+{delay}");
            Fault::Point { name, plan }
        }
        'x' => Fault::Panic(after * 2),
        'b' => Fault::Replicas(after),
        'e' => Fault::WithEdge(after),
        'a' => Fault::Everything(after, dice.millis(20, 300)),
        _ => Fault::Random(after),
    }
}

/// What the loops of all replicas share.
struct Shared<'a> {
    stage: &'a Stage<'a>,
    next: AtomicU64,
    done: AtomicU64,
    /// Counts strikes at all replicas; each loop sees those of the others.
    strikes: watch::Sender<u64>,
}

/// Runs the rounds; returns the replicas alive and unarmed.
pub(super) async fn run(stage: &Stage<'_>, children: Vec<Child>) -> anyhow::Result<(Figures, Vec<Child>)> {
    let shared = Shared {
        stage,
        next: AtomicU64::new(stage.part.first),
        done: AtomicU64::new(stage.part.first),
        strikes: watch::Sender::new(0),
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
    /// One replica's deaths. The one that is given dies first: it is not armed.
    async fn rounds(&self, replica: &Replica, mut first: Child) -> anyhow::Result<(Figures, Child)> {
        let mut figures = Figures::default();
        let mut strikes = self.strikes.subscribe();
        first.kill().await?;
        figures.kills += 1;
        let part = &self.stage.part;
        loop {
            let round = self.next.fetch_add(1, Ordering::Relaxed);
            if round >= part.first + part.rounds {
                break;
            }
            strikes.mark_unchanged();
            match fault(part.seed, round) {
                Fault::Point { name, plan } => {
                    let child = replica.spec.start(Some(&plan))?;
                    let of = if self.dies(child, HIT_WITHIN, &mut strikes).await? {
                        &mut figures.hits
                    } else {
                        &mut figures.misses
                    };
                    *of.entry(name.to_owned()).or_default() += 1;
                }
                Fault::Random(after) => {
                    self.dies(replica.spec.start(None)?, after, &mut strikes).await?;
                }
                Fault::Panic(after) => {
                    let plan = format!("{}!panic", crash::POSTING);
                    self.dies(replica.spec.start(Some(&plan))?, after, &mut strikes).await?;
                }
                Fault::Replicas(after) => {
                    self.dies(replica.spec.start(None)?, after, &mut strikes).await?;
                    self.strikes.send_modify(|count| *count += 1);
                }
                Fault::WithEdge(after) => {
                    self.dies(replica.spec.start(None)?, after, &mut strikes).await?;
                    let mut edge = self.stage.system.edge_child.lock().await;
                    self.stage.system.kill_edge(&mut edge).await?;
                    (figures.edge_kills, figures.kills) = (figures.edge_kills + 1, figures.kills + 1);
                }
                Fault::Everything(after, away) => {
                    self.dies(replica.spec.start(None)?, after, &mut strikes).await?;
                    self.everything(away).await?;
                    (figures.edge_kills, figures.kills) = (figures.edge_kills + 1, figures.kills + 1);
                    figures.all_kills += 1;
                }
            }
            figures.kills += 1;
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            self.stage.screen.show(done, &self.stage.pulse.words());
        }
        Ok((figures, replica.spec.start(None)?))
    }

    /// Waits for a child's own death, or kills it after a time or at another's strike. Whether it was its own.
    async fn dies(
        &self,
        mut child: Child,
        after: Duration,
        strikes: &mut watch::Receiver<u64>,
    ) -> anyhow::Result<bool> {
        let death = tokio::select! {
            death = child.ended_within(after) => death?,
            _ = strikes.changed() => None,
        };
        match death {
            Some(Death::Killed) => Ok(true),
            Some(Death::Other(status)) => {
                bail!(
                    "a call-service ended by itself ({status}); see the logs in {}",
                    self.stage.system.folder.display()
                )
            }
            None => {
                child.kill().await?;
                Ok(false)
            }
        }
    }

    /// The other replicas, the edge and PostgreSQL; nobody else breaks anything big meanwhile.
    async fn everything(&self, away: Duration) -> anyhow::Result<()> {
        let system = self.stage.system;
        let mut edge = system.edge_child.lock().await;
        self.strikes.send_modify(|count| *count += 1);
        if let Some(mut child) = edge.take() {
            child.kill().await?;
        }
        system.postgres.crash().await?;
        sleep(away).await;
        system.postgres.revive().await?;
        *edge = Some(system.edge.start(None)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rounds_repeat_and_every_point_gets_its_share() {
        assert_eq!(fault(1, 7), fault(1, 7));
        let mut turns = BTreeMap::new();
        let mut others = 0;
        for round in 0..10_000 {
            match fault(3, round) {
                Fault::Point { name, .. } => *turns.entry(name).or_insert(0) += 1,
                _ => others += 1,
            }
        }
        assert_eq!(turns.len(), crash::POINTS.len());
        assert!(turns.values().all(|count| *count > 400), "{turns:?}");
        assert!(RARE.iter().all(|name| turns[name] > 800), "{turns:?}");
        assert!((1_500..2_300).contains(&others), "{others}");
    }
}
