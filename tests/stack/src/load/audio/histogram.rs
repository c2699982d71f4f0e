//! Times in buckets: as many as a run has, in memory that does not grow.

use std::time::Duration;

/// The width of a bucket.
const STEP: Duration = Duration::from_micros(10);
/// Up to two seconds; what took longer counts as the longest.
const BUCKETS: usize = 200_000;

/// Counted times.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
            longest: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// Counts a time.
    pub(super) fn add(&mut self, time: Duration) {
        self.count += 1;
        self.longest = self.longest.max(time);
        let bucket = usize::try_from(time.as_nanos() / STEP.as_nanos()).unwrap_or(usize::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }

    /// How many were counted.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The time that so many per mille did not exceed, to the width of a bucket. Zero when none was counted.
    pub(super) fn per_mille(&self, share: u64) -> Duration {
        let wanted = (self.count * share).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (bucket, count) in (0..).zip(&self.buckets) {
            seen += count;
            if seen >= wanted {
                return (STEP * (bucket + 1)).min(self.longest);
            }
        }
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_off() {
        let mut times = Histogram::default();
        for ms in 1..=1_000 {
            times.add(Duration::from_millis(ms));
        }
        let within = |share, ms: u64| {
            let (read, wanted) = (times.per_mille(share), Duration::from_millis(ms));
            assert!(read >= wanted && read <= wanted + STEP, "{share}: {read:?}");
        };
        within(500, 500);
        within(990, 990);
        within(999, 999);
        assert_eq!(times.per_mille(1_000), Duration::from_secs(1));
    }

    #[test]
    fn long_times_and_none_at_all() {
        let mut times = Histogram::default();
        assert_eq!(times.per_mille(500), Duration::ZERO);
        times.add(Duration::from_mins(1));
        assert_eq!((times.per_mille(500), times.count()), (Duration::from_mins(1), 1));
        for _ in 0..10 {
            times.add(Duration::from_micros(5));
        }
        assert_eq!(times.per_mille(500), STEP);
    }
}
