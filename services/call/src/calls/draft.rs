//! A call that is about to be: all that its row and its first events are made of.

use callbridge_proto::id::{AgentId, CallId};
use chrono::{DateTime, Utc};
use exotel::PhoneNumber;

use super::{
    capacity::{Caps, Waits},
    request::{EXPIRES_AFTER, Request},
    state::{Direction, Facts, Progress, State},
};
use crate::{
    error::Error,
    store::{accounts::Account, agents::Agent, calls::NewCall, events::NewEvent, phones::Phone},
    toll::Dialler,
};

/// All that a row is made of.
pub(super) struct Draft {
    pub(super) id: CallId,
    pub(super) dialler: Dialler,
    pub(super) request: Request,
    pub(super) context: Context,
    pub(super) now: DateTime<Utc>,
    pub(super) fingerprint: Vec<u8>,
    pub(super) traceparent: Option<String>,
}

/// Why a call is not dialled at once.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) due_at: DateTime<Utc>,
    pub(super) word: &'static str,
    pub(super) for_call: Option<CallId>,
}

impl Held {
    pub(super) fn until(due_at: DateTime<Utc>, word: &'static str) -> Self {
        Self {
            due_at,
            word,
            for_call: None,
        }
    }

    /// Due, so that its place in the queue is that of its coming.
    pub(super) fn waits(waits: Waits, now: DateTime<Utc>) -> Self {
        Self {
            due_at: now,
            word: waits.word(),
            for_call: waits.for_call(),
        }
    }
}

/// The settings of a call.
pub(super) struct Context {
    pub(super) account: Account,
    pub(super) phone: Phone,
    pub(super) number: PhoneNumber,
    pub(super) agent_id: AgentId,
    pub(super) agent_version: i32,
    pub(super) agent_cap: i32,
}

impl Context {
    pub(super) fn new(account: Account, phone: Phone, agent: &Agent) -> Result<Self, Error> {
        let number =
            PhoneNumber::parse(&phone.number).map_err(|_| Error::internal("a stored number cannot be read"))?;
        Ok(Self {
            account,
            phone,
            number,
            agent_id: agent.id(),
            agent_version: agent.version,
            agent_cap: agent.max_concurrent_calls,
        })
    }
}

impl Draft {
    /// The row, as it waits or as it is dialled.
    pub(super) fn row(&self, held: Option<Held>) -> Result<NewCall, Error> {
        let Self {
            request, context, now, ..
        } = self;
        let dials = held.is_none();
        let facts = if dials {
            Facts {
                attempt: 1,
                progress: Progress::Dialing,
                ..Facts::default()
            }
        } else {
            Facts::default()
        };
        let not_before = request.not_before.unwrap_or(*now);
        // A wait for the calling hours must not be cut off by the default.
        let earliest = held.map_or(not_before, |held| held.due_at.max(not_before));
        Ok(NewCall {
            id: self.id.0,
            version: if dials { 2 } else { 1 },
            direction: Direction::Outbound,
            state: facts.state(),
            attempt: facts.attempt,
            account_id: context.account.id,
            phone_id: Some(context.phone.id),
            agent_id: Some(context.agent_id.0),
            agent_version: Some(context.agent_version),
            customer: request.to.expose().to_owned(),
            exophone: context.number.expose().to_owned(),
            caller: Some(self.dialler.name.to_string()),
            idempotency_key: Some(request.key.clone()),
            fingerprint: Some(self.fingerprint.clone()),
            call_sid: None,
            dial_mode: Some(context.phone.dial_mode),
            ring_timeout_seconds: i32::try_from(request.ring_timeout).unwrap_or(i32::MAX),
            time_limit_seconds: i32::try_from(request.time_limit).unwrap_or(i32::MAX),
            record: request.record,
            priority: request.priority,
            calling_hours_override: request.hours_override.clone(),
            when_number_busy: request.when_number_busy,
            metadata: serde_json::to_value(&request.metadata)
                .map_err(|_| Error::internal("metadata could not be serialised"))?,
            not_before,
            expire_at: request.expire_at.unwrap_or(earliest + EXPIRES_AFTER),
            due_at: held.map_or(*now, |held| held.due_at),
            waiting_reason: held.map(|held| held.word.to_owned()),
            waiting_for: held.and_then(|held| held.for_call).map(|id| id.0),
            facts: serde_json::to_value(&facts).map_err(|_| Error::internal("facts could not be serialised"))?,
            post_started_at: dials.then_some(*now),
            end_reason: None,
            ended_by: None,
            ended_at: None,
            read_back_at: None,
            traceparent: self.traceparent.clone(),
        })
    }

    /// Its first events.
    pub(super) fn first_events(&self, held: Option<Held>) -> Vec<NewEvent> {
        let event = |version, kind: &str, state, source: &str, data| NewEvent {
            call_id: self.id.0,
            version,
            kind: kind.to_owned(),
            state,
            source: source.to_owned(),
            data,
        };
        let mut why = serde_json::Map::new();
        if let Some(held) = held {
            why.insert("waits_for".to_owned(), held.word.into());
            if let Some(id) = held.for_call {
                why.insert("call_id".to_owned(), id.to_string().into());
            }
        }
        let mut first = vec![event(1, "queued", State::Queued, "api", why.into())];
        if held.is_none() {
            let data = serde_json::json!({ "attempt": "1" });
            first.push(event(2, "dialing", State::Dialing, "dialer", data));
        }
        first
    }
}

/// The caps of a call from this phone with an agent that has this cap; a campaign's is on top.
pub(super) fn caps(account: &Account, phone: &Phone, agent_cap: i32) -> Caps {
    Caps {
        account: account.max_concurrent_calls.into(),
        inbound_reserve: account.inbound_reserve.into(),
        phone: phone.max_concurrent_calls.into(),
        agent: agent_cap.into(),
        campaign: 0,
    }
}
