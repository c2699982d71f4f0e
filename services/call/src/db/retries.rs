//! Transactions that lost against another one are done again, a few times.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::sleep;

use crate::error::Error;

/// Tries of one transaction in all.
const TRIES: u32 = 5;
/// The longest wait before the second try; each further one may be twice as long.
const FIRST: Duration = Duration::from_millis(20);

/// Counts the tries of one transaction. For transactions alone: what was sent to somebody else is never done again.
#[derive(Debug, Default)]
pub struct Retries {
    failed: u32,
}

impl Retries {
    /// Waits a little, at random so that the same two do not meet again, if the error is one that another try may not meet.
    pub async fn again(&mut self, error: &Error) -> bool {
        self.failed += 1;
        let lost = matches!(error, Error::Db(error) if error.is_conflict() || error.is_unique_violation("calls_single_flight"));
        if !lost || self.failed >= TRIES {
            return false;
        }
        let mut dice = [0];
        // Without randomness the longest wait is as good.
        let share = SystemRandom::new().fill(&mut dice).map_or(255, |()| u32::from(dice[0]));
        sleep(FIRST * 2_u32.pow(self.failed - 1) * share / 255).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::DbError;

    #[tokio::test(start_paused = true)]
    async fn only_a_lost_race_is_run_again_and_not_for_ever() {
        let mut retries = Retries::default();
        assert!(!retries.again(&Error::Db(DbError::Busy)).await);
        let mut retries = Retries::default();
        let rolled_back = || Error::from(diesel::result::Error::RollbackTransaction);
        assert!(!retries.again(&rolled_back()).await);
        let mut retries = Retries::default();
        let mut again = 0;
        while retries.again(&Error::Db(DbError::conflict_for_tests())).await {
            again += 1;
        }
        assert_eq!(again, TRIES - 1);
    }
}
