//! Commits batches of an import on a connection of its own.

use tokio_postgres::Client;

use super::Header;
use crate::{
    error::Error,
    store::campaigns::imports::{self, Batch, CommitError, Import, Problem},
};

/// Problems that are told one by one.
pub(super) const MOST_TOLD: usize = 1_000;

/// The connection, and how far the import is as far as is committed.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) import: Import,
}

impl Writer {
    pub(super) async fn commit(
        &mut self,
        header: &Header,
        batch: Batch,
        pending: Import,
        line: i64,
    ) -> Result<(), Error> {
        if line == self.import.line && pending.rows == 0 {
            return Ok(());
        }
        let staged = batch.contacts;
        let before = self.import.clone();
        let committed = imports::commit(
            &mut self.client,
            (header.campaign, &header.key),
            batch,
            header.policy,
            &self.import,
            MOST_TOLD,
            |committed| after(before, pending, &committed, staged, line),
        );
        self.import = committed.await.map_err(|error| match error {
            CommitError::Raced => Error::aborted(
                "IMPORT_RUNNING",
                "another stream sends the import with this key: wait for its end, or send again when it broke off",
            ),
            CommitError::Db(error) => error.into(),
        })?;
        Ok(())
    }
}

/// How far an import is after a batch.
fn after(mut import: Import, pending: Import, committed: &imports::Committed, staged: i64, line: i64) -> Import {
    import.line = line;
    import.header = pending.header;
    import.rows += pending.rows;
    import.accepted += committed.accepted;
    import.duplicates += staged - committed.accepted;
    import.rejected += pending.rejected;
    // As many as can be told were asked for; there may be more.
    let cut =
        pending.problems_cut || staged - committed.accepted > i64::try_from(committed.duplicates.len()).unwrap_or(0);
    let duplicates = committed.duplicates.iter().map(|line| Problem {
        line: *line,
        column: "number".to_owned(),
        problem: "duplicate".to_owned(),
    });
    let mut problems: Vec<Problem> = pending.problems.into_iter().chain(duplicates).collect();
    problems.sort_by_key(|problem| problem.line);
    for problem in problems {
        import.tell(problem, MOST_TOLD);
    }
    import.problems_cut |= cut;
    import
}
