//! The dial: one POST for one committed attempt, in a task that no RPC owns, and the outcome onto the row.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use exotel::{
    PhoneNumber, paths,
    rest::{Credentials, Dial, DialOutcome, Mode, Rejection},
    token::Purpose,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep},
};
use tracing::{Instrument as _, Span, error, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{
    record::{Note, record_locked},
    socket,
    state::{Dialed, End, Event, Outcome, Party},
};
use crate::{
    app::App,
    error::Error,
    ingress::resolve,
    store::{
        accounts::Account,
        calls::{self, Change},
        phones::{DialMode, Phone},
    },
};

/// A worker that was stopped for longer between its commit and the POST does not dial (F16).
const LATEST_START: Duration = Duration::from_secs(5);
/// Dials of one call that were surely not made, before it is given up.
const ATTEMPTS: i32 = 5;
/// Between tries to write an outcome while the database is away.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How long an outcome is kept trying; after that the row is swept to UNCONFIRMED and settled by evidence.
const WRITE_LIMIT: Duration = Duration::from_secs(45);
/// A status callback may come this long after the latest end of the call.
const CALLBACK_LATE: TimeDelta = TimeDelta::hours(25);

/// Everything that a dial needs and that is looked up before it is committed.
pub struct Plan {
    /// The call.
    pub call_id: CallId,
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
}

/// A committed dial.
pub struct Order {
    plan: Plan,
    attempt: i32,
    dial: Dial,
    /// Before the commit, by a clock that goes on while the machine sleeps.
    begun: Duration,
}

/// Looks up what a dial needs, before anything is committed: the mode, the flow, the credentials. The permit bounds the
/// dials of this process.
pub async fn credentials(
    conn: &mut AsyncPgConnection,
    app: &App,
    account: &Account,
    phone: &Phone,
) -> Result<(Credentials, Option<String>), Error> {
    let credentials = app.vault.resolve(conn, account, Some(phone)).await?.credentials;
    let app_id = phone
        .app_id
        .clone()
        .or_else(|| account.app_id.clone())
        .or_else(|| app.config.default_app_id());
    if phone.dial_mode == DialMode::Flow && app_id.is_none() {
        return Err(Error::precondition(
            "NO_APP_ID",
            "the phone dials through a flow, but neither the phone, its account nor EXOTEL_APP_ID names one: set app_id",
        ));
    }
    Ok((credentials, app_id))
}

impl Plan {
    /// Makes the request, within the transaction that commits the dial. In STREAM mode the media session is inserted here.
    pub async fn order(
        self,
        conn: &mut AsyncPgConnection,
        app: &App,
        attempt: i32,
        now: DateTime<Utc>,
    ) -> Result<Order, Error> {
        let mode = match (self.mode, &self.app_id) {
            (DialMode::Stream, _) => Mode::Stream {
                url: socket::open(conn, app, self.call_id, now, socket::BEFORE_DIAL).await?,
            },
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
        let dial = Dial {
            customer: self.customer.clone(),
            caller_id: self.exophone.clone(),
            mode,
            custom_field: app.tokens.custom_field(&self.call_id.to_string()),
            status_callback: paths::status_url(&app.config.public_base_url, &callback),
            time_limit_s: self.time_limit,
            ring_timeout_s: self.ring_timeout,
            record: self.record,
        };
        Ok(Order {
            plan: self,
            attempt,
            dial,
            begun: runtime::clock::since_boot(),
        })
    }
}

/// Dials, after the commit. The task outlives the RPC that asked for it.
pub fn spawn(app: &Arc<App>, order: Order) {
    let span =
        info_span!(parent: Span::current(), "call.dial", call.id = %order.plan.call_id, call.attempt = order.attempt);
    let app_of_task = Arc::clone(app);
    app.tasks
        .spawn(async move { run(&app_of_task, order).await }.instrument(span));
}

async fn run(app: &Arc<App>, order: Order) {
    let id = order.plan.call_id;
    let outcome = if runtime::clock::since_boot().saturating_sub(order.begun) > LATEST_START {
        DialOutcome::NotSent {
            reason: "the worker was stopped for too long between its commit and the dial".to_owned(),
        }
    } else {
        app.exotel.connect(&order.plan.credentials, &order.dial).await.outcome
    };
    Span::current().set_attribute("callbridge.dial.outcome", outcome.word());
    let began = Instant::now();
    loop {
        match write(app, &order, &outcome).await {
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

async fn write(app: &Arc<App>, order: &Order, outcome: &DialOutcome) -> Result<(), Error> {
    let id = order.plan.call_id;
    let mut conn = app.db.conn().await?;
    let done = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, id).await? else {
                return Ok(None);
            };
            let (dialed, mut note) = decide(order.attempt, outcome, now);
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
            let event = Event::Dialed(order.attempt, dialed);
            Ok(Some(record_locked(conn, call, now, Some(&event), None, note).await?))
        })
        .instrument(info_span!("db.transaction", otel.name = "dial_outcome"))
        .await?;
    drop(conn);
    let Some((call, changed)) = done else { return Ok(()) };
    if changed {
        app.hub.committed(id);
    }
    if let (true, false, Some(sid)) = (call.end_requested, call.state.is_terminal(), &call.call_sid) {
        super::end::try_hang_up(app, id, &order.plan.credentials, sid).await;
    }
    Ok(())
}

/// What a dial's outcome means for the call. Only what surely was not dialled may go back to the queue.
fn decide(attempt: i32, outcome: &DialOutcome, now: DateTime<Utc>) -> (Dialed, Note) {
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
            kind, provider_code, ..
        } => (refuse(kind.word(), Some(provider_code)), note),
    }
}
