//! Refusals, in the platform's words.

use axum::{
    http::{StatusCode, header},
    response::Response,
};
use serde::Serialize;

use super::Format;

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) code: Option<u32>,
    /// The `Retry-After` header.
    pub(crate) retry_after: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "RestException")]
    exception: Exception<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Exception<'a> {
    status: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u32>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            code: None,
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Authentication failed")
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("The requested {what} was not found"))
    }

    pub(crate) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
    }

    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
    }

    /// The text seen live.
    pub(crate) fn kyc() -> Self {
        let text = "Your account is not yet KYC compliant. This is mandatory by TRAI guidelines to connect outbound voice calls.";
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// The text seen live.
    pub(crate) fn dnd(number: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            format!("Call to [{number}] can not be made because of TRAI NDNC regulations"),
        )
    }

    pub(crate) fn feature() -> Self {
        Self::new(StatusCode::FORBIDDEN, "Connect Voice AI is not enabled on this account")
    }

    pub(crate) fn rate() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests")
    }

    /// The body seen live.
    pub(crate) fn unavailable() -> Self {
        Self {
            code: Some(35_008),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable; ")
        }
    }

    /// An error of the platform's own.
    pub(crate) fn fault(status: u16) -> Self {
        match StatusCode::from_u16(status) {
            Ok(StatusCode::SERVICE_UNAVAILABLE) | Err(_) => Self::unavailable(),
            Ok(status) => Self::new(status, status.canonical_reason().unwrap_or("Internal error")),
        }
    }

    pub(crate) fn answer(&self, format: Format) -> Response {
        let exception = Exception {
            status: self.status.as_u16(),
            message: &self.message,
            code: self.code,
        };
        let mut response = format.answer(self.status, &Body { exception });
        if let Some(value) = self.retry_after.as_deref().and_then(|value| value.parse().ok()) {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }
}
