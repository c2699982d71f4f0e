//! Numbers and streams of an account.

use axum::{http::StatusCode, response::Response};
use serde::Serialize;
use serde_json::json;

use super::{Format, error::Refusal};
use crate::{Answer, account::AccountState, number::Number, settings::ActiveStreams, world::World};

/// `GET /v2_beta/…/IncomingPhoneNumbers`: JSON in snake case.
pub(crate) fn incoming(account: &AccountState) -> Response {
    let account = account.get();
    let numbers: Vec<_> = account
        .exophones
        .iter()
        .enumerate()
        .map(|(at, phone)| {
            let voice = (!phone.flow.is_empty())
                .then(|| format!("http://my.exotel.in/{}/exoml/start_voice/{}", account.sid, phone.flow));
            let number = Number::parse(&phone.number).map_or_else(|| phone.number.clone(), |number| number.national());
            json!({
                "sid": format!("simnumber{at:023}"),
                "phone_number": number,
                "friendly_name": number,
                "voice_url": voice,
                "sms_url": null,
                "number_type": "Landline",
                "region": "KA",
                "country": "IN",
            })
        })
        .collect();
    Format::Json.answer(StatusCode::OK, &json!({ "incoming_phone_numbers": numbers }))
}

#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "Numbers")]
    numbers: Facts,
}

#[derive(Serialize)]
struct Facts {
    #[serde(rename = "PhoneNumber")]
    phone_number: String,
    #[serde(rename = "Circle")]
    circle: &'static str,
    #[serde(rename = "CircleName")]
    circle_name: &'static str,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Operator")]
    operator: &'static str,
    #[serde(rename = "OperatorName")]
    operator_name: &'static str,
    #[serde(rename = "DND")]
    dnd: &'static str,
}

/// `GET /v1/…/Numbers/{number}`: `DND` is `Yes` where a connect would be refused for it.
pub(crate) fn metadata(world: &World, format: Format, number: &str) -> Response {
    let Some(number) = Number::parse(number) else {
        return Refusal::bad_request("The number is invalid").answer(format);
    };
    let numbers = Facts {
        phone_number: number.national(),
        circle: "GJ",
        circle_name: "Gujarat Telecom Circle",
        kind: "Mobile",
        operator: "R",
        operator_name: "Reliance",
        dnd: if world.outcome(&number).answer == Answer::Dnd {
            "Yes"
        } else {
            "No"
        },
    };
    format.answer(StatusCode::OK, &Metadata { numbers })
}

#[derive(Serialize)]
struct Streams {
    #[serde(rename = "Stream")]
    stream: Counts,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Counts {
    active_stream_count: u64,
    throttle_limit: u32,
}

/// `GET /v1/…/ActiveStreams`, in either documented form whatever the path's ending.
pub(crate) fn active_streams(world: &World, account: &AccountState) -> Response {
    let (open, limit, sid) = (
        account.load().streams,
        account.get().max_streams,
        account.get().sid.clone(),
    );
    match world.settings().active_streams {
        ActiveStreams::Xml => {
            let stream = Counts {
                active_stream_count: open,
                throttle_limit: limit,
            };
            Format::Xml.answer(StatusCode::OK, &Streams { stream })
        }
        ActiveStreams::Json => {
            let body = json!({ "status": "success", "active_streams": open, "max_allowed_streams": limit, "account_sid": sid });
            Format::Json.answer(StatusCode::OK, &body)
        }
    }
}
