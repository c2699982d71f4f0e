//! What an edge reports of its sessions, applied once and in order, each event in one transaction.

use std::sync::Arc;

use callbridge_proto::{
    agent::v1::{LeaveAction, Metadata, Speaker, Transcript},
    id::{CallId, EdgeId, MediaSessionId},
    ingress::v1::{SessionEnded, SessionEvent, session_event},
};
use chrono::{DateTime, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use serde_json::{Map, Value};
use tracing::{Instrument as _, error, warn};

use super::{bounded, commands::leaving, word};
use crate::{
    app::App,
    calls::{
        record::{Note, record_locked},
        state::{Event, Party},
    },
    error::Error,
    store::{
        calls::{self, Call, Change},
        commands, sessions,
        sessions::Session,
        transcripts::{self, Piece},
    },
    toll::Prefixes,
    trace,
};

/// Metadata of a call, as PlaceCall takes it.
const METADATA_ENTRIES: usize = 32;
const METADATA_KEY_CHARS: usize = 64;
const METADATA_VALUE_CHARS: usize = 1024;
const METADATA_BYTES: usize = 8 * 1024;
/// Counters of a session.
const COUNTERS: usize = 64;
const LANGUAGE_CHARS: usize = 35;

/// Applies an event of an edge's session. A repeat, and an event of a session that is not the edge's, change nothing.
///
/// # Errors
/// Of the database when it may work later; an event that can never be applied is logged and passed over.
pub async fn apply(app: &Arc<App>, edge: EdgeId, session: MediaSessionId, event: &SessionEvent) -> Result<(), Error> {
    let mut conn = app.db.reserved().await?;
    let Some(found) = sessions::find(&mut conn, session).await? else {
        warn!(media.session.id = %session, "an edge tells of a session that does not exist");
        return Ok(());
    };
    let call = found.call_id();
    let result = conn
        .transaction::<_, Error, _>(async |conn| {
            apply_locked(conn, &app.config.toll.prefixes, call, edge, session, event).await
        })
        .instrument(trace::finding("session_event"))
        .await;
    match result {
        Ok(true) => app.hub.committed(call),
        Ok(false) => {}
        Err(Error::Db(error)) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            error!(call.id = %call, media.session.id = %session, %error, "an event of a session cannot be applied and is passed over");
            sessions::take_event(&mut conn, session, edge, event.sequence).await?;
        }
    }
    Ok(())
}

/// True when the call's row has changed.
async fn apply_locked(
    conn: &mut AsyncPgConnection,
    prefixes: &Prefixes,
    call: CallId,
    edge: EdgeId,
    session: MediaSessionId,
    event: &SessionEvent,
) -> Result<bool, Error> {
    // The call first, then its session: the order in which everybody locks.
    let (call, now) = calls::lock(conn, call)
        .await?
        .ok_or_else(|| Error::internal("a session without its call"))?;
    trace::follow(&call);
    let Some(session) = sessions::take_event(conn, session, edge, event.sequence).await? else {
        return Ok(false);
    };
    // An edge's clock may be behind; nothing happens on a session before it began.
    let at = session.started_at.unwrap_or(now).max(time_of(event, now));
    let note = |source| Note::from(source).with("media_session_id", session.id().to_string());
    let (kind, note) = match &event.event {
        None => return Ok(false),
        Some(session_event::Event::Ended(ended)) => return end(conn, call, now, &session, at, ended).await,
        Some(session_event::Event::Transcript(said)) => {
            if call.blanked_at.is_none() {
                keep(conn, &session, event.sequence, at, said).await?;
            }
            return Ok(false);
        }
        Some(session_event::Event::AgentConnected(connected)) => (
            "agent_connected",
            note("media")
                .with("endpoint_index", connected.endpoint_index.to_string())
                .with("after_ms", connected.after_ms.to_string()),
        ),
        Some(session_event::Event::Dtmf(dtmf)) => {
            let digit: String = dtmf
                .digit
                .chars()
                .filter(|c| c.is_ascii_digit() || "*#ABCD".contains(*c))
                .take(1)
                .collect();
            ("dtmf", note("media").with("digit", digit))
        }
        Some(session_event::Event::Metadata(metadata)) => {
            let (merged, keys, dropped) = merge(&call.metadata, metadata);
            let mut noted = note("agent").with("keys", keys.join(","));
            if dropped > 0 {
                noted = noted.with("dropped", dropped.to_string());
            }
            (
                "metadata",
                noted.changing(Change {
                    metadata: Some(merged),
                    ..Change::default()
                }),
            )
        }
        Some(session_event::Event::GreetingEnded(greeting)) => (
            "greeting_ended",
            note("media")
                .with("played_ms", greeting.played_ms.to_string())
                .with("interrupted", greeting.interrupted.to_string()),
        ),
        Some(session_event::Event::Leave(leave)) => {
            let (change, noted) = leaving(prefixes, leave, note("agent"));
            // Known before the audio has ended: Exotel's word on the call may be quicker than that.
            let left = (leave.action() == LeaveAction::HangUp).then_some(Event::MediaEnded { at, by: Party::Agent });
            let noted = noted.changing(change);
            record_locked(conn, call, now, left.as_ref(), Some("agent_left"), noted).await?;
            return Ok(true);
        }
        Some(session_event::Event::Interrupted(interrupted)) => (
            "interrupted",
            note("media").with("dropped_ms", interrupted.dropped_ms.to_string()),
        ),
    };
    record_locked(conn, call, now, None, Some(kind), note).await?;
    Ok(true)
}

/// When it happened by the edge's clock, but not later than now.
fn time_of(event: &SessionEvent, now: DateTime<Utc>) -> DateTime<Utc> {
    let told = event
        .at
        .and_then(|at| DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?));
    told.map_or(now, |at| at.min(now))
}

async fn end(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    session: &Session,
    at: DateTime<Utc>,
    ended: &SessionEnded,
) -> Result<bool, Error> {
    let quality: Map<String, Value> = ended
        .quality
        .iter()
        .take(COUNTERS)
        .map(|(name, count)| (word(name), (*count).into()))
        .filter(|(name, _)| !name.is_empty())
        .collect();
    let quality = Value::Object(quality);
    let by = Party::from_word(&ended.ended_by).unwrap_or(Party::Provider);
    let reason = word(&ended.reason);
    if !sessions::end(conn, session.id(), by.word(), &reason, quality.clone(), false).await? {
        // A Passthru was faster. It has Exotel's word alone, and the edge knows why.
        sessions::tell_end(conn, session.id(), by.word(), &reason, quality).await?;
        return Ok(false);
    }
    commands::abandon(conn, session.id()).await?;
    let note = Note::from("media").with("by", by.word()).with("reason", reason);
    over(conn, call, now, session.id(), at, by, note).await?;
    Ok(true)
}

/// Records that a session is over, on the locked call. With the last one the call has left the audio, and Exotel is asked how
/// the call stands.
///
/// # Errors
/// Of the database.
pub async fn over(
    conn: &mut AsyncPgConnection,
    call: Call,
    now: DateTime<Utc>,
    session: MediaSessionId,
    at: DateTime<Utc>,
    by: Party,
    note: Note,
) -> Result<Call, Error> {
    let last = sessions::live(conn, call.id()).await?.is_none();
    let event = last.then_some(Event::MediaEnded { at, by });
    let note = note.with("media_session_id", session.to_string());
    let (call, _) = record_locked(conn, call, now, event.as_ref(), Some("media_ended"), note).await?;
    Ok(call)
}

async fn keep(
    conn: &mut AsyncPgConnection,
    session: &Session,
    sequence: i64,
    at: DateTime<Utc>,
    said: &Transcript,
) -> Result<(), Error> {
    let text = bounded(&said.text, transcripts::MAX_TEXT);
    if !said.r#final || text.is_empty() {
        return Ok(());
    }
    let speaker = Speaker::try_from(said.speaker).unwrap_or(Speaker::Unspecified);
    let piece = Piece {
        media_session_id: session.id,
        sequence,
        call_id: session.call_id,
        speaker: match speaker {
            Speaker::Unspecified => 0,
            Speaker::Customer => 1,
            Speaker::Agent => 2,
        },
        text,
        language: bounded(&said.language, LANGUAGE_CHARS),
        at,
    };
    transcripts::insert(conn, &piece).await?;
    Ok(())
}

/// Adds the agent's facts to those of the call, as far as they fit. Returns all, the keys that were added, and how many were
/// left out.
fn merge(known: &Value, metadata: &Metadata) -> (Value, Vec<String>, usize) {
    let mut merged = known.as_object().cloned().unwrap_or_default();
    let mut added = Vec::new();
    let mut dropped = 0;
    // In the order of the keys, so that the same message always leaves out the same ones.
    let mut entries: Vec<(&String, &String)> = metadata.entries.iter().collect();
    entries.sort_unstable();
    for (key, value) in entries {
        let before = merged.get(key).cloned();
        let fits = !key.is_empty()
            && key.chars().count() <= METADATA_KEY_CHARS
            && value.chars().count() <= METADATA_VALUE_CHARS
            && !key.contains('\0')
            && !value.contains('\0');
        if fits {
            merged.insert(key.clone(), value.as_str().into());
        }
        if fits && merged.len() <= METADATA_ENTRIES && size(&merged) <= METADATA_BYTES {
            added.push(key.clone());
            continue;
        }
        dropped += 1;
        if fits {
            match before {
                Some(before) => merged.insert(key.clone(), before),
                None => merged.remove(key),
            };
        }
    }
    (Value::Object(merged), added, dropped)
}

fn size(entries: &Map<String, Value>) -> usize {
    entries
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    fn metadata(entries: &[(&str, &str)]) -> Metadata {
        let entries: HashMap<String, String> = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Metadata { entries }
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let (merged, added, dropped) = merge(&json!({ "a": "1", "b": "2" }), &metadata(&[("b", "3"), ("c", "4")]));
        assert_eq!(merged, json!({ "a": "1", "b": "3", "c": "4" }));
        assert_eq!((added, dropped), (vec!["b".to_owned(), "c".to_owned()], 0));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_what_was_there_stays() {
        let long = "x".repeat(METADATA_VALUE_CHARS + 1);
        let (merged, added, dropped) = merge(
            &json!({ "a": "1" }),
            &metadata(&[("a", &long), ("", "2"), ("n", "\0"), ("ok", "3")]),
        );
        assert_eq!(merged, json!({ "a": "1", "ok": "3" }));
        assert_eq!((added, dropped), (vec!["ok".to_owned()], 3));
        let full: Map<String, Value> = (0..32).map(|n| (format!("k{n}"), "v".into())).collect();
        let (merged, added, dropped) = merge(&Value::Object(full.clone()), &metadata(&[("k1", "w"), ("new", "v")]));
        assert_eq!(merged.as_object().unwrap().len(), 32);
        assert_eq!((added, dropped), (vec!["k1".to_owned()], 1));
        let value = "y".repeat(1024);
        let many: Vec<(String, &str)> = (0..10).map(|n| (format!("k{n}"), value.as_str())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let (merged, added, _) = merge(&json!({}), &metadata(&many));
        assert_eq!(added.len(), 7);
        assert!(size(merged.as_object().unwrap()) <= METADATA_BYTES);
    }

    #[test]
    fn an_edge_whose_clock_is_ahead_does_not_end_a_session_in_the_future() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let event = |seconds| SessionEvent {
            at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..SessionEvent::default()
        };
        assert_eq!(time_of(&event(2_000), now), now);
        assert_eq!(time_of(&event(900), now).timestamp(), 900);
        assert_eq!(time_of(&SessionEvent::default(), now), now);
    }
}
