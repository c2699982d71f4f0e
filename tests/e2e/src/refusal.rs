//! What a client can act on when it is refused.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::sweep::look_at_error;

/// A status without its words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// The stable word.
    pub reason: String,
    /// Whether trying again may help.
    pub retryable: bool,
    /// The fields that are wrong.
    pub fields: Vec<String>,
}

/// Reads a status.
pub fn refusal(status: &Status) -> Refusal {
    look_at_error(format!("{status:?} {}", String::from_utf8_lossy(status.details())).as_bytes());
    let info = status.get_details_error_info();
    let wrong = status.get_details_bad_request().map(|request| request.field_violations);
    Refusal {
        code: status.code(),
        retryable: info
            .as_ref()
            .is_some_and(|info| info.metadata.get("retryable").is_some_and(|word| word == "true")),
        reason: info.map(|info| info.reason).unwrap_or_default(),
        fields: wrong.into_iter().flatten().map(|violation| violation.field).collect(),
    }
}

/// The refusal of wrong fields.
pub fn invalid(fields: &[&str]) -> Refusal {
    let fields = fields.iter().map(|field| (*field).to_owned()).collect();
    Refusal {
        fields,
        ..refused(Code::InvalidArgument, "INVALID_ARGUMENT")
    }
}

/// Any other refusal that stays one when it is tried again.
pub fn refused(code: Code, reason: &str) -> Refusal {
    Refusal {
        code,
        reason: reason.to_owned(),
        retryable: false,
        fields: Vec::new(),
    }
}

/// A refusal that may not be one a little later.
pub fn refused_for_now(code: Code, reason: &str) -> Refusal {
    Refusal {
        retryable: true,
        ..refused(code, reason)
    }
}
