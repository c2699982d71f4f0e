//! Recordings of media sessions: both sides, stereo WAV.
//!
//! ```text
//! session ─ Aligner: what lies where ─▶ bounded queue ─▶ writer (a thread) ─▶ spool (local disk) ─▶ keeper ─▶ object store
//!                                                                                                      └─▶ call-service
//! ```
//!
//! Audio waits for none of it: what the queue has no room for, and what the disk does not take, is missing from the recording,
//! counted and with a reason. A recording leaves the spool when it is in the object store and call-service knows it; what an
//! edge leaves behind when it dies is picked up by the next one on the same disk.

pub mod align;
mod keeper;
mod spool;
mod upload;
pub mod wav;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use callbridge_proto::{
    call::v1::RecordingState,
    ingress::v1::{ReportRecordingRequest, ReportRecordingResponse},
};
use runtime::{Tasks, objects::Place};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::timeout,
};
use tonic::Status;

use self::{
    align::Piece,
    keeper::Keeper,
    spool::{About, End, Folder},
    writer::Op,
};
use crate::{
    ingress::{Client, within},
    metrics::Metrics,
};

/// Audio on its way to the disk, in pieces of 8 KiB: what a disk that hangs costs in memory, 32 MiB at most.
const QUEUE: usize = 4096;
/// At the end of the process: how long what is queued may take to the disk, and what is spooled to the object store.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
const UPLOAD_LIMIT: Duration = Duration::from_mins(1);
/// How long call-service may take to hear of a recording; then it is told again later.
const REPORT_BUDGET: Duration = Duration::from_secs(10);
const REPORT_ATTEMPT: Duration = Duration::from_secs(4);

/// Where recordings go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `RECORDING_SPOOL`: a folder of the local disk, which edges of one machine may share.
    pub spool: PathBuf,
    /// `RECORDING_STORE`: where recordings end up; by default the folder `stored` in the spool.
    pub store: Place,
    /// `RECORDING_SPOOL_MIB`: what this edge's recordings may take of the disk, in bytes.
    pub limit: u64,
    /// `RECORDING_SPOOL_HOURS`: a recording that could not be stored for so long is given up.
    pub kept: Duration,
}

/// A recording that is complete on the disk.
#[derive(Debug)]
struct Complete {
    session: Arc<str>,
    end: End,
    /// What was written of it, for the spool's limit.
    bytes: u64,
}

/// Recordings that are complete on the disk and wait for the keeper. Bounded by the sessions that end before it turns.
#[derive(Debug, Default)]
struct Ended {
    queue: Mutex<Vec<Complete>>,
    wake: Notify,
}

impl Ended {
    fn put(&self, complete: Complete) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(complete);
        drop(queue);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<Complete> {
        std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The recordings of this process.
#[derive(Debug)]
pub(crate) struct Recorder {
    ops: mpsc::Sender<Op>,
    written: Mutex<Option<oneshot::Receiver<()>>>,
    keeper: Tasks,
    /// Ends that wait for a disk that hangs.
    late: Tasks,
}

impl Recorder {
    /// Makes this edge's place in the spool, picks up what others left, and waits for sessions.
    ///
    /// # Errors
    /// When the spool or the store cannot be used.
    pub(crate) fn start(settings: &Settings, edge_id: &str, client: Client, metrics: Metrics) -> anyhow::Result<Self> {
        let spool = settings.spool.display();
        let folder = Folder::create(&settings.spool, edge_id).with_context(|| {
            format!("cannot spool recordings in {spool} (RECORDING_SPOOL): check that it can be written")
        })?;
        let store = settings
            .store
            .open()
            .context("cannot use the object store (RECORDING_STORE)")?;
        let (folder, used, ended) = (
            Arc::new(folder),
            Arc::new(AtomicU64::new(0)),
            Arc::new(Ended::default()),
        );
        let (ops, queued) = mpsc::channel(QUEUE);
        let (done, written) = oneshot::channel();
        let (of_writer, taken, told, limit) = (
            Arc::clone(&folder),
            Arc::clone(&used),
            Arc::clone(&ended),
            settings.limit,
        );
        std::thread::Builder::new()
            .name("recordings".to_owned())
            .spawn(move || {
                writer::run(&of_writer, limit, &taken, queued, |complete| told.put(complete));
                // Nobody waits for it unless the process ends.
                let _ = done.send(());
            })
            .context("cannot start the thread that writes recordings")?;
        let keeper = Tasks::new();
        let keep = Keeper {
            spool: settings.spool.clone(),
            kept: settings.kept,
            folder,
            store,
            client,
            metrics,
            used,
            ended,
        };
        keeper.spawn(keep.run(keeper.stopping()));
        Ok(Self {
            ops,
            written: Mutex::new(Some(written)),
            keeper,
            late: Tasks::new(),
        })
    }

    /// A session is recorded from now on.
    pub(crate) fn begin(&self, call: &str, session: &str, rate: u32) -> Recording {
        let about = About {
            call: call.to_owned(),
            session: session.to_owned(),
            rate,
        };
        // Without room the end says that the disk is slow: there is no place for anything then.
        let _ = self.ops.try_send(Op::Begin(about));
        Recording {
            ops: self.ops.clone(),
            late: self.late.clone(),
            session: session.into(),
            reach: 0,
            missing: 0,
            ended: false,
        }
    }

    /// Writes and stores what is left, as far as that goes quickly. The rest is picked up at the next start.
    pub(crate) async fn shut_down(&self) {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).take();
        let flushed = timeout(FLUSH_LIMIT, async {
            let _ = self.ops.send(Op::Stop).await;
            if let Some(written) = written {
                let _ = written.await;
            }
        });
        if flushed.await.is_err() {
            tracing::warn!("the disk is too slow for the last of the recordings");
        }
        self.keeper.shut_down(UPLOAD_LIMIT).await;
    }
}

/// A session's way to the disk. Dropped without an end, the recording ends where it is.
#[derive(Debug)]
pub(crate) struct Recording {
    ops: mpsc::Sender<Op>,
    late: Tasks,
    session: Arc<str>,
    /// The position after the last piece.
    reach: u64,
    /// Samples for which there was no room.
    missing: u64,
    ended: bool,
}

impl Recording {
    /// Takes audio. Never waits: without room it is missing.
    pub(crate) fn put(&mut self, piece: Piece) {
        let samples = piece.pcm.len() as u64 / 2;
        self.reach = self.reach.max(piece.at + samples);
        if self.ops.try_send(Op::Write(Arc::clone(&self.session), piece)).is_err() {
            self.missing += samples;
        }
    }

    fn end_of(&self, samples: u64, dropped: u64, reason: &'static str) -> End {
        let reason = match (reason, self.missing, dropped) {
            ("", 0, 0) => "",
            ("", 0, _) => "dropped",
            ("", _, _) => "disk_slow",
            (reason, _, _) => reason,
        };
        End {
            samples,
            missing: self.missing + dropped,
            reason: reason.to_owned(),
        }
    }

    /// The session is over: so many samples of each side, without those that were dropped before they came here.
    pub(crate) fn end(mut self, samples: u64, dropped: u64) {
        self.say(self.end_of(samples, dropped, ""));
        self.ended = true;
    }

    /// An end is never lost while the process lives: nobody else would ever look at the recording.
    fn say(&self, end: End) {
        let op = Op::End(Arc::clone(&self.session), end);
        if let Err(TrySendError::Full(op)) = self.ops.try_send(op) {
            tracing::warn!("the disk is too slow for the end of a recording, which waits for it");
            let ops = self.ops.clone();
            // In vain when the writer has stopped: then it is picked up at the next start.
            self.late.spawn(async move { drop(ops.send(op).await) });
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            self.say(self.end_of(self.reach, 0, "session_lost"));
        }
    }
}

/// Tells call-service of a recording.
async fn report(client: &Client, request: &ReportRecordingRequest) -> Result<ReportRecordingResponse, Status> {
    within(REPORT_BUDGET, REPORT_ATTEMPT, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.report_recording(request).await }
    })
    .await
}

/// Tells call-service that there is no recording of a session that should have one.
pub(crate) async fn refuse(client: Client, metrics: Metrics, session: String, reason: &'static str) {
    metrics.recording("failed", reason, 0);
    let request = ReportRecordingRequest {
        media_session_id: session,
        state: RecordingState::Failed.into(),
        reason: reason.to_owned(),
        ..ReportRecordingRequest::default()
    };
    if let Err(status) = report(&client, &request).await {
        tracing::warn!(code = ?status.code(), reason, "call-service does not hear that a recording failed");
    }
}

/// Frees what a recording took of the spool's limit: what it was counted with, not what the disk says now.
fn give_back(used: &AtomicU64, bytes: u64) {
    let _ = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        Some(used.saturating_sub(bytes))
    });
}

#[cfg(test)]
mod tests {
    use super::{align::Side, *};

    fn recording(ops: mpsc::Sender<Op>) -> Recording {
        Recording {
            ops,
            late: Tasks::new(),
            session: "media_1".into(),
            reach: 0,
            missing: 0,
            ended: false,
        }
    }

    fn piece(at: u64) -> Piece {
        Piece {
            side: Side::Customer,
            at,
            pcm: vec![1; 200],
        }
    }

    /// A queue that nobody empties, as with a disk that hangs: audio is dropped and counted, and the end says why.
    #[tokio::test]
    async fn without_room_audio_is_missing_and_nobody_waits() {
        let (ops, mut queued) = mpsc::channel(3);
        let mut recording = recording(ops);
        for at in 0..10 {
            recording.put(piece(at * 100));
        }
        for at in 0..3 {
            assert!(matches!(queued.try_recv(), Ok(Op::Write(_, piece)) if piece.at == at * 100));
        }
        for at in 10..13 {
            recording.put(piece(at * 100));
        }
        // Nor is there room for the end, which comes later.
        recording.end(1300, 5);
        for at in 10..13 {
            assert!(matches!(queued.recv().await, Some(Op::Write(_, piece)) if piece.at == at * 100));
        }
        let Some(Op::End(_, end)) = queued.recv().await else {
            panic!("no end")
        };
        assert_eq!(
            (end.samples, end.missing, end.reason.as_str()),
            (1300, 705, "disk_slow")
        );
    }

    /// A session's task that is no more, for whatever reason, ends its recording where it is.
    #[test]
    fn a_recording_without_an_end_says_so() {
        let (ops, mut queued) = mpsc::channel(3);
        let mut lost = recording(ops);
        lost.put(piece(100));
        drop(lost);
        assert!(matches!(queued.try_recv(), Ok(Op::Write(..))));
        let Ok(Op::End(_, end)) = queued.try_recv() else {
            panic!("no end")
        };
        assert_eq!((end.samples, end.reason.as_str()), (200, "session_lost"));
    }
}
