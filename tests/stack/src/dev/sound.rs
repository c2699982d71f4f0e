//! Sound files, and finding one sound in another.

use std::path::Path;

use anyhow::{Context as _, ensure};

/// Compared piece by piece: 20 ms at 8 kHz, which no accident makes equal.
const PIECE: usize = 160;

/// A hole in the play-out is shorter; it is found again within half a second.
const LOST: usize = 4_000;

/// A piece of speech is louder than this somewhere; the noise of a quiet line is not.
const LOUD: u16 = 500;

/// Where and how well a sound was found in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The first sample.
    pub(super) at: usize,
    /// Pieces that were not there.
    pub(super) missing: usize,
    /// Places where something else lay between two pieces.
    pub(super) holes: usize,
}

/// Reads a WAV file of mono or left samples, 16-bit.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<i16>> {
    let reader = hound::WavReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let spec = reader.spec();
    ensure!(
        spec.bits_per_sample == 16 && spec.sample_rate == 8_000,
        "{} is not 16-bit at 8 kHz",
        path.display()
    );
    let samples: Result<Vec<i16>, _> = reader.into_samples().step_by(usize::from(spec.channels)).collect();
    samples.with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a WAV file in memory.
pub(super) fn decode(wav: &[u8]) -> anyhow::Result<Vec<i16>> {
    let reader = hound::WavReader::new(wav).context("cannot read the greeting")?;
    reader
        .into_samples()
        .collect::<Result<_, _>>()
        .context("cannot read the greeting")
}

/// The part from the first loud sample to the last; empty when there is none.
pub(super) fn speech(samples: &[i16]) -> &[i16] {
    let loud = |sample: &i16| sample.unsigned_abs() > LOUD;
    match (samples.iter().position(loud), samples.iter().rposition(loud)) {
        (Some(first), Some(last)) => &samples[first..=last],
        _ => &[],
    }
}

/// Looks for a sound in another, sample for sample. A play-out that ran dry for a moment leaves a hole, which is counted.
pub(super) fn find(sound: &[i16], whole: &[i16]) -> Option<Found> {
    let first = sound.get(..PIECE)?;
    let at = whole.windows(PIECE).position(|window| window == first)?;
    let mut found = Found {
        at,
        missing: 0,
        holes: 0,
    };
    let mut cursor = at;
    for piece in sound.chunks(PIECE) {
        let rest = &whole[cursor.min(whole.len())..];
        if rest.starts_with(piece) {
            cursor += piece.len();
            continue;
        }
        let near = &rest[..rest.len().min(LOST)];
        match near.windows(piece.len()).position(|window| window == piece) {
            Some(gap) => {
                found.holes += 1;
                cursor += gap + piece.len();
            }
            None => found.missing += 1,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u32) -> Vec<i16> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, _, third, fourth] = state.to_be_bytes();
            i16::from_be_bytes([fourth, third])
        };
        (0..length).map(next).collect()
    }

    #[test]
    fn a_sound_is_found_whole_with_holes_and_not_at_all() {
        let sound = noise(1_650, 1);
        let quiet = |n| vec![0; n];
        let whole = [quiet(777), sound.clone(), quiet(50)].concat();
        assert_eq!(
            find(&sound, &whole),
            Some(Found {
                at: 777,
                missing: 0,
                holes: 0
            })
        );
        let holed = [&sound[..320], &quiet(99), &sound[320..]].concat();
        assert_eq!(
            find(&sound, &holed),
            Some(Found {
                at: 0,
                missing: 0,
                holes: 1
            })
        );
        let mut damaged = whole.clone();
        damaged[777 + 500] ^= 1;
        assert_eq!(
            find(&sound, &damaged),
            Some(Found {
                at: 777,
                missing: 1,
                holes: 1
            })
        );
        assert_eq!(find(&sound, &noise(5_000, 2)), None);
        assert_eq!(find(&sound[..100], &whole), None);
    }

    #[test]
    fn speech_is_what_lies_between_the_loud_samples() {
        assert_eq!(speech(&[0, 3, -600, 0, 700, 2]), [-600, 0, 700]);
        assert!(speech(&[0, 100, -100]).is_empty());
    }
}
