//! Whether a phone's calls will work, and if not, why: what Exotel says of the account, whether the edge is reached from outside,
//! and, with somebody to call, how the account behaves. `check` decides and does no IO; the others look.

mod call;
mod check;
mod probe;
mod variants;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use callbridge_proto::id::{AccountId, CallId, PhoneId};
use diesel_async::AsyncPgConnection;
use exotel::{
    PhoneNumber,
    rest::{Credentials, Endpoint, Ownership, RestError},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

pub use check::{Check, Outcome};
pub use variants::{Callback, Encoding, KeyCase, Query, Variants};

use crate::{
    app::App,
    calls::ask,
    directory::account,
    error::Error,
    store::{
        accounts, calls,
        phones::{self, Phone},
    },
    toll::Dialler,
    vault::Opened,
};

/// On the metadata of a diagnosis's call. The agent sees it too.
const MARK: &str = "callbridge_diagnosis";
/// A question to Exotel waits for its turn no longer than this: the account's reads are a fifth of its rate.
const TURN: Duration = Duration::from_mins(1);
/// Parts that wait for a slow client; there are no more in all.
const PARTS: usize = 16;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who asks.
    pub caller: Dialler,
    /// Which phone.
    pub phone: PhoneId,
    /// Whom to call.
    pub call: Option<PhoneNumber>,
    /// Call outside of the calling hours, for this reason.
    pub hours_override: Option<String>,
}

/// A part of a diagnosis.
#[derive(Debug)]
pub enum Part {
    /// A check is done.
    Check(Check),
    /// What the account showed.
    Variants(Variants),
}

/// Whether a call's metadata say that it is a diagnosis's.
pub(crate) fn is_asked_for(metadata: &BTreeMap<String, String>) -> bool {
    metadata.contains_key(MARK)
}

/// The same of a row's.
pub(crate) fn is_of(metadata: &Value) -> bool {
    metadata.get(MARK).is_some()
}

/// Starts a diagnosis. It ends early when nobody listens any more.
///
/// # Errors
/// `NotFound`; `TOO_MANY_DIAGNOSES`. Later errors come through the stream.
pub async fn start(app: &Arc<App>, request: Request) -> Result<mpsc::Receiver<Result<Part, Error>>, Error> {
    let permit = Arc::clone(&app.diagnosis_permits).try_acquire_owned().map_err(|_| {
        Error::exhausted(
            "TOO_MANY_DIAGNOSES",
            "this replica makes as many diagnoses as it may: try again in a minute",
        )
    })?;
    let mut conn = app.db.conn().await?;
    let phone = phones::find(&mut conn, request.phone)
        .await?
        .ok_or_else(|| Error::not_found("phone", request.phone))?;
    drop(conn);
    let (sender, receiver) = mpsc::channel(PARTS);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let _permit = permit;
        let mut diagnosis = Diagnosis {
            app: &app_of_task,
            parts: &sender,
            failed: false,
        };
        let looked = tokio::select! {
            () = app_of_task.tasks.stopping() => Err(Error::unavailable("this replica shuts down: start the diagnosis again")),
            looked = diagnosis.look(&request, &phone) => looked,
        };
        // Not dropped at a stop: a call that was placed has to be ended.
        let end = match looked {
            Ok(Some(to)) => diagnosis.call(&request, &phone, to).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = end {
            let _ = sender.try_send(Err(error));
        }
    });
    Ok(receiver)
}

struct Diagnosis<'a> {
    app: &'a Arc<App>,
    parts: &'a mpsc::Sender<Result<Part, Error>>,
    /// Whether any check has.
    failed: bool,
}

impl Diagnosis<'_> {
    /// Nobody may listen any more, which is looked at between the steps.
    async fn tell(&mut self, checks: impl IntoIterator<Item = Check>) {
        for check in checks {
            self.failed |= check.outcome == Outcome::Failed;
            let _ = self.parts.send(Ok(Part::Check(check))).await;
        }
    }

    /// Makes the checks that need no call. Returns whom to call then, if anybody.
    async fn look(&mut self, request: &Request, phone: &Phone) -> Result<Option<PhoneNumber>, Error> {
        let app = self.app;
        let account = AccountId(phone.account_id);
        let mut conn = app.db.conn().await?;
        let opened = app.vault.open(&mut conn, request.phone).await;
        let ready = ready(&mut conn, app, phone).await?;
        drop(conn);
        let (seen, opened) = look_at_account(app, phone, opened).await?;
        let [credentials, cluster, number] = check::account(&seen);
        let usable = number.outcome == Outcome::Passed;
        self.tell([credentials, cluster, number, check::agent(ready)]).await;

        let token = account::webhook_urls(app, account).await?.token;
        let edge = probe::edge(app, account, &token).await;
        self.tell(check::edge(&edge)).await;

        let streams = match &opened {
            Some(opened) if usable => {
                turn(app, account).await?;
                Some(app.exotel.active_streams(opened).await)
            }
            _ => None,
        };
        self.tell([check::streaming(streams.as_ref())]).await;

        let Some(to) = request.call.clone() else {
            self.tell(check::not_called("nobody was to be called")).await;
            return Ok(None);
        };
        // Whoever answered would hear nothing.
        if self.failed || !usable || !ready.is_ready() {
            self.tell(check::not_called("a check before failed, so nobody was called"))
                .await;
            return Ok(None);
        }
        Ok((!self.parts.is_closed()).then_some(to))
    }

    /// Calls somebody, and keeps how the account behaved.
    async fn call(&mut self, request: &Request, phone: &Phone, to: PhoneNumber) -> Result<(), Error> {
        let app = self.app;
        let gone = async {
            tokio::select! {
                () = self.parts.closed() => Error::unavailable("the diagnosis was given up"),
                () = app.tasks.stopping() => Error::unavailable("this replica shuts down: start the diagnosis again"),
            }
        };
        let seen = call::make(app, request, phone, to, gone).await?;
        self.tell(check::call(&seen)).await;
        if let (Some(id), true) = (seen.id, seen.audio.is_some()) {
            let variants = keep(app, id, phone, AccountId(phone.account_id)).await?;
            let _ = self.parts.send(Ok(Part::Variants(variants))).await;
        }
        Ok(())
    }
}

/// What a call needs that is ours.
async fn ready(conn: &mut AsyncPgConnection, app: &App, phone: &Phone) -> Result<check::Ready, Error> {
    let account = accounts::find(conn, AccountId(phone.account_id)).await?;
    let app_id = phone
        .app_id
        .clone()
        .or_else(|| account.and_then(|account| account.app_id))
        .or_else(|| app.config.default_app_id());
    Ok(check::Ready {
        agent: phone.agent_id.is_some(),
        flow: phone.dial_mode == phones::DialMode::Flow,
        app_id: app_id.is_some(),
    })
}

/// Waits for one turn of the account's reads, as whatever else asks Exotel about calls does.
async fn turn(app: &App, account: AccountId) -> Result<(), Error> {
    let until = Instant::now() + TURN;
    let account = accounts::find(&mut *app.db.conn().await?, account)
        .await?
        .ok_or_else(|| Error::internal("a phone without its account"))?;
    while let Err(due) = ask::turn(app, &account).await? {
        let now = calls::database_now(&*app.db.conn().await?).await?;
        let wait = (due - now).to_std().unwrap_or_default();
        if Instant::now() + wait > until {
            return Err(Error::unavailable(
                "the account's questions to Exotel are all taken for the next minute: try again later",
            ));
        }
        sleep(wait).await;
    }
    Ok(())
}

/// Asks Exotel with the phone's credentials, and where they are refused also the other clusters.
async fn look_at_account(
    app: &App,
    phone: &Phone,
    opened: Result<Opened, Error>,
) -> Result<(check::Account, Option<Opened>), Error> {
    let opened = match opened {
        Ok(opened) => opened,
        Err(Error::Precondition { message, .. }) => {
            let seen = check::Account {
                source: "",
                subdomain: String::new(),
                elsewhere: None,
                exophones: check::Exophones::NoCredentials(message),
            };
            return Ok((seen, None));
        }
        Err(error) => return Err(error),
    };
    let number = PhoneNumber::parse(&phone.number)
        .map_err(|error| Error::internal_from("a stored number cannot be read", error))?;
    let account = AccountId(phone.account_id);
    turn(app, account).await?;
    let exophones = match app.exotel.owns_number(&opened, &number).await {
        Ok(Ownership::Owned) => check::Exophones::Owned,
        Ok(Ownership::NotOwned) => check::Exophones::NotOwned,
        Ok(Ownership::BadCredentials) => check::Exophones::BadCredentials,
        Err(RestError::Transport { reason }) => check::Exophones::Unreachable(reason),
        Err(error) => check::Exophones::Refused(account::problem(&error)),
    };
    let elsewhere = if exophones == check::Exophones::BadCredentials {
        elsewhere(app, account, &opened, &number).await?
    } else {
        None
    };
    let seen = check::Account {
        source: opened.source.word(),
        subdomain: opened.subdomain.clone(),
        elsewhere,
        exophones,
    };
    Ok((seen, Some(opened)))
}

/// The cluster that takes the key, if another one does. Only Exotel's own hosts are asked.
async fn elsewhere(
    app: &App,
    account: AccountId,
    opened: &Opened,
    number: &PhoneNumber,
) -> Result<Option<&'static str>, Error> {
    let Ok(endpoint) = Endpoint::parse(&opened.subdomain) else {
        return Ok(None);
    };
    for host in endpoint.other_clusters() {
        turn(app, account).await?;
        let there = Credentials {
            subdomain: host.to_owned(),
            ..opened.credentials.clone()
        };
        if let Ok(Ownership::Owned | Ownership::NotOwned) = app.exotel.owns_number(&there, number).await {
            return Ok(Some(host));
        }
    }
    Ok(None)
}

/// Reads off the call's rows what the account showed, and keeps it on the phone.
async fn keep(app: &App, id: CallId, phone: &Phone, account: AccountId) -> Result<Variants, Error> {
    let mut conn = app.db.conn().await?;
    let (events, sessions, now) = call::rows(&mut conn, id).await?;
    let offset = accounts::find(&mut conn, account)
        .await?
        .and_then(|account| account.utc_offset_minutes);
    let variants = Variants::of(&events, &sessions, offset, now);
    phones::set_variants(&mut conn, phone.id(), &variants.kept()).await?;
    Ok(variants)
}
