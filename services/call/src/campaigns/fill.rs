//! Turns due contacts into queued calls, just ahead of their turn. How much is done at one time depends on the rate and not on
//! the campaign's size; rules are looked at here so that the queue is of use, and again when a call is claimed, which counts.

use std::sync::Arc;

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use runtime::telemetry;
use tracing::{Instrument as _, Span, info, info_span};
use uuid::Uuid;

use super::{
    control, gate,
    rules::{CallerIds, Rules},
    settings,
    settled::{moved, sum},
    state::Control,
    window,
};
use crate::{
    app::App,
    calls::state::{Direction, Facts},
    db::Conn,
    error::Error,
    metrics,
    store::{
        agents, caller_days, calls,
        campaigns::{self, Campaign, counts, imports},
        contacts::fill::{self, Aside, Common, Due, Pooled, Turned},
    },
    toll, trace,
};

/// Calls that wait for a turn are as many as have one in this time.
const AHEAD: TimeDelta = TimeDelta::seconds(2);
/// At least, and at most, so many.
const LEAST: i64 = 8;
const MOST: i64 = 256;
/// Calls that wait for something else (a window that closed over them, the hook), at most.
const MOST_WAITING: i64 = 4_096;
/// A call that waits this long is given up, and its contact is due again.
const EXPIRES_AFTER: TimeDelta = TimeDelta::days(30);

/// How long a contact waits whose phone has no room: others have their turn meanwhile.
const NO_PHONE: TimeDelta = TimeDelta::minutes(1);
/// And one whose number is on another call.
const BUSY: TimeDelta = TimeDelta::seconds(10);
/// Contacts looked at in one round, at least: of those that may not be called now many are set aside at one time.
const LOOKED_AT: i64 = 64;
/// For how long at most a contact is set aside by the frequency cap: the cap may be another one then.
const CAP_LOOK: TimeDelta = TimeDelta::hours(1);

/// What a look at a campaign came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// There may be more.
    More,
    /// Nothing is due, or the queue is full.
    Enough,
    /// It is over, or it cannot go on.
    Stopped,
}

/// Looks after one running campaign: ends it, or fills its queue.
///
/// # Errors
/// Of the database, or when its rules cannot be read.
pub(super) async fn campaign(app: &Arc<App>, campaign: &Campaign) -> Result<Filled, Error> {
    let rules = settings::rules(campaign)?;
    let mut conn = app.db.conn().await?;
    let now = calls::database_now(&conn).await?;
    let is_late = |campaign: &Campaign| {
        let end_at = settings::rules(campaign).ok().and_then(|rules| rules.end_at);
        end_at.is_some_and(|end| end <= now)
    };
    if is_late(campaign) {
        drop(conn);
        control::by_itself(app, campaign.id(), Control::Finish, "end_time", is_late).await?;
        return Ok(Filled::Stopped);
    }
    let agent = agents::find(&conn, campaign.agent_id())
        .await?
        .ok_or_else(|| Error::internal("a campaign without its agent"))?;
    let per_minute = campaigns::account_rate(&mut conn, campaign.account_id).await?;
    let pool = fill::pool(&mut conn, campaign.id()).await?;
    let common = Common {
        agent_version: agent.0.version,
        expire_at: now + EXPIRES_AFTER,
        priority: rules.priority,
        facts: serde_json::to_value(Facts::default()).map_err(|_| Error::internal("facts could not be serialised"))?,
    };
    let want = ahead(rules.calls_per_minute, per_minute);
    let filled = conn
        .transaction::<_, Error, _>(async |conn| {
            fill(conn, app, campaign, &rules, pool.clone(), &common, want, now).await
        })
        .await?;
    match filled {
        Some(Round { any: false, .. }) => {
            // Nothing was due. Most of the time that is because something is due later.
            if is_done(&mut conn, campaign).await? {
                return finish_if_done(app, conn, campaign).await;
            }
            Ok(Filled::Enough)
        }
        Some(Round { more, .. }) => {
            app.hub.work();
            Ok(if more { Filled::More } else { Filled::Enough })
        }
        None => Ok(Filled::Enough),
    }
}

/// How many calls wait for a turn.
fn ahead(of_campaign: i32, of_account: i32) -> i64 {
    let rate = if of_campaign > 0 {
        of_campaign.min(of_account)
    } else {
        of_account
    };
    (i64::from(rate) * AHEAD.num_seconds() / 60).clamp(LEAST, MOST)
}

/// What became of the contacts that were due.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// There were any.
    any: bool,
    /// There may be more, and room for them.
    more: bool,
}

/// Deals with contacts that are due; None: the queue is full, or another replica fills it.
#[expect(clippy::too_many_arguments, reason = "what was looked up before the transaction")]
async fn fill(
    conn: &mut AsyncPgConnection,
    app: &App,
    campaign: &Campaign,
    rules: &Rules,
    mut pool: Vec<Pooled>,
    common: &Common,
    want: i64,
    now: DateTime<Utc>,
) -> Result<Option<Round>, Error> {
    let id = campaign.id();
    let Some(queue) = fill::turn(conn, id).await? else {
        return Ok(None);
    };
    let room = (want - queue.due).min(MOST_WAITING - queue.queued);
    // A few at a time cost as much as many.
    if room <= want / 4 {
        return Ok(None);
    }
    let of_phones = pool
        .iter()
        .try_fold(0, |sum, phone| phone.room.map(|room| sum + room.max(0)));
    let room = of_phones.map_or(room, |of_phones| room.min(of_phones));
    if room == 0 {
        return Ok(None);
    }
    // What is queued beyond the caller's calls of the day would only wait there.
    let room = match toll::daily_calls_of(app, &campaign.caller) {
        Some(most) => {
            room.min((i64::from(most) - caller_days::today(conn, &campaign.caller).await? - queue.queued).max(0))
        }
        None => room,
    };
    if room == 0 {
        return Ok(None);
    }
    let mut zones = fill::zones(conn, id).await?;
    zones.retain(|zone| window::is_open(rules, gate::zone(rules, zone), now));
    if zones.is_empty() {
        return Ok(Some(Round {
            any: false,
            more: false,
        }));
    }
    let cap = rules.frequency_cap.map(|cap| (cap.count, cap.since(now)));
    let looked_at = room.max(LOOKED_AT);
    let due = fill::due(conn, id, &zones, looked_at, cap).await?;
    let mut left = room;
    // Made before there is anything to fill in, since the traces of the calls are linked with it.
    let span = if due.is_empty() {
        Span::none()
    } else {
        trace::transaction("campaign_fill")
    };
    let (mut turned, mut aside, mut deltas) = (Vec::new(), Vec::new(), Vec::new());
    for contact in &due {
        if let Some(put) = set_aside(rules, contact, now) {
            if put.state != "pending" {
                deltas.extend(moved("pending", put.state));
            }
            aside.push(put);
            continue;
        }
        if left == 0 {
            continue;
        }
        let attempt = u32::try_from(contact.calls).unwrap_or(0).saturating_add(1);
        let Some(phone) = take(rules.caller_ids, low(contact.id), attempt, &mut pool) else {
            aside.push(Aside {
                contact: contact.id,
                state: "pending",
                reason: "phone_capacity",
                next_at: now + NO_PHONE,
            });
            continue;
        };
        left -= 1;
        deltas.extend(moved("pending", "calling"));
        let call = app.clock.new_uuid();
        turned.push(Turned {
            contact: contact.id,
            call,
            phone,
            traceparent: begin_trace(&span, campaign, CallId(call)),
        });
    }
    if !aside.is_empty() {
        fill::set_aside(conn, id, &aside).await?;
    }
    if !turned.is_empty() {
        fill::turn_into_calls(conn, campaign, common, &turned)
            .instrument(span)
            .await?;
        metrics::placed(Direction::Outbound, turned.len());
    }
    for (campaign, deltas) in sum(deltas.into_iter().map(|delta| (campaign.id, delta))) {
        counts::add(conn, campaign, &deltas).await?;
    }
    Ok(Some(Round {
        any: !due.is_empty(),
        // Where all were set aside, the next ones may be called.
        more: left < want / 4 || i64::try_from(due.len()) == Ok(looked_at) && turned.is_empty(),
    }))
}

/// Begins the trace of a call. The campaign is a link in it and never its parent, or all calls of months would be one trace.
fn begin_trace(fill: &Span, campaign: &Campaign, call: CallId) -> Option<String> {
    let span = info_span!(parent: None, "campaign.call", call.id = %call, campaign.id = %campaign.id());
    span.follows_from(fill);
    telemetry::traceparent(&span)
}

/// Takes the phone that calls a contact: its own, or under rotation the next one that has room. None: there is none now.
fn take(caller_ids: CallerIds, contact: u64, attempt: u32, pool: &mut [Pooled]) -> Option<Uuid> {
    let first = caller_ids.pick(contact, attempt, pool.len())?;
    let choices = match caller_ids {
        CallerIds::Rotate => pool.len(),
        CallerIds::PerContact => 1,
    };
    let place = (first..first + choices)
        .map(|place| place % pool.len())
        .find(|place| pool[*place].room.is_none_or(|room| room > 0))?;
    let phone = &mut pool[place];
    phone.room = phone.room.map(|room| room - 1);
    Some(phone.id)
}

/// Why a due contact is not called, if it is not.
fn set_aside(rules: &Rules, contact: &Due, now: DateTime<Utc>) -> Option<Aside> {
    let aside = |state, reason, next_at| Aside {
        contact: contact.id,
        state,
        reason,
        next_at,
    };
    if contact.reached {
        return Some(aside("reached", "completed", now));
    }
    if contact.suppressed {
        return Some(aside("suppressed", "suppressed", now));
    }
    // The rules may allow fewer attempts than when the latest one ended.
    if u32::try_from(contact.attempts).is_ok_and(|attempts| attempts >= rules.max_attempts) {
        return Some(aside("exhausted", "max_attempts", now));
    }
    if contact.busy {
        return Some(aside("pending", "number_busy", now + BUSY));
    }
    let period = TimeDelta::try_seconds(rules.frequency_cap?.period)?;
    let blocking = contact.blocking?;
    let until = (blocking + period).min(now + CAP_LOOK);
    Some(aside("pending", "frequency_cap", until))
}

/// A number that stays the contact's and is spread evenly: its id's random part.
fn low(id: Uuid) -> u64 {
    id.as_u64_pair().1
}

/// Whether every contact has its last state. One that is being sent may bring more.
async fn is_done(conn: &mut AsyncPgConnection, campaign: &Campaign) -> Result<bool, Error> {
    let counts = counts::read(conn, campaign.id()).await?;
    let of = |word: &str| counts.get(word).copied().unwrap_or(0);
    let any = counts.keys().any(|word| word.starts_with("contact."));
    if !any || of("contact.pending") > 0 || of("contact.calling") > 0 {
        return Ok(false);
    }
    Ok(!imports::any_open(conn, campaign.id()).await?)
}

/// Ends a campaign that has nothing left to do, unless contacts have come meanwhile: an import takes the same lock.
async fn finish_if_done(app: &Arc<App>, mut conn: Conn, campaign: &Campaign) -> Result<Filled, Error> {
    let finished = conn
        .transaction::<_, Error, _>(async |conn| {
            campaigns::lock(conn, campaign.id()).await?;
            if !is_done(conn, campaign).await? {
                return Ok(false);
            }
            let (by, reason) = ("callbridge", control::NO_CONTACTS_LEFT);
            let done = control::follow(conn, by, campaign.id(), Control::Finish, reason, |_| true).await?;
            Ok(done.1)
        })
        .await;
    match finished {
        Ok(true) => {
            info!(campaign.id = %campaign.id(), "a campaign has no contacts left");
            app.hub.campaign_changed();
            Ok(Filled::Stopped)
        }
        Ok(false) => Ok(Filled::Enough),
        // An operator was quicker.
        Err(Error::Precondition { .. }) => Ok(Filled::Stopped),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phone that takes one call at a time is no bar to the campaign's other ones.
    #[test]
    fn phones_without_room_are_passed_over() {
        let phone = |id, room| Pooled {
            id: Uuid::from_u128(id),
            room,
        };
        let pool = || vec![phone(1, Some(1)), phone(2, Some(3)), phone(3, None)];
        let taken = |caller_ids, contacts: [u64; 6], pool: &mut Vec<Pooled>| {
            contacts.map(|contact| take(caller_ids, contact, 1, pool).map(|id| id.as_u128()))
        };
        let (mut rotated, mut own) = (pool(), pool());
        assert_eq!(
            taken(CallerIds::Rotate, [0, 0, 0, 0, 0, 1], &mut rotated),
            [1, 2, 2, 2, 3, 3].map(Some)
        );
        assert_eq!(
            taken(CallerIds::PerContact, [0, 0, 1, 2, 3, 4], &mut own),
            [Some(1), None, Some(2), Some(3), None, Some(2)]
        );
        rotated.pop();
        assert_eq!(take(CallerIds::Rotate, 0, 1, &mut rotated), None);
    }

    /// Whoever waits for a further attempt has none left when the rules allow fewer.
    #[test]
    fn fewer_attempts_hold_for_those_who_wait() {
        let contact = Due {
            id: Uuid::from_u128(1),
            number: "+919812345678".to_owned(),
            calls: 2,
            attempts: 2,
            suppressed: false,
            blocking: None,
            busy: false,
            reached: false,
        };
        let state = |max_attempts| {
            let rules = Rules {
                max_attempts,
                ..Rules::default()
            };
            set_aside(&rules, &contact, DateTime::UNIX_EPOCH).map(|put| put.state)
        };
        assert_eq!(
            (state(3), state(2), state(1)),
            (None, Some("exhausted"), Some("exhausted"))
        );
    }

    #[test]
    fn the_queue_is_as_long_as_the_rate_needs() {
        assert_eq!(ahead(0, 6_000), 200);
        assert_eq!(ahead(600, 6_000), 20);
        assert_eq!(ahead(6_000, 60), LEAST);
        assert_eq!(ahead(0, 60_000), MOST);
    }
}
