//! Greetings: WAV files that the edge plays while the agent connects.

use std::{io::Cursor, sync::Arc};

use data_encoding::HEXLOWER;
use diesel_async::AsyncConnection as _;
use hound::{SampleFormat, WavReader};
use ring::digest::{SHA256, digest};

use crate::{
    app::App,
    audit::{self, Subject},
    error::Error,
    store::greetings,
};

/// In one message.
const CHUNK_BYTES: usize = 64 * 1024;
/// In all: 43 s at 24 kHz, 60 s at the other rates.
const FILE_BYTES: usize = 2 * 1024 * 1024;
const LONGEST_MS: u64 = 60_000;
const FIELD: &str = "chunk";

/// A file as it comes in.
#[derive(Debug, Default)]
pub struct Upload(Vec<u8>);

/// A file that is a greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wav {
    bytes: Vec<u8>,
    sample_rate: i32,
    duration_ms: u32,
}

/// A stored greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Its length.
    pub duration_ms: u32,
}

impl Upload {
    /// Takes the next piece.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is too large.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if chunk.len() > CHUNK_BYTES {
            return Err(Error::invalid(FIELD, "is at most 64 KiB: send the file in pieces"));
        }
        if self.0.len() + chunk.len() > FILE_BYTES {
            return Err(Error::invalid(FIELD, "the file is larger than 2 MiB"));
        }
        self.0.extend_from_slice(chunk);
        Ok(())
    }

    /// Checks the whole file.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no greeting.
    pub fn finish(self) -> Result<Wav, Error> {
        let no_wav = || Error::invalid(FIELD, "the file is not a WAV file that can be read to its end");
        let reader = WavReader::new(Cursor::new(&self.0)).map_err(|_| no_wav())?;
        let spec = reader.spec();
        let pcm = spec.sample_format == SampleFormat::Int && spec.bits_per_sample == 16 && spec.channels == 1;
        if !pcm {
            return Err(Error::invalid(FIELD, "the file is not mono 16-bit PCM"));
        }
        let sample_rate = match spec.sample_rate {
            8000 => 8000,
            16000 => 16000,
            24000 => 24000,
            _ => return Err(Error::invalid(FIELD, "the file's rate is not 8, 16 or 24 kHz")),
        };
        let samples = u64::from(reader.duration());
        let length_ms = samples * 1000 / u64::from(spec.sample_rate);
        if samples == 0 || length_ms > LONGEST_MS {
            return Err(Error::invalid(FIELD, "the file is empty or longer than 60 s"));
        }
        // The header's length is a claim; every sample must be there.
        let read = reader
            .into_samples::<i16>()
            .try_fold(0_u64, |count, sample| sample.map(|_| count + 1));
        if read.ok() != Some(samples) {
            return Err(no_wav());
        }
        let duration_ms = u32::try_from(length_ms).map_err(|_| no_wav())?;
        Ok(Wav {
            bytes: self.0,
            sample_rate,
            duration_ms,
        })
    }
}

/// Stores a greeting; the same file again is the same greeting.
///
/// # Errors
/// When the database fails.
pub async fn store(app: &Arc<App>, wav: Wav) -> Result<Stored, Error> {
    let hash = digest(&SHA256, &wav.bytes);
    let mut conn = app.db.conn().await?;
    let duration_ms = i32::try_from(wav.duration_ms).unwrap_or(i32::MAX);
    let sha256 = HEXLOWER.encode(hash.as_ref());
    conn.transaction::<_, Error, _>(async |conn| {
        greetings::put(conn, hash.as_ref(), &wav.bytes, wav.sample_rate, duration_ms).await?;
        audit::changed(conn, Subject::Id(&sha256)).await
    })
    .await?;
    Ok(Stored {
        sha256,
        duration_ms: wav.duration_ms,
    })
}

#[cfg(test)]
mod tests;
