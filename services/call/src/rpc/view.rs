//! Rows as the API shows them, and the API's words as our types. All matches are total.

use callbridge_proto::{
    call::v1 as api,
    id::{AccountId, CallId, ContactId, MediaSessionId},
};
use chrono::{DateTime, Utc};
use data_encoding::HEXLOWER;
use prost_types::Timestamp;
use serde_json::Value;

use crate::{
    calls::{
        capacity::Room,
        state::{Direction, State},
    },
    store::{
        calls::Call,
        events::Event,
        recordings::{self, Recording},
        sessions::Session,
        transcripts::Piece,
    },
};

/// A time as the API has it.
pub fn timestamp(at: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: at.timestamp(),
        nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or(0),
    }
}

/// A time of the API. None: outside of what a database can hold.
pub fn time(at: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
        .filter(|at| (0..4_102_444_800).contains(&at.timestamp()))
}

/// A call with its sessions.
pub fn call(call: &Call, sessions: &[Session]) -> api::Call {
    api::Call {
        id: call.id().to_string(),
        version: call.version,
        direction: direction(call.direction).into(),
        state: state(call.state).into(),
        customer_number: call.customer.clone(),
        phone_number: call.exophone.clone(),
        phone_id: call.phone_id().map(|id| id.to_string()).unwrap_or_default(),
        account_id: AccountId(call.account_id).to_string(),
        agent_id: call.agent_id().map(|id| id.to_string()).unwrap_or_default(),
        agent_version: call.agent_version.unwrap_or_default(),
        caller: call.caller.clone().unwrap_or_default(),
        idempotency_key: call.idempotency_key.clone().unwrap_or_default(),
        exotel_call_sid: call.call_sid.clone().unwrap_or_default(),
        attempt: call.attempt,
        end_reason: call.end_reason.clone().unwrap_or_default(),
        ended_by: call.ended_by.clone().unwrap_or_default(),
        provider_code: call.provider_code.clone().unwrap_or_default(),
        end_presumed: call.end_presumed,
        end_requested: call.end_requested,
        waiting_reason: call.waiting_reason.clone().unwrap_or_default(),
        waiting_for_call_id: call.waiting_for.map(|id| CallId(id).to_string()).unwrap_or_default(),
        queued_at: Some(timestamp(call.queued_at)),
        dialed_at: call.post_started_at.map(timestamp),
        answered_at: call.answered_at.map(timestamp),
        ended_at: call.ended_at.map(timestamp),
        ring_seconds: call.ring_seconds,
        talk_seconds: call.talk_seconds,
        price: call.price.clone().unwrap_or_default(),
        metadata: texts(&call.metadata).collect(),
        record: call.record,
        recording_url: call.recording_url.clone().unwrap_or_default(),
        not_before: Some(timestamp(call.not_before)),
        expire_at: Some(timestamp(call.expire_at)),
        priority: call.priority,
        media_sessions: sessions.iter().map(session).collect(),
        needs_review: call.needs_review,
        campaign_id: call.campaign_id().map(|id| id.to_string()).unwrap_or_default(),
        contact_id: call.contact_id.map(|id| ContactId(id).to_string()).unwrap_or_default(),
    }
}

/// The room that caps leave, and when the account's next dial is due.
pub fn room(room: Room, next_dial_at: DateTime<Utc>) -> api::Capacity {
    let left = |room: Option<i64>| room.map(|left| i32::try_from(left).unwrap_or(i32::MAX));
    api::Capacity {
        account: left(room.account),
        phone: left(room.phone),
        agent: left(room.agent),
        campaign: left(room.campaign),
        next_dial_at: Some(timestamp(next_dial_at)),
    }
}

fn session(session: &Session) -> api::MediaSession {
    let counters = session.quality.as_object().into_iter().flatten();
    api::MediaSession {
        id: session.id().to_string(),
        stream_sid: session.stream_sid.clone().unwrap_or_default(),
        started_at: session.started_at.map(timestamp),
        ended_at: session.ended_at.map(timestamp),
        ended_by: session.ended_by.clone().unwrap_or_default(),
        end_reason: session.end_reason.clone().unwrap_or_default(),
        quality: counters
            .filter_map(|(key, value)| Some((key.clone(), value.as_i64()?)))
            .collect(),
        recording: recording(&session.recording),
    }
}

fn recording(recording: &Recording) -> Option<api::Recording> {
    let state = match recording.state? {
        recordings::State::Pending => api::RecordingState::Pending,
        recordings::State::Uploading => api::RecordingState::Uploading,
        recordings::State::Stored => api::RecordingState::Stored,
        recordings::State::Incomplete => api::RecordingState::Incomplete,
        recordings::State::Failed => api::RecordingState::Failed,
        recordings::State::Erasing | recordings::State::Erased => api::RecordingState::Erased,
    };
    let is_there = state != api::RecordingState::Erased;
    let count = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Some(api::Recording {
        state: state.into(),
        reason: recording.reason.clone().unwrap_or_default(),
        object_key: recording.key.clone().filter(|_| is_there).unwrap_or_default(),
        sha256: recording
            .sha256
            .as_deref()
            .filter(|_| is_there)
            .map(|hash| HEXLOWER.encode(hash))
            .unwrap_or_default(),
        size_bytes: count(recording.bytes),
        duration_ms: count(recording.ms),
        missing_ms: count(recording.missing_ms),
    })
}

/// A timeline's entry.
pub fn event(event: &Event) -> api::CallEvent {
    api::CallEvent {
        call_id: CallId(event.call_id).to_string(),
        version: event.version,
        r#type: event.kind.clone(),
        state: state(event.state).into(),
        at: Some(timestamp(event.at)),
        source: event.source.clone(),
        data: texts(&event.data).collect(),
    }
}

/// A piece of a conversation.
pub fn transcript(piece: &Piece) -> api::TranscriptEntry {
    api::TranscriptEntry {
        media_session_id: MediaSessionId(piece.media_session_id).to_string(),
        speaker: piece.speaker.into(),
        text: piece.text.clone(),
        language: piece.language.clone(),
        at: Some(timestamp(piece.at)),
    }
}

pub(super) fn texts(object: &Value) -> impl Iterator<Item = (String, String)> {
    object.as_object().into_iter().flatten().map(|(key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (key.clone(), text)
    })
}

/// A state as the API has it.
pub fn state(state: State) -> api::CallState {
    match state {
        State::Queued => api::CallState::Queued,
        State::Dialing => api::CallState::Dialing,
        State::Unconfirmed => api::CallState::Unconfirmed,
        State::Placed => api::CallState::Placed,
        State::Ringing => api::CallState::Ringing,
        State::InProgress => api::CallState::InProgress,
        State::Completed => api::CallState::Completed,
        State::NoAnswer => api::CallState::NoAnswer,
        State::Busy => api::CallState::Busy,
        State::Failed => api::CallState::Failed,
        State::Canceled => api::CallState::Canceled,
    }
}

/// A state of the API. None: unspecified.
pub fn state_of(state: api::CallState) -> Option<State> {
    State::ALL.iter().copied().find(|ours| self::state(*ours) == state)
}

fn direction(direction: Direction) -> api::Direction {
    match direction {
        Direction::Outbound => api::Direction::Outbound,
        Direction::Inbound => api::Direction::Inbound,
    }
}
