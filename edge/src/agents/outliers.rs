//! Which endpoints are skipped: one that fails several times in a row is tried after the others for a while, so that each call
//! does not find out anew. The while grows; after it one call tries, and the others follow when it went well. Decides only.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Fewer failures in a row are bad luck: a restart, a lost packet.
const IN_A_ROW: u32 = 3;
/// How long an endpoint is skipped: twice as long each time, up to a minute, so that one that is back is soon found.
const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_mins(1);
/// How long the others wait for the call that tries.
const TRIAL: Duration = Duration::from_secs(5);
/// Endpoints remembered. More do not fail at one time; if they do, the ones that failed longest ago are forgotten.
const REMEMBERED: usize = 1024;

#[derive(Debug)]
struct Failing {
    in_a_row: u32,
    ejections: u32,
    /// Skipped until then.
    until: Option<Instant>,
    /// A call tries it.
    on_trial: bool,
    last: Instant,
}

/// What is known of endpoints that fail.
#[derive(Debug, Default)]
pub(super) struct Outliers {
    failing: HashMap<String, Failing>,
}

impl Outliers {
    /// The order in which a call tries its endpoints: as given, those that are skipped last.
    pub(super) fn order(&mut self, now: Instant, mut endpoints: Vec<(usize, &str)>) -> Vec<usize> {
        endpoints.sort_by_cached_key(|(_, endpoint)| self.is_skipped(now, endpoint));
        endpoints.into_iter().map(|(index, _)| index).collect()
    }

    fn is_skipped(&mut self, now: Instant, endpoint: &str) -> bool {
        let Some(failing) = self.failing.get_mut(endpoint) else {
            return false;
        };
        match failing.until {
            None => false,
            Some(until) if now < until => true,
            Some(_) => {
                (failing.until, failing.on_trial) = (Some(now + TRIAL), true);
                false
            }
        }
    }

    /// An endpoint did what it is for.
    pub(super) fn worked(&mut self, endpoint: &str) {
        self.failing.remove(endpoint);
    }

    /// An endpoint failed. Returns for how long it is skipped, when that begins now.
    pub(super) fn failed(&mut self, now: Instant, endpoint: &str) -> Option<Duration> {
        if !self.failing.contains_key(endpoint) && self.failing.len() >= REMEMBERED {
            let oldest = self.failing.iter().min_by_key(|(_, failing)| failing.last);
            if let Some(oldest) = oldest.map(|(endpoint, _)| endpoint.clone()) {
                self.failing.remove(&oldest);
            }
        }
        let failing = self.failing.entry(endpoint.to_owned()).or_insert(Failing {
            in_a_row: 0,
            ejections: 0,
            until: None,
            on_trial: false,
            last: now,
        });
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        failing.last = now;
        // Calls that were under way when it was ejected, or had no other choice, tell nothing new.
        let known = failing.until.is_some_and(|until| now < until) && !failing.on_trial;
        if failing.in_a_row < IN_A_ROW || known {
            return None;
        }
        let backoff = FIRST.saturating_mul(1 << failing.ejections.min(10)).min(LONGEST);
        failing.ejections = failing.ejections.saturating_add(1);
        (failing.until, failing.on_trial) = (Some(now + backoff), false);
        Some(backoff)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(outliers: &mut Outliers, now: Instant) -> Vec<usize> {
        outliers.order(now, vec![(0, "a"), (1, "b"), (2, "c")])
    }

    /// F74: who fails again and again is tried last, for longer each time, and one call finds out whether it is back.
    #[test]
    fn an_endpoint_that_fails_in_a_row_is_skipped_longer_and_longer() {
        let mut outliers = Outliers::default();
        let mut now = Instant::now();
        for _ in 1..IN_A_ROW {
            assert_eq!(outliers.failed(now, "a"), None);
        }
        assert_eq!(order(&mut outliers, now), [0, 1, 2]);
        assert_eq!(outliers.failed(now, "a"), Some(FIRST));
        for backoff in [5, 10, 20, 40, 60, 60, 60].map(Duration::from_secs) {
            assert_eq!(outliers.failed(now, "a"), None, "it was under way");
            let over = now + backoff;
            now = over.checked_sub(Duration::from_millis(1)).unwrap();
            assert_eq!(order(&mut outliers, now), [1, 2, 0]);
            now = over;
            assert_eq!(order(&mut outliers, now), [0, 1, 2], "one tries");
            assert_eq!(order(&mut outliers, now), [1, 2, 0], "the others wait for it");
            assert_eq!(outliers.failed(now, "a"), Some((backoff * 2).min(LONGEST)));
        }
        outliers.worked("a");
        assert_eq!(order(&mut outliers, now), [0, 1, 2]);
        assert_eq!(outliers.failed(now, "a"), None, "all is forgotten");
    }

    #[test]
    fn a_trial_that_tells_nothing_is_followed_by_another() {
        let mut outliers = Outliers::default();
        let now = Instant::now();
        for _ in 0..IN_A_ROW {
            outliers.failed(now, "a");
        }
        assert_eq!(order(&mut outliers, now + FIRST), [0, 1, 2]);
        assert_eq!(order(&mut outliers, now + FIRST + TRIAL), [0, 1, 2]);
    }

    /// When all are ejected, the call has nothing to lose.
    #[test]
    fn all_that_fail_are_tried_in_their_order() {
        let mut outliers = Outliers::default();
        let now = Instant::now();
        for endpoint in ["c", "a", "b"] {
            for _ in 0..IN_A_ROW {
                outliers.failed(now, endpoint);
            }
        }
        assert_eq!(order(&mut outliers, now), [0, 1, 2]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut outliers = Outliers::default();
        let now = Instant::now();
        for n in 0..3 * REMEMBERED {
            outliers.failed(now + Duration::from_millis(n as u64), &format!("http://{n}"));
        }
        assert_eq!(outliers.failing.len(), REMEMBERED);
        assert!(outliers.failing.contains_key(&format!("http://{}", 3 * REMEMBERED - 1)));
    }

    proptest! {
        /// No endpoint is ever lost, those that did not fail keep their order and go first.
        #[test]
        fn an_order_has_everyone(steps in prop::collection::vec((0usize..5, any::<bool>(), 0u64..20_000), 0..60)) {
            let names = ["a", "b", "c", "d", "e"];
            let mut outliers = Outliers::default();
            let mut now = Instant::now();
            let mut failures = [0; 5];
            for (which, failed, wait) in steps {
                now += Duration::from_millis(wait);
                if failed {
                    outliers.failed(now, names[which]);
                    failures[which] += 1;
                } else {
                    outliers.worked(names[which]);
                    failures[which] = 0;
                }
                let order = outliers.order(now, names.iter().copied().enumerate().collect());
                let mut sorted = order.clone();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, [0, 1, 2, 3, 4]);
                let skipped: Vec<_> = order.iter().copied().filter(|index| failures[*index] >= IN_A_ROW).collect();
                let fit: Vec<_> = order.iter().copied().filter(|index| failures[*index] < IN_A_ROW).collect();
                prop_assert!(fit.is_sorted() && skipped.len() + fit.len() == 5);
                let last_fit = order.iter().rposition(|index| failures[*index] == 0);
                let ejected = order.iter().position(|index| {
                    outliers.failing.get(names[*index]).is_some_and(|failing| failing.until.is_some_and(|until| now < until) && !failing.on_trial)
                });
                if let (Some(last_fit), Some(ejected)) = (last_fit, ejected) {
                    prop_assert!(last_fit < ejected, "{order:?}");
                }
            }
        }
    }
}
