//! What a use case can answer instead of a result. `rpc/status.rs` turns it into a gRPC status.

use std::{error::Error as StdError, fmt};

use crate::db::DbError;

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's name in the `.proto` file, with dots and indexes: `calling_hours.time_zone`, `endpoints[1]`.
    pub field: String,
    /// What was expected. Never the value: it can be a number or a secret.
    pub description: String,
}

/// Collects all that is wrong with a request, so that the caller sees it at once.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Nothing is wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes what is wrong with a field.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(Violation {
            field: field.into(),
            description: description.into(),
        });
    }

    /// Notes it unless `ok`.
    pub fn require(&mut self, ok: bool, field: &str, description: &str) {
        if !ok {
            self.add(field, description);
        }
    }

    /// The value, or a note of why there is none.
    pub fn check<T, E: fmt::Display>(&mut self, field: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(field, error.to_string())).ok()
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// [`Error::Invalid`] when something was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(self.0))
        }
    }
}

/// What a use case can answer instead of a result. Reasons are stable, upper-case words that callers may rely on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong, whatever the state of things.
    #[error("the request is not valid: {}", fields(.0))]
    Invalid(Vec<Violation>),
    /// No such thing, or none that the caller may see.
    #[error("there is no {what} {id}")]
    NotFound {
        /// Its kind: `call`, `account`, …
        what: &'static str,
        /// As the caller wrote it; never a phone number.
        id: String,
    },
    /// Something else has to happen first.
    #[error("{message}")]
    Precondition {
        /// The stable word.
        reason: &'static str,
        /// For people: what to do.
        message: String,
    },
    /// It is there already.
    #[error("{message}")]
    AlreadyExists {
        /// The stable word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A limit is reached that will not give way soon: trying again is of no use.
    #[error("{message}")]
    Spent {
        /// The stable word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// A limit is reached; there may be room again soon.
    #[error("{message}")]
    Exhausted {
        /// The stable word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// Somebody else changed it meanwhile; a retry may work.
    #[error("{message}")]
    Aborted {
        /// The stable word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The caller showed no valid key.
    #[error("{message}")]
    Unauthenticated {
        /// For people.
        message: &'static str,
    },
    /// The caller's key does not allow this.
    #[error("the key lacks the scope {scope}")]
    Forbidden {
        /// The scope that is needed.
        scope: &'static str,
    },
    /// The caller may call this, but not for that.
    #[error("{message}")]
    Denied {
        /// The stable word.
        reason: &'static str,
        /// For people: what to do.
        message: String,
    },
    /// There is no such RPC here.
    #[error("there is no such method")]
    UnknownMethod,
    /// The answer was not ready in time.
    #[error("the request took longer than the server allows")]
    TooSlow,
    /// A part is missing for the moment; a retry may work.
    #[error("{message}")]
    Unavailable {
        /// The stable word.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A mistake of ours. The message is logged, never sent.
    #[error("{what}")]
    Internal {
        /// What was attempted.
        what: String,
        /// Why it failed.
        #[source]
        source: Option<Box<dyn StdError + Send + Sync>>,
    },
}

impl Error {
    /// One field is wrong.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation {
            field: field.into(),
            description: description.into(),
        }])
    }

    /// No such thing. `id` is shown: never a phone number.
    pub fn not_found(what: &'static str, id: impl fmt::Display) -> Self {
        Self::NotFound {
            what,
            id: id.to_string(),
        }
    }

    /// Something else has to happen first.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Precondition {
            reason,
            message: message.into(),
        }
    }

    /// It is there already.
    pub fn already_exists(reason: &'static str, message: impl Into<String>) -> Self {
        Self::AlreadyExists {
            reason,
            message: message.into(),
        }
    }

    /// A limit is reached.
    pub fn exhausted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Exhausted {
            reason,
            message: message.into(),
        }
    }

    /// Somebody else changed it meanwhile.
    pub fn aborted(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Aborted {
            reason,
            message: message.into(),
        }
    }

    /// A part is missing for the moment (reason `UNAVAILABLE`).
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: "UNAVAILABLE",
            message: message.into(),
        }
    }

    /// A mistake of ours without a deeper cause.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::Internal {
            what: what.into(),
            source: None,
        }
    }

    /// A mistake of ours with its cause.
    pub fn internal_from(what: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal {
            what: what.into(),
            source: Some(source.into()),
        }
    }

    /// Whether the cause is the named unique constraint or index.
    pub fn is_unique_violation(&self, constraint: &str) -> bool {
        matches!(self, Self::Db(error) if error.is_unique_violation(constraint))
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        Self::Db(error.into())
    }
}

fn fields(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.description))
        .collect::<Vec<_>>()
        .join("; ")
}
