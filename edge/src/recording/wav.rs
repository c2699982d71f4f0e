//! The file that a recording becomes: stereo WAV, 16-bit PCM (RIFF; Microsoft's `WAVEFORMATEX`).
//!
//! Its header is made of the tracks' lengths when it is read, so that a spool that a crash has left has no header to repair.

use super::align::MAX_SAMPLES;

/// Length of the header.
pub const HEADER_BYTES: u64 = 44;
/// Bytes of a sample of both sides.
pub const FRAME_BYTES: u64 = 4;

/// The header of a file with so many samples on each side, at most [`MAX_SAMPLES`].
pub fn header(rate: u32, samples: u64) -> Vec<u8> {
    let data = u32::try_from(samples.min(MAX_SAMPLES) * FRAME_BYTES).unwrap_or(u32::MAX);
    let mut header = Vec::with_capacity(44);
    header.extend(b"RIFF");
    header.extend((data + 36).to_le_bytes());
    header.extend(b"WAVEfmt ");
    header.extend(16_u32.to_le_bytes());
    // PCM, two channels.
    header.extend(1_u16.to_le_bytes());
    header.extend(2_u16.to_le_bytes());
    header.extend(rate.to_le_bytes());
    header.extend(rate.saturating_mul(4).to_le_bytes());
    header.extend(4_u16.to_le_bytes());
    header.extend(16_u16.to_le_bytes());
    header.extend(b"data");
    header.extend(data.to_le_bytes());
    header
}

/// So many samples of both sides in turn; a side that is shorter goes on with silence, and half a sample is none.
pub fn interleave(left: &[u8], right: &[u8], samples: usize) -> Vec<u8> {
    let (left, right) = (left.as_chunks::<2>().0, right.as_chunks::<2>().0);
    let mut out = Vec::with_capacity(samples * 4);
    for at in 0..samples {
        out.extend(left.get(at).unwrap_or(&[0; 2]));
        out.extend(right.get(at).unwrap_or(&[0; 2]));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a crash has left of the two sides, half a sample included, is a file that others can read.
        #[test]
        fn any_two_tracks_are_a_readable_file(
            left in proptest::collection::vec(any::<u8>(), 0..500),
            right in proptest::collection::vec(any::<u8>(), 0..500),
            more in 0..50_usize,
            rate in prop_oneof![Just(8000_u32), Just(16_000), Just(24_000)],
        ) {
            let samples = left.len().max(right.len()) / 2 + more;
            let mut file = header(rate, samples as u64);
            prop_assert_eq!(file.len() as u64, HEADER_BYTES);
            file.extend(interleave(&left, &right, samples));
            prop_assert_eq!(file.len() as u64, HEADER_BYTES + samples as u64 * FRAME_BYTES);
            let reader = hound::WavReader::new(&file[..]).unwrap();
            let spec = reader.spec();
            prop_assert_eq!((spec.channels, spec.sample_rate, spec.bits_per_sample), (2, rate, 16));
            let read: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
            let side = |pcm: &[u8]| -> Vec<i16> {
                let mut side: Vec<i16> = pcm.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]])).collect();
                side.resize(samples, 0);
                side
            };
            prop_assert_eq!(read.iter().copied().step_by(2).collect::<Vec<_>>(), side(&left));
            prop_assert_eq!(read.iter().copied().skip(1).step_by(2).collect::<Vec<_>>(), side(&right));
        }
    }

    #[test]
    fn the_longest_recording_fits() {
        let header = header(24_000, MAX_SAMPLES + 1);
        let data = u32::from_le_bytes([header[40], header[41], header[42], header[43]]);
        assert!(u64::from(data) == MAX_SAMPLES * FRAME_BYTES && data.checked_add(36).is_some());
    }
}
