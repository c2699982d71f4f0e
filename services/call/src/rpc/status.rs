//! The one place where errors become gRPC statuses. Clients get a code, a stable reason, whether a retry may help, and
//! field violations; never a database's or a vendor's message.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{db::DbError, error::Error};

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "callbridge";

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        status(error)
    }
}

/// The status of an error. Failures of ours are logged here, once.
#[expect(clippy::needless_pass_by_value, reason = "the end of every error")]
pub fn status(error: Error) -> Status {
    let mut details = ErrorDetails::new();
    let (code, reason, retryable, message) = match &error {
        Error::Invalid(violations) => {
            for violation in violations {
                details.add_bad_request_violation(&violation.field, &violation.description);
            }
            (Code::InvalidArgument, "INVALID_ARGUMENT", false, error.to_string())
        }
        Error::NotFound { .. } => (Code::NotFound, "NOT_FOUND", false, error.to_string()),
        Error::Precondition { reason, message } => (Code::FailedPrecondition, *reason, false, message.clone()),
        Error::AlreadyExists { reason, message } => (Code::AlreadyExists, *reason, false, message.clone()),
        Error::Spent { reason, message } => (Code::ResourceExhausted, *reason, false, message.clone()),
        Error::Exhausted { reason, message } => (Code::ResourceExhausted, *reason, true, message.clone()),
        Error::Aborted { reason, message } => (Code::Aborted, *reason, true, message.clone()),
        Error::Unauthenticated { message } => (Code::Unauthenticated, "UNAUTHENTICATED", false, (*message).to_owned()),
        Error::Forbidden { .. } => (Code::PermissionDenied, "SCOPE_MISSING", false, error.to_string()),
        Error::Denied { reason, message } => (Code::PermissionDenied, *reason, false, message.clone()),
        Error::UnknownMethod => (Code::Unimplemented, "UNKNOWN_METHOD", false, error.to_string()),
        Error::TooSlow => {
            tracing::warn!("a request was given up: it took longer than the server allows");
            (Code::DeadlineExceeded, "TOO_SLOW", true, error.to_string())
        }
        Error::Unavailable { reason, message } => (Code::Unavailable, *reason, true, message.clone()),
        Error::Db(DbError::Busy) => (
            Code::ResourceExhausted,
            "DATABASE_BUSY",
            true,
            "all database connections are in use; try again".to_owned(),
        ),
        Error::Db(cause) if cause.is_transient() => {
            tracing::warn!(error = %cause, "the database did not answer a request");
            (
                Code::Unavailable,
                "DATABASE_UNAVAILABLE",
                true,
                "the database does not answer; try again".to_owned(),
            )
        }
        Error::Db(cause) => {
            tracing::error!(error = %cause, "the database refused a request");
            (Code::Internal, "INTERNAL", false, "internal error".to_owned())
        }
        Error::Internal { source, .. } => {
            let cause = source.as_ref().map(ToString::to_string);
            tracing::error!(%error, cause, "a request failed");
            (Code::Internal, "INTERNAL", false, "internal error".to_owned())
        }
    };
    let metadata = HashMap::from([("retryable".to_owned(), retryable.to_string())]);
    details.set_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_code_a_reason_and_an_answer_on_retries() {
        let cases = [
            (
                Error::invalid("name", "is required"),
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                "false",
            ),
            (Error::not_found("call", "call_1"), Code::NotFound, "NOT_FOUND", "false"),
            (
                Error::precondition("NO_AGENT", "x"),
                Code::FailedPrecondition,
                "NO_AGENT",
                "false",
            ),
            (
                Error::already_exists("TAKEN", "x"),
                Code::AlreadyExists,
                "TAKEN",
                "false",
            ),
            (Error::exhausted("FULL", "x"), Code::ResourceExhausted, "FULL", "true"),
            (Error::aborted("RACED", "x"), Code::Aborted, "RACED", "true"),
            (
                Error::Unauthenticated { message: "x" },
                Code::Unauthenticated,
                "UNAUTHENTICATED",
                "false",
            ),
            (
                Error::Forbidden { scope: "media" },
                Code::PermissionDenied,
                "SCOPE_MISSING",
                "false",
            ),
            (
                Error::Denied {
                    reason: "SCOPE_NOT_HELD",
                    message: String::new(),
                },
                Code::PermissionDenied,
                "SCOPE_NOT_HELD",
                "false",
            ),
            (Error::UnknownMethod, Code::Unimplemented, "UNKNOWN_METHOD", "false"),
            (Error::TooSlow, Code::DeadlineExceeded, "TOO_SLOW", "true"),
            (Error::unavailable("x"), Code::Unavailable, "UNAVAILABLE", "true"),
            (
                Error::Db(DbError::Unreachable("x".to_owned())),
                Code::Unavailable,
                "DATABASE_UNAVAILABLE",
                "true",
            ),
            (
                Error::Db(DbError::Busy),
                Code::ResourceExhausted,
                "DATABASE_BUSY",
                "true",
            ),
            (
                diesel::result::Error::NotFound.into(),
                Code::Internal,
                "INTERNAL",
                "false",
            ),
            (Error::internal("x"), Code::Internal, "INTERNAL", "false"),
        ];
        for (error, code, reason, retryable) in cases {
            let status = Status::from(error);
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (status.code(), info.reason.as_str(), info.domain.as_str()),
                (code, reason, DOMAIN)
            );
            assert_eq!(info.metadata["retryable"], retryable);
        }
    }

    #[test]
    fn violations_name_their_fields_and_internals_stay_inside() {
        let status = Status::from(Error::invalid("calling_hours.time_zone", "is not an IANA name"));
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "calling_hours.time_zone");

        let status = Status::from(Error::internal_from("cannot open canary-one", "canary-two"));
        assert_eq!(status.message(), "internal error");
        assert!(!String::from_utf8_lossy(status.details()).contains("canary"));
    }
}
