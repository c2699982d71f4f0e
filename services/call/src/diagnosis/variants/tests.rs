use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::{calls::state::State, store::recordings::Recording};

fn event(kind: &str, source: &str, data: Value) -> Event {
    Event {
        call_id: Uuid::nil(),
        version: 1,
        id: 1,
        tx: 1,
        kind: kind.to_owned(),
        state: State::InProgress,
        source: source.to_owned(),
        at: DateTime::UNIX_EPOCH,
        data,
    }
}

fn session(quality: Value) -> Session {
    Session {
        id: Uuid::nil(),
        call_id: Uuid::nil(),
        nonce: None,
        token_expires_at: None,
        claim: 0,
        edge_id: None,
        stream_sid: None,
        attached_until: None,
        last_event: 0,
        created_at: DateTime::UNIX_EPOCH,
        started_at: None,
        ended_at: None,
        ended_by: None,
        end_reason: None,
        end_presumed: false,
        quality,
        recording_url: None,
        recording: Recording::default(),
    }
}

#[test]
fn a_whole_call_shows_everything() {
    let events = [
        event("queued", "api", json!({})),
        event(
            "media_started",
            "media",
            json!({ "sample_rate": "16000", "key_case": "camel", "query": "parameters" }),
        ),
        event(
            "ended",
            "callback",
            json!({ "encoding": "multipart", "fields": "short" }),
        ),
        event("details", "callback", json!({ "encoding": "json", "fields": "full" })),
    ];
    let sessions = [session(json!({ "frames_in": 150, "bytes_in": 48_000 }))];
    let seen = Variants::of(&events, &sessions, Some(330), DateTime::UNIX_EPOCH);
    let expected = Variants {
        seen_at: DateTime::UNIX_EPOCH,
        key_case: Some(KeyCase::Camel),
        sample_rate: Some(16_000),
        chunk_bytes: Some(320),
        query: Some(Query::Parameters),
        callback: Some(Callback {
            encoding: Encoding::Json,
            full: true,
        }),
        utc_offset_minutes: Some(330),
    };
    assert_eq!(seen, expected);
    assert_eq!(serde_json::from_value::<Variants>(seen.kept()).unwrap(), expected);
}

#[test]
fn a_query_that_nobody_met_was_dropped_once_there_was_a_socket() {
    let started = |facts| [event("media_started", "media", facts)];
    let query = |events: &[Event]| Variants::of(events, &[], None, DateTime::UNIX_EPOCH).query;
    assert_eq!(query(&started(json!({ "key_case": "snake" }))), Some(Query::Dropped));
    // The edge of an earlier release does not look.
    assert_eq!(query(&started(json!({}))), None);
    assert_eq!(query(&[]), None);
}

#[test]
fn what_was_not_seen_is_none() {
    let sessions = [session(json!({})), session(json!({ "frames_in": 0, "bytes_in": 0 }))];
    let events = [event(
        "ended",
        "read_back",
        json!({ "encoding": "json", "fields": "full" }),
    )];
    assert_eq!(
        Variants::of(&events, &sessions, None, DateTime::UNIX_EPOCH),
        Variants::default()
    );
}

/// F40: a row of another release.
#[test]
fn a_row_with_more_or_less_is_read() {
    let kept = json!({ "seen_at": "1970-01-01T00:00:00Z", "later": 1 });
    assert_eq!(serde_json::from_value::<Variants>(kept).unwrap(), Variants::default());
}
