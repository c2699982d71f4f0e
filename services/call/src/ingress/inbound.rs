//! Inbound calls: a row is made by the first request that tells of one.

use callbridge_proto::id::{AgentId, CallId};
use chrono::TimeDelta;
use diesel_async::AsyncPgConnection;
use exotel::Caller;
use runtime::telemetry;
use serde_json::{Map, Value, json};
use tracing::{Span, info};

use crate::{
    app::App,
    calls::state::{Direction, End, Facts, Outcome, Party, Source},
    error::Error,
    metrics,
    store::{
        accounts::Account,
        agents,
        calls::{self, NewCall},
        events::{self, NewEvent},
        phones::{self, Phone},
    },
};

use super::bounded;

/// Exotel cuts a stream after an hour, so a person who calls has no shorter limit.
const TIME_LIMIT_SECONDS: i32 = 3600;
/// Exotel has answered an inbound call before it tells of it; the columns want a value.
const RING_SECONDS: i32 = 30;
/// A call whose audio has not started by then is asked about.
const FIRST_READ_BACK: TimeDelta = TimeDelta::seconds(40);
/// The longest text that is kept of a number that cannot be read.
const RAW_CHARS: usize = 64;

/// An inbound call to be.
pub struct Arrival<'a> {
    /// Exotel's id: a repeat is the same call.
    pub call_sid: &'a str,
    /// Who calls.
    pub customer: &'a Caller,
    /// Which number.
    pub phone: &'a Caller,
    /// Where it was told: connect, media or passthru.
    pub source: &'static str,
    /// For the timeline.
    pub facts: &'a Map<String, Value>,
}

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// The call, new or known.
    Call(CallId),
    /// Nobody can take it; there is a row that says why.
    Refused(CallId),
}

/// The phone of an account with a number as Exotel wrote it.
///
/// # Errors
/// Of the database.
pub async fn phone(conn: &mut AsyncPgConnection, account: &Account, caller: &Caller) -> Result<Option<Phone>, Error> {
    let Some(number) = &caller.number else { return Ok(None) };
    Ok(phones::by_number(conn, number.expose())
        .await?
        .filter(|phone| phone.account_id == account.id))
}

/// Makes the row of an inbound call, or finds it. An unknown number, or one without an agent, makes a row that has failed.
///
/// # Errors
/// Of the database.
pub async fn arrive(
    conn: &mut AsyncPgConnection,
    app: &App,
    account: &Account,
    arrival: Arrival<'_>,
) -> Result<Arrived, Error> {
    let phone = phone(conn, account, arrival.phone).await?;
    let agent = match phone.as_ref().and_then(|phone| phone.agent_id) {
        Some(id) => agents::find(conn, AgentId(id)).await?.map(|(_, version)| version),
        None => None,
    };
    let refusal = match (&phone, &agent) {
        (None, _) => Some("unknown_number"),
        (Some(_), None) => Some("no_agent"),
        (Some(_), Some(_)) => None,
    };
    let mut facts = Facts::inbound();
    if let Some(reason) = refusal {
        // Without a trace of Exotel in the facts, so that our own word stands.
        let end = End {
            by: Some(Party::Callbridge),
            reason: Some(reason.to_owned()),
            ..End::new(Outcome::Failed)
        };
        facts = Facts::default();
        facts.ends.insert(Source::Local, end);
    }
    let now = calls::database_now(conn).await?;
    let row = NewCall {
        id: app.clock.new_uuid(),
        version: 1,
        direction: Direction::Inbound,
        state: facts.state(),
        attempt: 0,
        account_id: account.id,
        phone_id: phone.as_ref().map(|phone| phone.id),
        agent_id: agent.as_ref().map(|agent| agent.agent_id),
        agent_version: agent.as_ref().map(|agent| agent.version),
        customer: text_of(arrival.customer),
        exophone: text_of(arrival.phone),
        caller: None,
        idempotency_key: None,
        fingerprint: None,
        call_sid: Some(arrival.call_sid.to_owned()),
        dial_mode: None,
        ring_timeout_seconds: RING_SECONDS,
        time_limit_seconds: TIME_LIMIT_SECONDS,
        record: false,
        priority: 0,
        calling_hours_override: None,
        when_number_busy: 1,
        metadata: json!({}),
        not_before: now,
        expire_at: now,
        due_at: now,
        waiting_reason: None,
        waiting_for: None,
        facts: serde_json::to_value(&facts).map_err(|_| Error::internal("facts could not be serialised"))?,
        post_started_at: None,
        end_reason: refusal.map(str::to_owned),
        ended_by: refusal.map(|_| Party::Callbridge.word().to_owned()),
        ended_at: refusal.map(|_| now),
        read_back_at: refusal.is_none().then(|| now + FIRST_READ_BACK),
        traceparent: telemetry::traceparent(&Span::current()),
    };
    let Some(call) = calls::insert_arrived(conn, &row).await? else {
        // A repeat: the row that has this CallSid is the call.
        let call = calls::by_sid(conn, account.id, arrival.call_sid).await?;
        return call
            .map(|call| Arrived::Call(call.id()))
            .ok_or_else(|| Error::internal("a CallSid was taken and is gone"));
    };
    let mut data = arrival.facts.clone();
    if let Some(reason) = refusal {
        data.insert("reason".to_owned(), reason.into());
        data.insert("by".to_owned(), Party::Callbridge.word().into());
    }
    let event = NewEvent {
        call_id: call.id,
        version: 1,
        kind: if refusal.is_some() { "ended" } else { "placed" }.to_owned(),
        state: call.state,
        source: arrival.source.to_owned(),
        data: Value::Object(data),
    };
    events::append(conn, &[event]).await?;
    metrics::placed(Direction::Inbound, 1);
    match refusal {
        Some(reason) => {
            metrics::ended(Direction::Inbound, call.state, reason);
            info!(call.id = %call.id(), reason, "an inbound call was refused");
            Ok(Arrived::Refused(call.id()))
        }
        None => Ok(Arrived::Call(call.id())),
    }
}

fn text_of(caller: &Caller) -> String {
    caller
        .number
        .as_ref()
        .map_or_else(|| bounded(&caller.raw, RAW_CHARS), |number| number.expose().to_owned())
}
