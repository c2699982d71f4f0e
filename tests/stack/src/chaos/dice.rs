//! Chance that can be repeated: everything random of a run comes from its seed.

use std::time::Duration;

/// SplitMix64: good enough for faults, and the same everywhere for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// The dice of one purpose: rounds and clients that run side by side do not disturb each other's.
    pub(super) fn new(seed: u64, purpose: &str, number: u64) -> Self {
        let mut state = seed;
        for byte in purpose.bytes() {
            state = mix(state ^ u64::from(byte));
        }
        Self(mix(state ^ mix(number)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below the bound; 0 when the bound is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True so many times in a hundred.
    pub(super) fn percent(&mut self, chances: u64) -> bool {
        self.below(100) < chances
    }

    /// A time between these, in milliseconds.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to.saturating_sub(from) + 1))
    }

    /// One of these.
    pub(super) fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let bound = u64::try_from(choices.len()).unwrap_or(1);
        choices.get(usize::try_from(self.below(bound)).unwrap_or(0))
    }

    /// One of these by weight, which add up to more than nothing.
    pub(super) fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> Option<T> {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if left < *weight {
                return Some(*choice);
            }
            left -= weight;
        }
        None
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_purposes_differ() {
        let throws = |purpose, number| {
            let mut dice = Dice::new(7, purpose, number);
            [dice.below(1_000_000), dice.below(1_000_000)]
        };
        assert_eq!(throws("round", 3), throws("round", 3));
        assert_ne!(throws("round", 3), throws("round", 4));
        assert_ne!(throws("round", 3), throws("client", 3));
    }

    #[test]
    fn weights_are_kept() {
        let mut dice = Dice::new(1, "weights", 0);
        let rare = (0..10_000)
            .filter(|_| dice.weighted(&[(90, 'a'), (10, 'b'), (0, 'c')]) == Some('b'))
            .count();
        assert!((800..1_200).contains(&rare), "{rare}");
        assert_eq!(dice.weighted::<char>(&[]), None);
    }
}
