//! Repeatable chance for faults.

use std::sync::{Mutex, PoisonError};

/// SplitMix64: good enough for faults, and the same everywhere for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    /// The draws for one thing in the order of things, whatever else is drawn at the same time.
    pub(crate) fn of(seed: u64, place: u64) -> Self {
        let mut draw = Self(seed ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Self(draw.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to less than 1.
    pub(crate) fn share(&mut self) -> f64 {
        let dice = u32::try_from(self.next() >> 32).expect("32 bits are left");
        f64::from(dice) / (f64::from(u32::MAX) + 1.0)
    }

    /// True with this probability.
    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// From 0 to less than the bound; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// One of the choices.
    pub(crate) fn pick<T: Copy, const N: usize>(&mut self, choices: [T; N]) -> T {
        let index = self.below(u64::try_from(N).expect("arrays are small"));
        choices[usize::try_from(index).expect("below the array's length")]
    }
}

/// Draws that are shared, in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Chance(Mutex<Draw>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(Draw(seed)))
    }

    /// The draws for the next thing that comes: as many as it needs, without a change for those after it.
    pub(crate) fn draw(&self) -> Draw {
        Draw(self.0.lock().unwrap_or_else(PoisonError::into_inner).next())
    }
}

#[cfg(test)]
mod tests {
    use super::{Chance, Draw};

    #[test]
    fn the_same_seed_is_the_same_chance() {
        let draws = |seed| {
            let chance = Chance::new(seed);
            let draw = |_| {
                let mut draw = chance.draw();
                (draw.below(1_000), draw.pick(['a', 'b', 'c']), draw.happens(0.5))
            };
            (0..50).map(draw).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
        assert_eq!(Draw::of(7, 3).below(1_000), Draw::of(7, 3).below(1_000));
        assert_ne!(Draw::of(7, 3).next(), Draw::of(7, 4).next());
    }

    #[test]
    fn probabilities_are_kept() {
        let chance = Chance::new(1);
        let count = (0..10_000).filter(|_| chance.draw().happens(0.2)).count();
        assert!((1_900..2_100).contains(&count), "{count}");
        let mut draw = chance.draw();
        assert!(!draw.happens(0.0) && draw.happens(1.0) && draw.below(0) == 0);
    }
}
