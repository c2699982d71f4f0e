//! Append-only JSON lines: the dial ledger and the events.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Lines that wait for the disk: about a second of a busy simulator. Beyond, dials wait and events are dropped and counted.
const WAITING_LINES: usize = 8_192;

/// Lines written with one fsync at most.
const BATCH: usize = 512;

/// What went wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened, written or read.
    #[error("journal {path}: {doing} failed; is the disk full or the folder read-only?")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not what it should be.
    #[error("journal {path}: line {line} is not a valid entry; was the file edited?")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry could not be turned into JSON.
    #[error("a journal entry cannot be written as JSON")]
    Entry(#[source] serde_json::Error),
    /// The simulator is stopping.
    #[error("journal {path} is closed: the simulator is stopping")]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

enum Job {
    Write {
        line: Vec<u8>,
        done: Option<oneshot::Sender<Result<(), io::Error>>>,
    },
    Flush(oneshot::Sender<()>),
}

/// One file of JSON lines with one writer.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    dropped: AtomicU64,
}

impl Journal {
    /// Opens the file and starts its writer; `durable` fsyncs every batch.
    pub(crate) fn open(
        path: &Path,
        durable: bool,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let failed = |doing| {
            move |source| Error::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)
            .map_err(failed("opening it"))?;
        drop_torn_line(&mut file).map_err(failed("mending its end"))?;
        let (jobs, waiting) = mpsc::channel(WAITING_LINES);
        tasks.spawn(write(file, durable, waiting, stop));
        Ok(Self {
            path: path.to_owned(),
            jobs,
            dropped: AtomicU64::new(0),
        })
    }

    /// Writes an entry and returns when it is on the disk.
    pub(crate) async fn append(&self, entry: &impl Serialize) -> Result<(), Error> {
        let line = line(entry)?;
        let (done, written) = oneshot::channel();
        let closed = || Error::Closed {
            path: self.path.clone(),
        };
        self.jobs
            .send(Job::Write { line, done: Some(done) })
            .await
            .map_err(|_| closed())?;
        written.await.map_err(|_| closed())?.map_err(|source| Error::Io {
            path: self.path.clone(),
            doing: "writing",
            source,
        })
    }

    /// Hands an entry to the writer without waiting; a full queue drops it.
    pub(crate) fn note(&self, entry: &impl Serialize) {
        let sent = line(entry).is_ok_and(|line| self.jobs.try_send(Job::Write { line, done: None }).is_ok());
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries that were dropped because the disk was too slow.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// All entries, those handed over before this call included.
    pub(crate) async fn read<T: DeserializeOwned + Send + 'static>(&self) -> Result<Vec<T>, Error> {
        let (flushed, wait) = oneshot::channel();
        if self.jobs.send(Job::Flush(flushed)).await.is_ok() {
            // A closed writer has written all it ever will.
            let _ = wait.await;
        }
        let bytes = tokio::fs::read(&self.path).await.map_err(|source| Error::Io {
            path: self.path.clone(),
            doing: "reading",
            source,
        })?;
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .enumerate()
            .filter(|(_, line)| !line.is_empty());
        lines
            .map(|(at, line)| {
                serde_json::from_slice(line).map_err(|source| Error::Line {
                    path: self.path.clone(),
                    line: at + 1,
                    source,
                })
            })
            .collect()
    }
}

/// Takes off what a crash left of a last line: nobody was told that it is written, and the next one would be glued to it.
fn drop_torn_line(file: &mut File) -> io::Result<()> {
    let mut end = file.metadata()?.len();
    let mut block = [0; 4_096];
    while end > 0 {
        let begin = end.saturating_sub(4_096);
        file.seek(SeekFrom::Start(begin))?;
        let block = &mut block[..usize::try_from(end - begin).map_err(io::Error::other)?];
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            end = begin + u64::try_from(at).map_err(io::Error::other)? + 1;
            break;
        }
        end = begin;
    }
    if end < file.metadata()?.len() {
        file.set_len(end)?;
    }
    Ok(())
}

fn line(entry: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(entry).map_err(Error::Entry)?;
    line.push(b'\n');
    Ok(line)
}

async fn write(mut file: File, durable: bool, mut waiting: mpsc::Receiver<Job>, stop: CancellationToken) {
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut jobs, BATCH) => if count == 0 { return },
            () = stop.cancelled() => return,
        }
        let mut bytes = Vec::new();
        let mut writers = Vec::new();
        let mut flushers = Vec::new();
        for job in jobs.drain(..) {
            match job {
                Job::Write { line, done } => {
                    bytes.extend_from_slice(&line);
                    writers.extend(done);
                }
                Job::Flush(done) => flushers.push(done),
            }
        }
        let sync = durable && !writers.is_empty();
        let outcome = tokio::task::spawn_blocking(move || {
            let written = file
                .write_all(&bytes)
                .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
            (file, written)
        })
        .await;
        let Ok((returned, written)) = outcome else { return };
        file = returned;
        for done in writers {
            let answer = written
                .as_ref()
                .map_or_else(|error| Err(error.kind().into()), |()| Ok(()));
            let _ = done.send(answer);
        }
        for done in flushers {
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio_util::{sync::CancellationToken, task::TaskTracker};

    use super::Journal;

    #[tokio::test]
    async fn entries_come_back_in_order_and_survive_a_restart() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("ledger.jsonl");
        for round in 0..2 {
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let journal = Journal::open(&path, true, &tasks, stop.clone()).expect("opens");
            journal.append(&json!({"round": round})).await.expect("writes");
            journal.note(&json!({"noted": round}));
            let entries: Vec<Value> = journal.read().await.expect("reads");
            assert_eq!(entries.len(), 2 * (round + 1));
            assert_eq!(entries[2 * round], json!({"round": round}));
            assert_eq!(journal.dropped(), 0);
            stop.cancel();
        }
    }

    #[tokio::test]
    async fn a_torn_line_is_taken_off() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("ledger.jsonl");
        let long = format!("{{\"torn\":\"{}", "x".repeat(10_000));
        for (before, after) in [
            ("", ""),
            ("{\"a\":1}\n", "{\"a\":1}\n"),
            ("{\"a\":1}\n{\"b\"", "{\"a\":1}\n"),
            ("{\"a\":1}", ""),
            (long.as_str(), ""),
            (&format!("{{\"a\":1}}\n{long}"), "{\"a\":1}\n"),
        ] {
            std::fs::write(&path, before).expect("writes");
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let journal = Journal::open(&path, true, &tasks, stop.clone()).expect("opens");
            journal.append(&json!({"next": 1})).await.expect("writes");
            let text = std::fs::read_to_string(&path).expect("reads");
            assert_eq!(text, format!("{after}{{\"next\":1}}\n"));
            stop.cancel();
        }
    }
}
