//! Account tokens that call-service says were rotated out. Their MACs are right for ever, so they are remembered for a while: whoever
//! goes on with one costs what a forged one costs, and takes nobody's place.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// A database that was restored from a backup may give a generation again.
const REMEMBERED_SECONDS: u64 = 10 * 60;
/// Tokens that are remembered: beyond them all are forgotten, which costs a question each.
const MOST: usize = 10_000;

/// Which tokens are over, by account and generation.
#[derive(Debug, Default)]
pub(crate) struct Ended(Mutex<HashMap<(Uuid, u16), u64>>);

impl Ended {
    /// Call-service says so.
    pub(crate) fn remember(&self, account: Uuid, generation: u16, now_unix: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((account, generation), now_unix + REMEMBERED_SECONDS);
    }

    /// Whether it said so lately.
    pub(crate) fn knows(&self, account: Uuid, generation: u16, now_unix: u64) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(account, generation)).is_some_and(|until| now_unix < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_is_remembered_for_a_while_and_within_bounds() {
        let (ended, account) = (Ended::default(), Uuid::from_u128(1));
        ended.remember(account, 1, 1000);
        assert!(ended.knows(account, 1, 1599) && !ended.knows(account, 1, 1600));
        assert!(!ended.knows(account, 2, 1000) && !ended.knows(Uuid::from_u128(2), 1, 1000));
        for other in 0..=MOST {
            ended.remember(Uuid::from_u128(other as u128 + 9), 1, 1000);
        }
        assert!(ended.0.lock().unwrap().len() <= MOST);
    }
}
