//! What the agent can say: four spoken phrases, kept at 8 kHz.

use crate::SampleRate;

/// Something the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phrase {
    /// At the start.
    Greeting,
    /// Before a digit's tone.
    YouPressed,
    /// Before it hangs up.
    Goodbye,
    /// Before the flow goes on.
    OneMoment,
}

impl Phrase {
    /// Its words, for the transcript.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Greeting => "Hello! I am the echo agent. Say something.",
            Self::YouPressed => "You pressed",
            Self::Goodbye => "Goodbye!",
            Self::OneMoment => "One moment, please.",
        }
    }

    /// Its sound.
    pub(crate) fn samples(self, rate: SampleRate) -> Vec<i16> {
        let wav: &[u8] = match self {
            Self::Greeting => include_bytes!("../speech/greeting.wav"),
            Self::YouPressed => include_bytes!("../speech/you-pressed.wav"),
            Self::Goodbye => include_bytes!("../speech/goodbye.wav"),
            Self::OneMoment => include_bytes!("../speech/one-moment.wav"),
        };
        let reader = hound::WavReader::new(wav).expect("the file is part of the program, and a test reads it");
        let samples: Vec<i16> = reader.into_samples().map_while(Result::ok).collect();
        upsample(&samples, rate)
    }
}

/// From 8 kHz to a multiple of it, linearly between samples: plain, and good enough for a voice of 8 kHz.
fn upsample(samples: &[i16], rate: SampleRate) -> Vec<i16> {
    let factor = i32::try_from(rate.hertz() / SampleRate::Khz8.hertz()).unwrap_or(1);
    let next = samples.iter().skip(1).chain(samples.last());
    let pairs = samples
        .iter()
        .zip(next)
        .map(|(&here, &there)| (i32::from(here), i32::from(there)));
    let steps = pairs.flat_map(|(here, there)| (0..factor).map(move |step| here + (there - here) * step / factor));
    steps.map(|sample| i16::try_from(sample).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phrase_is_speech_at_every_rate() {
        for phrase in [Phrase::Greeting, Phrase::YouPressed, Phrase::Goodbye, Phrase::OneMoment] {
            let plain = phrase.samples(SampleRate::Khz8);
            assert!(
                (4_000..32_000).contains(&plain.len()),
                "{phrase:?} has {} samples",
                plain.len()
            );
            assert!(plain.iter().any(|&s| s > 5_000), "{phrase:?} is silent");
            for (rate, factor) in [(SampleRate::Khz16, 2), (SampleRate::Khz24, 3)] {
                let finer = phrase.samples(rate);
                assert_eq!(finer.len(), factor * plain.len());
                assert!(
                    finer.iter().step_by(factor).eq(&plain),
                    "the samples themselves are kept"
                );
            }
        }
    }

    #[test]
    fn upsampling_is_linear_and_does_not_overflow() {
        assert_eq!(
            upsample(&[0, 30, -30], SampleRate::Khz24),
            [0, 10, 20, 30, 10, -10, -30, -30, -30]
        );
        assert_eq!(
            upsample(&[i16::MIN, i16::MAX], SampleRate::Khz16),
            [i16::MIN, -1, i16::MAX, i16::MAX]
        );
        assert!(upsample(&[], SampleRate::Khz16).is_empty());
    }

    #[test]
    fn the_files_are_8_khz_mono() {
        let spec = hound::WavReader::new(&include_bytes!("../speech/greeting.wav")[..])
            .unwrap()
            .spec();
        assert_eq!((spec.sample_rate, spec.channels, spec.bits_per_sample), (8_000, 1, 16));
    }
}
