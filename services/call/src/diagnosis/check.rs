//! What the evidence means: each check with how it came out, what was seen, and what to do. No IO, and every match is total.

mod account;
mod call;
mod edge;

use callbridge_proto::id::CallId;

pub(super) use account::{Account, Exophones, Ready, account, agent, streaming};
pub(super) use call::{Agent, Audio, End, Placed, Seen, call, not_called};
pub(super) use edge::{Answered, Asked, Edge, Reached, TlsFault, Unreached, edge};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// Calls may work, and something should be looked at.
    Warning,
    /// Calls will not work, or not as they should.
    Failed,
    /// It could not be looked at.
    Skipped,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable machine word.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen. Never a full number or a secret.
    pub seen: String,
    /// What to do; empty where nothing is to be done.
    pub advice: String,
    /// The call that was placed.
    pub call: Option<CallId>,
}

impl Check {
    fn new(name: &'static str, outcome: Outcome, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            outcome,
            seen: seen.into(),
            advice: advice.into(),
            call: None,
        }
    }

    fn passed(name: &'static str, seen: impl Into<String>) -> Self {
        Self::new(name, Outcome::Passed, seen, "")
    }

    fn warning(name: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Outcome::Warning, seen, advice)
    }

    fn failed(name: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::new(name, Outcome::Failed, seen, advice)
    }

    fn skipped(name: &'static str, seen: impl Into<String>) -> Self {
        Self::new(name, Outcome::Skipped, seen, "")
    }
}

#[cfg(test)]
mod tests;
