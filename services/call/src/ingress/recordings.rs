//! How far recordings are, as edges tell it: in any order, more than once, and long after the call.

use std::sync::Arc;

use callbridge_proto::{
    call::v1::RecordingState,
    id::{CallId, MediaSessionId},
    ingress::v1::ReportRecordingRequest,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use tracing::Instrument as _;

use super::{bounded, word};
use crate::{
    app::App,
    calls::record::{Note, record_locked},
    error::Error,
    store::{
        calls,
        recordings::{self, Recording, State},
        sessions,
    },
    trace,
};

/// More than an id of a call, one of a session, and an ending.
const KEY_CHARS: usize = 256;

/// Keeps how far a session's recording is.
///
/// # Errors
/// [`Error::Invalid`], `NotFound`.
pub async fn report(app: &Arc<App>, request: &ReportRecordingRequest) -> Result<(), Error> {
    let session: MediaSessionId = request
        .media_session_id
        .parse()
        .map_err(|error: callbridge_proto::id::ParseIdError| Error::invalid("media_session_id", error.to_string()))?;
    let told = read(request)?;
    let mut conn = app.db.reserved().await?;
    let missing = || Error::not_found("media session", session);
    let call = sessions::find(&mut conn, session).await?.ok_or_else(missing)?.call_id();
    let changed = conn
        .transaction::<_, Error, _>(async |conn| keep(conn, call, session, told).await)
        .instrument(trace::finding("report_recording"))
        .await?;
    if changed {
        app.hub.committed(call);
    }
    Ok(())
}

/// What a report says, checked.
fn read(request: &ReportRecordingRequest) -> Result<Recording, Error> {
    let state = match request.state() {
        RecordingState::Uploading => State::Uploading,
        RecordingState::Stored => State::Stored,
        RecordingState::Incomplete => State::Incomplete,
        RecordingState::Failed => State::Failed,
        RecordingState::Unspecified | RecordingState::Pending | RecordingState::Erased => {
            return Err(Error::invalid("state", "UPLOADING, STORED, INCOMPLETE or FAILED"));
        }
    };
    let is_there = matches!(state, State::Stored | State::Incomplete);
    let count = |value: u64| i64::try_from(value).ok().filter(|_| is_there);
    if is_there && request.sha256.len() != 32 {
        return Err(Error::invalid("sha256", "32 bytes"));
    }
    if is_there && request.object_key.is_empty() {
        return Err(Error::invalid("object_key", "where the recording is"));
    }
    Ok(Recording {
        state: Some(state),
        reason: Some(word(&request.reason)).filter(|reason| !reason.is_empty()),
        key: is_there.then(|| bounded(&request.object_key, KEY_CHARS)),
        sha256: is_there.then(|| request.sha256.to_vec()),
        bytes: count(request.size_bytes),
        ms: count(request.duration_ms),
        missing_ms: count(request.missing_ms),
    })
}

/// What is known after a report. None: nothing new.
fn merged(before: &Recording, told: Recording) -> Option<Recording> {
    match (before.state, told.state) {
        // The call's personal data is gone already, and the recording follows it.
        (Some(State::Erasing | State::Erased), Some(State::Stored | State::Incomplete)) => Some(Recording {
            state: Some(State::Erasing),
            ..told
        }),
        (None | Some(State::Pending), Some(_)) => Some(told),
        (Some(State::Uploading), Some(state)) if state > State::Uploading => Some(told),
        _ => None,
    }
}

/// True when the call's timeline has a new entry.
async fn keep(
    conn: &mut AsyncPgConnection,
    call: CallId,
    session: MediaSessionId,
    told: Recording,
) -> Result<bool, Error> {
    // The call first, then its session: the order in which everybody locks.
    let (call, now) = calls::lock(conn, call)
        .await?
        .ok_or_else(|| Error::internal("a session without its call"))?;
    trace::follow(&call);
    // Or one call's recording could be served, and erased, as another's.
    if told
        .key
        .as_ref()
        .is_some_and(|key| *key != format!("{}/{session}.wav", call.id()))
    {
        return Err(Error::invalid(
            "object_key",
            "the call's id, a slash, the session's id, and .wav",
        ));
    }
    let before = recordings::find(conn, session)
        .await?
        .ok_or_else(|| Error::not_found("media session", session))?;
    let Some(after) = merged(&before, told) else {
        return Ok(false);
    };
    recordings::write(conn, session, &after).await?;
    let kind = match after.state {
        Some(State::Stored) => "recording_stored",
        Some(State::Incomplete) => "recording_incomplete",
        Some(State::Failed) => "recording_failed",
        _ => return Ok(false),
    };
    let mut note = Note::from("media").with("media_session_id", session.to_string());
    if let Some(reason) = after.reason {
        note = note.with("reason", reason);
    }
    record_locked(conn, call, now, None, Some(kind), note).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(state: State) -> Recording {
        Recording {
            state: Some(state),
            ..Recording::default()
        }
    }

    /// Reports come late, twice and in any order; the last word on a recording stays.
    #[test]
    fn a_report_only_moves_a_recording_forward() {
        use State::{Erased, Erasing, Failed, Incomplete, Pending, Stored, Uploading};
        let known = [Pending, Uploading, Stored, Incomplete, Failed, Erasing, Erased];
        for before in known {
            for told in [Uploading, Stored, Incomplete, Failed] {
                let after = merged(&at(before), at(told)).and_then(|after| after.state);
                let wanted = match before {
                    Pending => Some(told),
                    Uploading => Some(told).filter(|told| *told != Uploading),
                    Stored | Incomplete | Failed => None,
                    Erasing | Erased => Some(Erasing).filter(|_| matches!(told, Stored | Incomplete)),
                };
                assert_eq!(after, wanted, "{before:?}, then {told:?}");
            }
        }
    }

    #[test]
    fn what_is_stored_has_a_place_and_a_checksum() {
        let mut request = ReportRecordingRequest {
            state: RecordingState::Stored.into(),
            object_key: "call/media.wav".into(),
            sha256: vec![7; 32].into(),
            ..ReportRecordingRequest::default()
        };
        assert!(read(&request).is_ok());
        request.sha256 = vec![7; 31].into();
        assert!(read(&request).is_err());
        (request.sha256, request.object_key) = (vec![7; 32].into(), String::new());
        assert!(read(&request).is_err());
        request.state = RecordingState::Failed.into();
        assert_eq!(read(&request).unwrap().sha256, None);
        for wrong in [RecordingState::Pending, RecordingState::Erased] {
            request.state = wrong.into();
            assert!(read(&request).is_err());
        }
    }
}
