//! Sound: made, read, and found in other sound.

use std::{io::Cursor, path::Path};

use anyhow::{Context as _, ensure};

/// A sample of speech is louder somewhere; a quiet line is not.
const LOUD: u16 = 500;

/// So many samples of noise that is always the same and nowhere repeats: a wrong order, a hole and a repeat are noticed.
pub fn tone(length: usize) -> Vec<i16> {
    let mut state: u32 = 12_345;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, _, low, high] = state.to_le_bytes();
        i16::from_le_bytes([low, high]) / 4
    };
    (0..length).map(|_| next()).collect()
}

/// A WAV file of mono samples.
///
/// # Errors
/// Never for so few samples.
pub fn wav(samples: &[i16], sample_rate: u32) -> anyhow::Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    writer.finalize()?;
    Ok(file.into_inner())
}

/// Samples of a WAV file in memory.
///
/// # Errors
/// When it is none.
pub fn decode(wav: &[u8]) -> anyhow::Result<Vec<i16>> {
    hound::WavReader::new(wav)?
        .into_samples()
        .collect::<Result<_, _>>()
        .context("no WAV file of 16 bits")
}

/// Mono samples of a file that the simulator wrote.
///
/// # Errors
/// When it is none.
pub fn read_wav(path: Option<&Path>) -> anyhow::Result<Vec<i16>> {
    let path = path.context("the simulator wrote no WAV")?;
    let reader = hound::WavReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(reader.spec().channels == 1, "{} is not mono", path.display());
    Ok(reader.into_samples().collect::<Result<_, _>>()?)
}

/// The part from the first loud sample to the last; empty when there is none.
pub fn speech(samples: &[i16]) -> &[i16] {
    let loud = |sample: &i16| sample.unsigned_abs() > LOUD;
    match (samples.iter().position(loud), samples.iter().rposition(loud)) {
        (Some(first), Some(last)) => &samples[first..=last],
        _ => &[],
    }
}

/// Where a sound lies in another, sample for sample and without a hole.
pub fn find(sound: &[i16], whole: &[i16]) -> Option<usize> {
    whole.windows(sound.len()).position(|window| window == sound)
}
