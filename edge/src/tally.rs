//! Counts by a key within a minute, in a table of fixed size: strangers may come from any number of addresses.
//!
//! A key has one place. Another key with the same place takes it over, so that counts can be lost and are never another key's: what is
//! limited by them may be let through, and nobody is refused because of somebody else.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Places, of eight bytes each.
const PLACES: usize = 8192;

/// How often something happened to a key in this minute.
#[derive(Debug)]
pub(crate) struct Tally {
    /// 32 bits of the key's hash, 16 of the minute, 16 of the count.
    places: Box<[AtomicU64]>,
    /// With a secret of this process: nobody can choose a key for its place.
    hasher: RandomState,
    limit: u16,
}

impl Tally {
    /// Up to `limit` within a minute are within bounds.
    pub(crate) fn new(limit: u16) -> Self {
        Self {
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            limit,
        }
    }

    /// One more. Whether it is still within bounds.
    pub(crate) fn count(&self, key: impl Hash, now_unix: u64) -> bool {
        let (place, owner) = self.place(key, now_unix);
        let one_more = |kept: u64| Some(owner | (times(kept, owner).saturating_add(1)));
        let before = place.fetch_update(Relaxed, Relaxed, one_more);
        before.is_ok_and(|kept| times(kept, owner) < u64::from(self.limit))
    }

    fn place(&self, key: impl Hash, now_unix: u64) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(key);
        let minute = (now_unix / 60) & 0xffff;
        let at = usize::try_from(hash & 0xffff_ffff).unwrap_or(0) % PLACES;
        (&self.places[at], (hash & !0xffff_ffff) | minute << 16)
    }
}

/// The count of a place, if it is the owner's.
fn times(kept: u64, owner: u64) -> u64 {
    // One below the largest, so that adding one never touches the minute.
    if kept & !0xffff == owner {
        (kept & 0xffff).min(0xfffe)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_its_limit() {
        let tally = Tally::new(3);
        let counted: Vec<bool> = (0..5).map(|_| tally.count("a", 600)).collect();
        assert_eq!(counted, [true, true, true, false, false]);
        assert!(!tally.count("a", 659) && tally.count("a", 660));
        assert!(tally.count("b", 600));
    }

    #[test]
    fn a_count_never_runs_over() {
        let tally = Tally::new(u16::MAX - 2);
        for _ in 0..70_000 {
            tally.count("a", 0);
        }
        assert!(!tally.count("a", 0) && tally.count("a", 60));
    }

    /// F48: many keys in one small table. None is refused for another's sake.
    #[test]
    fn nobody_is_full_because_of_others() {
        let tally = Tally::new(2);
        for stranger in 0..100_000_u32 {
            for _ in 0..3 {
                tally.count(stranger, 0);
            }
        }
        assert!((200_000..300_000_u32).all(|other| tally.count(other, 0)));
    }
}
