//! DTMF tones (ITU-T Q.23): each key is the sum of two sines.

use std::f64::consts::TAU;

use crate::SampleRate;

/// Length of one tone in milliseconds. Receivers need 40 (ITU-T Q.24); people like to hear it.
pub const TONE_MS: u32 = 120;

/// Silence after each tone in milliseconds, so that equal digits in a row are told apart.
pub const GAP_MS: u32 = 80;

/// Amplitude of each sine: both together stay 10 dB below full scale.
const AMPLITUDE: f64 = 5_000.0;

/// The two frequencies of a key in hertz.
fn frequencies(digit: char) -> Option<(f64, f64)> {
    let row = |row| [697.0, 770.0, 852.0, 941.0].get(row).copied();
    let column = |column| [1209.0, 1336.0, 1477.0, 1633.0].get(column).copied();
    let at = "123A456B789C*0#D".find(digit)?;
    row(at / 4).zip(column(at % 4))
}

/// A key's tone with the silence after it; `None` when there is no such key.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the sum of two sines of this amplitude fits 16 bits"
)]
pub fn dtmf(digit: char, rate: SampleRate) -> Option<Vec<i16>> {
    let (low, high) = frequencies(digit)?;
    let hertz = f64::from(rate.hertz());
    let tone = (0..rate.samples(TONE_MS)).map(|n| {
        let time = f64::from(n) / hertz;
        (AMPLITUDE * ((TAU * low * time).sin() + (TAU * high * time).sin())) as i16
    });
    Some(tone.chain((0..rate.samples(GAP_MS)).map(|_| 0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The power of one frequency (Goertzel), relative to the samples' own power.
    fn share(samples: &[i16], hertz: f64, rate: SampleRate) -> f64 {
        let coefficient = 2.0 * (TAU * hertz / f64::from(rate.hertz())).cos();
        let (mut s1, mut s2, mut power) = (0.0, 0.0, 0.0);
        for &sample in samples {
            let x = f64::from(sample);
            let s0 = x + coefficient * s1 - s2;
            (s2, s1) = (s1, s0);
            power += x * x;
        }
        let count = f64::from(u32::try_from(samples.len()).unwrap());
        (s1 * s1 + s2 * s2 - coefficient * s1 * s2) / (power * count / 2.0)
    }

    #[test]
    fn every_key_is_its_two_frequencies_at_every_rate() {
        for rate in [SampleRate::Khz8, SampleRate::Khz16, SampleRate::Khz24] {
            for digit in "0123456789*#ABCD".chars() {
                let samples = dtmf(digit, rate).unwrap();
                assert_eq!(samples.len(), rate.samples(TONE_MS + GAP_MS) as usize);
                let (low, high) = frequencies(digit).unwrap();
                let tone = &samples[..rate.samples(TONE_MS) as usize];
                for hertz in [low, high] {
                    assert!(share(tone, hertz, rate) > 0.4, "{digit} at {rate:?} lacks {hertz} Hz");
                }
            }
            assert_eq!(dtmf('x', rate), None);
        }
        assert_eq!(frequencies('5'), Some((770.0, 1336.0)));
        assert_eq!(frequencies('#'), Some((941.0, 1477.0)));
    }
}
