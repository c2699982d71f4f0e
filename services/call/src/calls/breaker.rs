//! Dials that would only do harm: with credentials that Exotel has just refused, or at an Exotel that answers nothing. Calls wait
//! meanwhile. Kept in memory: each replica finds out for itself, at the price of one dial.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use exotel::rest::{Credentials, DialOutcome, Rejection};
use ring::digest::{Context, SHA256};
use secrecy::ExposeSecret as _;

/// Long enough not to lock an account out by trying, short enough for somebody who waits for a mended key. New credentials are
/// used at once: they are another set.
const REFUSED: Duration = Duration::from_secs(30);
/// The first pause after too many failures, which doubles with each further one up to the last.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));
/// Sets that are remembered; beyond, all are forgotten.
const REMEMBERED: usize = 4_096;

type Set = [u8; 32];

/// Why nothing is dialled with a set of credentials, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// For this long from now.
    pub wait: Duration,
    /// The stable word on waiting calls.
    pub word: &'static str,
}

/// What is known of each set of credentials.
#[derive(Debug)]
pub struct Breakers {
    sets: Mutex<HashMap<Set, State>>,
    /// Failures in a row that open one; zero for never.
    failures: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    in_a_row: u32,
    until: Option<(Instant, &'static str)>,
}

impl Breakers {
    /// Opens after this many failures in a row; zero leaves only refused credentials.
    pub fn new(failures: u32) -> Self {
        Self {
            sets: Mutex::default(),
            failures,
        }
    }

    /// Whether nothing is to be dialled with this set.
    pub fn open(&self, credentials: &Credentials, now: Instant) -> Option<Open> {
        let (until, word) = self.lock().get(&set(credentials))?.until?;
        let wait = until.checked_duration_since(now).filter(|wait| !wait.is_zero())?;
        Some(Open { wait, word })
    }

    /// Learns from a dial.
    pub fn learn(&self, credentials: &Credentials, outcome: &DialOutcome, now: Instant) {
        let set = set(credentials);
        let mut sets = self.lock();
        let failed = match outcome {
            DialOutcome::Rejected {
                kind: Rejection::BadCredentials,
                ..
            } => None,
            DialOutcome::Placed { .. } | DialOutcome::Rejected { .. } => {
                sets.remove(&set);
                return;
            }
            DialOutcome::NotSent { reason } if !of_the_network(reason) => return,
            DialOutcome::NotSent { .. } | DialOutcome::Unknown { .. } => Some(self.failures),
        };
        if sets.len() >= REMEMBERED {
            sets.clear();
        }
        let state = sets.entry(set).or_default();
        match failed {
            None => state.until = Some((now + REFUSED, "bad_credentials")),
            Some(limit) => {
                state.in_a_row = state.in_a_row.saturating_add(1);
                if limit > 0 && state.in_a_row >= limit {
                    let times = (state.in_a_row - limit).min(8);
                    let pause = (PAUSE.0 * 2_u32.pow(times)).min(PAUSE.1);
                    state.until = Some((now + pause, "provider_unavailable"));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Set, State>> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether Exotel could not be reached, as opposed to a decision or a setting of ours.
fn of_the_network(reason: &str) -> bool {
    matches!(reason, "dns" | "tcp" | "tls" | "connect_timeout")
}

/// Whether these are the same set.
pub(super) fn is_same(a: &Credentials, b: &Credentials) -> bool {
    set(a) == set(b)
}

fn set(credentials: &Credentials) -> Set {
    let mut context = Context::new(&SHA256);
    for part in [
        credentials.subdomain.as_str(),
        &credentials.sid,
        credentials.key.expose_secret(),
        credentials.token.expose_secret(),
    ] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let mut set = Set::default();
    set.copy_from_slice(context.finish().as_ref());
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(key: &str) -> Credentials {
        Credentials {
            sid: "acme1".into(),
            key: key.into(),
            token: "t".into(),
            subdomain: "api.exotel.com".into(),
        }
    }

    fn unknown() -> DialOutcome {
        DialOutcome::Unknown {
            reason: "timeout".into(),
        }
    }

    fn placed() -> DialOutcome {
        DialOutcome::Placed { call_sid: "sid".into() }
    }

    #[test]
    fn refused_credentials_wait_and_new_ones_do_not() {
        let (breakers, now) = (Breakers::new(3), Instant::now());
        let refused = DialOutcome::Rejected {
            kind: Rejection::BadCredentials,
            provider_code: "401".into(),
            retry_after: None,
        };
        breakers.learn(&credentials("old"), &refused, now);
        let open = breakers.open(&credentials("old"), now).unwrap();
        assert_eq!((open.wait, open.word), (REFUSED, "bad_credentials"));
        assert_eq!(breakers.open(&credentials("new"), now), None);
        assert_eq!(breakers.open(&credentials("old"), now + REFUSED), None);
    }

    #[test]
    fn failures_in_a_row_open_it_longer_and_longer_and_a_success_closes_it() {
        let (breakers, now) = (Breakers::new(3), Instant::now());
        let set = credentials("k");
        for _ in 0..2 {
            breakers.learn(&set, &unknown(), now);
        }
        assert_eq!(breakers.open(&set, now), None);
        let waits: Vec<u64> = (0..6)
            .map(|_| {
                breakers.learn(&set, &unknown(), now);
                breakers.open(&set, now).unwrap().wait.as_secs()
            })
            .collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        breakers.learn(&set, &placed(), now);
        breakers.learn(&set, &unknown(), now);
        assert_eq!(breakers.open(&set, now), None);
    }

    #[test]
    fn a_decision_of_ours_and_a_switched_off_breaker_count_nothing() {
        let now = Instant::now();
        let late = DialOutcome::NotSent {
            reason: "the worker was stopped".into(),
        };
        let (counting, off) = (Breakers::new(1), Breakers::new(0));
        counting.learn(&credentials("k"), &late, now);
        assert_eq!(counting.open(&credentials("k"), now), None);
        off.learn(&credentials("k"), &unknown(), now);
        assert_eq!(off.open(&credentials("k"), now), None);
    }
}
