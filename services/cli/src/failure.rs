//! What can go wrong: what was attempted, what was wrong, what to do.

use std::{error::Error as _, io, path::PathBuf};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The command line is wrong (`EX_USAGE` of sysexits.h, as of all our programs).
pub const EXIT_USAGE: u8 = runtime::config::EXIT_USAGE;
/// The service refused, or something is not well.
const EXIT_REFUSED: u8 = 1;
/// `EX_NOINPUT`.
const EXIT_FILE: u8 = 66;
/// `EX_UNAVAILABLE`.
const EXIT_UNREACHABLE: u8 = 69;
/// `EX_NOPERM`.
const EXIT_NOT_ALLOWED: u8 = 77;

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The service, or the way to it.
    #[error("cannot {attempt}: {}", told(.status, .endpoint))]
    Service {
        /// What was attempted.
        attempt: String,
        /// Where.
        endpoint: String,
        /// What it said.
        status: Box<Status>,
    },
    /// A file.
    #[error("cannot {attempt} {}: {source}", .path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// The result is bad news, which has been shown.
    #[error("{0}")]
    NotWell(String),
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Service { status, .. } => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded => EXIT_UNREACHABLE,
                Code::Unauthenticated | Code::PermissionDenied => EXIT_NOT_ALLOWED,
                // Not the service's word: the connection broke off.
                _ if status.source().is_some() => EXIT_UNREACHABLE,
                _ => EXIT_REFUSED,
            },
            Self::File { .. } => EXIT_FILE,
            Self::Usage(_) => EXIT_USAGE,
            Self::NotWell(_) | Self::Output(_) => EXIT_REFUSED,
        }
    }
}

/// What the service said, and what to do about it.
fn told(status: &Status, endpoint: &str) -> String {
    let mut text = status.message().to_owned();
    if let Some(wrong) = status.get_details_bad_request() {
        // The message names them too, in one long line, where call-service wrote it.
        let untold = |description: &String| !status.message().contains(description);
        for violation in wrong
            .field_violations
            .iter()
            .filter(|violation| untold(&violation.description))
        {
            let line = format!("\n  {}: {}", violation.field, violation.description);
            text.push_str(&line);
        }
    }
    let advice = match status.code() {
        _ if wants_certificate(status) => {
            format!(
                "\ncall-service at {endpoint} needs a certificate of its clients: give --client-cert and --client-key"
            )
        }
        Code::Unavailable => format!(
            "\nsee that call-service runs at {endpoint} (--endpoint or CALL_SERVICE_URL), with TLS if it says https, and try again"
        ),
        Code::DeadlineExceeded => "\ntry again".to_owned(),
        Code::Unauthenticated => "\ngive a key that call-service knows: --api-key or CALLBRIDGE_API_KEY".to_owned(),
        Code::PermissionDenied
            if status
                .get_details_error_info()
                .is_some_and(|info| info.reason == "SCOPE_MISSING") =>
        {
            "\nuse a key that has that scope: see callbridge keys list, or call-service's API_KEYS".to_owned()
        }
        Code::NotFound => "\nsee the id: the list commands show what there is".to_owned(),
        Code::Unimplemented => "\nthis call-service is older than this program: use one of the same release".to_owned(),
        _ if status.source().is_some() => format!(
            "\nthe connection to {endpoint} broke off; where call-service needs a certificate of its clients, give --client-cert and --client-key"
        ),
        _ => String::new(),
    };
    text + &advice
}

/// Whether the server asked for a certificate that it did not get (RFC 8446 §6.2). HTTP/2 passes on the text of what TLS said.
fn wants_certificate(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.to_string().contains("CertificateRequired") {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(code: Code) -> Failure {
        Failure::Service {
            attempt: "list calls".to_owned(),
            endpoint: "http://127.0.0.1:50051".to_owned(),
            status: Box::new(Status::new(code, "no")),
        }
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        for (code, exit) in [
            (Code::NotFound, 1),
            (Code::InvalidArgument, 1),
            (Code::Unavailable, 69),
            (Code::DeadlineExceeded, 69),
            (Code::Unauthenticated, 77),
            (Code::PermissionDenied, 77),
        ] {
            assert_eq!(service(code).exit_code(), exit, "{code:?}");
        }
        assert_eq!(Failure::Usage(String::new()).exit_code(), 64);
        assert_eq!(Failure::NotWell(String::new()).exit_code(), 1);
    }

    #[test]
    fn an_error_says_what_was_attempted_and_what_to_do() {
        let text = service(Code::Unauthenticated).to_string();
        assert!(text.starts_with("cannot list calls: no"), "{text}");
        assert!(text.contains("CALLBRIDGE_API_KEY"), "{text}");
        assert!(
            service(Code::Unavailable)
                .to_string()
                .contains("http://127.0.0.1:50051")
        );
    }

    #[test]
    fn wrong_fields_are_named() {
        use tonic_types::ErrorDetails;
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("to", "is not a number");
        let status = Status::with_error_details(Code::InvalidArgument, "the request is not valid", details);
        let failure = Failure::Service {
            attempt: "hand the call over".to_owned(),
            endpoint: String::new(),
            status: Box::new(status),
        };
        assert_eq!(
            failure.to_string(),
            "cannot hand the call over: the request is not valid\n  to: is not a number"
        );
    }
}
