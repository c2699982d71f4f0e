//! Placing a call: the same key is the same call, for ever, and a fresh call is committed and dialled in one go.

use std::sync::Arc;

use callbridge_proto::id::{AgentId, CallId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use futures_util::future::{join3, join4};
use runtime::telemetry;
use tracing::{Instrument as _, Span};

use super::{
    capacity::{self, Verdict, Waits, WhenBusy},
    claim,
    dial::{self, Order, Plan},
    draft::{self, Context, Draft, Held},
    hours,
    hub::Waiter,
    request::{From, Request},
};
use crate::{
    app::App,
    crash,
    db::{DbError, Retries},
    diagnosis,
    error::Error,
    metrics,
    store::{
        accounts::Account,
        agents::{self, Agent},
        calls::{self, Call},
        events,
        phones::{self, Named, Phone},
        queue::{self, Wants},
        rates,
    },
    toll::Dialler,
    trace,
};

/// The call, and whether the key had been used before.
pub struct Placed {
    /// The call as it stands.
    pub call: Call,
    /// True for a repeat.
    pub repeated: bool,
    /// Wakes when the call has changed since it was placed. None for a repeat: nobody knows what it missed.
    pub waiter: Option<Waiter>,
}

/// Places a call, or finds the one that the caller placed with this key.
///
/// # Errors
/// Invalid or Precondition (nothing is stored), Denied when the number may not be called, Exhausted when the caller has had its calls of
/// the day, or when the caller does not want to wait, `AlreadyExists` when the key
/// was used for another request.
pub async fn place(app: &Arc<App>, dialler: &Dialler, request: &Request) -> Result<Placed, Error> {
    let caller = &*dialler.name;
    let canonical = request.canonical()?;
    let conn = app.db.conn().await?;
    // Sent together: what a repeat finds, and what a new call needs.
    let (earlier, now, phone) = join3(
        calls::by_key(&conn, caller, &request.key),
        calls::database_now(&conn),
        phone(&conn, app, request),
    )
    .await;
    if let Some(call) = earlier? {
        return repeat(app, call, &canonical);
    }
    let (now, (phone, account)) = (now?, phone?);
    request.check_times(now)?;
    app.config.toll.allow(&dialler.limits, &request.to)?;
    let (agent, dial, pace, spent) = join4(
        agent(&conn, request, &phone),
        dial::credentials(&conn, app, &account, &phone, None),
        rates::peek(&conn, account.id(), rates::Kind::Dial),
        dialler.is_spent(&conn, &app.config.toll),
    )
    .await;
    drop(conn);
    if spent? {
        return Err(dialler.spent(&app.config.toll));
    }
    let context = Context::new(account, phone, &agent?)?;
    let (credentials, app_id) = dial?;
    let id = CallId(app.clock.new_uuid());
    let mut held = held_by_time(request, &context.account, now)?;
    if held.is_none()
        && let Some(open) = app.breakers.open(&credentials, std::time::Instant::now())
    {
        let wait = TimeDelta::from_std(open.wait).unwrap_or(TimeDelta::seconds(30));
        held = Some(Held::until(now + wait, open.word));
    }
    if held.is_none() && !request.refuses_to_wait() && request.when_busy() != WhenBusy::Refuse {
        held = held_by_pace(pace?, &context.account);
    }
    // Taken before the commit: between it and the POST there is nothing to wait for.
    let permit = match held {
        None => Arc::clone(&app.dial_permits).try_acquire_owned().ok(),
        Some(_) => None,
    };
    if held.is_none() && permit.is_none() {
        if request.refuses_to_wait() {
            // The same key may have taken the last place meanwhile.
            return match calls::by_key(&*app.db.conn().await?, caller, &request.key).await? {
                Some(call) => repeat(app, call, &canonical),
                None => Err(at_capacity()),
            };
        }
        held = Some(Held::waits(Waits::Process, now));
    }
    let plan = permit.map(|permit| Plan {
        call_id: id,
        account: context.account.id(),
        phone: context.phone.id(),
        utc_offset_minutes: context.account.utc_offset_minutes,
        customer: request.to.clone(),
        exophone: context.number.clone(),
        mode: context.phone.dial_mode,
        app_id,
        credentials,
        permit,
        ring_timeout: request.ring_timeout,
        time_limit: request.time_limit,
        record: request.record,
        of_campaign: false,
        of_diagnosis: diagnosis::is_asked_for(&request.metadata),
    });
    let draft = Draft {
        id,
        dialler: dialler.clone(),
        request: request.clone(),
        context,
        now,
        fingerprint: app.tokens.fingerprint(&canonical),
        traceparent: telemetry::traceparent(&Span::current()),
    };
    // A client that goes away drops this future, and must not take a committed call's dial with it.
    let committing = app.tasks.spawn(commit(Arc::clone(app), draft, plan, held));
    let committed = match committing.await {
        Ok(Some(result)) => result?,
        Ok(None) => {
            return Err(Error::unavailable(
                "this replica shuts down: try again with the same key",
            ));
        }
        Err(error) => return Err(Error::internal_from("a call could not be committed", error)),
    };
    if let Some((call, waiter)) = committed {
        return Ok(Placed {
            call,
            repeated: false,
            waiter: Some(waiter),
        });
    }
    // The same key was committed by somebody else in between.
    let call = calls::by_key(&*app.db.conn().await?, caller, &request.key).await?;
    repeat(
        app,
        call.ok_or_else(|| Error::internal("a call's key was taken and is gone"))?,
        &canonical,
    )
}

fn repeat(app: &App, call: Call, canonical: &[u8]) -> Result<Placed, Error> {
    if call
        .fingerprint
        .as_deref()
        .is_some_and(|known| app.tokens.fingerprint_matches(known, canonical))
    {
        return Ok(Placed {
            call,
            repeated: true,
            waiter: None,
        });
    }
    Err(Error::already_exists(
        "IDEMPOTENCY_KEY_REUSED",
        format!(
            "this idempotency key was used for another request, call {}: use a new key for a new call",
            call.id()
        ),
    ))
}

fn at_capacity() -> Error {
    Error::exhausted(
        "AT_CAPACITY",
        "there is no room for another dial now; the key is not used up: try again",
    )
}

/// A call as it was committed, and what wakes when it has changed since.
type Committed = (Call, Waiter);

/// Commits a call and, with a plan, dials it if it may be dialled now. None: the key is taken.
async fn commit(
    app: Arc<App>,
    draft: Draft,
    plan: Option<Plan>,
    held: Option<Held>,
) -> Result<Option<Committed>, Error> {
    let mut retries = Retries::default();
    // What a commit was asked for: the row, and whether that is also the intent to dial.
    let mut asked;
    let (begun, inserted) = loop {
        let turn = match &plan {
            Some(plan) => match app.turnstiles.pass(plan.account).await {
                Ok(turn) => Some(turn),
                // Whoever had the turn before may have placed this very call.
                Err(refusal) => {
                    let earlier =
                        calls::by_key(&*app.db.conn().await?, &draft.dialler.name, &draft.request.key).await?;
                    return if earlier.is_some() { Ok(None) } else { Err(refusal) };
                }
            },
            None => None,
        };
        let mut conn = app.db.conn().await?;
        let begun = runtime::clock::since_boot();
        asked = None;
        let inserted = conn
            .transaction::<_, Error, _>(async |conn| {
                let inserted = insert(conn, &app, &draft, plan.as_ref(), held).await?;
                asked = inserted.as_ref().map(|(_, dial)| dial.is_some());
                Ok(inserted)
            })
            .instrument(trace::transaction("place_call"))
            .await;
        drop((conn, turn));
        match inserted {
            Err(Error::Db(DbError::Query(diesel::result::Error::RollbackTransaction))) => return Ok(None),
            Err(error) if retries.again(&error).await => {}
            result => break (begun, result),
        }
    };
    let inserted = match inserted {
        Ok(inserted) => inserted,
        Err(error) => {
            return match asked {
                Some(dials) => unknown_commit(&app, &draft, plan.filter(|_| dials), error).await,
                None => Err(error),
            };
        }
    };
    let Some((call, dial)) = inserted else { return Ok(None) };
    metrics::placed(call.direction, 1);
    app.hub.committed(call.id());
    let waiter = app.hub.wait(call.id());
    if let Some((plan, dial)) = plan.zip(dial) {
        crash::point(crash::FRESH_COMMITTED);
        let attempt = 1;
        let order = Order {
            plan,
            attempt,
            dial,
            begun,
        };
        dial::spawn(&app, order);
    } else {
        crash::point(crash::QUEUED_COMMITTED);
        app.hub.work();
    }
    Ok(Some((call, waiter)))
}

/// The database went away, and with it, perhaps, the word that the commit was done. Nothing is sent. If the row is there it is
/// given back to the queue, by the one worker that knows for sure that its dial was not made.
async fn unknown_commit(
    app: &Arc<App>,
    draft: &Draft,
    plan: Option<Plan>,
    error: Error,
) -> Result<Option<Committed>, Error> {
    if !matches!(&error, Error::Db(error) if error.is_transient()) {
        return Err(error);
    }
    if let Some(plan) = plan {
        dial::give_back(app, plan, 1, draft.now);
    }
    let waiter = app.hub.wait(draft.id);
    let mut conn = app.db.conn().await?;
    match calls::find(&mut conn, draft.id).await? {
        Some(call) => Ok(Some((call, waiter))),
        None => Err(error),
    }
}

/// Finds the phone and its account. The caller is told which field names something that is not there.
async fn phone(conn: &AsyncPgConnection, app: &App, request: &Request) -> Result<(Phone, Account), Error> {
    let (named, field) = match &request.from {
        From::Phone(id) => (Named::Id(*id), "phone_id"),
        From::CallerId(number) => (Named::Number(number.expose()), "caller_id"),
        From::Default => match app.config.default_caller_id() {
            Some(number) => (Named::Number(number.expose()), "phone_id"),
            None => {
                return Err(Error::invalid(
                    "phone_id",
                    "name a phone, or a caller_id: EXOTEL_CALLER_ID is not set",
                ));
            }
        },
    };
    phones::with_account(conn, named)
        .await?
        .ok_or_else(|| Error::invalid(field, "there is no such phone: create it with PhoneService.CreatePhone"))
}

/// Finds the agent that talks.
async fn agent(conn: &AsyncPgConnection, request: &Request, phone: &Phone) -> Result<Agent, Error> {
    let found = match (request.agent, phone.agent_id) {
        (Some(id), _) => agents::find(conn, id).await?.ok_or_else(|| {
            Error::invalid(
                "agent_id",
                "there is no such agent: create it with AgentService.CreateAgent",
            )
        }),
        (None, Some(id)) => agents::find(conn, AgentId(id))
            .await?
            .ok_or_else(|| Error::internal("a phone's agent is gone")),
        (None, None) => Err(Error::precondition(
            "NO_AGENT",
            "neither the request nor the phone names an agent: set agent_id",
        )),
    };
    found.map(|(agent, _)| agent)
}

/// Until when a call waits whatever the room, and why. None: it may be dialled now.
fn held_by_time(request: &Request, account: &Account, now: DateTime<Utc>) -> Result<Option<Held>, Error> {
    let earliest = request.not_before.unwrap_or(now).max(now);
    let open = match hours::of(account, request.hours_override.as_deref())? {
        Some(hours) => hours.next_open(earliest),
        None => earliest,
    };
    if open > earliest {
        return Ok(Some(Held::until(open, "calling_hours")));
    }
    Ok((earliest > now).then_some(Held::until(earliest, "not_before")))
}

/// A turn that is far off needs no lock to be waited for.
fn held_by_pace(pace: Option<rates::Pace>, account: &Account) -> Option<Held> {
    let pace = pace?;
    let turn = capacity::turn(pace, rates::Kind::Dial.pause(account.calls_per_minute));
    turn.err().map(|at| Held::waits(Waits::Rate(at), pace.now))
}

/// Inserts the row with its first events. With a plan, and if there is room, the commit of this transaction is also the commit to
/// dial, and what is to be sent is returned. None: the key is taken.
async fn insert(
    conn: &mut AsyncPgConnection,
    app: &App,
    draft: &Draft,
    plan: Option<&Plan>,
    mut held: Option<Held>,
) -> Result<Option<(Call, Option<exotel::rest::Dial>)>, Error> {
    let mut next_turn = None;
    if plan.is_some() {
        match judge(conn, draft).await? {
            Verdict::Dial { next_turn: next } => next_turn = Some(next),
            Verdict::Wait(waits) if !(waits.is_for_room() && draft.request.refuses_to_wait()) => {
                held = Some(Held::waits(waits, draft.now));
            }
            refusal => {
                // A repeat is answered as the first one was, whatever the room is by now.
                if calls::by_key(conn, &draft.dialler.name, &draft.request.key)
                    .await?
                    .is_some()
                {
                    return Ok(None);
                }
                return Err(match refusal {
                    Verdict::Refuse(other) => Error::exhausted(
                        "NUMBER_BUSY",
                        format!("the number is on call {other}; the key is not used up: try again when that ended"),
                    ),
                    Verdict::Wait(_) | Verdict::Dial { .. } => at_capacity(),
                });
            }
        }
    }
    let row = draft.row(held)?;
    let events = draft.first_events(held);
    let set_turn = async {
        match next_turn {
            Some(next_turn) => rates::set(conn, draft.context.account.id(), rates::Kind::Dial, next_turn).await,
            None => Ok(0),
        }
    };
    // Counted last: whoever waits for this caller's day waits for this commit alone.
    let (call, appended, turn, counted) = join4(
        calls::insert_placed(conn, &row),
        events::append(conn, &events),
        set_turn,
        draft.dialler.count(conn, &app.config.toll),
    )
    .await;
    let Some(call) = call? else {
        // With the events that were sent beside it.
        return Err(diesel::result::Error::RollbackTransaction.into());
    };
    appended?;
    turn?;
    if !counted? {
        return Err(draft.dialler.spent(&app.config.toll));
    }
    let dial = match (plan, next_turn) {
        (Some(plan), Some(_)) => Some(plan.request(conn, app, draft.now).await?),
        _ => None,
    };
    crash::point(crash::PLACE_BEFORE_COMMIT);
    Ok(Some((call, dial)))
}

/// Locks the account's pace and decides whether the call may be dialled now.
async fn judge(conn: &mut AsyncPgConnection, draft: &Draft) -> Result<Verdict, Error> {
    let Context { account, phone, .. } = &draft.context;
    let caps = draft::caps(account, phone, draft.context.agent_cap);
    let pace = claim::lock(conn, account.id(), caps, Some(draft.context.agent_id.0)).await?;
    let wants = Wants {
        account: account.id(),
        phone: phone.id(),
        agent: Some(draft.context.agent_id.0),
        campaign: None,
        customer: draft.request.to.expose(),
        behind: Some(draft.request.priority),
        caps,
    };
    let standing = queue::standing(conn, &wants).await?;
    let pause = rates::Kind::Dial.pause(account.calls_per_minute);
    Ok(capacity::decide(
        pace,
        pause,
        caps,
        &standing,
        draft.request.when_busy(),
    ))
}
