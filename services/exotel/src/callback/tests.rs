use super::*;
use futures_util::FutureExt as _;

fn parse(content_type: Option<&str>, body: &str) -> Result<StatusCallback, BodyError> {
    StatusCallback::parse(content_type, Bytes::copy_from_slice(body.as_bytes()))
        .now_or_never()
        .unwrap()
}

const BOUNDARY: &str = "form-data-boundary-lebu8d9e3h8xzvhf";

fn multipart(pairs: &[(&str, &str)]) -> String {
    let part = |(name, value): &(&str, &str)| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    pairs.iter().map(part).chain([format!("--{BOUNDARY}--\r\n")]).collect()
}

#[test]
fn three_fields_in_all_encodings() {
    let body = multipart(&[
        ("CallSid", "4c18a8p"),
        ("Status", "completed"),
        ("DateUpdated", "2025-01-15 18:14:07"),
    ]);
    let header = format!("multipart/form-data; boundary={BOUNDARY}");
    let form = "CallSid=4c18a8p&Status=completed&DateUpdated=2025-01-15+18%3A14%3A07";
    let json = r#"{"CallSid":"4c18a8p","Status":"completed","DateUpdated":"2025-01-15 18:14:07"}"#;
    let want = parse(Some("application/x-www-form-urlencoded"), form).unwrap();
    assert_eq!(want.call_sid.as_deref(), Some("4c18a8p"));
    assert_eq!(want.event, CallbackEvent::Unspecified);
    assert_eq!(want.status, Some(ProviderStatus::Completed));
    assert_eq!(want.date_updated.unwrap().to_rfc3339(), "2025-01-15T12:44:07+00:00");
    for (content_type, body, encoding) in [
        (Some(header.as_str()), body.as_str(), BodyEncoding::Multipart),
        (Some("multipart/form-data"), &body, BodyEncoding::Multipart),
        (None, &body, BodyEncoding::Multipart),
        (None, form, BodyEncoding::Form),
        (Some("text/plain"), form, BodyEncoding::Form),
        (Some("application/json; charset=utf-8"), json, BodyEncoding::Json),
        (Some("text/plain"), json, BodyEncoding::Json),
    ] {
        let want = StatusCallback {
            encoding,
            ..want.clone()
        };
        assert_eq!(parse(content_type, body), Ok(want), "{content_type:?} {body}");
    }
}

const FULL: &str = r#"{ "CallSid":"80bfbec2d78bbbf10fb851f4fa165211","EventType":"terminal","DateCreated":"2024-01-15 14:25:10",
    "DateUpdated":"2024-01-15 14:30:45","Status":"completed","To":"09123456789","From":"09876543210",
    "PhoneNumberSid":"0XXXXXX4890","StartTime":"2024-01-15 14:25:12","EndTime":"2024-01-15 14:30:45",
    "ConversationDuration":320,"Direction":"outbound-api","CustomField":"order_12345",
    "RecordingUrl":null,"Legs":[{"OnCallDuration":335,"Status":"completed","AnsweredBy":"NA"},
    {"OnCallDuration":320,"Status":"completed","AnsweredBy":"HUMAN"}] }"#;

#[test]
fn the_documented_terminal_payload() {
    let callback = parse(Some("application/json"), FULL).unwrap();
    assert_eq!(callback.event, CallbackEvent::Terminal);
    assert_eq!(callback.conversation_s, Some(320));
    assert_eq!(callback.recording_url, None);
    assert_eq!(callback.custom_field.as_deref(), Some("order_12345"));
    assert_eq!(
        callback.to.as_ref().unwrap().number.as_ref().unwrap().expose(),
        "+919123456789"
    );
    assert_eq!(callback.phone_number.as_ref().unwrap().number, None);
    assert_eq!(callback.legs.len(), 2);
    assert_eq!(callback.legs[1].answered_by.as_deref(), Some("human"));
    assert_eq!(StatusCallback::from_json(&callback.to_json()), Ok(callback.clone()));
    let shown = format!("{callback:?}");
    assert!(
        !shown.contains("9123456789") && !shown.contains("9876543210"),
        "{shown}"
    );
}

#[test]
fn printing_shows_no_url_of_a_recording() {
    let body = "CallSid=4c18a8p&Status=completed&RecordingUrl=https%3A%2F%2Fs3.exotel.com%2FSECRET.mp3";
    let callback = parse(None, body).unwrap();
    assert_eq!(
        callback.recording_url.as_deref(),
        Some("https://s3.exotel.com/SECRET.mp3")
    );
    let shown = format!("{callback:?}");
    assert!(shown.contains("recorded: true") && !shown.contains("SECRET"), "{shown}");
}

#[test]
fn legs_of_a_form_are_flat() {
    let form = "EventType=answered&Legs[0][Status]=in-progress&Legs%5B1%5D%5BStatus%5D=&Status=in-progress";
    let callback = parse(None, form).unwrap();
    assert_eq!(callback.event, CallbackEvent::Answered);
    assert_eq!(callback.legs[0].status, Some(ProviderStatus::InProgress));
    assert_eq!(callback.legs[1].status, None);
}

#[test]
fn unknown_words_are_kept_apart() {
    let callback = parse(None, "EventType=dial&Status=parked").unwrap();
    assert_eq!(callback.event, CallbackEvent::Unknown("dial".into()));
    assert_eq!(callback.status, Some(ProviderStatus::Unknown("parked".into())));
}
