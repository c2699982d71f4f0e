//! Crash points: named places where a test makes a process die, so that what the others make of it can be seen.
//!
//! Compiled in with the feature `crash-points` alone; without it [`point`] is empty. `CRASH_AT` arms one point:
//! `NAME[:NTH][+MILLISECONDS][!panic|!stop]`. The process dies by SIGKILL the NTH time (the first by default) that it comes to
//! the place, at once or that much later; with `!panic` the task panics instead, with `!stop` the process gets SIGSTOP and goes
//! on when somebody lets it.

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
        then: Then,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Then {
        Die,
        Panic,
        Stop,
    }

    impl Plan {
        fn parse(text: &str) -> Option<Self> {
            let (text, then) = match text.split_once('!') {
                Some((rest, "panic")) => (rest, Then::Panic),
                Some((rest, "stop")) => (rest, Then::Stop),
                Some(_) => return None,
                None => (text, Then::Die),
            };
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
                then,
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
        let signal = match plan.then {
            Then::Panic => panic!("crash point {name}"),
            // Nothing of this process runs after it, which is the point.
            Then::Die => Signal::KILL,
            Then::Stop => Signal::STOP,
        };
        let strike = move || {
            let _ = kill_process(getpid(), signal);
        };
        if plan.after.is_zero() {
            strike();
        } else {
            thread::spawn(move || {
                thread::sleep(plan.after);
                strike();
            });
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn plans_are_read() {
            let plan = |name: &str, nth, ms, then| {
                Some(Plan {
                    name: name.to_owned(),
                    nth,
                    after: Duration::from_millis(ms),
                    then,
                })
            };
            assert_eq!(Plan::parse("posting"), plan("posting", 1, 0, Then::Die));
            assert_eq!(Plan::parse("posting:3+20"), plan("posting", 3, 20, Then::Die));
            assert_eq!(Plan::parse("posting!panic"), plan("posting", 1, 0, Then::Panic));
            assert_eq!(Plan::parse("posting:2+7!stop"), plan("posting", 2, 7, Then::Stop));
            assert_eq!(Plan::parse("posting!dance"), None);
            assert_eq!(Plan::parse(""), None);
            assert_eq!(Plan::parse("a:b"), None);
        }
    }
}
