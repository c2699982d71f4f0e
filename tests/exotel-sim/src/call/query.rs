//! The queries of applet requests, key for key and in the order in which they were captured live.

use serde_json::json;

use super::{Call, flow::Progress};
use crate::{Mode, StreamReport, clock, settings::StreamFacts};

pub(crate) type Query = Vec<(String, String)>;

/// What `To` held in two unrelated live captures of Voicebot requests: not the ExoPhone.
const STRANGE_TO: &str = "09513886363";

/// `tenant_id` of the capture; a number that means nothing outside.
const TENANT: &str = "1409";

fn push(query: &mut Query, key: &str, value: impl Into<String>) {
    query.push((key.to_owned(), value.into()));
}

/// The keys that all requests of a flow begin with.
fn common(call: &Call) -> Query {
    let report = call.report.borrow();
    let mut query = Query::new();
    push(&mut query, "CallSid", &call.sid);
    push(&mut query, "CallFrom", &report.customer);
    push(&mut query, "CallTo", &report.exophone);
    push(
        &mut query,
        "Direction",
        if call.request.mode == Mode::Inbound {
            "incoming"
        } else {
            "outbound-dial"
        },
    );
    push(&mut query, "Created", call.account.zone().wordy(report.created));
    query
}

/// A Voicebot applet's dynamic URL.
pub(crate) fn voicebot(call: &Call) -> Query {
    let mut query = common(call);
    push(&mut query, "DialWhomNumber", "");
    push(&mut query, "HangupLatencyStartTimeExocc", "");
    push(&mut query, "HangupLatencyStartTime", "");
    if call.request.mode == Mode::Inbound {
        push(&mut query, "ServerCode", "");
    }
    push(&mut query, "From", call.request.customer.national());
    push(&mut query, "To", STRANGE_TO);
    if let Some(field) = &call.request.custom_field {
        push(&mut query, "CustomField", field);
    }
    push(&mut query, "CurrentTime", call.account.zone().plain(clock::now()));
    query
}

/// A Passthru, a Connect or a Gather applet.
pub(crate) fn passthru(call: &Call, progress: &Progress, form: StreamFacts) -> Query {
    let zone = call.account.zone();
    let mut query = common(call);
    let dialled = progress.dial.as_ref();
    let report = call.report.borrow();
    push(
        &mut query,
        "DialCallDuration",
        dialled.map_or(0, |dial| dial.with_ringing_s).to_string(),
    );
    push(&mut query, "StartTime", zone.plain(report.created));
    push(&mut query, "EndTime", zone.epoch());
    let kind = match dialled {
        Some(dial) if dial.leg.status == "completed" => "completed",
        Some(_) => "incomplete",
        None if progress.hung_up => "client-hangup",
        None => "call-attempt",
    };
    push(&mut query, "CallType", kind);
    if let Some(dial) = dialled {
        push(&mut query, "DialCallStatus", &dial.leg.status);
    }
    push(
        &mut query,
        "DialWhomNumber",
        dialled.map_or("", |dial| dial.leg.number.as_str()),
    );
    push(&mut query, "flow_id", &progress.flow_id);
    push(&mut query, "tenant_id", TENANT);
    push(&mut query, "From", call.request.customer.national());
    push(&mut query, "To", call.request.exophone.national());
    if let Some(field) = &call.request.custom_field {
        push(&mut query, "CustomField", field);
    }
    push(&mut query, "CurrentTime", zone.plain(clock::now()));
    if let Some(digits) = &progress.digits {
        // The quotes are part of the value, as seen live.
        push(&mut query, "digits", format!("\"{digits}\""));
    }
    if let Some(dial) = dialled {
        let cause = match dial.leg.status.as_str() {
            "completed" => "NORMAL_CLEARING",
            "busy" => "USER_BUSY",
            "no-answer" => "NO_ANSWER",
            _ => "CALL_REJECTED",
        };
        push(&mut query, "Legs[0][Number]", &dial.leg.number);
        push(&mut query, "Legs[0][Type]", "single");
        push(&mut query, "Legs[0][Cause]", cause);
        push(&mut query, "Legs[0][CauseCode]", cause);
        push(&mut query, "Legs[0][OnCallDuration]", dial.leg.seconds.to_string());
        if let Some(url) = &dial.recording_url {
            push(&mut query, "RecordingUrl", url);
        }
    }
    if let Some(stream) = &progress.stream {
        stream_facts(&mut query, stream, progress.stream_recording.as_deref(), form);
    }
    query
}

fn stream_facts(query: &mut Query, stream: &StreamReport, recording: Option<&str>, form: StreamFacts) {
    let mut facts = vec![
        ("StreamSID", stream.stream_sid.clone()),
        ("Status", stream.status.clone().unwrap_or_default()),
        ("Duration", stream.seconds.to_string()),
        ("StreamUrl", stream.url.clone()),
        ("DisconnectedBy", stream.disconnected_by.clone().unwrap_or_default()),
    ];
    facts.extend(recording.map(|url| ("RecordingUrl", url.to_owned())));
    facts.extend(stream.detailed_status.clone().map(|text| ("DetailedStatus", text)));
    facts.extend(stream.error.clone().map(|text| ("Error", text)));
    match form {
        StreamFacts::Bracketed => {
            for (key, value) in facts {
                push(query, &format!("Stream[{key}]"), value);
            }
        }
        StreamFacts::Json => {
            let object: serde_json::Map<String, serde_json::Value> = facts
                .into_iter()
                .map(|(key, value)| (key.to_owned(), json!(value)))
                .collect();
            push(query, "Stream", serde_json::Value::from(object).to_string());
        }
    }
}

/// A Greeting applet.
pub(crate) fn greeting(call: &Call, progress: &Progress) -> Query {
    let mut query = Query::new();
    push(&mut query, "CallSid", &call.sid);
    push(&mut query, "From", call.request.customer.national());
    push(&mut query, "To", call.request.exophone.national());
    push(
        &mut query,
        "DialWhomNumber",
        progress.dial.as_ref().map_or("", |dial| dial.leg.number.as_str()),
    );
    if let Some(field) = &call.request.custom_field {
        push(&mut query, "CustomField", field);
    }
    query
}
