//! The one way a call changes: lock the row, decide, write the row and one event, in the caller's transaction.

use callbridge_proto::id::CallId;
use chrono::{DateTime, Utc};
use diesel::result::{Error as DieselError, QueryResult};
use diesel_async::AsyncPgConnection;
use futures_util::future::join;
use serde_json::{Map, Value};

use super::{
    read_back,
    state::{Event, Facts, State, apply},
};
use crate::{
    metrics,
    store::{
        calls::{self, Call, Change, Computed},
        events::{self, NewEvent},
    },
};

/// What goes onto the timeline and onto the row together with an event.
#[derive(Clone)]
pub struct Note {
    /// Where the event came from: api, dialer, callback, connect, media, passthru, `read_back`, agent or timer.
    pub source: &'static str,
    /// Facts for the timeline: stable words to short texts. Never a full number or a secret.
    pub data: Map<String, Value>,
    /// Columns to change beside the state.
    pub change: Change,
}

impl Note {
    /// A note without facts.
    pub fn from(source: &'static str) -> Self {
        Self {
            source,
            data: Map::new(),
            change: Change::default(),
        }
    }

    /// Adds a fact for the timeline.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.data.insert(key.to_owned(), value.into());
        self
    }

    /// Changes columns too.
    #[must_use]
    pub fn changing(mut self, change: Change) -> Self {
        self.change = change;
        self
    }
}

/// Records what happened to a call. Returns the call as it stands after it, and whether anything changed; None: no such call.
/// A repeat that brings nothing new changes nothing and appends nothing.
///
/// # Errors
/// Of the database.
pub async fn record(
    conn: &mut AsyncPgConnection,
    id: CallId,
    event: &Event,
    note: Note,
) -> QueryResult<Option<(Call, bool)>> {
    let Some((before, now)) = calls::lock(conn, id).await? else {
        return Ok(None);
    };
    record_locked(conn, before, now, Some(event), None, note)
        .await
        .map(Some)
}

/// Puts something on a call's timeline that does not bear on its state, such as a pressed key.
///
/// # Errors
/// Of the database.
pub async fn annotate(conn: &mut AsyncPgConnection, id: CallId, kind: &str, note: Note) -> QueryResult<Option<Call>> {
    let Some((before, now)) = calls::lock(conn, id).await? else {
        return Ok(None);
    };
    Ok(Some(record_locked(conn, before, now, None, Some(kind), note).await?.0))
}

/// As [`record`] and [`annotate`], for a row that the caller locked in this transaction. `kind` names the timeline's entry
/// where there is no event, or where the event brings no change of state but the note does.
///
/// # Errors
/// Of the database.
pub async fn record_locked(
    conn: &mut AsyncPgConnection,
    before: Call,
    now: DateTime<Utc>,
    event: Option<&Event>,
    kind: Option<&str>,
    note: Note,
) -> QueryResult<(Call, bool)> {
    let facts = before.facts()?;
    let transition = event.and_then(|event| apply(&facts, event));
    let change = read_back::ask_if_contradicted(&before, &facts, event, now, news(&before, note.change));
    let (facts, state, kind) = match (transition, kind) {
        (Some(transition), Some(kind)) if transition.state == before.state => {
            (transition.facts, transition.state, kind)
        }
        (Some(transition), _) => (transition.facts, transition.state, transition.kind),
        (None, Some(kind)) => (facts, before.state, kind),
        // The event is known already, but it came with columns that are not: a late price, for example.
        (None, None) if change != Change::default() => (facts, before.state, "details"),
        (None, None) => return Ok((before, false)),
    };
    let computed = compute(&before, &facts, state, now)?;
    let mut change = change;
    if change.read_back_at.is_none()
        && let Some(at) = read_back::schedule(&before, &facts, state, now)
    {
        change.read_back_at = Some(at);
        change.read_backs = Some(0);
    }
    if change.ring_seconds.is_none() && before.ring_seconds.is_none() {
        let rung_until = computed.answered_at.or(computed.ended_at.flatten());
        change.ring_seconds = before
            .post_started_at
            .zip(rung_until)
            .and_then(|(from, to)| seconds(from, to));
    }
    if state != State::Queued && (before.waiting_reason.is_some() || change.waiting_reason.is_some()) {
        change.waiting_reason = Some(None);
        change.waiting_for = Some(None);
    }
    let mut data = if before.blanked_at.is_some() {
        Map::new()
    } else {
        note.data
    };
    // Also where only the reason changes: who left first can be known after the call's end is.
    if let Some(ending) = facts
        .ending()
        .filter(|ending| before.end_reason.as_ref() != Some(&ending.reason))
    {
        let (reason, by) = if state == before.state {
            ("end_reason", "ended_by")
        } else {
            ("reason", "by")
        };
        data.insert(reason.to_owned(), ending.reason.into());
        data.insert(by.to_owned(), ending.by.word().into());
        if ending.presumed {
            data.insert("presumed".to_owned(), "true".into());
        }
    }
    let event = NewEvent {
        call_id: before.id,
        version: computed.version,
        kind: kind.to_owned(),
        state,
        source: note.source.to_owned(),
        data: Value::Object(data),
    };
    let (after, appended) = join(
        calls::update(conn, &before, &computed, &change),
        events::append(conn, std::slice::from_ref(&event)),
    )
    .await;
    // The row is locked, so a miss cannot be a race: somebody wrote around this module.
    let after = after?.ok_or(DieselError::RollbackTransaction)?;
    appended?;
    metrics::changed(&before, &after);
    Ok((after, true))
}

fn seconds(from: DateTime<Utc>, to: DateTime<Utc>) -> Option<i32> {
    i32::try_from((to - from).num_seconds().max(0)).ok()
}

/// The columns that follow from the facts.
fn compute(before: &Call, facts: &Facts, state: State, now: DateTime<Utc>) -> QueryResult<Computed> {
    let ending = facts.ending();
    Ok(Computed {
        version: before.version + 1,
        state,
        attempt: facts.attempt,
        facts: serde_json::to_value(facts).map_err(|error| DieselError::SerializationError(error.into()))?,
        end_requested: facts.end_requested,
        post_started_at: (facts.attempt > before.attempt).then_some(now),
        answered_at: (facts.answered && before.answered_at.is_none()).then_some(now),
        ended_at: Some(ending.as_ref().map(|_| before.ended_at.unwrap_or(now))),
        end_presumed: ending.as_ref().is_some_and(|ending| ending.presumed),
        end_reason: Some(ending.as_ref().map(|ending| ending.reason.clone())),
        ended_by: Some(ending.as_ref().map(|ending| ending.by.word().to_owned())),
        provider_code: Some(ending.and_then(|ending| ending.code)),
    })
}

/// Leaves out what the row says already, and what an erasure or its age has taken from it and comes late. Exotel's id of a call never
/// changes once it is known.
fn news(before: &Call, mut change: Change) -> Change {
    fn fresh<T: PartialEq>(known: Option<&T>, told: Option<T>) -> Option<T> {
        told.filter(|told| known != Some(told))
    }
    if before.call_sid.is_some() {
        change.call_sid = None;
    }
    change.talk_seconds = fresh(before.talk_seconds.as_ref(), change.talk_seconds);
    change.price = fresh(before.price.as_ref(), change.price);
    change.recording_url = fresh(before.recording_url.as_ref(), change.recording_url);
    change.metadata = change.metadata.filter(|metadata| *metadata != before.metadata);
    if before.blanked_at.is_some() {
        change.metadata = None;
        change.recording_url = None;
        change.transfer_to = None;
    }
    change.needs_review = change.needs_review.filter(|review| *review != before.needs_review);
    change
}
