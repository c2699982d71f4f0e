//! Placing a call: the same key is the same call, for ever, and a fresh call is committed and dialled in one go.

use std::{collections::BTreeMap, sync::Arc};

use callbridge_proto::id::{AccountId, AgentId, CallId, PhoneId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::PhoneNumber;
use runtime::telemetry;
use serde::Serialize;
use tracing::{Instrument as _, info_span};

use super::{
    dial::{self, Order, Plan},
    hours::Hours,
    state::{Direction, Facts, Progress, State},
};
use crate::{
    app::App,
    error::{Error, Violations},
    store::{
        accounts::{self, Account},
        agents,
        calls::{self, Call, NewCall},
        events::{self, NewEvent},
        phones::{self, Phone},
    },
};

/// A call that waits longer than this past its earliest time is given up, unless the caller says otherwise.
pub const EXPIRES_AFTER: TimeDelta = TimeDelta::hours(1);

/// How far ahead a call can be planned.
const FARTHEST: TimeDelta = TimeDelta::days(30);
/// `when_at_capacity`: refuse rather than wait.
const REFUSE: i16 = 2;

/// A checked request for a call. Its serialised form, without the key, is what a repeat must agree with.
#[derive(Clone, Serialize)]
pub struct Request {
    /// Chosen by the caller.
    #[serde(skip)]
    pub key: String,
    /// Whom to call, E.164.
    #[serde(serialize_with = "full_number")]
    pub to: PhoneNumber,
    /// Which phone to call from.
    pub from: From,
    /// Who talks; the phone's agent if none is named.
    pub agent: Option<AgentId>,
    /// Seconds.
    pub ring_timeout: u32,
    /// Seconds.
    pub time_limit: u32,
    /// Not dialled before.
    pub not_before: Option<DateTime<Utc>>,
    /// Given up if still waiting then.
    pub expire_at: Option<DateTime<Utc>>,
    /// Larger is sooner.
    pub priority: i32,
    /// Dial outside of the calling hours, for this reason.
    pub hours_override: Option<String>,
    /// Kept with the call.
    pub metadata: BTreeMap<String, String>,
    /// Record at Exotel.
    pub record: bool,
    /// What to do while the number is on another call: 1 wait, 2 refuse, 3 allow.
    pub when_number_busy: i16,
    /// What to do while there is no room: 1 wait, 2 refuse.
    pub when_at_capacity: i16,
}

/// Which phone to call from.
#[derive(Clone, Serialize)]
pub enum From {
    /// A phone record.
    Phone(PhoneId),
    /// A phone's number.
    #[serde(serialize_with = "full_number")]
    CallerId(PhoneNumber),
    /// The environment's.
    Default,
}

fn full_number<S: serde::Serializer>(number: &PhoneNumber, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(number.expose())
}

/// The call, and whether the key had been used before.
pub struct Placed {
    /// The call as it stands.
    pub call: Call,
    /// True for a repeat.
    pub repeated: bool,
}

/// Places a call, or finds the one that the caller placed with this key.
///
/// # Errors
/// Invalid or Precondition (nothing is stored), `AlreadyExists` when the key was used for another request.
pub async fn place(app: &Arc<App>, caller: &str, request: &Request) -> Result<Placed, Error> {
    let canonical = serde_json::to_vec(request).map_err(|_| Error::internal("a request could not be serialised"))?;
    let mut conn = app.db.conn().await?;
    if let Some(call) = calls::by_key(&mut conn, caller, &request.key).await? {
        return repeat(app, call, &canonical);
    }
    let now = calls::database_now(&mut conn).await?;
    check_times(request, now)?;
    let context = look_up(&mut conn, app, request).await?;
    let (credentials, app_id) = dial::credentials(&mut conn, app, &context.account, &context.phone).await?;
    let wait = waits_until(request, &context.account, now)?;
    let id = CallId(app.clock.new_uuid());
    // Held before the commit: between it and the POST there is nothing to wait for.
    let permit = if wait.is_none() {
        Arc::clone(&app.dial_permits).try_acquire_owned().ok()
    } else {
        None
    };
    if wait.is_none() && permit.is_none() && request.when_at_capacity == REFUSE {
        return Err(Error::exhausted(
            "AT_CAPACITY",
            "there is no room for another dial now; the key is not used up: try again",
        ));
    }
    let plan = permit.map(|permit| Plan {
        call_id: id,
        customer: request.to.clone(),
        exophone: context.number.clone(),
        mode: context.phone.dial_mode,
        app_id,
        credentials,
        permit,
        ring_timeout: request.ring_timeout,
        time_limit: request.time_limit,
        record: request.record,
    });
    let row = new_row(
        id,
        caller,
        request,
        &context,
        now,
        wait,
        plan.is_some(),
        app.tokens.fingerprint(&canonical),
    )?;
    drop(conn);
    // A client that goes away drops this future, and must not take a committed call's dial with it.
    let committing = app.tasks.spawn(commit(Arc::clone(app), row, plan, now));
    let committed = match committing.await {
        Ok(Some(result)) => result?,
        Ok(None) => {
            return Err(Error::unavailable(
                "this replica shuts down: try again with the same key",
            ));
        }
        Err(error) => return Err(Error::internal_from("a call could not be committed", error)),
    };
    if let Some(call) = committed {
        return Ok(Placed { call, repeated: false });
    }
    // The same key was committed by somebody else in between.
    let call = calls::by_key(&mut *app.db.conn().await?, caller, &request.key).await?;
    repeat(
        app,
        call.ok_or_else(|| Error::internal("a call's key was taken and is gone"))?,
        &canonical,
    )
}

/// Commits a call and, with a plan, dials it. None: the key is taken.
async fn commit(app: Arc<App>, row: NewCall, plan: Option<Plan>, now: DateTime<Utc>) -> Result<Option<Call>, Error> {
    let mut conn = app.db.conn().await?;
    let inserted = conn
        .transaction::<_, Error, _>(async |conn| insert(conn, &app, &row, plan, now).await)
        .instrument(info_span!("db.transaction", otel.name = "place_call"))
        .await?;
    drop(conn);
    let Some((call, order)) = inserted else { return Ok(None) };
    match order {
        Some(order) => dial::spawn(&app, order),
        None => app.hub.work(),
    }
    app.hub.committed(call.id());
    Ok(Some(call))
}

/// Only a new call is held against the clock: a repeat finds its call however late it comes.
fn check_times(request: &Request, now: DateTime<Utc>) -> Result<(), Error> {
    let mut wrong = Violations::new();
    let begins = request.not_before.map_or(now, |at| at.max(now));
    wrong.require(begins <= now + FARTHEST, "not_before", "at most 30 days ahead");
    wrong.require(
        request.expire_at.is_none_or(|at| at > begins),
        "expire_at",
        "later than not_before and than now",
    );
    let last = begins + FARTHEST;
    wrong.require(
        request.expire_at.is_none_or(|at| at <= last),
        "expire_at",
        "at most 30 days after not_before",
    );
    wrong.finish()
}

fn repeat(app: &App, call: Call, canonical: &[u8]) -> Result<Placed, Error> {
    if call
        .fingerprint
        .as_deref()
        .is_some_and(|known| app.tokens.fingerprint_matches(known, canonical))
    {
        return Ok(Placed { call, repeated: true });
    }
    Err(Error::already_exists(
        "IDEMPOTENCY_KEY_REUSED",
        format!(
            "this idempotency key was used for another request, call {}: use a new key for a new call",
            call.id()
        ),
    ))
}

struct Context {
    account: Account,
    phone: Phone,
    number: PhoneNumber,
    agent_id: AgentId,
    agent_version: i32,
}

/// Finds the phone, its account and the agent. The caller is told which field names something that is not there.
async fn look_up(conn: &mut AsyncPgConnection, app: &App, request: &Request) -> Result<Context, Error> {
    let (phone, field) = match &request.from {
        From::Phone(id) => (phones::find(conn, *id).await?, "phone_id"),
        From::CallerId(number) => (phones::by_number(conn, number.expose()).await?, "caller_id"),
        From::Default => match app.config.default_caller_id() {
            Some(number) => (phones::by_number(conn, number.expose()).await?, "phone_id"),
            None => {
                return Err(Error::invalid(
                    "phone_id",
                    "name a phone, or a caller_id: EXOTEL_CALLER_ID is not set",
                ));
            }
        },
    };
    let phone = phone
        .ok_or_else(|| Error::invalid(field, "there is no such phone: create it with PhoneService.CreatePhone"))?;
    let account = accounts::find(conn, AccountId(phone.account_id))
        .await?
        .ok_or_else(|| Error::internal("a phone without its account"))?;
    let agent = match (request.agent, phone.agent_id) {
        (Some(id), _) => agents::current(conn, id).await?.ok_or_else(|| {
            Error::invalid(
                "agent_id",
                "there is no such agent: create it with AgentService.CreateAgent",
            )
        })?,
        (None, Some(id)) => agents::current(conn, AgentId(id))
            .await?
            .ok_or_else(|| Error::internal("a phone's agent is gone"))?,
        (None, None) => {
            return Err(Error::precondition(
                "NO_AGENT",
                "neither the request nor the phone names an agent: set agent_id",
            ));
        }
    };
    let number = PhoneNumber::parse(&phone.number).map_err(|_| Error::internal("a stored number cannot be read"))?;
    Ok(Context {
        account,
        phone,
        number,
        agent_id: AgentId(agent.agent_id),
        agent_version: agent.version,
    })
}

/// Until when a call waits, and why. None: it may be dialled now.
fn waits_until(
    request: &Request,
    account: &Account,
    now: DateTime<Utc>,
) -> Result<Option<(DateTime<Utc>, &'static str)>, Error> {
    let earliest = request.not_before.unwrap_or(now).max(now);
    let open = match hours(account, request.hours_override.as_deref())? {
        Some(hours) => hours.next_open(earliest),
        None => earliest,
    };
    if open > earliest {
        return Ok(Some((open, "calling_hours")));
    }
    Ok((earliest > now).then_some((earliest, "not_before")))
}

/// The hours that bind a call: none when the account or the call has them off.
pub fn hours(account: &Account, hours_override: Option<&str>) -> Result<Option<Hours>, Error> {
    if account.hours_off || hours_override.is_some() {
        return Ok(None);
    }
    let zone = account
        .hours_time_zone
        .parse()
        .map_err(|_| Error::internal("a stored time zone cannot be read"))?;
    Ok(Some(Hours {
        start_minute: account.hours_start_minute,
        end_minute: account.hours_end_minute,
        zone,
    }))
}

#[expect(
    clippy::too_many_arguments,
    reason = "one place that puts a row together from all its sources"
)]
fn new_row(
    id: CallId,
    caller: &str,
    request: &Request,
    context: &Context,
    now: DateTime<Utc>,
    wait: Option<(DateTime<Utc>, &'static str)>,
    dials: bool,
    fingerprint: Vec<u8>,
) -> Result<NewCall, Error> {
    let facts = if dials {
        Facts {
            attempt: 1,
            progress: Progress::Dialing,
            ..Facts::default()
        }
    } else {
        Facts::default()
    };
    let not_before = request.not_before.unwrap_or(now);
    // A wait for the calling hours must not be cut off by the default.
    let earliest = wait.map_or(not_before, |(until, _)| until.max(not_before));
    let expire_at = request.expire_at.unwrap_or(earliest + EXPIRES_AFTER);
    Ok(NewCall {
        id: id.0,
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
        caller: Some(caller.to_owned()),
        idempotency_key: Some(request.key.clone()),
        fingerprint: Some(fingerprint),
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
        expire_at,
        // A call that expires while it waits is looked at then.
        due_at: wait.map_or(now, |(until, _)| until.min(expire_at)),
        waiting_reason: match (dials, wait) {
            (true, _) => None,
            (false, Some((_, reason))) => Some(reason.to_owned()),
            (false, None) => Some("capacity".to_owned()),
        },
        facts: serde_json::to_value(&facts).map_err(|_| Error::internal("facts could not be serialised"))?,
        post_started_at: dials.then_some(now),
        end_reason: None,
        ended_by: None,
        ended_at: None,
        read_back_at: None,
        traceparent: telemetry::traceparent(),
    })
}

/// Inserts the row with its first events; with a plan, the commit of this transaction is also the commit to dial. None: the
/// key is taken.
async fn insert(
    conn: &mut AsyncPgConnection,
    app: &App,
    row: &NewCall,
    plan: Option<Plan>,
    now: DateTime<Utc>,
) -> Result<Option<(Call, Option<Order>)>, Error> {
    let Some(call) = calls::insert(conn, row).await? else {
        return Ok(None);
    };
    let event = |version, kind: &str, state, source: &str, data| NewEvent {
        call_id: call.id,
        version,
        kind: kind.to_owned(),
        state,
        source: source.to_owned(),
        data,
    };
    let why = row.waiting_reason.as_ref().map_or_else(
        || serde_json::json!({}),
        |reason| serde_json::json!({ "waits_for": reason }),
    );
    let mut events = vec![event(1, "queued", State::Queued, "api", why)];
    if plan.is_some() {
        events.push(event(
            2,
            "dialing",
            State::Dialing,
            "dialer",
            serde_json::json!({ "attempt": "1" }),
        ));
    }
    events::append(conn, &events).await?;
    let order = match plan {
        Some(plan) => Some(plan.order(conn, app, call.attempt, now).await?),
        None => None,
    };
    Ok(Some((call, order)))
}
