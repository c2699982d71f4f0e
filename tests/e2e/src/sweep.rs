//! Looks for canaries (secrets, tokens, numbers, metadata that stories put into every field) in all that this process tells, while
//! the stories run: log lines at TRACE, spans, metrics, and errors (F122, F123). What is told goes through the layers of production.

mod canaries;
mod sinks;

use std::{
    sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError},
    thread,
};

use canaries::{Canaries, SHORTEST};

/// What was found and is told, at most: one leak often tells itself again and again.
const MOST: usize = 12;

/// Of this process.
static FOUND: LazyLock<Mutex<Found>> = LazyLock::new(Mutex::default);

/// What is looked for, and what was found.
#[derive(Debug, Default)]
struct Found {
    canaries: Canaries,
    /// Pieces that were looked through, of each sink.
    looked: Looked,
    leaks: Vec<String>,
}

/// How much was looked through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Looked {
    /// Canaries that were planted.
    pub canaries: usize,
    /// Log lines.
    pub lines: usize,
    /// Spans.
    pub spans: usize,
    /// Pages of metrics.
    pub pages: usize,
    /// Errors that clients were answered.
    pub errors: usize,
}

impl Found {
    /// Looks through what a sink was told.
    fn look(&mut self, sink: Sink, told: &[u8]) {
        let count = match sink {
            Sink::Line => &mut self.looked.lines,
            Sink::Span => &mut self.looked.spans,
            Sink::Page => &mut self.looked.pages,
            Sink::Error => &mut self.looked.errors,
        };
        *count += 1;
        if let Some(what) = self.canaries.within(told)
            && self.leaks.len() < MOST
        {
            let told = String::from_utf8_lossy(told);
            self.leaks.push(format!("a {sink:?} tells {what}: {}", told.trim_end()));
        }
    }
}

/// Where something is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Line,
    Span,
    Page,
    Error,
}

fn found() -> MutexGuard<'static, Found> {
    // A story that failed elsewhere may have held it.
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a value be looked for from now on. What is shorter than eight bytes is not, nor is an empty one.
pub fn plant(what: &'static str, value: &str) {
    if value.len() < SHORTEST {
        return;
    }
    let mut found = found();
    found.canaries.plant(what, value.as_bytes());
    // As `Debug` shows a column's bytes.
    let bytes = format!("{:?}", value.as_bytes());
    found.canaries.plant(what, bytes.trim_matches(['[', ']']).as_bytes());
    found.looked.canaries = found.canaries.planted() / 2;
}

/// A number in E.164, in whatever form it is told. Masked ones show four digits.
pub fn plant_number(what: &'static str, number: &str) {
    plant(what, number.strip_prefix("+91").unwrap_or(number));
}

/// Looks through what a client was answered.
pub fn look_at_error(told: &[u8]) {
    found().look(Sink::Error, told);
}

/// How much was looked through so far.
pub fn looked() -> Looked {
    found().looked
}

/// A story's share in the sweep: where it ends, whatever was told so far must have had no canary in it.
#[derive(Debug)]
#[must_use]
pub struct Sweep(());

impl Sweep {
    /// Begins with the first story of a process.
    pub fn begin() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(sinks::open);
        Self(())
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        let page = sinks::page();
        let mut found = found();
        found.look(Sink::Page, page.as_bytes());
        // A story that fails says why by itself.
        if !thread::panicking() {
            assert!(found.leaks.is_empty(), "secrets are told:\n{}", found.leaks.join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_although_nobody_planted_them() {
        let keys = exotel::token::TokenKeys::parse(&format!("1:{}=", "A".repeat(43))).unwrap();
        let token = keys.mint(exotel::token::Purpose::Callback, uuid::Uuid::from_u128(7), [9; 8], 1);
        let mut found = Found::default();
        found.look(Sink::Line, format!("path=/status/{token}?x").as_bytes());
        found.look(Sink::Line, format!("path=/status/{}", &token[..80]).as_bytes());
        assert_eq!(found.leaks.len(), 1);
    }

    #[test]
    fn what_is_told_is_found_wherever_it_stands() {
        let mut found = Found::default();
        found.canaries.plant("a token", b"canary-3f9c11");
        found.look(Sink::Line, b"nothing of note: canary-3f9c1");
        assert!(found.leaks.is_empty());
        found.look(Sink::Line, b"{\"url\":\"/status/canary-3f9c11\"}\n");
        assert_eq!(
            found.leaks,
            ["a Line tells a token: {\"url\":\"/status/canary-3f9c11\"}"]
        );
        // Planted later than others, and told in another sink.
        found.canaries.plant("a number", b"9812340017");
        found.look(Sink::Page, b"calls{to=\"+919812340017\"} 1");
        assert_eq!(found.leaks.len(), 2);
        assert_eq!((found.looked.lines, found.looked.pages), (2, 1));
    }

    #[test]
    fn a_number_is_told_apart_from_the_digits_of_a_figure() {
        let leaks = |told: &str| {
            let mut found = Found::default();
            found.canaries.plant("a number", b"9812000008");
            found.look(Sink::Page, told.as_bytes());
            found.leaks.len()
        };
        for figure in [
            "sum 0.25929799812000008",
            "sum 0.9812000008",
            "sum 98120000081",
            "nanos=179812000008",
        ] {
            assert_eq!(leaks(figure), 0, "{figure}");
        }
        for number in [
            "+919812000008",
            "to=09812000008,",
            "9812000008",
            "tel:00919812000008;x",
            "0.5 9812000008",
            "call.9812000008",
        ] {
            assert_eq!(leaks(number), 1, "{number}");
        }
    }
}
