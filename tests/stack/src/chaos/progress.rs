//! What is kept of a run, so that it can be interrupted.

use std::{fs, io::ErrorKind, path::Path};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{arguments::What, figures::Figures};

/// The file in the state folder.
const FILE: &str = "progress.json";

/// What is kept between runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The mode's word.
    pub(super) what: String,
    /// Of all parts.
    pub(super) seed: u64,
    /// Of all parts that are done.
    pub(super) figures: Figures,
}

impl Progress {
    /// Goes on at a round, with the figures so far.
    pub(super) fn resume(folder: &Path, what: What, from: u64, seed: Option<u64>) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                anyhow::bail!(
                    "there is nothing to go on from: {} is missing; leave --from out",
                    path.display()
                )
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let progress: Self = serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
        ensure!(
            progress.what == what.word(),
            "{} is of `cargo chaos {}`: choose another --state-dir",
            path.display(),
            progress.what
        );
        let done = progress.figures.rounds;
        ensure!(
            done == from,
            "{done} rounds are done: go on with --from {done}, or leave --from out to begin anew"
        );
        ensure!(
            seed.is_none_or(|seed| seed == progress.seed),
            "the rounds so far have seed {}: leave --seed out",
            progress.seed
        );
        Ok(progress)
    }

    /// Replaces the file in one step.
    pub(super) fn keep(&self, folder: &Path) -> anyhow::Result<()> {
        let (partial, path) = (folder.join(format!("{FILE}.partial")), folder.join(FILE));
        let json = serde_json::to_vec_pretty(self)?;
        let written = fs::write(&partial, json).and_then(|()| fs::rename(&partial, &path));
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_goes_on_only_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let resume = |from, seed| Progress::resume(folder.path(), What::Kills, from, seed).map_err(|e| e.to_string());
        assert!(resume(0, None).unwrap_err().contains("leave --from out"));
        let mut figures = Figures {
            rounds: 30,
            kills: 31,
            hits: [("posting".to_owned(), 2)].into(),
            ..Figures::default()
        };
        figures.add(figures.clone());
        let kept = Progress {
            what: "kills".to_owned(),
            seed: 5,
            figures,
        };
        kept.keep(folder.path()).unwrap();
        assert_eq!(resume(60, None).unwrap(), kept);
        assert_eq!((kept.figures.kills, kept.figures.hits["posting"]), (62, 4));
        assert!(resume(30, None).unwrap_err().contains("--from 60"));
        assert!(resume(60, Some(6)).unwrap_err().contains("seed 5"));
        let other = Progress::resume(folder.path(), What::Zombie, 60, None).unwrap_err();
        assert!(other.to_string().contains("cargo chaos kills"));
    }
}
