//! How far a campaign is, read in one go or watched.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use callbridge_proto::id::CampaignId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{gate, settings, state::State, window};
use crate::{
    app::App,
    calls::capacity::{self, Room},
    error::Error,
    store::{
        caller_days, calls,
        campaigns::{self, Campaign, counts},
        contacts::fill,
        queue::{self, Bound},
    },
    toll,
};

/// How often a watched campaign is read.
const EVERY: Duration = Duration::from_secs(1);
/// A watcher that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// What `dials_last_minute` is about.
const MINUTE: TimeDelta = TimeDelta::seconds(60);

/// How far a campaign is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// When it was read.
    pub at: DateTime<Utc>,
    /// The state's word, and why.
    pub state: (String, String),
    /// Contacts by state.
    pub by_state: BTreeMap<String, i64>,
    /// Attempts that ended, by outcome.
    pub by_outcome: BTreeMap<String, i64>,
    /// Its active calls.
    pub active: i64,
    /// Its dials in the last minute.
    pub dials_last_minute: i64,
    /// What its caps leave, and when the account's next dial is due.
    pub room: Option<(Room, DateTime<Utc>)>,
    /// Why it does not dial just now.
    pub waiting: &'static str,
}

impl Progress {
    /// Contacts in all.
    pub fn contacts(&self) -> i64 {
        self.by_state.values().sum()
    }

    /// When the contacts that wait would have had their next attempt at this rate.
    pub fn eta(&self) -> Option<DateTime<Utc>> {
        let waiting = self.of("pending");
        if self.dials_last_minute == 0 || waiting == 0 || self.state.0 != State::Running.word() {
            return None;
        }
        let seconds = waiting.checked_mul(60)? / self.dials_last_minute;
        self.at.checked_add_signed(TimeDelta::try_seconds(seconds)?)
    }

    fn of(&self, state: &str) -> i64 {
        self.by_state.get(state).copied().unwrap_or(0)
    }

    /// Whether nothing will change any more, unless somebody asks for it.
    fn is_last(&self) -> bool {
        let over = State::of(&self.state.0).is_some_and(State::is_over);
        over && self.active == 0 && self.of("calling") == 0
    }

    fn differs(&self, other: &Self) -> bool {
        let still = Self {
            at: other.at,
            room: other.room,
            ..self.clone()
        };
        still != *other
    }
}

/// Reads how far a campaign is.
///
/// # Errors
/// `NotFound`.
pub async fn read(app: &App, id: CampaignId) -> Result<Progress, Error> {
    let mut conn = app.db.conn().await?;
    let campaign = campaigns::find(&mut conn, id)
        .await?
        .ok_or_else(|| Error::not_found("campaign", id))?;
    of(&mut conn, app, &campaign).await
}

/// The same of a row.
///
/// # Errors
/// Of the database, or when the rules cannot be read.
pub async fn of(conn: &mut AsyncPgConnection, app: &App, campaign: &Campaign) -> Result<Progress, Error> {
    let id = campaign.id();
    let now = calls::database_now(conn).await?;
    let counts = counts::read(conn, id).await?;
    let lately = counts::since(conn, id, now - MINUTE).await?;
    let active = campaigns::active(conn, id).await?;
    let bound = Bound {
        account: campaign.account_id,
        phone: None,
        agent: Some(campaign.agent_id),
        campaign: Some(campaign.id),
    };
    let used = queue::used(conn, bound).await?;
    let waiting = waiting(conn, app, campaign, &counts, active, now).await?;
    let part = |prefix: &str| -> BTreeMap<String, i64> {
        let of = counts
            .iter()
            .filter_map(|(word, n)| Some((word.strip_prefix(prefix)?.to_owned(), *n)));
        of.filter(|(_, n)| *n != 0).collect()
    };
    Ok(Progress {
        at: now,
        state: (campaign.state.clone(), campaign.state_reason.clone()),
        by_state: part("contact."),
        by_outcome: part("attempt."),
        active,
        dials_last_minute: lately.get("dial").copied().unwrap_or(0),
        room: used.map(|(caps, standing, next)| (capacity::room(caps, &standing), next)),
        waiting,
    })
}

/// Why a running campaign does not dial just now; empty when it does.
async fn waiting(
    conn: &mut AsyncPgConnection,
    app: &App,
    campaign: &Campaign,
    counts: &BTreeMap<String, i64>,
    active: i64,
    now: DateTime<Utc>,
) -> Result<&'static str, Error> {
    let of = |word: &str| counts.get(word).copied().unwrap_or(0);
    if campaign.state != State::Running.word() || active > 0 {
        return Ok("");
    }
    let rules = settings::rules(campaign)?;
    let zones = fill::zones(conn, campaign.id()).await?;
    let open = zones
        .iter()
        .any(|zone| window::is_open(&rules, gate::zone(&rules, zone), now));
    let spent = match toll::daily_calls_of(app, &campaign.caller) {
        Some(most) => caller_days::today(conn, &campaign.caller).await? >= i64::from(most),
        None => false,
    };
    Ok(match (zones.is_empty(), open) {
        (true, _) => "empty",
        (_, false) => "closed_window",
        _ if spent => "daily_calls",
        _ if of("contact.calling") == 0 => "no_contacts_due",
        _ => "",
    })
}

/// Watches a campaign: at once, and then whenever something has changed.
///
/// # Errors
/// `NotFound`, or Exhausted (`TOO_MANY_WATCHERS`).
pub async fn watch(app: &Arc<App>, id: CampaignId) -> Result<mpsc::Receiver<Result<Progress, Error>>, Error> {
    let permit = Arc::clone(&app.campaign_watch_permits)
        .try_acquire_owned()
        .map_err(|_| {
            Error::exhausted(
                "TOO_MANY_WATCHERS",
                "as many watch campaigns at this replica as may: ask with GetCampaign, or try again",
            )
        })?;
    let first = read(app, id).await?;
    // One: a watcher that is slow misses what was in between, which is no loss.
    let (sender, receiver) = mpsc::channel(1);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let _permit = permit;
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut seen: Option<Progress> = None;
        let mut next = Ok(first);
        loop {
            let news = match (&next, &seen) {
                (Ok(progress), Some(seen)) => progress.differs(seen),
                _ => true,
            };
            let over = next.as_ref().map_or(true, Progress::is_last);
            if news {
                seen = next.as_ref().ok().cloned();
                if !matches!(timeout(PATIENCE, sender.send(next)).await, Ok(Ok(()))) {
                    return;
                }
            }
            if over {
                return;
            }
            tokio::select! {
                () = &mut stopping => {
                    let away = Error::unavailable("this replica shuts down: watch again");
                    let _ = timeout(EVERY, sender.send(Err(away))).await;
                    return;
                }
                () = sender.closed() => return,
                () = sleep(EVERY) => {}
            }
            next = read(&app, id).await;
        }
    });
    Ok(receiver)
}
