//! The dial: one POST for one committed attempt, in a task that no RPC owns, and the outcome onto the row.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use callbridge_proto::id::{AccountId, CallId, PhoneId};
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{
    PhoneNumber, paths,
    rest::{Credentials, Dial, DialOutcome, Mode, Rejection},
    token::Purpose,
};
use futures_util::FutureExt as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};
use tracing::{Instrument as _, Span, error, field, info_span, warn};

use super::{
    breaker, capacity,
    record::{Note, record_locked},
    socket,
    state::{Dialed, End, Event, Outcome, Party},
    zone,
};
use crate::{
    app::App,
    crash,
    error::Error,
    ingress::resolve,
    store::{
        accounts::Account,
        calls::{self, Change},
        campaigns::numbers,
        phones::{DialMode, Phone},
        rates,
    },
    trace,
};

/// A worker that was stopped for longer between its commit and the connect does not dial (F16): with the three seconds that
/// connecting may take, nothing is sent later than five seconds after the commit.
pub const LATEST_START: Duration = Duration::from_secs(2);
/// Of a campaign's call: nothing is sent later than a second after a pause was committed (F108). This is counted from when the claim
/// has the campaign's lock, which no pause can overtake, and what is left of the second is for the connect
/// ([`exotel::rest::Limits::connect_soon`]).
pub const LATEST_START_OF_CAMPAIGN: Duration = Duration::from_millis(400);
/// Dials of one call that were surely not made, before it is given up.
const ATTEMPTS: i32 = 5;
/// Between tries to write an outcome while the database is away.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How long an outcome is kept trying; after that the row is swept to UNCONFIRMED and settled by evidence.
const WRITE_LIMIT: Duration = Duration::from_secs(45);
/// How long an account's dials wait after a 429 that names no time.
const UNTOLD_PAUSE: Duration = Duration::from_secs(10);
/// A status callback may come this long after the latest end of the call.
const CALLBACK_LATE: TimeDelta = TimeDelta::hours(25);

/// Everything that a dial needs and that is looked up before it is committed.
pub struct Plan {
    /// The call.
    pub call_id: CallId,
    /// Its account.
    pub account: AccountId,
    /// The phone that it is made from.
    pub phone: PhoneId,
    /// The offset of the account's clock at Exotel, as far as it is known.
    pub utc_offset_minutes: Option<i32>,
    /// Whom to call.
    pub customer: PhoneNumber,
    /// The number to show.
    pub exophone: PhoneNumber,
    /// How the call reaches the agent.
    pub mode: DialMode,
    /// The flow, in FLOW mode.
    pub app_id: Option<String>,
    /// Opened for this dial.
    pub credentials: Credentials,
    /// Bounds the dials of this process.
    pub permit: OwnedSemaphorePermit,
    /// In seconds.
    pub ring_timeout: u32,
    /// In seconds.
    pub time_limit: u32,
    /// Whether Exotel records.
    pub record: bool,
    /// Of a campaign, which may be paused.
    pub of_campaign: bool,
    /// Of a diagnosis, which wants to see what becomes of a socket URL's query.
    pub of_diagnosis: bool,
}

/// A committed dial.
pub struct Order {
    /// From what it was made.
    pub plan: Plan,
    /// Which attempt of its call.
    pub attempt: i32,
    /// What is sent.
    pub dial: Dial,
    /// Before the commit, by a clock that goes on while the machine sleeps ([`runtime::clock::since_boot`]).
    pub begun: Duration,
}

/// Looks up what a dial needs, before anything is committed: the flow and the credentials. `mode` is the call's own, where it has
/// one: the phone's may have changed since.
pub async fn credentials(
    conn: &AsyncPgConnection,
    app: &App,
    account: &Account,
    phone: &Phone,
    mode: Option<DialMode>,
) -> Result<(Credentials, Option<String>), Error> {
    let credentials = app.vault.resolve(conn, account, Some(phone)).await?.credentials;
    let app_id = phone
        .app_id
        .clone()
        .or_else(|| account.app_id.clone())
        .or_else(|| app.config.default_app_id());
    if mode.unwrap_or(phone.dial_mode) == DialMode::Flow && app_id.is_none() {
        return Err(Error::precondition(
            "NO_APP_ID",
            "the phone dials through a flow, but neither the phone, its account nor EXOTEL_APP_ID names one: set app_id",
        ));
    }
    Ok((credentials, app_id))
}

impl Plan {
    /// When it is too late to begin, counted from [`Order::begun`].
    fn latest_start(&self) -> Duration {
        if self.of_campaign {
            LATEST_START_OF_CAMPAIGN
        } else {
            LATEST_START
        }
    }

    /// What is to be sent, made within the transaction that commits the dial. In STREAM mode the media session is inserted here.
    ///
    /// # Errors
    /// Of the database.
    pub async fn request(&self, conn: &mut AsyncPgConnection, app: &App, now: DateTime<Utc>) -> Result<Dial, Error> {
        let mode = match (self.mode, &self.app_id) {
            (DialMode::Stream, _) => {
                let url = socket::open(conn, app, self.call_id, now, socket::BEFORE_DIAL).await?;
                let url = if self.of_diagnosis {
                    paths::with_probe(&url, "1")
                } else {
                    url
                };
                Mode::Stream { url }
            }
            (DialMode::Flow, Some(app_id)) => Mode::Flow { app_id: app_id.clone() },
            (DialMode::Flow, None) => {
                return Err(Error::internal("a dial through a flow was planned without an app id"));
            }
        };
        let mut nonce = [0; 8];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| Error::internal("the system gives no random bytes"))?;
        let talk = TimeDelta::seconds(i64::from(self.time_limit) + i64::from(self.ring_timeout));
        let expires = u32::try_from((now + talk + CALLBACK_LATE).timestamp()).unwrap_or(u32::MAX);
        let callback = app.tokens.mint(Purpose::Callback, self.call_id.0, nonce, expires);
        Ok(Dial {
            customer: self.customer.clone(),
            caller_id: self.exophone.clone(),
            mode,
            custom_field: app.tokens.custom_field(&self.call_id.to_string()),
            status_callback: paths::status_url(&app.config.public_base_url, &callback),
            time_limit_s: self.time_limit,
            ring_timeout_s: self.ring_timeout,
            record: self.record,
        })
    }
}

/// Dials, after the commit. The task outlives the RPC that asked for it.
pub fn spawn(app: &Arc<App>, order: Order) {
    let span = info_span!(
        "call.dial",
        call.id = %order.plan.call_id,
        call.attempt = order.attempt,
        call.dial.outcome = field::Empty,
    );
    let id = order.plan.call_id;
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(
        async move {
            // Nobody waits for this task, so nobody else would notice.
            if AssertUnwindSafe(run(&app_of_task, order)).catch_unwind().await.is_err() {
                error!(call.id = %id, "a dial's task panicked; the call is swept and settled by evidence");
            }
        }
        .instrument(span),
    );
}

/// Gives a dial back that was perhaps committed and surely not sent: the commit's answer was lost. `claimed_at` is when the lost
/// transaction claimed it: a claim of another time is another worker's, and of that one's dial nothing is known here.
pub fn give_back(app: &Arc<App>, plan: Plan, attempt: i32, claimed_at: DateTime<Utc>) {
    warn!(call.id = %plan.call_id, "whether a dial was committed is not known: it is not sent");
    let app_of_task = Arc::clone(app);
    let outcome = DialOutcome::NotSent {
        reason: "the answer to the commit was lost".to_owned(),
    };
    app.tasks.spawn(async move {
        write_until_done(&app_of_task, &plan, attempt, &outcome, Some(claimed_at)).await;
    });
}

async fn run(app: &Arc<App>, order: Order) {
    let Order {
        plan,
        attempt,
        dial,
        begun,
    } = order;
    let mut printed = None;
    crash::point(crash::POSTING);
    let outcome = if runtime::clock::since_boot().saturating_sub(begun) > plan.latest_start() {
        DialOutcome::NotSent {
            reason: "the worker was stopped for too long between its commit and the dial".to_owned(),
        }
    } else {
        let report = if plan.of_campaign {
            app.exotel.connect_soon(&plan.credentials, &dial).await
        } else {
            app.exotel.connect(&plan.credentials, &dial).await
        };
        crash::point(crash::ANSWERED);
        // That Exotel is farther away than a campaign may wait says nothing of other dials.
        let in_haste = plan.of_campaign
            && matches!(&report.outcome, DialOutcome::NotSent { reason } if reason == "connect_timeout");
        if !in_haste {
            app.breakers
                .learn(&plan.credentials, &report.outcome, Instant::now().into_std());
        }
        app.metrics.dialled(word(&report.outcome), report.elapsed);
        printed = report.date_created.zip(report.server_date);
        report.outcome
    };
    Span::current().record("call.dial.outcome", outcome.word());
    // Before the outcome, which lets the dispatcher look at the account again.
    if let DialOutcome::Rejected {
        kind: Rejection::RateLimited,
        retry_after,
        ..
    } = &outcome
    {
        hold(app, plan.account, retry_after.unwrap_or(UNTOLD_PAUSE)).await;
    }
    write_until_done(app, &plan, attempt, &outcome, None).await;
    crash::point(crash::OUTCOME_COMMITTED);
    if let Some((created, date)) = printed {
        zone::learn_offset(app, plan.account, plan.utc_offset_minutes, Some(created), Some(date)).await;
    }
}

/// Exotel counts more than we do: none of the account's calls is dialled until it is over, in any replica.
async fn hold(app: &App, account: AccountId, wait: Duration) {
    let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(5));
    // The turn after it may come a little early, which is not what Exotel asked for.
    let wait = wait + capacity::EARLY;
    let began = Instant::now();
    loop {
        let held = async {
            let mut conn = app.db.reserved().await?;
            Ok::<_, Error>(rates::hold(&mut conn, account, rates::Kind::Dial, wait).await?)
        };
        match held.await {
            Ok(_) => {
                warn!(account.id = %account, wait_s = wait.num_seconds(), "Exotel says that there were too many dials");
                return;
            }
            Err(error) if began.elapsed() > WRITE_LIMIT => {
                warn!(account.id = %account, %error, "a pause that Exotel asked for could not be kept");
                return;
            }
            Err(_) => sleep(WRITE_AGAIN).await,
        }
    }
}

async fn write_until_done(
    app: &Arc<App>,
    plan: &Plan,
    attempt: i32,
    outcome: &DialOutcome,
    claimed_at: Option<DateTime<Utc>>,
) {
    let id = plan.call_id;
    let began = Instant::now();
    let replaced = is_replaced(app, plan, outcome).await;
    loop {
        match write(app, plan, attempt, (outcome, replaced), claimed_at).await {
            Ok(()) => break,
            Err(error) if began.elapsed() > WRITE_LIMIT => {
                error!(call.id = %id, %error, "a dial's outcome could not be written; evidence will settle the call");
                break;
            }
            Err(error) => {
                warn!(call.id = %id, %error, "a dial's outcome is not written yet; trying again");
                sleep(WRITE_AGAIN).await;
            }
        }
    }
}

async fn write(
    app: &Arc<App>,
    plan: &Plan,
    attempt: i32,
    (outcome, replaced): (&DialOutcome, bool),
    claimed_at: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    let id = plan.call_id;
    let mut conn = app.db.reserved().await?;
    let done = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, id).await? else {
                return Ok(None);
            };
            if claimed_at.is_some() && claimed_at != call.post_started_at {
                return Ok(None);
            }
            let (dialed, mut note) = decide(attempt, outcome, replaced, now);
            // Evidence may have come first, and named another call of Exotel's: never overwritten, and for a person to see.
            if matches!(
                resolve::identity(conn, &call, note.change.call_sid.as_deref()).await?,
                resolve::Identity::Other
            ) {
                note.change = Change {
                    needs_review: Some(true),
                    ..Change::default()
                };
                note = note.with("contradiction", "call_sid");
            }
            if let DialOutcome::Rejected {
                kind: Rejection::Dnd, ..
            } = outcome
            {
                let listing = numbers::Listing {
                    source: numbers::Source::Exotel,
                    campaign: None,
                    numbers: &[plan.customer.expose().to_owned()],
                    ids: &[app.clock.new_uuid()],
                    reason: numbers::DND,
                    by: "callbridge",
                    expires_at: None,
                };
                numbers::suppress(conn, listing).await?;
            }
            let event = Event::Dialed(attempt, dialed);
            Ok(Some(record_locked(conn, call, now, Some(&event), None, note).await?))
        })
        .instrument(trace::transaction("dial_outcome"))
        .await?;
    drop(conn);
    let Some((call, changed)) = done else { return Ok(()) };
    if changed {
        app.hub.committed(id);
        // Its slot or its number may be free again.
        app.hub.work();
    }
    if let (true, false, Some(sid)) = (call.end_requested, call.state.is_terminal(), &call.call_sid) {
        super::end::try_hang_up(app, id, &plan.credentials, sid).await;
    }
    Ok(())
}

/// Whether other credentials were stored while a dial with these was under way, which Exotel then refused: the call is dialled again
/// with the new ones (F121). If that cannot be found out, it is not.
async fn is_replaced(app: &App, plan: &Plan, outcome: &DialOutcome) -> bool {
    let DialOutcome::Rejected {
        kind: Rejection::BadCredentials,
        ..
    } = outcome
    else {
        return false;
    };
    let stored = async { app.vault.open(&mut *app.db.reserved().await?, plan.phone).await };
    stored
        .await
        .is_ok_and(|stored| !breaker::is_same(&stored.credentials, &plan.credentials))
}

/// An outcome's word, with that of a rate that was passed apart.
fn word(outcome: &DialOutcome) -> &'static str {
    match outcome {
        DialOutcome::Rejected {
            kind: Rejection::RateLimited,
            ..
        } => Rejection::RateLimited.word(),
        other => other.word(),
    }
}

/// What a dial's outcome means for the call. Only what surely was not dialled may go back to the queue.
fn decide(attempt: i32, outcome: &DialOutcome, replaced: bool, now: DateTime<Utc>) -> (Dialed, Note) {
    let note = Note::from("dialer").with("attempt", attempt.to_string());
    let requeue = |after: Duration, reason: &str, note: Note| {
        let due_at = now + TimeDelta::from_std(after).unwrap_or(TimeDelta::minutes(5));
        let note = note.with("reason", reason).changing(Change {
            due_at: Some(due_at),
            waiting_reason: Some(Some("retry".to_owned())),
            ..Change::default()
        });
        (Dialed::Requeued, note)
    };
    let refuse = |reason: &str, code: Option<&str>| {
        Dialed::Refused(End {
            outcome: Outcome::Failed,
            by: Some(Party::Provider),
            reason: Some(reason.to_owned()),
            code: code.map(str::to_owned),
        })
    };
    match outcome {
        DialOutcome::Placed { call_sid } => {
            let change = Change {
                call_sid: Some(call_sid.clone()),
                ..Change::default()
            };
            (Dialed::Placed, note.changing(change))
        }
        DialOutcome::Unknown { reason } => (Dialed::Unknown, note.with("reason", reason.clone())),
        DialOutcome::NotSent { reason } if attempt < ATTEMPTS => {
            let note = note.with("detail", reason.clone());
            requeue(Duration::from_secs(1 << attempt.clamp(0, 6)), "not_sent", note)
        }
        DialOutcome::NotSent { reason } => (refuse("not_sent", None), note.with("detail", reason.clone())),
        DialOutcome::Rejected {
            kind: Rejection::RateLimited,
            retry_after,
            ..
        } if attempt < ATTEMPTS => requeue(
            retry_after.unwrap_or(Duration::from_secs(10 << attempt.clamp(0, 4))),
            "rate_limited",
            note,
        ),
        DialOutcome::Rejected {
            kind: Rejection::BadCredentials,
            ..
        } if replaced && attempt < ATTEMPTS => requeue(Duration::ZERO, "credentials_replaced", note),
        DialOutcome::Rejected {
            kind, provider_code, ..
        } => (refuse(kind.word(), Some(provider_code)), note),
    }
}
