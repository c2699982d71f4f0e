//! One call: details, the undocumented hang-up, its recording.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{Method, StatusCode, header},
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

/// What the person heard in the last stream, in place of an MP3; only of a call that was recorded and is over.
pub(crate) async fn recording(world: &World, account: &AccountState, method: Method, file: &str) -> Response {
    let missing = || Refusal::not_found("recording").answer(Format::Xml);
    if method != Method::GET {
        return Refusal::method().answer(Format::Xml);
    }
    let Some(call) = file.strip_suffix(".mp3").and_then(|sid| find(world, account, sid)) else {
        return missing();
    };
    let path = {
        let report = call.report.borrow();
        let is_there = report.recorded && report.has_ended() && report.answered.is_some();
        report
            .streams
            .last()
            .filter(|_| is_there)
            .and_then(|stream| stream.heard.clone())
    };
    let Some(path) = path else { return missing() };
    let Ok(bytes) = tokio::fs::read(path).await else {
        return missing();
    };
    call.update(world, |report| report.recording_fetches += 1);
    let mut response = ([(header::CONTENT_TYPE, "audio/wav")], bytes).into_response();
    response.extensions_mut().insert(CallSid(call.sid.clone()));
    response
}
