//! Claiming the next queued call of an account: what it needs is looked up first, and then the claim and the intent to dial are
//! one commit under the account's lock.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::{AccountId, CallId, CampaignId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{PhoneNumber, rest::Dial};
use tokio::sync::OwnedSemaphorePermit;
use tracing::{Instrument as _, field, info_span, warn};
use uuid::Uuid;

use super::{
    capacity::{self, Caps, Verdict, WhenBusy},
    dial::{self, Order, Plan},
    dispatch::{until, waiting},
    draft, hours,
    queued::{self, undialled},
    record::{Note, record_locked},
    state::{Event, Outcome, Source, State},
};
use crate::{
    app::App,
    campaigns::{
        gate::{self, Answer},
        rules::Rules,
    },
    crash,
    db::{Conn, DbError, Retries},
    diagnosis,
    error::Error,
    store::{
        agents, caller_days,
        calls::{self, Call},
        campaigns::{self, gate::Gate, numbers},
        phones::{self, Named},
        queue::{self, Wants},
        rates,
    },
    toll::{self, Limits},
    trace, vault,
};

/// How long a campaign's call waits whose caller has had all calls of the day, unless the day ends before: a larger cap may come.
const SPENT_FOR: TimeDelta = TimeDelta::minutes(15);
/// How long a call that cannot be dialled for want of a setting waits before it is tried again.
const BLOCKED_FOR: TimeDelta = TimeDelta::seconds(30);

/// What became of a look at an account's queue.
pub(super) enum Claimed {
    /// Something was done; there may be more.
    Done,
    /// There is nothing to do until something changes.
    Nothing,
    /// There is, after this time.
    NotBefore(Duration),
}

/// Why a call is not dialled now, or all that its dial needs.
enum Look {
    Dial(Box<Ready>),
    Wait(DateTime<Utc>, &'static str),
    GiveUp(&'static str),
}

struct Ready {
    plan: Plan,
    caps: Caps,
    calls_per_minute: i32,
}

/// Takes the account's next call: dials it, writes why it waits, or gives it up.
pub(super) async fn next(app: &Arc<App>, account: AccountId, permit: OwnedSemaphorePermit) -> Result<Claimed, Error> {
    let mut conn = app.db.conn().await?;
    // Most of the time it is not the account's turn yet, or another replica has just taken it. The lock decides; this saves the looks.
    if let Some(pace) = rates::peek(&conn, account, rates::Kind::Dial).await?
        && let Err(at) = capacity::turn(pace, TimeDelta::zero())
    {
        return Ok(Claimed::NotBefore(until(at, pace.now)));
    }
    let Some(id) = queue::next(&mut conn, account).await? else {
        let turn = queue::campaign_turn(&mut conn, account).await?;
        return Ok(turn.map_or(Claimed::Nothing, |(at, now)| {
            Claimed::NotBefore(until(at - capacity::EARLY, now))
        }));
    };
    let call = match calls::find(&mut conn, id).await {
        Ok(Some(call)) => call,
        Ok(None) => return Ok(Claimed::Done),
        Err(error) => {
            unreadable(app, &mut conn, id, error.into()).await?;
            return Ok(Claimed::Done);
        }
    };
    let span = info_span!(parent: None, "call.claim", account.id = %account, call.id = field::Empty);
    trace::put(&span, &call);
    take(app, conn, &call, permit).instrument(span).await
}

/// Takes this call.
async fn take(app: &Arc<App>, mut conn: Conn, call: &Call, permit: OwnedSemaphorePermit) -> Result<Claimed, Error> {
    let look = match look(&mut conn, app, call, permit).await {
        Err(error @ Error::Db(DbError::Query(_))) => {
            unreadable(app, &mut conn, call.id(), error).await?;
            return Ok(Claimed::Done);
        }
        look => look?,
    };
    drop(conn);
    match look {
        Look::Dial(ready) => match claim(app, call, *ready).await {
            Err(error) => stumbled(app, call, error).await,
            claimed => claimed,
        },
        Look::Wait(until, word) => put_off(app, call, (until, word)).await,
        Look::GiveUp(reason) => {
            let end = (undialled(Outcome::Failed, reason), Note::from("dialer"));
            let same = |row: &Call, _| row.version == call.version;
            queued::end(app, &mut *app.db.conn().await?, call.id(), end, same).await?;
            Ok(Claimed::Done)
        }
    }
}

/// Looks up all that a dial needs. A setting that is missing now may be there later, until the call expires.
async fn look(
    conn: &mut AsyncPgConnection,
    app: &Arc<App>,
    call: &Call,
    permit: OwnedSemaphorePermit,
) -> Result<Look, Error> {
    let now = calls::database_now(conn).await?;
    let found = match call.phone_id() {
        Some(id) => phones::with_account(conn, Named::Id(id)).await?,
        None => None,
    };
    let Some((phone, account)) = found else {
        return Ok(Look::GiveUp("phone_gone"));
    };
    // A campaign's call goes by the campaign's windows, under its lock.
    if call.campaign_id.is_none()
        && let Some(hours) = hours::of(&account, call.calling_hours_override.as_deref())?
    {
        let open = hours.next_open(now);
        if open > now {
            return Ok(Look::Wait(open, "calling_hours"));
        }
    }
    let (credentials, app_id) = match dial::credentials(conn, app, &account, &phone, call.dial_mode).await {
        Ok(found) => found,
        // What was changed or moved does not open the next time either.
        Err(Error::Precondition {
            reason: vault::UNREADABLE,
            ..
        }) => return Ok(Look::GiveUp("credentials_unreadable")),
        Err(error @ (Error::Precondition { .. } | Error::Unavailable { .. })) => {
            warn!(call.id = %call.id(), %error, "a queued call waits for its phone's settings");
            return Ok(Look::Wait(now + BLOCKED_FOR, "settings"));
        }
        Err(error) => return Err(error),
    };
    if let Some(open) = app.breakers.open(&credentials, std::time::Instant::now()) {
        let wait = TimeDelta::from_std(open.wait).unwrap_or(BLOCKED_FOR);
        return Ok(Look::Wait(now + wait, open.word));
    }
    let numbers = PhoneNumber::parse(&call.customer)
        .ok()
        .zip(PhoneNumber::parse(&call.exophone).ok());
    let Some((customer, exophone)) = numbers else {
        return Ok(Look::GiveUp("number_unreadable"));
    };
    // The setting may be narrower by now (F126).
    if app.config.toll.allow(&Limits::default(), &customer).is_err() {
        return Ok(Look::GiveUp("destination_not_allowed"));
    }
    let plan = Plan {
        call_id: call.id(),
        account: account.id(),
        phone: phone.id(),
        utc_offset_minutes: account.utc_offset_minutes,
        customer,
        exophone,
        mode: call.dial_mode.unwrap_or(phone.dial_mode),
        app_id,
        credentials,
        permit,
        ring_timeout: u32::try_from(call.ring_timeout_seconds).unwrap_or(30),
        time_limit: u32::try_from(call.time_limit_seconds).unwrap_or(1800),
        record: call.record,
        of_campaign: call.campaign_id.is_some(),
        of_diagnosis: diagnosis::is_of(&call.metadata),
    };
    let agent_cap = match call.agent_id() {
        Some(id) => agents::cap(conn, id).await?.unwrap_or(0),
        None => 0,
    };
    Ok(Look::Dial(Box::new(Ready {
        plan,
        caps: draft::caps(&account, &phone, agent_cap),
        calls_per_minute: account.calls_per_minute,
    })))
}

/// What the claim's transaction decided.
enum Decided {
    Dial(i32, Dial),
    /// Written, or somebody else was quicker.
    Moved(bool),
    /// The account waits, and with it all its calls.
    Full,
    NotBefore(Duration),
}

async fn claim(app: &Arc<App>, call: &Call, ready: Ready) -> Result<Claimed, Error> {
    let mut retries = Retries::default();
    // When this worker claimed the call, as far as it knows: it may be all that is left of the claim.
    let mut claimed_at;
    // When the dial has begun, as far as a limit is concerned.
    let mut begun;
    let decided = loop {
        let mut conn = app.db.conn().await?;
        begun = runtime::clock::since_boot();
        claimed_at = None;
        let decided = conn
            .transaction::<Decided, Error, _>(async |conn| {
                decide(conn, app, call, &ready, &mut claimed_at, &mut begun).await
            })
            .instrument(trace::transaction("claim"))
            .await;
        drop(conn);
        match decided {
            Err(error) if retries.again(&error).await => {}
            decided => break decided,
        }
    };
    let decided = match decided {
        Ok(decided) => decided,
        Err(error) => {
            if let Some(at) = claimed_at
                && matches!(&error, Error::Db(error) if error.is_transient())
            {
                dial::give_back(app, ready.plan, call.attempt + 1, at);
            }
            return Err(error);
        }
    };
    match decided {
        Decided::Dial(attempt, dial) => {
            crash::point(crash::CLAIM_COMMITTED);
            let plan = ready.plan;
            dial::spawn(
                app,
                Order {
                    plan,
                    attempt,
                    dial,
                    begun,
                },
            );
            app.hub.committed(call.id());
            Ok(Claimed::Done)
        }
        Decided::Moved(changed) => {
            if changed {
                app.hub.committed(call.id());
            }
            Ok(Claimed::Done)
        }
        Decided::Full => Ok(Claimed::Nothing),
        Decided::NotBefore(wait) => Ok(Claimed::NotBefore(wait)),
    }
}

async fn decide(
    conn: &mut AsyncPgConnection,
    app: &App,
    call: &Call,
    ready: &Ready,
    claimed_at: &mut Option<DateTime<Utc>>,
    begun: &mut Duration,
) -> Result<Decided, Error> {
    let account = ready.plan.account;
    let pace = rates::lock(conn, account, rates::Kind::Dial)
        .await?
        .ok_or_else(|| Error::internal("an account without its rates"))?;
    let pause = rates::Kind::Dial.pause(ready.calls_per_minute);
    if let Err(at) = capacity::turn(pace, pause) {
        return Ok(Decided::NotBefore(until(at, pace.now)));
    }
    // Always in this order: account, campaign, agent, number, call.
    let gate = match call.campaign_id() {
        Some(id) => {
            let locked = Locked::campaign(conn, id, call).await?;
            // A pause was committed before, or comes after this transaction.
            *begun = runtime::clock::since_boot();
            Some(locked.ok_or_else(|| Error::internal("a call of a campaign that is not there"))?)
        }
        None => None,
    };
    let caps = Caps {
        campaign: gate
            .as_ref()
            .map_or(0, |locked| locked.gate.max_concurrent_calls.into()),
        ..ready.caps
    };
    lock_agent(conn, caps, call.agent_id).await?;
    // Other accounts may want to call the same person, and other campaigns may count the same dials.
    numbers::lock(conn, &call.customer).await?;
    let wants = Wants {
        account,
        phone: call
            .phone_id()
            .ok_or_else(|| Error::internal("a queued call without a phone"))?,
        agent: call.agent_id,
        campaign: call.campaign_id,
        customer: &call.customer,
        behind: None,
        caps,
    };
    let standing = queue::standing(conn, &wants).await?;
    let answer = match &gate {
        Some(locked) => locked.judge(conn, call).await?,
        None => Answer::Dial(None),
    };
    let Some((row, now)) = calls::lock(conn, call.id()).await? else {
        return Ok(Decided::Moved(false));
    };
    // Another replica was quicker, or somebody ended the call.
    if row.state != State::Queued || row.version != call.version {
        return Ok(Decided::Moved(false));
    }
    let campaign_turn = match answer {
        Answer::Dial(turn) => turn,
        // It is not found again until the campaign runs, or has its turn.
        Answer::Stay => return Ok(Decided::Moved(false)),
        Answer::Wait(until, word) => {
            record_locked(conn, row, now, None, Some("waiting"), waiting(word, None, Some(until))).await?;
            return Ok(Decided::Moved(true));
        }
        Answer::Drop(reason) => {
            let event = Event::Ended(Source::Local, undialled(Outcome::Canceled, reason));
            record_locked(conn, row, now, Some(&event), None, Note::from("campaign")).await?;
            return Ok(Decided::Moved(true));
        }
    };
    match capacity::decide(pace, pause, caps, &standing, WhenBusy::of(call.when_number_busy)) {
        Verdict::Dial { next_turn } => {
            // Once: a dial that was surely not made is made again.
            if let Some(locked) = &gate
                && row.attempt == 0
                && !locked.has_calls_left(conn, app).await?
            {
                let until = toll::next_day(now).min(now + SPENT_FOR);
                record_locked(
                    conn,
                    row,
                    now,
                    None,
                    Some("waiting"),
                    waiting("daily_calls", None, Some(until)),
                )
                .await?;
                return Ok(Decided::Moved(true));
            }
            let attempt = row.attempt + 1;
            let note = Note::from("dialer").with("attempt", attempt.to_string());
            let (_, changed) = record_locked(conn, row, now, Some(&Event::Claimed), None, note).await?;
            if !changed {
                return Ok(Decided::Moved(false));
            }
            *claimed_at = Some(now);
            rates::set(conn, account, rates::Kind::Dial, next_turn).await?;
            if let Some(id) = call.campaign_id() {
                campaigns::gate::dialled(conn, id, campaign_turn).await?;
            }
            Ok(Decided::Dial(attempt, ready.plan.request(conn, app, now).await?))
        }
        Verdict::Refuse(other) => {
            let note = Note::from("dialer").with("call_id", other.to_string());
            let event = Event::Ended(Source::Local, undialled(Outcome::Failed, "number_busy"));
            record_locked(conn, row, now, Some(&event), None, note).await?;
            Ok(Decided::Moved(true))
        }
        Verdict::Wait(why) => {
            let for_call = why.for_call();
            if row.waiting_reason.as_deref() != Some(why.word()) || row.waiting_for != for_call.map(|id| id.0) {
                record_locked(
                    conn,
                    row,
                    now,
                    None,
                    Some("waiting"),
                    waiting(why.word(), for_call, None),
                )
                .await?;
                return Ok(Decided::Moved(true));
            }
            Ok(Decided::Full)
        }
    }
}

/// A campaign under its lock.
struct Locked {
    id: CampaignId,
    gate: Gate,
    rules: Rules,
}

impl Locked {
    async fn campaign(conn: &mut AsyncPgConnection, id: CampaignId, call: &Call) -> Result<Option<Self>, Error> {
        let Some(gate) = campaigns::gate::lock(conn, id, call).await? else {
            return Ok(None);
        };
        let rules = serde_json::from_value(gate.rules.clone())
            .map_err(|error| Error::internal_from("a campaign's rules cannot be read", error))?;
        Ok(Some(Self { id, gate, rules }))
    }

    /// Counts a call among those that the campaign's caller may make today. False: it has made them. The last lock of all.
    async fn has_calls_left(&self, conn: &AsyncPgConnection, app: &App) -> Result<bool, Error> {
        match toll::daily_calls_of(app, &self.gate.caller) {
            Some(most) => Ok(caller_days::count(conn, &self.gate.caller, most).await?),
            None => Ok(true),
        }
    }

    /// Reads how the number stands and decides.
    async fn judge(&self, conn: &mut AsyncPgConnection, call: &Call) -> Result<Answer, Error> {
        let cap = self
            .rules
            .frequency_cap
            .map(|cap| (cap.count, cap.since(self.gate.now)));
        let number = numbers::standing(conn, self.id, call.contact_id, &call.customer, cap).await?;
        Ok(gate::judge(&self.gate, &self.rules, &number))
    }
}

/// Locks the account's pace, and after it the agent's slots, if they are capped.
///
/// # Errors
/// Of the database.
pub(super) async fn lock(
    conn: &mut AsyncPgConnection,
    account: AccountId,
    caps: Caps,
    agent: Option<Uuid>,
) -> Result<rates::Pace, Error> {
    let pace = rates::lock(conn, account, rates::Kind::Dial)
        .await?
        .ok_or_else(|| Error::internal("an account without its rates"))?;
    lock_agent(conn, caps, agent).await?;
    Ok(pace)
}

/// Calls of other accounts may want an agent's slots too.
async fn lock_agent(conn: &mut AsyncPgConnection, caps: Caps, agent: Option<Uuid>) -> Result<(), Error> {
    if let Some(agent) = agent.filter(|_| caps.agent > 0) {
        agents::lock_slots(conn, agent).await?;
    }
    Ok(())
}

/// A call whose claim fails by what it is itself must not hold up those behind it.
async fn stumbled(app: &Arc<App>, call: &Call, error: Error) -> Result<Claimed, Error> {
    match error {
        Error::Db(DbError::Query(diesel::result::Error::DeserializationError(_))) => {
            unreadable(app, &mut *app.db.conn().await?, call.id(), error).await?;
            Ok(Claimed::Done)
        }
        Error::Db(_) => Err(error),
        error => {
            warn!(call.id = %call.id(), %error, "a queued call cannot be dialled as it is; it is tried again later");
            let now = calls::database_now(&*app.db.conn().await?).await?;
            put_off(app, call, (now + BLOCKED_FOR, "settings")).await
        }
    }
}

async fn put_off(app: &App, call: &Call, wait: (DateTime<Utc>, &str)) -> Result<Claimed, Error> {
    let same = |row: &Call, _| row.version == call.version;
    queued::put_off(app, &mut *app.db.conn().await?, call.id(), wait, same).await?;
    Ok(Claimed::Done)
}

/// Sets a row aside that this program cannot read (a label of a later release, facts that are no facts), so that the others go
/// on. Any other error is passed on.
///
/// # Errors
/// The error itself, if it is not about the row.
pub(crate) async fn unreadable(app: &App, conn: &mut AsyncPgConnection, id: CallId, error: Error) -> Result<(), Error> {
    let Error::Db(DbError::Query(diesel::result::Error::DeserializationError(_))) = &error else {
        return Err(error);
    };
    warn!(call.id = %id, %error, "a call's row cannot be read by this program");
    super::quarantine(app, conn, id).await
}
