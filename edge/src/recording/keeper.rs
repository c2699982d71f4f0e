//! Takes recordings from the spool to the object store, some at a time, tells call-service, and clears the spool.

use std::{
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use callbridge_proto::{call::v1::RecordingState, ingress::v1::ReportRecordingRequest};
use data_encoding::HEXLOWER;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::Code;

use super::{
    Complete, Ended, give_back, report,
    spool::{About, End, Folder, Stored, Tape},
    upload::{blocking, upload},
};
use crate::{ingress::Client, metrics::Metrics};

/// Recordings that are stored at one time.
const AT_ONCE: usize = 4;
/// The wait before another try; it doubles up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// How often folders of dead edges are looked for.
const ADOPT_EVERY: Duration = Duration::from_secs(30);

/// What keeping needs.
#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) spool: PathBuf,
    pub(super) kept: Duration,
    pub(super) folder: Arc<Folder>,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) client: Client,
    pub(super) metrics: Metrics,
    pub(super) used: Arc<AtomicU64>,
    pub(super) ended: Arc<Ended>,
}

/// A recording that is to be stored.
#[derive(Debug, Clone)]
struct Job {
    tape: Tape,
    /// None: its edge died.
    end: Option<End>,
    /// What the spool counts for it.
    bytes: u64,
    due: Instant,
    pause: Duration,
}

/// What the disk knows of a recording.
struct Found {
    about: Option<About>,
    stored: Option<Stored>,
    samples: u64,
    made: Option<SystemTime>,
}

/// Why a recording stays in the spool for now.
#[derive(Debug, thiserror::Error)]
enum Stays {
    #[error(transparent)]
    Upload(#[from] super::upload::UploadError),
    #[error("call-service does not hear of a recording ({0:?})")]
    Report(Code),
    #[error("cannot clear the spool")]
    Spool(#[from] std::io::Error),
}

impl Keeper {
    /// Keeps until `stopping`, then until all is stored.
    pub(super) async fn run(self, stopping: impl Future<Output = ()>) {
        let mut stopping = pin!(stopping);
        let (mut stopped, mut look_at) = (false, Instant::now());
        let mut adopted: Vec<Folder> = Vec::new();
        let mut waiting: Vec<Job> = Vec::new();
        let mut working: JoinSet<Result<(), Job>> = JoinSet::new();
        loop {
            let now = Instant::now();
            for Complete { session, end, bytes } in self.ended.take() {
                waiting.push(Job::new(self.folder.tape(&session), Some(end), bytes));
            }
            if now >= look_at && !stopped {
                look_at = now + ADOPT_EVERY;
                let (folders, jobs) = self.adopt().await;
                adopted.extend(folders);
                waiting.extend(jobs);
            }
            // At the end each has one more try.
            let (due, later): (Vec<_>, _) = waiting.into_iter().partition(|job| stopped || job.due <= now);
            let mut due = due.into_iter();
            while working.len() < AT_ONCE
                && let Some(job) = due.next()
            {
                working.spawn(self.clone().work(job));
            }
            waiting = later;
            waiting.extend(due);
            if stopped && waiting.is_empty() && working.is_empty() {
                return;
            }
            // Those that are due already wait for one that is done.
            let next = waiting.iter().map(|job| job.due).filter(|due| *due > now);
            let wake = next.chain([look_at.max(now + AGAIN.0)]).min().unwrap_or(look_at);
            tokio::select! {
                Some(done) = working.join_next() => {
                    match done {
                        Ok(Ok(())) => adopted = cleared(adopted).await,
                        Ok(Err(job)) if !stopped => waiting.push(job),
                        Ok(Err(_)) => {}
                        Err(error) => tracing::error!(%error, "storing a recording failed; it is picked up at the next start"),
                    }
                }
                () = self.ended.wake.notified() => {}
                () = sleep_until(wake) => {}
                () = stopping.as_mut(), if !stopped => stopped = true,
            }
        }
    }

    /// What dead edges have left.
    async fn adopt(&self) -> (Vec<Folder>, Vec<Job>) {
        let (spool, used) = (self.spool.clone(), Arc::clone(&self.used));
        let found = blocking(move || {
            let folders = Folder::adopt(&spool);
            let tapes: Vec<Tape> = folders.iter().flat_map(Folder::tapes).collect();
            let jobs = tapes.into_iter().map(|tape| {
                let (end, bytes) = (tape.ended(), tape.bytes());
                used.fetch_add(bytes, Ordering::Relaxed);
                Job::new(tape, end, bytes)
            });
            let jobs: Vec<Job> = jobs.collect();
            (folders, jobs)
        });
        let (folders, jobs) = found.await.unwrap_or_default();
        if !jobs.is_empty() {
            tracing::info!(
                recordings = jobs.len(),
                "recordings that an edge has left behind are picked up"
            );
        }
        // Without any recording there is nothing to wait for.
        (cleared(folders).await, jobs)
    }

    async fn work(self, mut job: Job) -> Result<(), Job> {
        let Err(stays) = self.keep(&job).await else {
            return Ok(());
        };
        tracing::warn!(
            error = &stays as &dyn std::error::Error,
            media_session.id = job.tape.session(),
            "a recording stays in the spool and is tried again"
        );
        job.due = Instant::now() + job.pause;
        job.pause = (job.pause * 2).min(AGAIN.1);
        Err(job)
    }

    /// Brings one recording to its end.
    async fn keep(&self, job: &Job) -> Result<(), Stays> {
        let tape = job.tape.clone();
        let found = blocking(move || Found {
            about: tape.about(),
            stored: tape.is_stored(),
            samples: tape.samples(),
            made: tape.made(),
        });
        let found = found.await?;
        let crashed = End {
            samples: found.samples,
            missing: 0,
            reason: "edge_crashed".to_owned(),
        };
        let end = job.end.clone().unwrap_or(crashed);
        let is_old = found
            .made
            .and_then(|made| made.elapsed().ok())
            .is_some_and(|age| age > self.kept);
        let failed = match &found.about {
            None if end.reason.is_empty() => Some("spool_unreadable"),
            // It could not even begin.
            None => Some(end.reason.as_str()),
            Some(_) if found.samples == 0 && end.reason.is_empty() => Some("no_audio"),
            Some(_) if found.samples == 0 => Some(end.reason.as_str()),
            Some(_) if is_old && found.stored.is_none() => Some("spool_expired"),
            Some(_) => None,
        };
        let mut told = ReportRecordingRequest {
            media_session_id: job.tape.session(),
            ..ReportRecordingRequest::default()
        };
        match (&found.about, failed) {
            (Some(about), None) => {
                let stored = match found.stored {
                    Some(stored) => stored,
                    None => self.store(job, about, &end, &mut told).await?,
                };
                let ms = |samples: u64| samples * 1000 / u64::from(about.rate.max(1));
                let is_whole = end.reason.is_empty() && end.missing == 0;
                told.set_state(if is_whole {
                    RecordingState::Stored
                } else {
                    RecordingState::Incomplete
                });
                told.reason.clone_from(&end.reason);
                told.sha256 = HEXLOWER.decode(stored.sha256.as_bytes()).unwrap_or_default().into();
                (told.object_key, told.size_bytes) = (stored.key, stored.bytes);
                (told.duration_ms, told.missing_ms) = (ms(end.samples), ms(end.missing));
            }
            (_, reason) => {
                told.set_state(RecordingState::Failed);
                reason.unwrap_or_default().clone_into(&mut told.reason);
            }
        }
        match report(&self.client, &told).await.map_err(|status| status.code()) {
            Ok(_) => {}
            // Nobody would ever find it, or take it away.
            Err(code @ (Code::NotFound | Code::InvalidArgument)) => {
                tracing::warn!(
                    ?code,
                    "a recording of a session that call-service does not know is removed"
                );
                if !told.object_key.is_empty() {
                    let removed = self.store.delete(&Path::from(told.object_key.as_str())).await;
                    if let Err(error) = removed {
                        tracing::warn!(%error, "it stays in the object store");
                    }
                }
            }
            Err(code) => return Err(Stays::Report(code)),
        }
        self.metrics
            .recording(word(told.state()), &told.reason, told.missing_ms);
        let tape = job.tape.clone();
        blocking(move || tape.remove()).await??;
        give_back(&self.used, job.bytes);
        Ok(())
    }

    async fn store(
        &self,
        job: &Job,
        about: &About,
        end: &End,
        told: &mut ReportRecordingRequest,
    ) -> Result<Stored, Stays> {
        told.set_state(RecordingState::Uploading);
        // For people who look at it; nothing hangs on it.
        if let Err(status) = report(&self.client, told).await
            && !matches!(status.code(), Code::NotFound | Code::InvalidArgument)
        {
            return Err(Stays::Report(status.code()));
        }
        let key = Path::from_iter([about.call.as_str(), &format!("{}.wav", about.session)]);
        let stored = upload(&self.store, &key, &job.tape, about.rate, end.samples).await?;
        let (tape, note) = (job.tape.clone(), stored.clone());
        // On a full disk it is stored once more if call-service does not hear of it now.
        if let Err(error) = blocking(move || tape.stored(&note)).await? {
            tracing::warn!(%error, "it cannot be written down that a recording is stored");
        }
        Ok(stored)
    }
}

impl Job {
    fn new(tape: Tape, end: Option<End>, bytes: u64) -> Self {
        Self {
            tape,
            end,
            bytes,
            due: Instant::now(),
            pause: AGAIN.0,
        }
    }
}

/// Removes the folders in which nothing is left, and returns the others.
async fn cleared(folders: Vec<Folder>) -> Vec<Folder> {
    if folders.is_empty() {
        return folders;
    }
    let left = blocking(move || {
        let (empty, left): (Vec<_>, Vec<_>) = folders.into_iter().partition(|folder| folder.tapes().is_empty());
        empty.into_iter().for_each(Folder::remove);
        left
    });
    left.await.unwrap_or_default()
}

fn word(state: RecordingState) -> &'static str {
    match state {
        RecordingState::Stored => "stored",
        RecordingState::Incomplete => "incomplete",
        _ => "failed",
    }
}
