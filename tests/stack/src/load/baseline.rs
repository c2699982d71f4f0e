//! pgbench with the statements of a call: what PostgreSQL alone reaches on this machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use crate::postgres::Binaries;

/// A script, and where it runs.
pub(super) struct Baseline {
    /// Each run of it is one call.
    pub(super) script: PathBuf,
    /// The database.
    pub(super) url: String,
}

impl Baseline {
    /// Runs it with so many clients. Returns calls a second.
    pub(super) async fn run(&self, binaries: &Binaries, clients: usize, length: Duration) -> anyhow::Result<f64> {
        let mut command = Command::new(program(binaries)?);
        command
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
            .arg(format!("--client={clients}"))
            .arg(format!("--time={}", length.as_secs().max(1)));
        command.arg("--file").arg(&self.script);
        let output = command
            .arg(&self.url)
            .stdin(Stdio::null())
            .output()
            .await
            .context("cannot run pgbench")?;
        let (said, complained) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let first: Vec<&str> = complained.lines().take(3).collect();
        ensure!(output.status.success(), "pgbench failed: {}", first.join("; "));
        rate(&said).with_context(|| format!("pgbench says no rate: {said}"))
    }
}

/// Where pgbench is.
pub(super) fn program(binaries: &Binaries) -> anyhow::Result<PathBuf> {
    let program = binaries.folder().join("pgbench");
    ensure!(
        Path::new(&program).is_file(),
        "{} is not there: install PostgreSQL's pgbench (Debian: postgresql), or set PG_BIN to a folder that has it",
        program.display()
    );
    Ok(program)
}

fn rate(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read() {
        let said = "latency average = 9.1 ms\ntps = 873.421 (without initial connection time)\n";
        assert_eq!(rate(said), Some(873.421));
        assert_eq!(rate("nothing"), None);
    }
}
