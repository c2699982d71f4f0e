//! Asking Exotel about calls: the requests of one credential set, one after the other and each in its turn.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use callbridge_proto::id::AccountId;
use chrono::{DateTime, TimeDelta, Utc};
use exotel::rest::{CallsQuery, Credentials, Rejection, RestError};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{
    answer::{answered, in_vain, signed, unknown},
    question::{Question, questions},
    search,
    settle::Sought,
    zone,
};
use crate::{
    app::App,
    crash,
    error::Error,
    store::{
        accounts::{self, Account},
        calls::{self, Call},
        due,
        rates::{self, Kind},
    },
};

/// Below the lease of the calls that are asked about.
const LONGEST: Duration = Duration::from_secs(30);
/// Turns that calls which are over leave to those that are not, while there is no turn for all: a dial that is not settled holds
/// its number and its slot, and must not wait behind prices that come in one by one.
const BEHIND: i32 = 8;
/// After a 429 without a word on how long.
const RATE_LIMITED: Duration = Duration::from_mins(1);

/// Whose credentials are used: a phone's own, or its account's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Set {
    pub(super) account: Uuid,
    pub(super) phone: Option<Uuid>,
}

/// Calls of one credential set whose time has come, longest due first.
pub(super) struct Batch {
    pub(super) set: Set,
    pub(super) calls: Vec<Call>,
    /// Those that a list left out before.
    pub(super) singly: HashSet<Uuid>,
    /// The database's time.
    pub(super) now: DateTime<Utc>,
    /// How often in a row the set was of no use.
    pub(super) failures: u32,
    /// The set is not to be used before this has passed.
    pub(super) held: Option<Duration>,
}

/// What came of it.
pub(super) struct Done {
    pub(super) set: Set,
    /// Calls to ask about singly.
    pub(super) left_out: Vec<Uuid>,
    /// Calls that were.
    pub(super) asked_singly: Vec<Uuid>,
    /// The set was of no use, and is left alone for so long. None: as before where it was held, and else it is of use.
    pub(super) pause: Option<Duration>,
    /// Nothing was asked.
    pub(super) idle: bool,
}

impl Done {
    /// Nothing came of it.
    pub(super) fn nothing(set: Set) -> Self {
        Self {
            set,
            left_out: Vec::new(),
            asked_singly: Vec::new(),
            pause: None,
            idle: true,
        }
    }
}

/// How long a set is left alone that was of no use so often in a row: wrong keys above all must not storm (F23).
fn pause(failures: u32, denied: bool) -> Duration {
    let first = Duration::from_secs(if denied { 30 } else { 5 });
    (first * 2_u32.saturating_pow(failures.min(6))).min(Duration::from_mins(5))
}

/// For how long Exotel wants no requests, if it says that there were too many.
fn too_many(error: &RestError) -> Option<Duration> {
    match error {
        RestError::Refused {
            kind: Rejection::RateLimited,
            retry_after,
            ..
        } => Some(retry_after.unwrap_or(RATE_LIMITED)),
        RestError::Status(429) => Some(RATE_LIMITED),
        _ => None,
    }
}

/// Takes one turn of the account's reads. Err: not due before then.
pub(crate) async fn turn(app: &App, account: &Account) -> Result<Result<(), DateTime<Utc>>, Error> {
    let mut conn = app.db.conn().await?;
    let pause = Kind::Read.pause(account.calls_per_minute);
    Ok(rates::take(&mut conn, account.id(), Kind::Read, pause).await?)
}

/// Asks about the calls of a batch, as far as it comes. Trouble is logged; calls that nothing is written about are given back
/// by their lease.
pub(super) async fn ask(app: Arc<App>, batch: Batch) -> Done {
    let (set, account) = (batch.set, AccountId(batch.set.account));
    let mut done = Done::nothing(set);
    let result = if let Some(rest) = batch.held {
        in_vain(&app, false, &batch.calls, batch.now, rest).await
    } else {
        run(&app, batch, &mut done).await
    };
    if let Err(error) = result {
        warn!(account.id = %account, %error, "could not ask Exotel about an account's calls; they are asked about again");
    }
    done
}

async fn run(app: &Arc<App>, batch: Batch, done: &mut Done) -> Result<(), Error> {
    let began = Instant::now();
    let (account, credentials) = match open(app, batch.set).await {
        Ok(opened) => opened,
        Err(Error::Db(error)) => return Err(error.into()),
        Err(error) => {
            warn!(account.id = %AccountId(batch.set.account), %error, "an account's calls cannot be asked about");
            let wait = pause(batch.failures, true);
            done.pause = Some(wait);
            return in_vain(app, false, &batch.calls, batch.now, wait).await;
        }
    };
    let mut questions = questions(batch.calls, &batch.singly, &account);
    while let Some(question) = questions.pop_front() {
        if !matches!(question, Question::None(_)) {
            let taken = if began.elapsed() > LONGEST {
                Err(batch.now + TimeDelta::seconds(31))
            } else {
                turn(app, &account).await?
            };
            if let Err(at) = taken {
                questions.push_front(question);
                return postpone(app, &account, &questions, at).await;
            }
        }
        done.idle = false;
        if let Question::One(call) = &question {
            done.asked_singly.push(call.id);
        }
        let error = match put(app, &account, &credentials, &question, &mut done.left_out).await {
            Ok(()) => continue,
            Err(Trouble::Ours(error)) => return Err(error),
            Err(Trouble::Exotels(error)) => error,
        };
        let rest: Vec<Call> = questions.iter().flat_map(Question::calls).cloned().collect();
        if let Some(wait) = too_many(&error) {
            let mut conn = app.db.conn().await?;
            rates::hold(&mut conn, account.id(), Kind::Read, signed(wait)).await?;
            drop(conn);
            app.metrics.read_back("rate_limited", question.calls().len());
            // Not just later: a day of this is the end of an unconfirmed dial.
            in_vain(app, false, question.calls(), batch.now, began.elapsed() + wait).await?;
            return in_vain(app, false, &rest, batch.now, began.elapsed() + wait).await;
        }
        let wait = match (&error, &question) {
            // About the question, not about whose it is.
            (
                RestError::Refused {
                    kind: Rejection::BadParameter | Rejection::NotFound,
                    ..
                }
                | RestError::Unreadable(_)
                | RestError::ForeignRecording
                | RestError::Status(400 | 404..=499),
                _,
            )
            | (RestError::Endpoint(_), Question::One(_)) => None,
            (RestError::Refused { .. } | RestError::Status(401..=403), _) => Some(pause(batch.failures, true)),
            (RestError::Setup(_) | RestError::Endpoint(_) | RestError::Transport { .. } | RestError::Status(_), _) => {
                Some(pause(batch.failures, false))
            }
        };
        if let (
            RestError::Refused {
                kind: Rejection::NotFound,
                ..
            }
            | RestError::Status(404),
            Question::One(call),
        ) = (&error, &question)
        {
            unknown(app, call).await?;
        }
        app.metrics.read_back("failed", question.calls().len());
        warn!(account.id = %account.id(), %error, "Exotel could not be asked about calls; they are asked about again");
        match (wait, question) {
            (Some(wait), question) => {
                done.pause = Some(wait);
                in_vain(app, true, question.calls(), batch.now, wait).await?;
                return in_vain(app, false, &rest, batch.now, wait).await;
            }
            // One of them may be what Exotel does not like.
            (None, Question::List(calls)) => {
                done.left_out.extend(calls.iter().map(|call| call.id));
                let later = calls.iter().map(|call| (call, batch.now));
                due::postpone(&mut *app.db.conn().await?, later).await?;
            }
            (None, question) => in_vain(app, true, question.calls(), batch.now, Duration::ZERO).await?,
        }
    }
    Ok(())
}

/// Whose fault it is that there is no answer.
enum Trouble {
    Exotels(RestError),
    Ours(Error),
}

impl<E: Into<Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Ours(error.into())
    }
}

async fn open(app: &App, set: Set) -> Result<(Account, Credentials), Error> {
    let id = AccountId(set.account);
    let mut conn = app.db.conn().await?;
    let account = accounts::find(&mut conn, id)
        .await?
        .ok_or_else(|| Error::not_found("account", id))?;
    let opened = app.vault.open_for_call(&mut conn, set.account, set.phone).await?;
    Ok((account, opened.credentials))
}

/// Asks, and writes the answers. Calls that a list leaves out are noted.
async fn put(
    app: &Arc<App>,
    account: &Account,
    credentials: &Credentials,
    question: &Question,
    left_out: &mut Vec<Uuid>,
) -> Result<(), Trouble> {
    let answers = match question {
        Question::None(call) => {
            let now = calls::database_now(&*app.db.conn().await?).await?;
            return Ok(in_vain(app, true, std::slice::from_ref(call), now, Duration::ZERO).await?);
        }
        Question::Search(call) => {
            let Some(sought) = Sought::of(call, account.utc_offset_minutes) else {
                return Ok(());
            };
            let listed = search::list(app, account, credentials, &sought)
                .await
                .map_err(Trouble::Exotels)?;
            let settled = search::settle(
                app,
                account.utc_offset_minutes,
                call,
                Some(listed),
                DateTime::UNIX_EPOCH,
            )
            .await;
            if let Err(error) = settled {
                warn!(call.id = %call.id(), %error, "could not settle a dial; it is tried again");
            }
            return Ok(());
        }
        Question::One(call) => {
            let sid = call.call_sid.as_deref().unwrap_or_default();
            vec![app.exotel.call(credentials, sid).await.map_err(Trouble::Exotels)?]
        }
        Question::List(calls) => {
            let query = CallsQuery {
                sids: calls.iter().filter_map(|call| call.call_sid.clone()).collect(),
                ..CallsQuery::default()
            };
            let page = app.exotel.calls(credentials, &query).await.map_err(Trouble::Exotels)?;
            page.calls
        }
    };
    crash::point(crash::READ_BACK);
    let now = calls::database_now(&*app.db.conn().await?).await?;
    let mut missing = Vec::new();
    let mut learned = false;
    for call in question.calls() {
        let sid = call.call_sid.as_deref().unwrap_or_default();
        let Some(details) = answers.iter().find(|details| details.call_sid == sid) else {
            missing.push(call);
            continue;
        };
        if let Err(error) = answered(app, call, details, now).await {
            warn!(call.id = %call.id(), %error, "could not write how a call stands; it is asked about again");
        }
        if let (false, Some(posted_at)) = (learned, call.post_started_at) {
            let (printed, date) = (details.date_created_naive, details.server_date);
            zone::learn_offset_from(app, account, printed, date, now - posted_at).await;
            learned = true;
        }
    }
    if !missing.is_empty() {
        app.metrics.read_back("left_out", missing.len());
        left_out.extend(missing.iter().map(|call| call.id));
        let later = missing.into_iter().map(|call| (call, now));
        due::postpone(&mut *app.db.conn().await?, later).await?;
    }
    Ok(())
}

/// Gives the questions that are left their turns: the calls keep their places.
async fn postpone(
    app: &App,
    account: &Account,
    questions: &VecDeque<Question>,
    first: DateTime<Utc>,
) -> Result<(), Error> {
    let pause = Kind::Read.pause(account.calls_per_minute);
    let mut turn = first;
    let mut later = Vec::new();
    for question in questions {
        let mut at = first + pause * BEHIND;
        if !question.is_late() {
            at = turn;
            turn += pause;
        }
        later.extend(question.calls().iter().map(|call| (call, at)));
    }
    due::postpone(&mut *app.db.conn().await?, later).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
