//! Crash points: named places where a test makes a process die, so that what the others make of it can be seen.
//!
//! Compiled in with the feature `crash-points` alone; without it [`point`] is empty. `CRASH_AT` arms one point:
//! `NAME[:NTH][+MILLISECONDS][!panic]`. The process dies by SIGKILL the NTH time (the first by default) that it comes to the
//! place, at once or that much later; with `!panic` the task panics instead.

/// Dies here, if `CRASH_AT` says so.
#[cfg(not(feature = "crash-points"))]
#[inline]
pub fn point(_name: &'static str) {}

#[cfg(feature = "crash-points")]
pub use armed::point;

#[cfg(feature = "crash-points")]
mod armed {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicU32, Ordering},
        },
        thread,
        time::Duration,
    };

    use rustix::process::{Signal, getpid, kill_process};

    #[derive(Debug, PartialEq, Eq)]
    struct Plan {
        name: String,
        nth: u32,
        after: Duration,
        panics: bool,
    }

    impl Plan {
        fn parse(text: &str) -> Option<Self> {
            let (text, panics) = text.strip_suffix("!panic").map_or((text, false), |rest| (rest, true));
            let (text, after) = match text.split_once('+') {
                Some((rest, ms)) => (rest, ms.parse().ok()?),
                None => (text, 0),
            };
            let (name, nth) = match text.split_once(':') {
                Some((name, nth)) => (name, nth.parse().ok()?),
                None => (text, 1),
            };
            (!name.is_empty()).then(|| Self {
                name: name.to_owned(),
                nth,
                after: Duration::from_millis(after),
                panics,
            })
        }
    }

    /// Dies here, if `CRASH_AT` says so.
    #[expect(clippy::panic, reason = "what the plan asks for")]
    pub fn point(name: &'static str) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        static SEEN: AtomicU32 = AtomicU32::new(0);
        let plan = PLAN.get_or_init(|| Plan::parse(&std::env::var("CRASH_AT").ok()?));
        let Some(plan) = plan.as_ref().filter(|plan| plan.name == name) else {
            return;
        };
        if SEEN.fetch_add(1, Ordering::Relaxed) + 1 != plan.nth {
            return;
        }
        if plan.panics {
            panic!("crash point {name}");
        }
        if plan.after.is_zero() {
            die();
        } else {
            thread::spawn(|| {
                thread::sleep(plan.after);
                die();
            });
        }
    }

    fn die() {
        // Nothing of this process runs after it, which is the point.
        let _ = kill_process(getpid(), Signal::KILL);
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn plans_are_read() {
            let plan = |name: &str, nth, ms, panics| {
                Some(Plan {
                    name: name.to_owned(),
                    nth,
                    after: Duration::from_millis(ms),
                    panics,
                })
            };
            assert_eq!(Plan::parse("posting"), plan("posting", 1, 0, false));
            assert_eq!(Plan::parse("posting:3+20"), plan("posting", 3, 20, false));
            assert_eq!(Plan::parse("posting!panic"), plan("posting", 1, 0, true));
            assert_eq!(Plan::parse(""), None);
            assert_eq!(Plan::parse("a:b"), None);
        }
    }
}
