//! What PostgreSQL was asked, by its own log.

use std::{collections::HashSet, fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::time::sleep;

use super::used::Token;
use crate::{
    load::capture::{self, Statement},
    poll,
    postgres::Postgres,
};

/// The log's last lines are on the disk by then.
const LOGGED: Duration = Duration::from_secs(10);
/// What was asked before is in the log after this.
const SETTLED: Duration = Duration::from_millis(500);

/// The log's file.
pub(super) struct Log(PathBuf);

/// A place in it.
#[derive(Clone, Copy)]
pub(super) struct Mark(usize);

impl Log {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Lets each statement be logged from now on.
    pub(super) async fn begin(&self, postgres: &Postgres) -> anyhow::Result<()> {
        let admin = postgres.connect("postgres").await?;
        admin
            .batch_execute("ALTER SYSTEM SET log_min_duration_statement = 0")
            .await?;
        admin.batch_execute("SELECT pg_reload_conf()").await?;
        poll("the log", LOGGED, async || {
            let text = fs::read_to_string(&self.0).map_err(|error| error.to_string())?;
            let begun = text.contains("parameter \"log_min_duration_statement\" changed");
            if begun { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await?;
        Ok(())
    }

    /// Where it ends now.
    pub(super) fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark(self.text()?.len()))
    }

    /// The statements since then.
    pub(super) fn since(&self, mark: Mark) -> anyhow::Result<Vec<Statement>> {
        let text = self.text()?;
        Ok(capture::read(text.get(mark.0..).unwrap_or_default()))
    }

    /// For each token, how many statements were about it or its call since then.
    pub(super) async fn about(&self, mark: Mark, tokens: &[Token]) -> anyhow::Result<Vec<usize>> {
        sleep(SETTLED).await;
        let statements = self.since(mark)?;
        let about = |token: &Token| {
            let about = |statement: &&Statement| token.is_meant_by(statement);
            statements.iter().filter(about).count()
        };
        Ok(tokens.iter().map(about).collect())
    }

    /// How many statements since then are about the call of forged tokens, or are among the `own` ones of genuine tokens. Those about
    /// calls whose tokens are used up are call-service's own questions.
    pub(super) fn for_forged(
        &self,
        mark: Mark,
        call: &str,
        own: &HashSet<String>,
        used: &[Token],
    ) -> anyhow::Result<usize> {
        let forged = |statement: &&Statement| {
            let is_own = own.contains(&statement.text) && !used.iter().any(|token| token.is_meant_by(statement));
            is_own || statement.values.iter().flatten().any(|value| value == call)
        };
        Ok(self.since(mark)?.iter().filter(forged).count())
    }

    fn text(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.0).with_context(|| format!("cannot read {}", self.0.display()))
    }
}
