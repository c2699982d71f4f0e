//! What a status callback tells, and in which encoding.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Call, callbacks::Kind};
use crate::{
    Mode, clock,
    settings::{CallbackEncoding, Payload},
    world::World,
};

/// A field: its key in forms and in JSON, and its value.
pub(crate) type Fields = Vec<(&'static str, Value)>;

/// What the event tells; `None` when it is not sent at all.
pub(crate) fn fields(world: &World, call: &Call, kind: Kind, payload: Payload) -> Option<Fields> {
    let callback = call.request.callback.as_ref()?;
    let full = match payload {
        Payload::Full => true,
        Payload::ThreeField => false,
        // Subscribed events are documented not to apply to flows, and live captures agree.
        Payload::AsSeenLive => !callback.events.is_empty() && call.request.mode != Mode::Flow,
    };
    let by_default = kind == Kind::Terminal && (!full || callback.events.is_empty());
    let wanted = by_default || (full && callback.events.contains(&kind));
    if !wanted {
        return None;
    }
    let zone = call.account.zone();
    let report = call.report.borrow();
    let now = clock::now();
    let status = report.status.clone().unwrap_or_else(|| "in-progress".to_owned());
    let recording =
        (kind == Kind::Terminal && report.recorded && report.answered.is_some()).then(|| call.recording_url(world));
    if !full {
        let mut fields: Fields = vec![
            ("CallSid", json!(call.sid)),
            ("Status", json!(status)),
            ("DateUpdated", json!(zone.plain(now))),
        ];
        fields.extend(recording.map(|url| ("RecordingUrl", json!(url))));
        return Some(fields);
    }
    let first_leg = json!({
        "OnCallDuration": report.seconds(now), "Status": leg_status(&status, kind), "AnsweredBy": "NA",
    });
    let mut legs = vec![first_leg];
    if call.request.mode == Mode::TwoNumbers {
        let second = report.legs.last();
        legs.push(json!({
            "OnCallDuration": second.map_or(0, |leg| leg.seconds),
            "Status": second.map_or("", |leg| leg.status.as_str()),
            "AnsweredBy": "NA",
        }));
    }
    let talked = report
        .legs
        .last()
        .map_or_else(|| report.seconds(now), |leg| leg.seconds);
    let mut fields: Fields = vec![
        ("CallSid", json!(call.sid)),
        ("EventType", json!(kind.word())),
        ("DateCreated", json!(zone.plain(report.created))),
        ("DateUpdated", json!(zone.plain(now))),
        ("Status", json!(status)),
        ("To", json!(report.to.as_ref().unwrap_or(&report.exophone))),
        ("From", json!(report.customer)),
        ("PhoneNumberSid", json!(report.exophone)),
        ("StartTime", json!(zone.plain(report.created))),
        ("EndTime", json!(report.ended.map(|at| zone.plain(at)))),
        ("ConversationDuration", json!(talked)),
        ("Direction", json!("outbound-api")),
    ];
    if kind == Kind::Terminal
        && let Some(field) = &report.custom_field
    {
        fields.push(("CustomField", json!(field)));
    }
    fields.push(("RecordingUrl", json!(recording)));
    fields.push(("Legs", Value::from(legs)));
    Some(fields)
}

fn leg_status(status: &str, kind: Kind) -> &str {
    match kind {
        Kind::Terminal => status,
        Kind::Answered => "in-progress",
        Kind::Ringing => "ringing",
    }
}

/// The content type and the body.
pub(crate) fn encode(encoding: CallbackEncoding, fields: &Fields) -> (String, Vec<u8>) {
    match encoding {
        CallbackEncoding::Json => {
            let object: Map<String, Value> = fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect();
            (
                "application/json".to_owned(),
                Value::from(object).to_string().into_bytes(),
            )
        }
        CallbackEncoding::UrlEncoded => {
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(flat(fields))
                .finish();
            ("application/x-www-form-urlencoded".to_owned(), body.into_bytes())
        }
        CallbackEncoding::Multipart | CallbackEncoding::AsRequested => {
            let random = Uuid::new_v4().simple().to_string();
            let boundary = format!("form-data-boundary-{}", &random[..16]);
            let mut body = String::new();
            for (key, value) in flat(fields) {
                body.extend([
                    "--",
                    &boundary,
                    "\r\nContent-Disposition: form-data; name=\"",
                    &key,
                    "\"\r\n\r\n",
                    &value,
                    "\r\n",
                ]);
            }
            body.extend(["--", &boundary, "--\r\n"]);
            (format!("multipart/form-data; boundary={boundary}"), body.into_bytes())
        }
    }
}

/// The fields of a form: lists become `Legs[0][Status]`, `null` becomes empty.
fn flat(fields: &Fields) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in fields {
        flatten(&mut flat, (*key).to_owned(), value);
    }
    flat
}

fn flatten(flat: &mut Vec<(String, String)>, key: String, value: &Value) {
    match value {
        Value::Null => flat.push((key, String::new())),
        Value::String(text) => flat.push((key, text.clone())),
        Value::Bool(_) | Value::Number(_) => flat.push((key, value.to_string())),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(flat, format!("{key}[{at}]"), item);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                flatten(flat, format!("{key}[{name}]"), member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Fields, encode, flat};
    use crate::settings::CallbackEncoding;

    fn some() -> Fields {
        vec![
            ("CallSid", json!("a1")),
            ("RecordingUrl", json!(null)),
            (
                "Legs",
                json!([{"Status": "completed", "OnCallDuration": 3}, {"Status": ""}]),
            ),
        ]
    }

    #[test]
    fn forms_are_flat() {
        let flat: Vec<String> = flat(&some())
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            flat,
            [
                "CallSid=a1",
                "RecordingUrl=",
                "Legs[0][OnCallDuration]=3",
                "Legs[0][Status]=completed",
                "Legs[1][Status]=",
            ]
        );
    }

    #[tokio::test]
    async fn multipart_is_read_back() {
        let (content_type, body) = encode(CallbackEncoding::Multipart, &some());
        let boundary = multer::parse_boundary(&content_type).expect("a boundary");
        let stream = futures_util::stream::iter([Ok::<_, std::io::Error>(body)]);
        let mut form = multer::Multipart::new(stream, boundary);
        let mut names = Vec::new();
        while let Some(field) = form.next_field().await.expect("well-formed") {
            names.push(field.name().expect("a name").to_owned());
        }
        assert_eq!(names.len(), 5);
        assert_eq!(names[0], "CallSid");
    }
}
