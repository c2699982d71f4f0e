//! One call: details, the undocumented hang-up, its recording.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{
    CallSid, Format,
    error::Refusal,
    params::Params,
    resource::{Resource, Single},
};
use crate::{Cause, account::AccountState, call::Call, world::World};

fn find(world: &World, account: &AccountState, sid: &str) -> Option<Arc<Call>> {
    world
        .call(sid)
        .filter(|call| call.account.get().sid == account.get().sid)
}

/// `RecordingUrlValidity` is 5 to 60 minutes.
pub(crate) fn recording_validity(params: &Params) -> Result<Option<u32>, Refusal> {
    match params.get("RecordingUrlValidity") {
        None => Ok(None),
        Some(text) => match text.parse() {
            Ok(minutes @ 5..=60) => Ok(Some(minutes)),
            _ => Err(Refusal::bad_request("RecordingUrlValidity must be between 5 and 60")),
        },
    }
}

pub(crate) fn get(world: &World, account: &AccountState, format: Format, sid: &str, query: &str) -> Response {
    let params = Params::of_query(query);
    let validity = match recording_validity(&params) {
        Ok(validity) => validity,
        Err(refusal) => return refusal.answer(format),
    };
    let Some(call) = find(world, account, sid) else {
        return Refusal::not_found("resource").answer(format);
    };
    let details = params.get("details") == Some("true");
    show(world, &call, format, details, validity)
}

fn show(world: &World, call: &Call, format: Format, details: bool, validity: Option<u32>) -> Response {
    let body = Single {
        call: Resource::read(world, call, details, validity).for_format(format),
    };
    let mut response = format.answer(StatusCode::OK, &body);
    response.extensions_mut().insert(CallSid(call.sid.clone()));
    response
}

/// `Status=completed`: no such thing is documented, so it is refused unless the settings say otherwise.
pub(crate) async fn change(
    world: &Arc<World>,
    account: &AccountState,
    format: Format,
    sid: &str,
    request: Request,
) -> Response {
    if !world.settings().hang_up_by_rest {
        return Refusal::method().answer(format);
    }
    let params = match Params::read(request).await {
        Ok(params) => params,
        Err(refusal) => return refusal.answer(format),
    };
    let Some(call) = find(world, account, sid) else {
        return Refusal::not_found("resource").answer(format);
    };
    if params.get("Status") != Some("completed") {
        return Refusal::bad_request("Status must be completed").answer(format);
    }
    call.end(Cause::Rest);
    show(world, &call, format, false, None)
}

/// What the person heard in the last stream, in place of an MP3.
pub(crate) async fn recording(world: &World, account: &AccountState, file: &str) -> Response {
    let sid = file.strip_suffix(".mp3").unwrap_or(file);
    let path = find(world, account, sid).and_then(|call| call.report.borrow().streams.last()?.heard.clone());
    let Some(path) = path else {
        return Refusal::not_found("recording").answer(Format::Xml);
    };
    match tokio::fs::read(path).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, "audio/wav")], bytes).into_response(),
        Err(_) => Refusal::not_found("recording").answer(Format::Xml),
    }
}
