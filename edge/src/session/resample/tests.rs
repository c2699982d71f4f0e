#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small numbers of a test"
)]

use std::f64::consts::TAU;

use proptest::prelude::*;

use super::*;

const RATES: [u32; 3] = [8000, 16_000, 24_000];

fn samples(pcm: &[u8]) -> Vec<i16> {
    pcm.as_chunks()
        .0
        .iter()
        .map(|sample| i16::from_le_bytes(*sample))
        .collect()
}

fn pcm(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

fn tone(rate: u32, hz: f64, seconds: f64) -> Vec<u8> {
    let count = (f64::from(rate) * seconds) as u32;
    pcm((0..count).map(|i| (10_000.0 * (TAU * hz * f64::from(i) / f64::from(rate)).sin()) as i16))
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
                (3400.0, true),
                (5000.0, from.min(to) > 10_000),
            ] {
                if hz * 2.0 >= f64::from(from) {
                    continue;
                }
                let mut out = Vec::new();
                let mut resampler = Resampler::new(from, to);
                resampler.push(&tone(from, hz, 0.5), &mut out);
                resampler.flush(&mut out);
                let out = samples(&out);
                assert!(
                    out.len().abs_diff(to as usize / 2) <= 800,
                    "{from} → {to}: {}",
                    out.len()
                );
                let level = loudness(&out[out.len() / 4..out.len() / 4 * 3]) / (10_000.0 / 2_f64.sqrt());
                let expected = if passes { 0.98..1.02 } else { 0.0..0.001 };
                assert!(expected.contains(&level), "{hz} Hz, {from} → {to}: {level}");
            }
        }
    }
}

/// A sweep over the telephone's band at a time, in seconds.
fn sweep(at: f64) -> f64 {
    let (low, high, seconds) = (200.0, 3400.0, 2.0);
    10_000.0 * (TAU * (low * at + (high - low) * at * at / (2.0 * seconds))).sin()
}

/// Signal to noise, in dB, of what came out for a sweep that went in in these pieces, against the sweep itself at the other rate.
fn clarity(from: u32, to: u32, pieces: impl Iterator<Item = usize>) -> f64 {
    let input = pcm((0..2 * from).map(|i| sweep(f64::from(i) / f64::from(from)).round() as i16));
    let mut resampler = Resampler::new(from, to);
    let (mut rest, mut out) = (&input[..], Vec::new());
    for piece in pieces {
        let (now, later) = rest.split_at((2 * piece).min(rest.len()));
        resampler.push(now, &mut out);
        rest = later;
    }
    resampler.push(rest, &mut out);
    // Half the filter, less a sample that comes out and a phase of the filter, in seconds.
    let phases = f64::from(from) * f64::from(to) / f64::from(gcd(from, to));
    let delay = (FILTER / 2 * from.div_ceil(to) as usize) as f64 / f64::from(from) - 1.0 / f64::from(to) - 1.0 / phases;
    let first = to as usize / 10;
    let (mut signal, mut noise) = (0.0, 0.0);
    for (i, sample) in samples(&out).into_iter().enumerate().skip(first) {
        let expected = sweep(i as f64 / f64::from(to) - delay);
        signal += expected * expected;
        noise += (f64::from(sample) - expected).powi(2);
    }
    10.0 * (signal / noise).log10()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// No click where the stream was cut: a sweep stays a sweep, however it is cut.
    #[test]
    fn a_sweep_stays_clear_in_any_pieces(pieces in proptest::collection::vec(0_usize..1200, 1..200), from in 0_usize..3, to in 0_usize..3) {
        prop_assume!(from != to);
        let clarity = clarity(RATES[from], RATES[to], pieces.into_iter());
        prop_assert!(clarity > 60.0, "{} → {}: {clarity} dB", RATES[from], RATES[to]);
    }

    /// The same comes out, whatever the pieces; the last sample may still be on its way.
    #[test]
    fn pieces_give_the_same_as_the_whole(
        input in proptest::collection::vec(any::<i16>(), 0..6000), cuts in proptest::collection::vec(0_usize..700, 0..20),
        from in 0_usize..3, to in 0_usize..3,
    ) {
        let input = pcm(input);
        let mut whole = Vec::new();
        Resampler::new(RATES[from], RATES[to]).push(&input, &mut whole);
        let mut pieces = Vec::new();
        let mut resampler = Resampler::new(RATES[from], RATES[to]);
        let mut rest = &input[..];
        for cut in cuts {
            let (now, later) = rest.split_at((2 * cut).min(rest.len()));
            resampler.push(now, &mut pieces);
            rest = later;
        }
        resampler.push(rest, &mut pieces);
        let common = whole.len().min(pieces.len());
        prop_assert!(whole.len().abs_diff(pieces.len()) <= 2);
        prop_assert_eq!(&whole[..common], &pieces[..common]);
        if from == to {
            prop_assert_eq!(&whole, &input);
        }
    }

    /// A stream that was reset is a new one.
    #[test]
    fn a_reset_leaves_nothing(before in proptest::collection::vec(any::<i16>(), 0..900), after in proptest::collection::vec(any::<i16>(), 0..900)) {
        let (mut used, mut fresh) = (Resampler::new(24_000, 8000), Resampler::new(24_000, 8000));
        used.push(&pcm(before), &mut Vec::new());
        used.reset();
        prop_assert!(!used.is_dirty());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        used.push(&pcm(after.iter().copied()), &mut a);
        fresh.push(&pcm(after), &mut b);
        prop_assert_eq!(a, b);
    }
}

#[test]
fn a_flush_gives_the_tail() {
    for (from, to) in [(8000, 16_000), (16_000, 8000), (24_000, 16_000), (8000, 24_000)] {
        let mut resampler = Resampler::new(from, to);
        let mut out = Vec::new();
        resampler.push(&tone(from, 400.0, 0.1), &mut out);
        let before = out.len();
        resampler.flush(&mut out);
        assert!(out.len() > before && !resampler.is_dirty());
        // The tone's last quarter wave, which the filter held, is in what came out, and silence is not.
        let out = samples(&out);
        let heard = out.len() - out.iter().rev().take_while(|sample| sample.abs() < 500).count();
        let delay = FILTER / 2 * to as usize / from.min(to) as usize;
        assert!(heard.abs_diff(to as usize / 10 + delay) <= 12, "{from} → {to}: {heard}");
        resampler.flush(&mut Vec::new());
    }
}
