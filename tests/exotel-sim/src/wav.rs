//! WAV files: speech in, recordings out.

use std::{
    fs::File,
    io::{self, BufWriter, Cursor, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

const HELLO: &[u8] = include_bytes!("../speech/caller-hello.wav");
const QUESTION: &[u8] = include_bytes!("../speech/caller-question.wav");
const GOODBYE: &[u8] = include_bytes!("../speech/caller-goodbye.wav");

/// Longest speech file: ten minutes at 48 kHz.
const MAX_SPEECH_BYTES: u64 = 64 * 1024 * 1024;

/// What went wrong with a WAV file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It could not be read or written.
    #[error("WAV file {path}: {doing} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not a WAV file.
    #[error("{path} is not a WAV file that can be read")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: hound::Error,
    },
    /// Its samples are not 16-bit integers, or it is too long.
    #[error("WAV file {path} is not 16-bit PCM of at most 64 MiB; convert it with `sox in.wav -b 16 out.wav`")]
    Unsupported {
        /// The file.
        path: PathBuf,
    },
}

/// Samples with their rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clip {
    pub(crate) rate: u32,
    pub(crate) samples: Vec<i16>,
}

impl Clip {
    pub(crate) fn hello() -> Self {
        Self::built_in(HELLO)
    }

    pub(crate) fn question() -> Self {
        Self::built_in(QUESTION)
    }

    pub(crate) fn goodbye() -> Self {
        Self::built_in(GOODBYE)
    }

    fn built_in(bytes: &'static [u8]) -> Self {
        Self::parse(bytes, Path::new("(built in)")).expect("the committed speech is valid")
    }

    /// Reads a file; of several channels the first counts.
    pub(crate) async fn load(path: &Path) -> Result<Self, Error> {
        let io = |doing| {
            move |source| Error::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let length = tokio::fs::metadata(path).await.map_err(io("reading"))?.len();
        if length > MAX_SPEECH_BYTES {
            return Err(Error::Unsupported { path: path.to_owned() });
        }
        let bytes = tokio::fs::read(path).await.map_err(io("reading"))?;
        Self::parse(&bytes, path)
    }

    /// Reads WAV bytes; the path is for errors.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self, Error> {
        let format = |source| Error::Format {
            path: path.to_owned(),
            source,
        };
        let reader = hound::WavReader::new(Cursor::new(bytes)).map_err(format)?;
        let spec = reader.spec();
        if spec.bits_per_sample != 16 || spec.sample_format != hound::SampleFormat::Int || spec.channels == 0 {
            return Err(Error::Unsupported { path: path.to_owned() });
        }
        let samples: Vec<i16> = reader.into_samples::<i16>().collect::<Result<_, _>>().map_err(format)?;
        let samples = samples.into_iter().step_by(usize::from(spec.channels)).collect();
        Ok(Self {
            rate: spec.sample_rate,
            samples,
        })
    }

    /// The same at another rate, by linear interpolation: good enough for a caller's voice.
    pub(crate) fn at_rate(&self, rate: u32) -> Vec<i16> {
        if rate == self.rate || self.samples.is_empty() || self.rate == 0 {
            return self.samples.clone();
        }
        let (from, to) = (u64::from(self.rate), u64::from(rate));
        let last = self.samples.len() - 1;
        let length = u64::try_from(self.samples.len()).unwrap_or(u64::MAX).saturating_mul(to) / from;
        (0..length)
            .map(|at| {
                let position = at * from;
                let index = usize::try_from(position / to).unwrap_or(last).min(last);
                let share = i64::try_from(position % to).unwrap_or(0);
                let whole = i64::from(rate);
                let (a, b) = (
                    i64::from(self.samples[index]),
                    i64::from(self.samples[(index + 1).min(last)]),
                );
                i16::try_from((a * (whole - share) + b * share) / whole).unwrap_or(0)
            })
            .collect()
    }
}

/// A recording that grows; 16-bit mono. The header is right after [`Recording::finish`].
#[derive(Debug)]
pub(crate) struct Recording {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u32,
}

/// Length of the header written by [`Recording`].
const HEADER: u32 = 44;

impl Recording {
    pub(crate) fn create(path: PathBuf, rate: u32) -> Result<Self, Error> {
        let made = File::create(&path).map(BufWriter::new).and_then(|mut file| {
            file.write_all(&header(rate, 0))?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Self { path, file, bytes: 0 }),
            Err(source) => Err(Error::Io {
                path,
                doing: "creating",
                source,
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds bytes as they are; an odd number of them leaves an odd file.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes = self
            .bytes
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.file.write_all(bytes).map_err(|source| Error::Io {
            path: self.path.clone(),
            doing: "writing",
            source,
        })
    }

    /// Adds samples.
    pub(crate) fn samples(&mut self, samples: &[i16]) -> Result<(), Error> {
        let mut bytes = Vec::with_capacity(samples.len() * 2);
        for sample in samples {
            bytes.extend_from_slice(&sample.to_le_bytes());
        }
        self.bytes(&bytes)
    }

    /// Puts the lengths into the header.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: self.path.clone(),
            doing: "finishing",
            source,
        };
        self.file.flush().map_err(io)?;
        let file = self.file.get_mut();
        for (at, value) in [(4, self.bytes.saturating_add(HEADER - 8)), (40, self.bytes)] {
            file.seek(SeekFrom::Start(at)).map_err(io)?;
            file.write_all(&value.to_le_bytes()).map_err(io)?;
        }
        Ok(())
    }
}

fn header(rate: u32, data: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(44);
    header.extend_from_slice(b"RIFF");
    header.extend_from_slice(&(data + HEADER - 8).to_le_bytes());
    header.extend_from_slice(b"WAVEfmt ");
    header.extend_from_slice(&16_u32.to_le_bytes());
    header.extend_from_slice(&1_u16.to_le_bytes()); // PCM
    header.extend_from_slice(&1_u16.to_le_bytes()); // mono
    header.extend_from_slice(&rate.to_le_bytes());
    header.extend_from_slice(&(rate * 2).to_le_bytes());
    header.extend_from_slice(&2_u16.to_le_bytes());
    header.extend_from_slice(&16_u16.to_le_bytes());
    header.extend_from_slice(b"data");
    header.extend_from_slice(&data.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::{Clip, Recording};

    #[test]
    fn the_built_in_voice_is_speech_at_8_khz() {
        for clip in [Clip::hello(), Clip::question(), Clip::goodbye()] {
            assert_eq!(clip.rate, 8_000);
            assert!((8_000..32_000).contains(&clip.samples.len()), "{}", clip.samples.len());
            assert!(
                clip.samples.iter().any(|sample| sample.unsigned_abs() > 3_000),
                "is it silent?"
            );
        }
    }

    #[tokio::test]
    async fn recordings_are_wav_files_with_exactly_what_was_written() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("a.wav");
        let mut recording = Recording::create(path.clone(), 16_000).expect("creates");
        recording.samples(&[1, -2, 3]).expect("writes");
        recording.bytes(&[0x34, 0x12]).expect("writes");
        recording.finish().expect("finishes");
        let clip = Clip::load(&path).await.expect("reads");
        assert_eq!(
            clip,
            Clip {
                rate: 16_000,
                samples: vec![1, -2, 3, 0x1234]
            }
        );
    }

    #[test]
    fn another_rate_keeps_the_duration() {
        let clip = Clip::hello();
        assert_eq!(clip.at_rate(16_000).len(), clip.samples.len() * 2);
        assert_eq!(clip.at_rate(8_000), clip.samples);
        assert_eq!(clip.at_rate(24_000).len(), clip.samples.len() * 3);
    }
}
