//! The REST API: who may ask, which operation, in which format.

mod answer;
mod checks;
mod connect;
mod details;
mod error;
mod list;
mod numbers;
mod params;
mod resource;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use data_encoding::BASE64;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

pub(crate) use self::answer::HTML;
use self::error::Refusal;
use crate::{
    account::AccountState,
    connection::{CutAt, Stall},
    faults::ReadFault,
    world::World,
};

/// The format of answers: XML, unless the path ends in `.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Xml,
    Json,
}

impl Format {
    /// Splits `connect.json` into `connect` and the format.
    fn split(segment: &str) -> (&str, Self) {
        match segment.strip_suffix(".json") {
            Some(stem) => (stem, Self::Json),
            None => (segment, Self::Xml),
        }
    }

    /// An answer in this format; in XML the root is `TwilioResponse`, as it has always been.
    fn answer(self, status: StatusCode, body: &impl Serialize) -> Response {
        let (content_type, text) = match self {
            Self::Json => (
                "application/json",
                serde_json::to_string(body).map_err(|error| error.to_string()),
            ),
            Self::Xml => {
                let xml = quick_xml::se::to_string_with_root("TwilioResponse", body);
                let head = r#"<?xml version="1.0" encoding="UTF-8"?>"#;
                (
                    "application/xml",
                    xml.map(|xml| format!("{head}\n{xml}\n"))
                        .map_err(|error| error.to_string()),
                )
            }
        };
        match text {
            Ok(text) => (status, [(header::CONTENT_TYPE, content_type)], text).into_response(),
            Err(error) => {
                tracing::error!(error, "an answer cannot be written");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new().fallback(entry).with_state(world)
}

async fn entry(State(world): State<Arc<World>>, request: Request) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = route(&world, request).await;
    let cut = response.extensions().get::<CutAt>().map(|cut| cut.0);
    let stalled = response.extensions().get::<Stall>().is_some();
    let facts = json!({
        "method": method.as_str(),
        "path": path,
        "status": (cut.is_none() && !stalled).then(|| response.status().as_u16()),
        "cut_at_byte": cut,
        "stalled": stalled,
        "ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    let sid = response.extensions().get::<CallSid>().map(|sid| sid.0.as_str());
    world.note(sid, "rest", facts);
    response
}

/// Put into a response's extensions for the journal.
#[derive(Clone, Debug)]
struct CallSid(String);

async fn route(world: &Arc<World>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let method = request.method().clone();
    let headers = request.headers().clone();
    let allowed = |account: &str| allow(world, &headers, account);
    let query = request.uri().query().unwrap_or("").to_owned();
    match segments.as_slice() {
        ["v1", "Accounts", account, "Calls", last] => {
            let (stem, format) = Format::split(last);
            let allowed = allowed(account);
            if method == Method::POST && stem == "connect" {
                return connect::connect(world, account, allowed, format, request).await;
            }
            let account = match allowed {
                Ok(account) => account,
                Err(refusal) => return refusal.answer(format),
            };
            match (method, stem) {
                (_, "connect") => Refusal::method().answer(format),
                (Method::GET, sid) => {
                    let get = || details::get(world, &account, format, sid, &query);
                    read(&account, format, || by_chance(world, format, get))
                }
                (Method::POST, sid) => details::change(world, &account, format, sid, request).await,
                _ => Refusal::method().answer(format),
            }
        }
        ["v1", "Accounts", account, last] => {
            let (stem, format) = Format::split(last);
            let account = match allowed(account) {
                Ok(account) => account,
                Err(refusal) => return refusal.answer(format),
            };
            match (method, stem) {
                (Method::GET, "Calls") => {
                    let calls = || list::list(world, &account, format, &query);
                    read(&account, format, || by_chance(world, format, calls))
                }
                (Method::GET, "ActiveStreams") => read(&account, format, || numbers::active_streams(world, &account)),
                (_, "Calls" | "ActiveStreams") => Refusal::method().answer(format),
                _ => Refusal::not_found("route").answer(format),
            }
        }
        ["v1", "Accounts", account, "Numbers", last] => {
            let (stem, format) = Format::split(last);
            match allowed(account) {
                Ok(account) => read(&account, format, || numbers::metadata(world, format, stem)),
                Err(refusal) => refusal.answer(format),
            }
        }
        ["v2_beta", "Accounts", account, last] if Format::split(last).0 == "IncomingPhoneNumbers" => {
            match (allowed(account), method) {
                (Ok(account), Method::GET) => read(&account, Format::Json, || numbers::incoming(&account)),
                (Ok(_), _) => Refusal::method().answer(Format::Json),
                (Err(refusal), _) => refusal.answer(Format::Json),
            }
        }
        ["exotelrecordings", account, file] => match allowed(account) {
            Ok(account) => details::recording(world, &account, method, file).await,
            Err(refusal) => refusal.answer(Format::Xml),
        },
        _ => Refusal::not_found("route").answer(
            if segments
                .last()
                .is_some_and(|last| Format::split(last).1 == Format::Json)
            {
                Format::Json
            } else {
                Format::Xml
            },
        ),
    }
}

/// A read counts against the account's read rate.
fn read(account: &AccountState, format: Format, read: impl FnOnce() -> Response) -> Response {
    if account.admit_read() {
        read()
    } else {
        Refusal::rate().answer(format)
    }
}

/// A list or details, unless a fault hits it.
fn by_chance(world: &World, format: Format, read: impl FnOnce() -> Response) -> Response {
    let settings = world.settings();
    match settings.faults.read(world.reads.draw()) {
        None => read(),
        Some(ReadFault::Status(status)) => Refusal::fault(status).answer(format),
        Some(ReadFault::RateLimited(retry_after)) => Refusal {
            retry_after,
            ..Refusal::rate()
        }
        .answer(format),
        Some(ReadFault::Stall) => {
            let mut response = StatusCode::OK.into_response();
            let time = Duration::from_millis(settings.faults.stall_ms);
            response.extensions_mut().insert(Stall(Some(time)));
            response
        }
    }
}

/// HTTP Basic with the account's key and token; another account's key is as wrong as any.
fn allow(world: &World, headers: &HeaderMap, sid: &str) -> Result<Arc<AccountState>, Refusal> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Basic "))
        .and_then(|value| BASE64.decode(value.trim().as_bytes()).ok());
    let account = world.account(sid).ok_or_else(Refusal::unauthorized)?;
    let right = format!("{}:{}", account.get().api_key, account.get().api_token);
    if given.as_deref() == Some(right.as_bytes()) {
        Ok(account)
    } else {
        Err(Refusal::unauthorized())
    }
}
