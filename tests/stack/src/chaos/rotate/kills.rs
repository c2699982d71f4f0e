//! The deaths of `call-service rewrap`, and what is looked at after each.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use call_service::vault::Vault;
use tokio::time::sleep;

use super::{
    super::{dice::Dice, pieces, screen::Screen},
    key,
    rows::Rows,
    vault,
};
use crate::{
    Settings,
    child::{Child, Death, Spec},
};

/// Rows that are opened at each kill.
const SAMPLE: u64 = 1_000;
/// How often all are, beside the end of each rotation.
const FULL_SWEEPS: u64 = 5;
/// What a run that nobody kills may take at most.
const UNKILLED: Duration = Duration::from_mins(10);
/// A first guess of how long after its start a process has done its share; it is corrected by what each did.
const FIRST_REACH: Duration = Duration::from_millis(100);
/// A process that has not begun by then never will.
const LONGEST_REACH: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    pub(super) kills: u64,
    pub(super) in_work: u64,
    pub(super) pairs: u64,
    pub(super) rotations: u64,
    pub(super) written: u64,
    pub(super) opened: u64,
    pub(super) unreadable: BTreeSet<u64>,
    /// After the last rotation.
    pub(super) old_left: u64,
}

/// What a run goes by.
pub(super) struct Run<'a> {
    pub(super) rows: Rows,
    pub(super) batch: u64,
    /// Rows that are sealed between two kills, about.
    pub(super) share: u64,
    pub(super) kills: u64,
    pub(super) seed: u64,
    pub(super) url: String,
    pub(super) log: PathBuf,
    pub(super) screen: &'a Screen,
    pub(super) now: Mutex<Now>,
}

/// What changes in a run.
pub(super) struct Now {
    /// Seals what is set meanwhile.
    pub(super) writer: Vault,
    /// Entries of `CREDENTIAL_KEYS`.
    pub(super) old: String,
    pub(super) new: String,
    pub(super) next_id: u16,
    pub(super) figures: Figures,
}

impl Run<'_> {
    /// What changes, for a moment.
    pub(super) fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of a process that rotates: the new one first.
    fn keys(&self) -> String {
        let now = self.now();
        format!("{},{}", now.new, now.old)
    }

    fn start(&self) -> anyhow::Result<Child> {
        let settings = [
            ("DATABASE_URL", self.url.clone()),
            ("CREDENTIAL_KEYS", self.keys()),
            ("REWRAP_BATCH", self.batch.to_string()),
        ];
        let spec = Spec {
            name: pieces::REWRAP,
            program: None,
            arguments: vec![pieces::REWRAP.to_owned()],
            settings: Settings::from(settings.map(|(name, value)| (name.to_owned(), value))),
            log: self.log.clone(),
        };
        spec.start(None)
    }

    /// Sets other credentials for ever, now and then.
    pub(super) async fn write(&self) -> anyhow::Result<()> {
        let mut dice = Dice::new(self.seed, "rows that are set", 0);
        loop {
            let writer = self.now().writer.clone();
            self.rows.set(&writer, dice.below(self.rows.all)).await?;
            self.now().figures.written += 1;
            sleep(dice.millis(5, 25)).await;
        }
    }

    /// Kills, until it is enough and the last rotation is done.
    pub(super) async fn kill(&self) -> anyhow::Result<()> {
        let mut reach = FIRST_REACH;
        let mut next_full = self.kills / FULL_SWEEPS;
        for round in 0.. {
            let both = vault(&self.keys())?;
            let before = self.rows.old(&both).await?;
            if before <= self.rows.all / 2 {
                self.now().writer = both.clone();
            }
            let (kills, written) = {
                let figures = &self.now().figures;
                (figures.kills, figures.written)
            };
            if before == 0 || kills >= self.kills {
                self.complete().await?;
                if kills >= self.kills {
                    return Ok(());
                }
                continue;
            }
            let mut dice = Dice::new(self.seed, "kills", round);
            let children = if dice.percent(25) { 2 } else { 1 };
            let lives = (0..children).map(|_| self.life(moment(&mut dice, reach)));
            let killed = futures_util::future::try_join_all(lives).await?;
            let killed = u64::try_from(killed.into_iter().filter(|killed| *killed).count())?;
            let gone = before.saturating_sub(self.rows.old(&both).await?);
            // What was set meanwhile may be sealed with the new key, too.
            let sealed = gone.saturating_sub(self.now().figures.written - written);
            reach = corrected(reach, sealed, self.share * children);
            {
                let figures = &mut self.now().figures;
                figures.kills += killed;
                figures.pairs += children - 1;
                figures.in_work += if sealed > 0 { killed } else { 0 };
            }
            let kills = kills + killed;
            let (first, most) = if kills >= next_full {
                next_full = kills + self.kills / FULL_SWEEPS;
                (0, self.rows.all)
            } else {
                (dice.below(self.rows.all), SAMPLE)
            };
            self.look(&both, first, most).await?;
            self.show(kills, before);
        }
        Ok(())
    }

    /// One process from its start to its death. Whether it was killed: one that is done ends by itself.
    async fn life(&self, until: Duration) -> anyhow::Result<bool> {
        let mut child = self.start()?;
        let death = match child.ended_within(until).await? {
            Some(death) => death,
            None => child.kill().await?,
        };
        self.accept(death)
    }

    /// Whether a process was killed; one that failed by itself ends the run.
    fn accept(&self, death: Death) -> anyhow::Result<bool> {
        match death {
            Death::Killed => Ok(true),
            Death::Other(status) if status.success() => Ok(false),
            Death::Other(status) => bail!("call-service rewrap failed ({status}); see {}", self.log.display()),
        }
    }

    /// Lets a process finish, opens all rows with the new key alone, and turns to the next one.
    async fn complete(&self) -> anyhow::Result<()> {
        self.now().writer = vault(&self.keys())?;
        let death = self.start()?.ended_within(UNKILLED).await?;
        let death = death.with_context(|| format!("call-service rewrap is not done after {} s", UNKILLED.as_secs()))?;
        ensure!(!self.accept(death)?, "somebody else killed call-service rewrap");
        let new = vault(&self.now().new)?;
        self.look(&new, 0, self.rows.all).await?;
        let left = self.rows.old(&new).await?;
        let mut now = self.now();
        now.figures.rotations += 1;
        now.figures.old_left = left;
        let next = key(now.next_id)?;
        now.next_id += 1;
        now.old = std::mem::replace(&mut now.new, next);
        now.writer = new;
        Ok(())
    }

    /// Opens rows.
    async fn look(&self, vault: &Vault, first: u64, most: u64) -> anyhow::Result<()> {
        let unreadable = self.rows.sweep(vault, first, most).await?;
        if !unreadable.is_empty() {
            let some: Vec<_> = unreadable.iter().take(10).collect();
            self.screen.line(&format!(
                "{} rows cannot be read, among them {some:?}",
                unreadable.len()
            ));
        }
        let mut now = self.now();
        now.figures.opened += most.min(self.rows.all - first);
        now.figures.unreadable.extend(unreadable);
        Ok(())
    }

    fn show(&self, kills: u64, left: u64) {
        let (rotations, unreadable) = {
            let figures = &self.now().figures;
            (figures.rotations, figures.unreadable.len())
        };
        let done = (self.rows.all - left) * 100 / self.rows.all;
        self.screen.show(
            kills.min(self.kills),
            &format!("rotation {} at {done} %, {unreadable} unreadable", rotations + 1),
        );
    }
}

/// When a process dies, counted from its start: mostly when it has begun to seal, now and then before.
fn moment(dice: &mut Dice, reach: Duration) -> Duration {
    let share = if dice.percent(15) {
        dice.below(70)
    } else {
        70 + dice.below(60)
    };
    reach * u32::try_from(share).unwrap_or(100) / 100
}

/// How long the next ones live, by what the last ones did.
fn corrected(reach: Duration, sealed: u64, wanted: u64) -> Duration {
    let corrected = if sealed < wanted / 2 {
        reach * 6 / 5
    } else if sealed > wanted * 2 {
        reach * 4 / 5
    } else {
        reach
    };
    corrected.min(LONGEST_REACH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_repeat_and_lie_around_the_reach() {
        let reach = Duration::from_millis(100);
        let moments = |seed| -> Vec<Duration> {
            (0..200)
                .map(|n| moment(&mut Dice::new(seed, "kills", n), reach))
                .collect()
        };
        assert_eq!(moments(1), moments(1));
        let early = moments(1).iter().filter(|at| **at < reach * 7 / 10).count();
        assert!((15..50).contains(&early), "{early}");
        assert!(moments(1).iter().all(|at| *at < reach * 13 / 10));
    }

    #[test]
    fn processes_live_longer_until_they_do_their_share() {
        let reach = Duration::from_secs(1);
        assert!(corrected(reach, 0, 200) > reach && corrected(reach, 500, 200) < reach);
        assert_eq!(corrected(reach, 200, 200), reach);
        assert_eq!(corrected(LONGEST_REACH, 0, 200), LONGEST_REACH);
    }
}
