//! A call as REST shows it.

use chrono::{TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::Format;
use crate::{CallReport, Mode, call::Call, clock, settings::FlowTo, world::World};

/// Price of a started minute, in thousandths of a rupee.
const MINUTE_PRICE: i64 = 500;

/// One call under its usual key.
#[derive(Serialize)]
pub(crate) struct Single {
    #[serde(rename = "Call")]
    pub(crate) call: Resource,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Resource {
    pub(crate) sid: String,
    parent_call_sid: Option<String>,
    date_created: String,
    date_updated: String,
    account_sid: String,
    to: Option<String>,
    from: String,
    phone_number_sid: String,
    pub(crate) status: String,
    start_time: String,
    end_time: Option<String>,
    pub(crate) duration: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) direction: &'static str,
    answered_by: Option<String>,
    forwarded_from: Option<String>,
    caller_name: Option<String>,
    uri: String,
    recording_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pre_signed_recording_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    /// Not there at all, or there and perhaps `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_field: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    conversation_duration: i64,
    leg1_status: Option<String>,
    leg2_status: Option<String>,
    legs: Vec<LegEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LegEntry {
    leg: LegFacts,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LegFacts {
    id: u32,
    on_call_duration: i64,
}

/// The platform's word for a call's direction.
pub(crate) fn direction(mode: Mode) -> &'static str {
    if mode == Mode::Inbound {
        "inbound"
    } else {
        "outbound-api"
    }
}

/// The platform's word for where a call is: `in-progress` from the first moment, whether answered or not.
pub(crate) fn status(report: &CallReport) -> &str {
    report.status.as_deref().unwrap_or("in-progress")
}

impl Resource {
    /// The call as it shows now: the late facts are missing until their time has come.
    pub(crate) fn of(world: &World, call: &Call, details: bool, recording_validity: Option<u32>) -> Self {
        let settings = world.settings();
        let zone = call.account.zone();
        let report = call.report.borrow();
        let now = clock::now();
        let late = TimeDelta::from_std(settings.scaled_ms(settings.late_facts_ms)).unwrap_or(TimeDelta::MAX);
        let known = report.ended.is_some_and(|ended| now - ended >= late);
        let seconds = report.seconds(now);
        let minutes = (seconds + 59) / 60;
        let price = minutes * MINUTE_PRICE;
        let recording =
            (report.recorded && report.has_ended() && report.answered.is_some()).then(|| call.recording_url(world));
        let to = match report.mode {
            Mode::TwoNumbers => report.to.clone(),
            Mode::Inbound => Some(report.exophone.clone()),
            Mode::Flow | Mode::Stream | Mode::Stranger if settings.flow_to == FlowTo::ExoPhone => {
                Some(report.exophone.clone())
            }
            Mode::Flow | Mode::Stream | Mode::Stranger => None,
        };
        let account_sid = report.account_sid.clone();
        Self {
            sid: call.sid.clone(),
            parent_call_sid: None,
            date_created: zone.plain(report.created),
            date_updated: zone.plain(updated(&report)),
            to,
            from: report.customer.clone(),
            phone_number_sid: report.exophone.clone(),
            status: status(&report).to_owned(),
            start_time: zone.plain(report.created),
            end_time: report.ended.filter(|_| known).map(|at| zone.plain(at)),
            duration: known.then(|| seconds.to_string()),
            price: known.then(|| format!("{}.{:03}", price / 1_000, price % 1_000)),
            direction: direction(report.mode),
            answered_by: None,
            forwarded_from: None,
            caller_name: None,
            uri: format!("/v1/Accounts/{account_sid}/Calls.json/{}", call.sid),
            account_sid,
            pre_signed_recording_url: recording_validity
                .and(recording.clone())
                .map(|url| format!("{url}?signature=simulated")),
            recording_url: recording,
            details: details.then(|| Self::details(&report, seconds)),
            custom_field: None,
        }
    }

    /// The call as a list or details show it.
    pub(crate) fn read(world: &World, call: &Call, details: bool, recording_validity: Option<u32>) -> Self {
        let shown = world.settings().list_custom_field;
        Self {
            custom_field: shown.then(|| json!(call.request.custom_field)),
            ..Self::of(world, call, details, recording_validity)
        }
    }

    /// In JSON the URI has the odd order `Calls.json/{Sid}`, as documented.
    pub(crate) fn for_format(mut self, format: Format) -> Self {
        if format == Format::Xml {
            self.uri = self.uri.replace("Calls.json/", "Calls/");
        }
        self
    }

    fn details(report: &CallReport, seconds: i64) -> Details {
        let mut legs = vec![LegEntry {
            leg: LegFacts {
                id: 1,
                on_call_duration: seconds,
            },
        }];
        let second = report.legs.last();
        legs.extend(second.map(|leg| LegEntry {
            leg: LegFacts {
                id: 2,
                on_call_duration: leg.seconds,
            },
        }));
        Details {
            conversation_duration: second.map_or(seconds, |leg| leg.seconds),
            leg1_status: report.status.clone(),
            leg2_status: second.map(|leg| leg.status.clone()),
            legs,
        }
    }
}

fn updated(report: &CallReport) -> chrono::DateTime<Utc> {
    [report.ended, report.answered, report.ringing]
        .into_iter()
        .flatten()
        .next()
        .unwrap_or(report.created)
}
