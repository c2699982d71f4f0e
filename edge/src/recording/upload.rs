//! From the spool to the object store: the two sides in turn, as one WAV file, which is nowhere on the disk.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use object_store::{ObjectStore, buffered::BufWriter, path::Path};
use ring::digest::{Context, SHA256};
use tokio::{io::AsyncWriteExt as _, task::spawn_blocking, time::timeout};

use super::{
    align::Side,
    spool::{Stored, Tape},
    wav,
};

/// Sent at once; the least that S3 takes as a part of a larger file.
const PART: usize = 5 * 1024 * 1024;
/// Samples of each side that are read at once.
const BLOCK: usize = 64 * 1024;

/// The longest that one may take: this, and the time that its bytes need on a slow line.
const SETUP_LIMIT: Duration = Duration::from_mins(2);
/// Bytes a second of a line that is too slow.
const SLOWEST: u64 = 64 * 1024;

/// Why a recording is not in the object store.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// The spool cannot be read.
    #[error("cannot read a recording in the spool")]
    Spool(#[from] io::Error),
    /// The store does not take it.
    #[error("the object store does not take a recording: check RECORDING_STORE and its credentials")]
    Store(#[from] object_store::Error),
    /// The line is too slow, or the store takes nothing.
    #[error("storing a recording of {bytes} bytes takes too long: check the line to RECORDING_STORE")]
    Slow {
        /// Its length.
        bytes: u64,
    },
}

/// Does what blocks away from the threads that serve calls.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

/// Stores a recording of so many samples.
pub(super) async fn upload(
    store: &Arc<dyn ObjectStore>,
    key: &Path,
    tape: &Tape,
    rate: u32,
    samples: u64,
) -> Result<Stored, UploadError> {
    // One part is sent while the next is filled.
    let mut writer = BufWriter::with_capacity(Arc::clone(store), key.clone(), PART).with_max_concurrency(1);
    let whole = wav::HEADER_BYTES + wav::FRAME_BYTES * samples;
    let limit = SETUP_LIMIT + Duration::from_secs(whole / SLOWEST);
    let filled = timeout(limit, fill(&mut writer, tape, rate, samples)).await;
    let filled = filled.unwrap_or(Err(UploadError::Slow { bytes: whole }));
    if filled.is_err() {
        // What the store has of it is of no use; it forgets it by itself if it cannot be told.
        let _ = writer.abort().await;
    }
    let (sha256, bytes) = filled?;
    // The writer's own errors come as those of a file.
    let finished = timeout(limit, writer.shutdown()).await;
    let finished = finished.map_err(|_| UploadError::Slow { bytes: whole })?;
    finished.map_err(|error| object_store::Error::Generic {
        store: "recordings",
        source: error.into(),
    })?;
    Ok(Stored {
        key: key.to_string(),
        sha256,
        bytes,
    })
}

async fn fill(writer: &mut BufWriter, tape: &Tape, rate: u32, samples: u64) -> Result<(String, u64), UploadError> {
    let mut digest = Context::new(&SHA256);
    let mut bytes = 0;
    let mut next = wav::header(rate, samples);
    let mut at = 0;
    loop {
        digest.update(&next);
        bytes += next.len() as u64;
        writer.put(Bytes::from(next)).await?;
        let count = usize::try_from(samples - at).unwrap_or(BLOCK).min(BLOCK);
        if count == 0 {
            break;
        }
        let tape = tape.clone();
        next = blocking(move || {
            let left = tape.samples_of(Side::Customer, at, count)?;
            let right = tape.samples_of(Side::Agent, at, count)?;
            io::Result::Ok(wav::interleave(&left, &right, count))
        })
        .await??;
        at += count as u64;
    }
    Ok((HEXLOWER.encode(digest.finish().as_ref()), bytes))
}
