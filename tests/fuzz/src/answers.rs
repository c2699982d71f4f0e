//! Answers of Exotel's REST API: a dial's, and those to reads, JSON or XML.

use bytes::Bytes;
use exotel::rest::{ActiveStreams, CallDetails, CallsPage, DialOutcome, DialReport};
use http::{HeaderMap, HeaderValue, header};
use std::time::Duration;

/// Longest pause that an answer may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(5);
/// The statuses that decide differently, besides one of no class.
const STATUSES: [u16; 12] = [200, 201, 204, 302, 400, 401, 402, 403, 404, 429, 503, 999];

/// A dial's answer (F22, F24): its first byte chooses the status, its first line is `Retry-After`, its second one `Date`. A call
/// counts as placed with 200 or 201 and an id alone, and as refused with a refusal's status alone; everything else is unknown.
pub fn dials(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let status = STATUSES[usize::from(*first) % STATUSES.len()];
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::RETRY_AFTER, header::DATE] {
        if let Some(Ok(value)) = parts.next().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    let body = Bytes::copy_from_slice(parts.next().unwrap_or_default());
    let report = DialReport::judge(status, headers, body.clone());
    assert_eq!(report.http_status, Some(status));
    match report.outcome {
        DialOutcome::Placed { call_sid } => {
            assert!(matches!(status, 200 | 201), "{status} is no call");
            assert!((8..=64).contains(&call_sid.len()));
            assert!(
                call_sid
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            );
        }
        DialOutcome::Rejected {
            provider_code,
            retry_after,
            ..
        } => {
            assert!(matches!(status, 400..=404 | 429), "{status} is no refusal");
            assert!(provider_code.starts_with(&status.to_string()) && provider_code.len() <= 40);
            assert!(retry_after.is_none_or(|pause| pause <= MAX_RETRY_AFTER));
        }
        DialOutcome::Unknown { reason } => assert!(!reason.is_empty()),
        DialOutcome::NotSent { .. } => unreachable!("an answer means that something was sent"),
    }
    reads(&body);
}

/// Bodies of one call, a list of calls and a count of streams: what is read has ids and is no more than there was.
pub fn reads(body: &[u8]) {
    let call = CallDetails::parse(body, None);
    if let Some(call) = &call {
        assert!((8..=64).contains(&call.call_sid.len()) && call.legs.len() <= 12);
        assert!(call.price.as_deref().is_none_or(|price| price.len() <= 20));
        assert_eq!(CallDetails::parse(body, None).as_ref(), Some(call));
    }
    if let Some(page) = CallsPage::parse(body, None) {
        assert!(page.calls.len() <= body.len());
        assert!(page.calls.iter().all(|call| call.server_date.is_none()));
    }
    let _ = ActiveStreams::parse(body);
}
