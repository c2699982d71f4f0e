//! Changes the sample rate of a stream of speech: a polyphase FIR filter with a windowed sinc, stateful, so that a stream
//! cut into pieces sounds as the whole.

use std::f64::consts::PI;

/// Half the filter's length, in samples of the lower rate: 2 ms at 8 kHz, enough for 60 dB against aliases.
const HALF_LENGTH: usize = 16;
/// Share of the lower rate's band that passes; the rest is the filter's slope.
const PASS_BAND: f64 = 0.92;

/// A stateful change of rate. With equal rates it is the identity.
#[derive(Debug, Clone)]
pub struct Resampler {
    filter: Option<Filter>,
}

#[derive(Debug, Clone)]
struct Filter {
    /// Output samples per `down` input samples.
    up: usize,
    down: usize,
    /// Coefficients by phase, newest sample first.
    phases: Vec<Vec<f32>>,
    /// The latest input samples, oldest first; as many as a phase has coefficients.
    history: Vec<f32>,
    /// Where in the history the next sample goes.
    head: usize,
    /// The phase of the next output sample.
    phase: usize,
    /// Samples were pushed since the last flush.
    dirty: bool,
}

impl Resampler {
    /// From one rate to the other, both in samples per second and not zero.
    pub fn new(from: u32, to: u32) -> Self {
        let (from, to) = (from.max(1), to.max(1));
        Self {
            filter: (from != to).then(|| Filter::new(from, to)),
        }
    }

    /// Takes samples in, and puts what they give out as little-endian bytes.
    pub fn push(&mut self, samples: impl IntoIterator<Item = i16>, out: &mut Vec<u8>) {
        match &mut self.filter {
            None => samples
                .into_iter()
                .for_each(|sample| out.extend_from_slice(&sample.to_le_bytes())),
            Some(filter) => samples
                .into_iter()
                .for_each(|sample| filter.push(f32::from(sample), out)),
        }
    }

    /// Puts out what the filter still holds, as if silence followed. What is pushed next follows that silence.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some(filter) = &mut self.filter
            && filter.dirty
        {
            for _ in 0..filter.history.len() / 2 {
                filter.push(0.0, out);
            }
            filter.dirty = false;
        }
    }

    /// Whether [`Resampler::flush`] would put something out.
    pub fn is_dirty(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.dirty)
    }

    /// Forgets everything that was pushed.
    pub fn reset(&mut self) {
        if let Some(filter) = &mut self.filter {
            filter.history.fill(0.0);
            (filter.head, filter.phase, filter.dirty) = (0, 0, false);
        }
    }
}

impl Filter {
    #[expect(clippy::cast_precision_loss, reason = "filter lengths are far below 2^52")]
    #[expect(clippy::cast_possible_truncation, reason = "coefficients are f32 on purpose")]
    fn new(from: u32, to: u32) -> Self {
        let divisor = gcd(from, to);
        let (up, down) = ((to / divisor) as usize, (from / divisor) as usize);
        // In input samples: longer when the rate falls, since the band is narrower.
        let taps = 2 * HALF_LENGTH * down.div_ceil(up).max(1);
        let length = taps * up;
        let centre = (length - 1) as f64 / 2.0;
        // Cut-off as a share of the rate between input and output, `from * up`.
        let cut_off = 0.5 * PASS_BAND / up.max(down) as f64;
        let prototype = |i: usize| {
            let t = i as f64 - centre;
            let sinc = if t == 0.0 {
                2.0 * cut_off
            } else {
                (2.0 * PI * cut_off * t).sin() / (PI * t)
            };
            let x = i as f64 / (length - 1) as f64;
            // Blackman's window.
            sinc * (0.42 - 0.5 * (2.0 * PI * x).cos() + 0.08 * (4.0 * PI * x).cos())
        };
        let phases = (0..up)
            .map(|phase| {
                let row: Vec<f64> = (0..taps).map(|k| prototype(phase + k * up)).collect();
                // Each phase passes a constant unchanged, or it would be heard as a tone.
                let sum: f64 = row.iter().sum();
                row.into_iter().map(|c| (c / sum) as f32).collect()
            })
            .collect();
        Self {
            up,
            down,
            phases,
            history: vec![0.0; taps],
            head: 0,
            phase: 0,
            dirty: false,
        }
    }

    fn push(&mut self, sample: f32, out: &mut Vec<u8>) {
        self.dirty = true;
        self.history[self.head] = sample;
        self.head = (self.head + 1) % self.history.len();
        while self.phase < self.up {
            let row = &self.phases[self.phase];
            // The newest sample is just before the head; the history wraps around.
            let (newer, older) = self.history.split_at(self.head);
            let past = newer.iter().rev().chain(older.iter().rev());
            let sum: f32 = row.iter().zip(past).map(|(c, x)| c * x).sum();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float cast to i16 saturates, as a clipped sample should"
            )]
            let sample = sum.round() as i16;
            out.extend_from_slice(&sample.to_le_bytes());
            self.phase += self.down;
        }
        self.phase -= self.up;
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers of a test"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATES: [u32; 3] = [8000, 16_000, 24_000];

    fn samples(bytes: &[u8]) -> Vec<i16> {
        bytes
            .chunks_exact(2)
            .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
            .collect()
    }

    fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<i16> {
        let count = (f64::from(rate) * seconds) as u32;
        (0..count)
            .map(|i| (10_000.0 * (2.0 * PI * hz * f64::from(i) / f64::from(rate)).sin()) as i16)
            .collect()
    }

    fn loudness(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    #[test]
    fn speech_passes_and_what_would_alias_does_not() {
        for from in RATES {
            for to in RATES {
                for (hz, passes) in [
                    (300.0, true),
                    (1000.0, true),
                    (3200.0, true),
                    (5500.0, from.min(to) > 11_000),
                ] {
                    if hz * 2.0 >= f64::from(from) {
                        continue;
                    }
                    let mut out = Vec::new();
                    let mut resampler = Resampler::new(from, to);
                    resampler.push(tone(from, hz, 0.5), &mut out);
                    let out = samples(&out);
                    assert!(out.len().abs_diff(to as usize / 2) <= 1, "{from} → {to}: {}", out.len());
                    let level = loudness(&out[out.len() / 4..]) / (10_000.0 / 2_f64.sqrt());
                    let expected = if passes { 0.97..1.03 } else { 0.0..0.01 };
                    assert!(expected.contains(&level), "{hz} Hz, {from} → {to}: {level}");
                }
            }
        }
    }

    #[test]
    fn a_flush_gives_the_tail() {
        let mut resampler = Resampler::new(8000, 16_000);
        let mut out = Vec::new();
        resampler.push([8000; 100], &mut out);
        resampler.flush(&mut out);
        let out = samples(&out);
        // The middle of the filter is 16 input samples late: with the flush, the last input sample is in the output.
        assert_eq!(out.len(), 232);
        assert!((7900..8100).contains(&out[199]), "{}", out[199]);
    }

    proptest! {
        #[test]
        fn pieces_give_the_same_as_the_whole(
            input in proptest::collection::vec(any::<i16>(), 0..600), cut in 0usize..600, from in 0usize..3, to in 0usize..3,
        ) {
            let mut whole = Vec::new();
            Resampler::new(RATES[from], RATES[to]).push(input.iter().copied(), &mut whole);
            let cut = cut.min(input.len());
            let mut pieces = Vec::new();
            let mut resampler = Resampler::new(RATES[from], RATES[to]);
            resampler.push(input[..cut].iter().copied(), &mut pieces);
            resampler.push(input[cut..].iter().copied(), &mut pieces);
            prop_assert_eq!(&whole, &pieces);
            if from == to {
                prop_assert_eq!(samples(&whole), input);
            }
        }
    }
}
