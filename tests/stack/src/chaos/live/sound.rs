//! What is said, and what becomes of it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use exotel_sim::StreamReport;

use super::super::check::{Hole, Sound};
use crate::pattern::Ledger;

/// Samples per second.
const RATE: u32 = 8_000;
/// The length of a piece of a clip, in milliseconds, and in samples.
pub(super) const PIECE_MS: u64 = 100;
const PIECE: u64 = 800;
/// The packet that the simulator plays at one time: a shorter silence is none.
const PACKET: usize = 160;

/// A file of samples of which each one is known.
#[derive(Debug, Clone)]
pub(super) struct Clip {
    /// Whose samples they are, in [`Ledger`].
    number: u64,
    /// How many.
    samples: usize,
    /// Where.
    pub(super) path: PathBuf,
}

impl Clip {
    /// Writes one of so many pieces.
    pub(super) fn write(folder: &Path, number: u64, pieces: u64) -> anyhow::Result<Self> {
        let path = folder.join(format!("says-{number}.wav"));
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut ledger = Ledger::new(usize::try_from(number)?);
        let mut file =
            hound::WavWriter::create(&path, spec).with_context(|| format!("cannot write {}", path.display()))?;
        let mut samples = 0;
        for _ in 0..pieces {
            for pair in ledger.say(PIECE).chunks_exact(2) {
                file.write_sample(i16::from_le_bytes([pair[0], pair[1]]))?;
                samples += 1;
            }
        }
        file.finalize()?;
        Ok(Self { number, samples, path })
    }

    /// Compares what a stream's recordings hold with it, and removes them. The error says why there is nothing to compare.
    pub(super) fn compare(&self, stream: &StreamReport) -> Result<Sound, String> {
        let tape = |path: &Option<PathBuf>| {
            let path = path.as_ref().ok_or("the stream was not recorded")?;
            let samples = read(path).map_err(|error| format!("{error:#}"));
            let _ = std::fs::remove_file(path);
            samples
        };
        let (said, received, heard) = (tape(&stream.said)?, tape(&stream.received)?, tape(&stream.heard)?);
        let said = said.iter().filter(|sample| **sample != 0).count();
        if said != self.samples {
            return Err(format!("it ended when {said} of {} samples were said", self.samples));
        }
        let started = stream.started.ok_or("it has no beginning")?;
        Ok(Sound {
            holes: holes(&heard, started),
            ..self.counts(&received)
        })
    }

    fn counts(&self, received: &[i16]) -> Sound {
        let mut ledger = Ledger::new(usize::try_from(self.number).unwrap_or(0));
        let mut left = self.samples as u64;
        while left > 0 {
            left -= ledger.say(left.min(PIECE)).len() as u64 / 2;
        }
        let bytes: Vec<u8> = received.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        ledger.hear(&bytes);
        let counts = ledger.close();
        Sound {
            lost: counts.lost / 2,
            // What comes in the wrong place is one too many there.
            doubled: counts.doubled / 2 + counts.out_of_order / 2,
            holes: Vec::new(),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<i16>> {
    let mut file = hound::WavReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let samples: Result<Vec<i16>, _> = file.samples().collect();
    samples.with_context(|| format!("cannot read {}", path.display()))
}

/// Silence within what the person heard: no sample of a clip is silent.
fn holes(heard: &[i16], started: DateTime<Utc>) -> Vec<Hole> {
    let milliseconds = |samples: usize| i64::try_from(samples).unwrap_or(0) * 1_000 / i64::from(RATE);
    let mut holes = Vec::new();
    let mut before: Option<usize> = None;
    for (at, _) in heard.iter().enumerate().filter(|(_, sample)| **sample != 0) {
        let from = before.map_or(at, |before| before + 1);
        if at - from >= PACKET {
            holes.push(Hole {
                at: started + TimeDelta::milliseconds(milliseconds(from)),
                ms: u64::try_from(milliseconds(at - from)).unwrap_or(0),
            });
        }
        before = Some(at);
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(folder: &Path) -> (Clip, Vec<i16>) {
        let clip = Clip::write(folder, 3, 5).unwrap();
        let samples = read(&clip.path).unwrap();
        assert_eq!(samples.len(), 4_000);
        (clip, samples)
    }

    #[test]
    fn each_sample_that_is_lost_or_doubled_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (clip, samples) = clip(folder.path());
        let counts = |received: &[i16]| {
            let sound = clip.counts(received);
            (sound.lost, sound.doubled)
        };
        assert_eq!(counts(&samples), (0, 0));
        assert_eq!(
            counts(&[&samples[..800], &[0; 160], &samples[800..], &[0; 80]].concat()),
            (0, 0)
        );
        assert_eq!(counts(&samples[1..]), (1, 0), "the first one");
        assert_eq!(counts(&samples[..3_999]), (1, 0), "the last one");
        assert_eq!(counts(&[&samples[..800], &samples[960..]].concat()), (160, 0));
        assert_eq!(counts(&[&samples[..800], &samples[640..]].concat()), (0, 160));
    }

    #[test]
    fn holes_are_within_speech_and_have_their_time() {
        let started = "2026-11-25T10:00:01Z".parse().unwrap();
        let heard = [
            &[0; 800][..],
            &[1; 800],
            &[0; 480],
            &[2; 80],
            &[0; 79],
            &[3; 8],
            &[0; 800],
        ]
        .concat();
        let found = holes(&heard, started);
        assert_eq!(
            found,
            [Hole {
                at: started + TimeDelta::milliseconds(200),
                ms: 60
            }]
        );
    }

    #[test]
    fn recordings_are_compared_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (clip, _) = clip(folder.path());
        let copy = |name: &str| {
            let path = folder.path().join(name);
            std::fs::copy(&clip.path, &path).unwrap();
            Some(path)
        };
        let stream = StreamReport {
            said: copy("said.wav"),
            received: copy("received.wav"),
            heard: copy("heard.wav"),
            started: Some("2026-11-25T10:00:01Z".parse().unwrap()),
            ..StreamReport::default()
        };
        assert_eq!(clip.compare(&stream), Ok(Sound::default()));
        assert!(clip.compare(&stream).unwrap_err().contains("cannot read"));
    }
}
