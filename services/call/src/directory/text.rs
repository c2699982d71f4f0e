//! Checks that several records share.

use callbridge_proto::directory::v1::ExotelCredentials;

use crate::{error::Violations, vault::Secrets};

/// Exotel's keys and tokens have some 50 characters.
const SECRET_BYTES: usize = 256;

/// A name for people: trimmed, 1 to 100 characters, no control characters.
pub(super) fn name(violations: &mut Violations, field: &str, text: &str) -> String {
    let name = text.trim();
    let fits = (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    violations.require(
        fits,
        field,
        "is required: 1 to 100 characters, none of them a control character",
    );
    name.to_owned()
}

/// A cap: 0 is none.
pub(super) fn cap(violations: &mut Violations, field: &str, cap: i32) -> i32 {
    violations.require(cap >= 0, field, "is 0 (no cap) or above");
    cap
}

/// The id of a flow; empty is none.
pub(super) fn app_id(violations: &mut Violations, field: &str, text: &str) -> Option<String> {
    let id = text.trim();
    if id.is_empty() {
        return None;
    }
    violations.require(
        super::account::is_app_id(id),
        field,
        "is up to 64 letters, digits, dashes and underscores",
    );
    Some(id.to_owned())
}

/// A key and a token.
pub(super) fn secrets(violations: &mut Violations, field: &str, credentials: &ExotelCredentials) -> Secrets {
    let mut part = |name: &str, text: &str| {
        let text = text.trim();
        let fits = (1..=SECRET_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        violations.require(
            fits,
            &format!("{field}.{name}"),
            "is required: up to 256 visible ASCII characters",
        );
        text.to_owned().into()
    };
    Secrets {
        key: part("api_key", &credentials.api_key),
        token: part("api_token", &credentials.api_token),
    }
}

/// The paths of an update mask, each of which must be one of `known`.
pub(super) fn mask<'a>(
    violations: &mut Violations,
    mask: Option<&'a prost_types::FieldMask>,
    known: &[&str],
) -> Vec<&'a str> {
    let paths: Vec<&str> = mask
        .map(|mask| mask.paths.iter().map(String::as_str).collect())
        .unwrap_or_default();
    let fits = !paths.is_empty() && paths.iter().all(|path| known.contains(path));
    violations.require(
        fits,
        "update_mask",
        &format!("names one or more of: {}", known.join(", ")),
    );
    paths
}
