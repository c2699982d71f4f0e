//! Webhooks as Exotel sends them: callbacks' bodies in three encodings, and applets' queries.

use bytes::Bytes;
use exotel::{applet::AppletRequest, callback::StatusCallback, number::Caller};
use futures_util::FutureExt as _;

/// Fields of a request that are taken (`exotel::BodyError::TooManyFields`).
const MAX_FIELDS: usize = 100;

/// The body's first byte says which header comes with it, so that all encodings share a corpus.
fn split(data: &[u8]) -> (Option<&'static str>, &[u8]) {
    let header = match data.first() {
        Some(b'f') => "application/x-www-form-urlencoded",
        Some(b'j') => "application/json",
        Some(b'm') => "multipart/form-data; boundary=X",
        // Without its boundary: the body's first line has it.
        Some(b'b') => "multipart/form-data",
        _ => return (None, data.get(1..).unwrap_or_default()),
    };
    (Some(header), &data[1..])
}

/// Bodies of status callbacks (F52): read at once, within 100 fields, and what is kept of one reads back as the same.
pub fn forms(data: &[u8]) {
    let (content_type, body) = split(data);
    let parsed = StatusCallback::parse(content_type, Bytes::copy_from_slice(body)).now_or_never();
    // The whole body is here, so nothing can be waited for.
    let Ok(callback) = parsed.expect("reading a body that is there does not wait") else {
        return;
    };
    let json = callback.to_json();
    within_limits(&json, body.len());
    let mut back = StatusCallback::from_json(&json).expect("what is kept of a callback can be read again");
    assert_eq!(back.to_json(), json);
    back.encoding = callback.encoding;
    assert_eq!(back, callback);
    for caller in [&callback.from, &callback.to, &callback.phone_number]
        .into_iter()
        .flatten()
    {
        as_it_came(caller);
    }
    assert!(callback.legs.len() <= 12);
}

/// Queries of applets' requests, with a body behind the first line: our own parameters are never lost to what is appended.
pub fn applets(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (query, rest) = data.split_at(line);
    let Ok(query) = std::str::from_utf8(query) else { return };
    let (content_type, body) = split(rest.get(1..).unwrap_or_default());
    let Ok(request) = AppletRequest::parse(query, content_type, body) else {
        return;
    };
    let json = request.to_json();
    within_limits(&json, data.len());
    assert_eq!(AppletRequest::parse(query, content_type, body).as_ref(), Ok(&request));
    // The same fields as one JSON body are the same request.
    let back = AppletRequest::parse("", Some("application/json"), json.to_string().as_bytes());
    assert_eq!(back.as_ref(), Ok(&request));
    for caller in [&request.call_from, &request.call_to].into_iter().flatten() {
        as_it_came(caller);
    }
    assert!(request.digits.as_deref().is_none_or(|digits| !digits.is_empty()));
    let _ = (request.caller_hung_up(), exotel::paths::probe_of(query));
}

fn as_it_came(caller: &Caller) {
    assert_eq!(*caller, Caller::read(&caller.raw));
}

fn within_limits(json: &serde_json::Value, length: usize) {
    let fields = json.as_object().expect("fields are an object");
    assert!(fields.len() <= MAX_FIELDS);
    let kept: usize = fields
        .values()
        .filter_map(serde_json::Value::as_str)
        .map(str::len)
        .sum();
    // A number may be printed longer than it came (`1e9`), a character never: its escape is longer.
    assert!(kept <= 64 * length + 64, "{kept} bytes of values from {length}");
}
