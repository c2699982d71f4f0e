//! The time of day and new ids, as a value that is passed in.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

/// Tells the time and makes ids. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// The system's time when absent.
    manual: Option<Arc<Mutex<DateTime<Utc>>>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now` until [`Clock::advance`] moves it, for tests.
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self {
            manual: Some(Arc::new(Mutex::new(now))),
        }
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.manual {
            Some(now) => *now.lock().unwrap_or_else(PoisonError::into_inner),
            None => Utc::now(),
        }
    }

    /// Seconds since 1970, for tokens.
    pub fn unix_seconds(&self) -> u64 {
        u64::try_from(self.now().timestamp()).unwrap_or(0)
    }

    /// Moves a manual clock; a system clock takes no notice.
    pub fn advance(&self, by: TimeDelta) {
        if let Some(now) = &self.manual {
            *now.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// A new `UUIDv7` (RFC 9562). Its time is the system's, so that ids made in one process always sort.
    #[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
    pub fn new_uuid(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// The time since the machine started, also while it slept or this process was stopped: for limits that a suspended process must
/// not outlive (`CLOCK_BOOTTIME`; on systems without it the monotonic clock).
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}
