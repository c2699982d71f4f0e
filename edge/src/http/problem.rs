//! The one place where an error becomes an HTTP answer.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use exotel::BodyError;
use serde_json::json;
use tonic::{Code, Status};

/// Why a request is not answered as its caller hoped. The words tell nothing that the caller does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Problem {
    /// Unknown, forged or expired: which of these is nobody's business (F47, F48, F62).
    NotFound,
    /// No or wrong Basic credentials.
    Unauthorized,
    /// The path exists, but not with this method.
    Method,
    /// The request cannot be read.
    BadRequest,
    /// Over 64 KiB or 100 fields.
    TooLarge,
    /// Over 8 KiB of path and query.
    UriTooLong,
    /// Not a WebSocket upgrade.
    Upgrade,
    /// Not now: Exotel may try again.
    Unavailable,
}

impl Problem {
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::Upgrade => (StatusCode::UPGRADE_REQUIRED, "upgrade_required"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, word) = self.answer();
        let mut response = (status, Json(json!({ "error": word }))).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Unauthorized => {
                headers.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"callbridge\""),
                );
            }
            // Which one would do (RFC 6455 §4.4, RFC 9110 §15.5.22).
            Self::Upgrade => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound | Code::FailedPrecondition => Self::NotFound,
            Code::InvalidArgument | Code::OutOfRange => Self::BadRequest,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Cancelled => {
                tracing::warn!(code = ?status.code(), "call-service cannot answer now");
                Self::Unavailable
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                tracing::error!(code = ?status.code(), "call-service refuses this edge; check CALL_SERVICE_API_KEY and its scopes");
                Self::Unavailable
            }
            Code::Ok | Code::Unknown | Code::AlreadyExists | Code::Unimplemented | Code::Internal | Code::DataLoss => {
                tracing::error!(code = ?status.code(), "call-service failed");
                Self::Unavailable
            }
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge | BodyError::TooManyFields => Self::TooLarge,
            _ => Self::BadRequest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_answer() {
        for (code, expected) in [
            (Code::NotFound, 404),
            (Code::FailedPrecondition, 404),
            (Code::InvalidArgument, 400),
            (Code::Unavailable, 503),
            (Code::DeadlineExceeded, 503),
            (Code::Unauthenticated, 503),
            (Code::Internal, 503),
        ] {
            let response = Problem::from(Status::new(code, "secret detail")).into_response();
            assert_eq!(response.status().as_u16(), expected, "{code:?}");
        }
    }
}
