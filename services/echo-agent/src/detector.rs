//! Whether the caller speaks: an energy detector. Crude on purpose; a real agent uses a voice activity model.

use std::mem;

use crate::SampleRate;

/// Length of one judged window in milliseconds: a pitch period or two of any voice.
pub const WINDOW_MS: u32 = 20;

/// A window is loud from this root mean square on (of 32,767; -32 dBFS). Speech on a phone line is around 2,000; line noise
/// and a loudspeaker's echo, which must not interrupt the agent, are below 300.
pub const LOUD_RMS: u32 = 800;

/// So many more loud windows than quiet ones (100 ms) are speech. A click is shorter; a shorter word is rare.
pub const LOUD_WINDOWS: u32 = 5;

/// Listens for speech, window by window.
#[derive(Debug, Clone)]
pub(crate) struct Detector {
    /// Samples in a window.
    window: usize,
    /// Samples of the window that is not complete, and of the loud run that it follows.
    heard: Vec<u8>,
    /// Where the incomplete window begins in `heard`.
    begin: usize,
    /// Loud windows less quiet ones, never below 0.
    loud: u32,
}

impl Detector {
    /// Has heard nothing yet.
    pub(crate) fn new(rate: SampleRate) -> Self {
        Self {
            window: rate.samples(WINDOW_MS) as usize,
            heard: Vec::new(),
            begin: 0,
            loud: 0,
        }
    }

    /// Hears a piece of any length. When the caller speaks, returns all since the first loud sample and begins anew.
    pub(crate) fn hear(&mut self, pcm: &[u8]) -> Option<Vec<u8>> {
        self.heard.extend_from_slice(pcm);
        while let Some(window) = self.heard.get(self.begin..self.begin + 2 * self.window) {
            if is_loud(window) {
                self.loud += 1;
                self.begin += window.len();
            } else if self.loud > 1 {
                self.loud -= 1;
                self.begin += window.len();
            } else {
                // The run came to nothing: forget it, so that memory is bounded by a run's length.
                self.loud = 0;
                let end = self.begin + 2 * self.window;
                self.heard.drain(..end);
                self.begin = 0;
            }
            if self.loud == LOUD_WINDOWS {
                self.loud = 0;
                self.begin = 0;
                return Some(mem::take(&mut self.heard));
            }
            // A run that hovers between loud and quiet keeps its newest second only.
            let excess = self.begin.saturating_sub(100 * self.window);
            self.heard.drain(..excess);
            self.begin -= excess;
        }
        None
    }

    /// Forgets what it heard.
    pub(crate) fn reset(&mut self) {
        self.heard.clear();
        self.begin = 0;
        self.loud = 0;
    }
}

fn is_loud(window: &[u8]) -> bool {
    let samples = window.as_chunks::<2>().0;
    let energy: u64 = samples
        .iter()
        .map(|&s| u64::from(i16::from_le_bytes(s).unsigned_abs()).pow(2))
        .sum();
    energy >= u64::from(LOUD_RMS).pow(2) * samples.len() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level(value: i16, ms: u32) -> Vec<u8> {
        value.to_le_bytes().repeat(SampleRate::Khz8.samples(ms) as usize)
    }

    #[test]
    fn noise_and_clicks_are_no_speech_and_a_word_is() {
        let mut detector = Detector::new(SampleRate::Khz8);
        assert_eq!(detector.hear(&level(300, 5_000)), None);
        assert_eq!(detector.hear(&level(9_000, 60)), None, "a click");
        assert_eq!(detector.hear(&level(0, 200)), None);
        let onset = detector.hear(&level(2_000, 140)).unwrap();
        assert_eq!(onset, level(2_000, 140), "nothing of the word is lost");
        assert_eq!(detector.hear(&level(0, 2_000)), None);
    }

    #[test]
    fn short_dips_do_not_hide_speech() {
        let mut detector = Detector::new(SampleRate::Khz16);
        let loud = |n: usize| 2_000_i16.to_le_bytes().repeat(n * 320);
        let quiet = vec![0; 640];
        assert_eq!(detector.hear(&loud(4)), None);
        assert_eq!(detector.hear(&quiet), None);
        assert!(detector.hear(&loud(2)).is_some());
    }

    proptest! {
        /// The verdict depends on the sound, not on how it was cut, and memory stays bounded.
        #[test]
        fn any_cut_hears_the_same(
            windows in prop::collection::vec(prop_oneof![Just(0_i16), Just(700), Just(900), Just(9_000)], 1..200),
            cut in 1_usize..2_000,
        ) {
            let sound: Vec<u8> = windows.iter().flat_map(|&v| level(v, 20)).collect();
            let mut whole = Detector::new(SampleRate::Khz8);
            let mut windowed = Detector::new(SampleRate::Khz8);
            let by_window = sound.chunks(320).filter(|window| windowed.hear(window).is_some()).count();
            let pieces = sound.chunks(2 * cut).filter(|piece| whole.hear(piece).is_some()).count();
            prop_assert_eq!(pieces > 0, by_window > 0);
            prop_assert!(windowed.heard.len() <= 2 * 160 * 52);
        }
    }
}
