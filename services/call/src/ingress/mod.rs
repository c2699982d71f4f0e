//! What edges report and ask: webhooks, sockets, and one control stream per edge process.

use std::sync::Arc;

use crate::app::App;

pub mod applets;
pub mod attach;
pub mod begin;
pub mod commands;
pub mod connect;
pub mod edges;
pub mod greetings;
pub mod inbound;
pub mod lapse;
mod masking;
pub mod passthru;
pub mod recordings;
pub mod resolve;
pub mod session_events;
pub mod sockets;
pub mod status;

/// Starts the loops: callbacks that wait to be applied, and sessions that nobody vouches for any more.
pub fn start(app: &Arc<App>) {
    status::start(app);
    lapse::start(app);
}

/// A text that every column takes: no NUL, and at most `max` characters.
fn bounded(text: &str, max: usize) -> String {
    text.chars().filter(|c| *c != '\0').take(max).collect()
}

/// A machine word: what is not one is left out. At most 64 characters.
fn word(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_cleaned() {
        assert_eq!(bounded("a\0bcd", 3), "abc");
        assert_eq!(word("agent left; now!"), "agentleftnow");
        assert_eq!(word(&"x".repeat(100)).len(), 64);
    }
}
