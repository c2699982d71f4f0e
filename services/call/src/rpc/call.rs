//! CallService: requests checked and turned into our types, answers into the API's.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use callbridge_proto::{
    agent::v1::{Leave, LeaveAction, Message},
    call::v1::{self as api, call_service_server::CallService, get_recording_response, place_call_request},
    id::CallId,
    ingress::v1::command,
};
use chrono::{DateTime, Utc};
use exotel::PhoneNumber;
use futures_util::{Stream, StreamExt as _, future::join};
use prost::Message as _;
use prost_types::{Duration as ProtoDuration, Timestamp};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    auth::{Caller, Principal},
    page, view,
};
use crate::{
    app::App,
    audit::{self, Subject},
    calls::{
        capacity, end,
        hub::Waiter,
        list,
        list::Filter,
        place, recording,
        request::{From, Request as Wanted},
        state::{Direction, State},
        watch,
    },
    error::{Error, Violations},
    ingress::commands,
    store::{
        calls,
        calls::Call,
        queue::{self, Bound},
        sessions, transcripts,
    },
};

/// PlaceCall answers before the client's deadline does.
const BEFORE_DEADLINE: Duration = Duration::from_millis(100);
/// The longest wait of PlaceCall; longer ones are WatchCall's.
const LONGEST_WAIT: Duration = Duration::from_secs(55);
/// The database is asked this often even when nothing wakes the waiter.
const POLL: Duration = Duration::from_secs(2);
const KEY_CHARS: usize = 128;
const TEXT_CHARS: usize = 128;
const METADATA_ENTRIES: usize = 32;
const METADATA_KEY_CHARS: usize = 64;
const METADATA_VALUE_CHARS: usize = 1024;
const METADATA_BYTES: usize = 8 * 1024;
const MESSAGE_BYTES: usize = 16 * 1024;

/// The service.
pub struct Service(pub Arc<App>);

type Answer<T> = Result<Response<T>, Status>;
pub(super) type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl CallService for Service {
    type WatchCallStream = BoxStream<api::WatchCallResponse>;
    type WatchCallsStream = BoxStream<api::WatchCallsResponse>;
    type GetRecordingStream = BoxStream<api::GetRecordingResponse>;

    async fn place_call(&self, request: Request<api::PlaceCallRequest>) -> Answer<api::PlaceCallResponse> {
        let until = patience(request.metadata());
        let caller = Caller::of(&request)?.dialler();
        let body = request.into_inner();
        let wait_for = wait_for(body.wait_for)?;
        let order = checked(body)?;
        if let Some(reason) = &order.hours_override {
            audit::hours_overridden(&self.0.trail, order.to.expose(), reason).await?;
        }
        let placed = place::place(&self.0, &caller, &order).await?;
        let call = settle(&self.0, placed.call, placed.waiter, wait_for, until).await;
        // Once the row exists the answer is the call, whatever happens to the database meanwhile.
        let (call, capacity) = with_room(&self.0, &call)
            .await
            .unwrap_or_else(|_| (view::call(&call, &[]), None));
        Ok(Response::new(api::PlaceCallResponse {
            call: Some(call),
            repeated: placed.repeated,
            capacity,
        }))
    }

    async fn get_call(&self, request: Request<api::GetCallRequest>) -> Answer<api::GetCallResponse> {
        let call = find(&self.0, &request.get_ref().call_id).await?;
        let id = call.id();
        let (noted, found) = join(shown_to_caller(&self.0, &id), with_room(&self.0, &call)).await;
        noted?;
        let (call, capacity) = found?;
        Ok(Response::new(api::GetCallResponse {
            call: Some(call),
            capacity,
        }))
    }

    async fn list_calls(&self, request: Request<api::ListCallsRequest>) -> Answer<api::ListCallsResponse> {
        let request = request.into_inner();
        let wanted = request.filter.unwrap_or_default();
        let filters = wanted.encode_to_vec();
        let filter = filter(wanted)?;
        let size = page::size(request.page_size)?;
        let before = page::after("calls", &filters, &request.page_token)?.map(CallId);
        audit::shown(&self.0.trail, about(&filter)).await?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let mut calls = list::page(&mut conn, &filter, before, size + 1).await?;
        let next_page_token = page::cut(&mut calls, size, "calls", &filters, |call| call.id);
        let calls = calls.iter().map(|call| view::call(call, &[])).collect();
        Ok(Response::new(api::ListCallsResponse { calls, next_page_token }))
    }

    async fn watch_call(&self, request: Request<api::WatchCallRequest>) -> Answer<Self::WatchCallStream> {
        let request = request.into_inner();
        let id = call_id(&request.call_id)?;
        if request.after_version < 0 {
            return Err(Error::invalid("after_version", "0 or a version that was seen").into());
        }
        shown_to_caller(&self.0, &id).await?;
        let events = watch::one(&self.0, id, request.after_version, request.follow_late_facts).await?;
        let stream = ReceiverStream::new(events).map(|event| {
            event
                .map(|event| api::WatchCallResponse {
                    event: Some(view::event(&event)),
                })
                .map_err(Status::from)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn watch_calls(&self, request: Request<api::WatchCallsRequest>) -> Answer<Self::WatchCallsStream> {
        let request = request.into_inner();
        let filter = filter(request.filter.unwrap_or_default())?;
        let from = if request.cursor.is_empty() {
            None
        } else {
            Some(watch::place(&request.cursor)?)
        };
        audit::shown(&self.0.trail, about(&filter)).await?;
        let stream = ReceiverStream::new(watch::all(&self.0, from, filter)).map(|seen| {
            seen.map(|seen| api::WatchCallsResponse {
                event: seen.event.map(|event| view::event(&event)),
                cursor: seen.cursor,
            })
            .map_err(Status::from)
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn end_call(&self, request: Request<api::EndCallRequest>) -> Answer<api::EndCallResponse> {
        let caller = Principal::of(&request)?.name;
        let request = request.into_inner();
        let id = call_id(&request.call_id)?;
        let reason = short_text("reason", request.reason)?;
        let call = end::end(&self.0, &caller, id, &reason).await?;
        Ok(Response::new(api::EndCallResponse {
            call: Some(shown(&self.0, &call).await?),
        }))
    }

    async fn send_to_agent(&self, request: Request<api::SendToAgentRequest>) -> Answer<api::SendToAgentResponse> {
        let request = request.into_inner();
        let call = find(&self.0, &request.call_id).await?;
        if request.json.len() > MESSAGE_BYTES || serde_json::from_str::<serde_json::Value>(&request.json).is_err() {
            return Err(Error::invalid("json", "a JSON document of at most 16 KiB").into());
        }
        let message = command::Action::Message(Message { json: request.json });
        let command = commands::send(&self.0, call.id(), message, None).await?;
        Ok(Response::new(api::SendToAgentResponse {
            command_id: command.to_string(),
        }))
    }

    async fn transfer_call(&self, request: Request<api::TransferCallRequest>) -> Answer<api::TransferCallResponse> {
        let caller = Caller::of(&request)?.dialler();
        let request = request.into_inner();
        let call = find(&self.0, &request.call_id).await?;
        let to = PhoneNumber::parse(&request.to).map_err(|error| Error::invalid("to", error.to_string()))?;
        self.0.config.toll.allow(&caller.limits, &to)?;
        let leave = Leave {
            action: LeaveAction::ContinueFlow.into(),
            transfer_to: to.expose().to_owned(),
            reason: short_text("reason", request.reason)?,
            ..Leave::default()
        };
        let command = commands::send(&self.0, call.id(), command::Action::Leave(leave), Some(&caller)).await?;
        Ok(Response::new(api::TransferCallResponse {
            command_id: command.to_string(),
        }))
    }

    async fn get_transcript(&self, request: Request<api::GetTranscriptRequest>) -> Answer<api::GetTranscriptResponse> {
        let call = find(&self.0, &request.get_ref().call_id).await?;
        shown_to_caller(&self.0, &call.id()).await?;
        let mut conn = self.0.db.conn().await.map_err(Error::from)?;
        let entries = transcripts::of_call(&mut conn, call.id()).await.map_err(Error::from)?;
        Ok(Response::new(api::GetTranscriptResponse {
            entries: entries.iter().map(view::transcript).collect(),
        }))
    }

    async fn get_recording(&self, request: Request<api::GetRecordingRequest>) -> Answer<Self::GetRecordingStream> {
        let request = request.into_inner();
        let id = call_id(&request.call_id)?;
        let session = match request.media_session_id.as_str() {
            "" => None,
            id => Some(id.parse().map_err(|error: callbridge_proto::id::ParseIdError| {
                Error::invalid("media_session_id", error.to_string())
            })?),
        };
        let wanted = match api::RecordingSource::try_from(request.source) {
            Ok(api::RecordingSource::Unspecified | api::RecordingSource::Edge) => recording::Wanted::Edge(session),
            Ok(api::RecordingSource::Exotel) => recording::Wanted::Exotel,
            Err(_) => return Err(Error::invalid("source", "a value of the enum RecordingSource").into()),
        };
        shown_to_caller(&self.0, &id).await?;
        let (header, pieces) = recording::fetch(&self.0, id, wanted).await?;
        let header = api::RecordingHeader {
            content_type: header.content_type,
            size_bytes: header.size.unwrap_or(0),
            sha256: header.sha256,
        };
        let message = |message| api::GetRecordingResponse { message: Some(message) };
        let header = message(get_recording_response::Message::Header(header));
        let pieces = ReceiverStream::new(pieces).map(move |piece| {
            piece
                .map(|piece| message(get_recording_response::Message::Chunk(piece)))
                .map_err(Status::from)
        });
        let stream = futures_util::stream::once(async { Ok(header) }).chain(pieces);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Until when PlaceCall may wait: a little before the client gives up, and never very long.
fn patience(metadata: &tonic::metadata::MetadataMap) -> Instant {
    let deadline = metadata
        .get("grpc-timeout")
        .and_then(|value| value.to_str().ok())
        .and_then(grpc_timeout);
    let wait = deadline.map_or(LONGEST_WAIT, |deadline| {
        deadline.saturating_sub(BEFORE_DEADLINE).min(LONGEST_WAIT)
    });
    Instant::now() + wait
}

/// The `grpc-timeout` header: up to eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Waits until the call has come as far as the caller wants, or the time is up, or this replica stops. `waiter` is from before
/// the call was read, if there is one.
async fn settle(
    app: &Arc<App>,
    mut call: Call,
    waiter: Option<Waiter>,
    wait_for: api::WaitFor,
    until: Instant,
) -> Call {
    let reached = |state: State| match wait_for {
        api::WaitFor::Queued => true,
        api::WaitFor::Unspecified | api::WaitFor::Placed => !matches!(state, State::Queued | State::Dialing),
        api::WaitFor::Answered => state >= State::InProgress,
        api::WaitFor::Ended => state.is_terminal(),
    };
    if reached(call.state) {
        return call;
    }
    let mut known = waiter.is_some();
    let mut waiter = waiter.unwrap_or_else(|| app.hub.wait(call.id()));
    let stopping = app.tasks.stopping();
    tokio::pin!(stopping);
    loop {
        // What happened before the waiter was made is looked for; trouble with the database is waited out.
        if !known && let Ok(Some(now)) = find_now(app, call.id()).await {
            call = now;
        }
        known = false;
        if reached(call.state) || Instant::now() >= until {
            return call;
        }
        tokio::select! {
            () = &mut stopping => return call,
            // A timeout only means that nothing happened, as far as this replica knows.
            _ = timeout_at(until.min(Instant::now() + POLL), waiter.changed()) => {}
        }
    }
}

async fn find_now(app: &App, id: CallId) -> Result<Option<Call>, Error> {
    Ok(calls::find(&mut *app.db.conn().await?, id).await?)
}

fn call_id(text: &str) -> Result<CallId, Error> {
    text.parse()
        .map_err(|error: callbridge_proto::id::ParseIdError| Error::invalid("call_id", error.to_string()))
}

async fn find(app: &App, id: &str) -> Result<Call, Error> {
    let id = call_id(id)?;
    calls::find(&mut *app.db.conn().await?, id)
        .await?
        .ok_or_else(|| Error::not_found("call", id))
}

async fn shown_to_caller(app: &App, id: &CallId) -> Result<(), Error> {
    audit::shown(&app.trail, Subject::Id(id)).await
}

fn about(filter: &Filter) -> Subject<'_> {
    let number = filter.customer.as_ref();
    number.map_or(Subject::All, |number| Subject::Number(number.expose()))
}

async fn shown(app: &App, call: &Call) -> Result<api::Call, Error> {
    let sessions = sessions::of_call(&*app.db.conn().await?, call.id()).await?;
    Ok(view::call(call, &sessions))
}

/// The call, and how much room its caps leave.
async fn with_room(app: &App, call: &Call) -> Result<(api::Call, Option<api::Capacity>), Error> {
    let conn = app.db.conn().await?;
    let bound = Bound {
        account: call.account_id,
        phone: call.phone_id,
        agent: call.agent_id,
        campaign: call.campaign_id,
    };
    let (sessions, used) = join(sessions::of_call(&conn, call.id()), queue::used(&conn, bound)).await;
    let room = used?.map(|(caps, standing, next)| view::room(capacity::room(caps, &standing), next));
    Ok((view::call(call, &sessions?), room))
}

pub(super) fn short_text(field: &str, text: String) -> Result<String, Error> {
    if text.chars().count() > TEXT_CHARS || text.contains('\0') {
        return Err(Error::invalid(
            field,
            format!("at most {TEXT_CHARS} characters, without NUL"),
        ));
    }
    Ok(text)
}

fn wait_for(value: i32) -> Result<api::WaitFor, Error> {
    api::WaitFor::try_from(value).map_err(|_| Error::invalid("wait_for", "a value of the enum WaitFor"))
}

/// All that is wrong with a request is told at once.
fn checked(request: api::PlaceCallRequest) -> Result<Wanted, Error> {
    let mut wrong = Violations::new();
    let key = request.idempotency_key;
    let key_ok = !key.is_empty() && key.chars().count() <= KEY_CHARS && !key.contains('\0');
    wrong.require(
        key_ok,
        "idempotency_key",
        "required: 1 to 128 characters of your choice, new for each new call",
    );
    let to = wrong.check("to", PhoneNumber::parse(&request.to));
    let from = match request.from {
        None => Some(From::Default),
        Some(place_call_request::From::PhoneId(id)) => wrong.check("phone_id", id.parse()).map(From::Phone),
        Some(place_call_request::From::CallerId(number)) => wrong
            .check("caller_id", PhoneNumber::parse(&number))
            .map(From::CallerId),
    };
    let agent = if request.agent_id.is_empty() {
        None
    } else {
        wrong.check("agent_id", request.agent_id.parse())
    };
    let ring_timeout = seconds(&mut wrong, "ring_timeout", request.ring_timeout, 5..=60, 30);
    let time_limit = seconds(&mut wrong, "time_limit", request.time_limit, 10..=3600, 1800);
    let not_before = instant(&mut wrong, "not_before", request.not_before.as_ref());
    let expire_at = instant(&mut wrong, "expire_at", request.expire_at.as_ref());
    wrong.require((-100..=100).contains(&request.priority), "priority", "-100 to 100");
    let hours_override = request.calling_hours_override;
    let override_ok = hours_override.chars().count() <= TEXT_CHARS && !hours_override.contains('\0');
    wrong.require(
        override_ok,
        "calling_hours_override",
        "a reason of at most 128 characters",
    );
    let metadata: BTreeMap<String, String> = request.metadata.into_iter().collect();
    check_metadata(&mut wrong, "metadata", &metadata);
    let when_number_busy = match api::WhenNumberBusy::try_from(request.when_number_busy) {
        Ok(api::WhenNumberBusy::Unspecified | api::WhenNumberBusy::Wait) => 1,
        Ok(api::WhenNumberBusy::Refuse) => 2,
        Ok(api::WhenNumberBusy::Allow) => 3,
        Err(_) => {
            wrong.add("when_number_busy", "a value of the enum WhenNumberBusy");
            1
        }
    };
    let when_at_capacity = match api::WhenAtCapacity::try_from(request.when_at_capacity) {
        Ok(api::WhenAtCapacity::Unspecified | api::WhenAtCapacity::Wait) => 1,
        Ok(api::WhenAtCapacity::Refuse) => 2,
        Err(_) => {
            wrong.add("when_at_capacity", "a value of the enum WhenAtCapacity");
            1
        }
    };
    wrong.finish()?;
    let (Some(to), Some(from)) = (to, from) else {
        return Err(Error::internal("a checked request lacks a field"));
    };
    Ok(Wanted {
        key,
        to,
        from,
        agent,
        ring_timeout,
        time_limit,
        not_before,
        expire_at,
        priority: request.priority,
        hours_override: Some(hours_override).filter(|reason| !reason.trim().is_empty()),
        metadata,
        record: request.record,
        when_number_busy,
        when_at_capacity,
    })
}

pub(super) fn check_metadata(wrong: &mut Violations, field: &str, metadata: &BTreeMap<String, String>) {
    let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    wrong.require(metadata.len() <= METADATA_ENTRIES, field, "at most 32 entries");
    wrong.require(bytes <= METADATA_BYTES, field, "at most 8 KiB in all");
    let fits = metadata.iter().all(|(key, value)| {
        (1..=METADATA_KEY_CHARS).contains(&key.chars().count())
            && value.chars().count() <= METADATA_VALUE_CHARS
            && !key.contains('\0')
            && !value.contains('\0')
    });
    wrong.require(
        fits,
        field,
        "keys of 1 to 64 and values of at most 1,024 characters, without NUL",
    );
}

pub(super) fn seconds(
    wrong: &mut Violations,
    field: &str,
    duration: Option<ProtoDuration>,
    allowed: std::ops::RangeInclusive<i64>,
    default: u32,
) -> u32 {
    let Some(duration) = duration else { return default };
    wrong.require(
        allowed.contains(&duration.seconds) && duration.nanos == 0,
        field,
        &format!("whole seconds from {} to {}", allowed.start(), allowed.end()),
    );
    u32::try_from(duration.seconds).unwrap_or(default)
}

pub(super) fn instant(wrong: &mut Violations, field: &str, at: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    let at = at?;
    let time = view::time(at);
    wrong.require(time.is_some(), field, "a time between 1970 and 2099");
    time
}

fn filter(filter: api::CallFilter) -> Result<Filter, Error> {
    let mut wrong = Violations::new();
    let mut states = Vec::new();
    for state in filter.states {
        match api::CallState::try_from(state).ok().and_then(view::state_of) {
            Some(state) => states.push(state),
            None => wrong.add("filter.states", "values of the enum CallState other than UNSPECIFIED"),
        }
    }
    let direction = match api::Direction::try_from(filter.direction) {
        Ok(api::Direction::Unspecified) => None,
        Ok(api::Direction::Outbound) => Some(Direction::Outbound),
        Ok(api::Direction::Inbound) => Some(Direction::Inbound),
        Err(_) => {
            wrong.add("filter.direction", "a value of the enum Direction");
            None
        }
    };
    let phone = given(filter.phone_id).and_then(|id| wrong.check("filter.phone_id", id.parse()));
    let agent = given(filter.agent_id).and_then(|id| wrong.check("filter.agent_id", id.parse()));
    let campaign = given(filter.campaign_id).and_then(|id| wrong.check("filter.campaign_id", id.parse()));
    let customer =
        given(filter.customer_number).and_then(|n| wrong.check("filter.customer_number", PhoneNumber::parse(&n)));
    let queued_after = instant(&mut wrong, "filter.queued_after", filter.queued_after.as_ref());
    let queued_before = instant(&mut wrong, "filter.queued_before", filter.queued_before.as_ref());
    wrong.require(!filter.caller.contains('\0'), "filter.caller", "the name of an API key");
    wrong.finish()?;
    Ok(Filter {
        states,
        direction,
        phone: phone.map(|id: callbridge_proto::id::PhoneId| id.0),
        agent: agent.map(|id: callbridge_proto::id::AgentId| id.0),
        campaign: campaign.map(|id: callbridge_proto::id::CampaignId| id.0),
        customer,
        caller: given(filter.caller),
        queued_after,
        queued_before,
        needs_review: filter.needs_review,
    })
}

pub(super) fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timeout_header_is_read_as_grpc_writes_it() {
        for (text, expected) in [
            ("5S", Some(Duration::from_secs(5))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("2H", Some(Duration::from_hours(2))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("", None),
            ("S", None),
            ("123456789S", None),
            ("5x", None),
            ("ü", None),
        ] {
            assert_eq!(grpc_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn everything_wrong_with_a_request_is_told_at_once() {
        let request = api::PlaceCallRequest {
            to: "12".to_owned(),
            priority: 1000,
            when_number_busy: 99,
            time_limit: Some(ProtoDuration {
                seconds: 7200,
                nanos: 0,
            }),
            metadata: [("k".repeat(65), "v".to_owned())].into(),
            ..api::PlaceCallRequest::default()
        };
        let Err(Error::Invalid(violations)) = checked(request) else {
            panic!("it was taken")
        };
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "idempotency_key",
                "to",
                "time_limit",
                "priority",
                "metadata",
                "when_number_busy"
            ]
        );
    }
}
