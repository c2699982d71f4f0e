//! Repeatable chance for faults.

use std::sync::{Mutex, PoisonError};

/// SplitMix64: good enough for faults, and the same everywhere for the same seed.
#[derive(Debug)]
pub(crate) struct Chance(Mutex<u64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// True with this probability.
    pub(crate) fn happens(&self, probability: f64) -> bool {
        let dice = u32::try_from(self.next() >> 32).expect("32 bits are left");
        f64::from(dice) / (f64::from(u32::MAX) + 1.0) < probability
    }

    /// One of the choices.
    pub(crate) fn pick<T: Copy, const N: usize>(&self, choices: [T; N]) -> T {
        let index = self.next() % u64::try_from(N).expect("arrays are small");
        choices[usize::try_from(index).expect("below the array's length")]
    }
}
