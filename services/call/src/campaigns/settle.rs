//! Contacts whose call has ended: what becomes of them, in any replica, a batch at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use callbridge_proto::id::CampaignId;
use diesel_async::AsyncConnection as _;
use tracing::{Instrument as _, warn};
use uuid::Uuid;

use super::{
    breaker::{Sample, Trip},
    control,
    rules::Rules,
    settings, settled,
    state::Control,
};
use crate::{
    app::App,
    error::Error,
    store::{
        calls,
        campaigns::{Campaign, counts},
        contacts::settle::{self, Ended},
    },
    trace,
};

/// Contacts settled in one transaction.
const BATCH: i64 = 200;

/// Settles contacts until there are none. Returns the campaigns that they are of.
///
/// # Errors
/// Of the database.
pub(super) async fn all(app: &Arc<App>) -> Result<BTreeSet<Uuid>, Error> {
    let mut touched = BTreeSet::new();
    loop {
        let batch = batch(app).await?;
        let full = i64::try_from(batch.len()) == Ok(BATCH);
        pause_unserved(app, &batch).await?;
        touched.extend(batch.iter().map(|contact| contact.campaign_id));
        if !full || app.tasks.is_stopping() {
            return Ok(touched);
        }
    }
}

/// One transaction. Returns the contacts.
async fn batch(app: &App) -> Result<Vec<Ended>, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        let ended = settle::ended(conn, BATCH).await?;
        if ended.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = Vec::with_capacity(ended.len());
        let mut deltas = Vec::new();
        for contact in &ended {
            // Rules that this program cannot read are those of a later release: the default ones are strict enough to end.
            let rules: Rules = serde_json::from_value(contact.rules.clone()).unwrap_or_else(|error| {
                warn!(campaign.id = %CampaignId(contact.campaign_id), %error, "a campaign's rules cannot be read");
                Rules::default()
            });
            let (settled, adds) = settled::settle(&rules, contact);
            deltas.extend(adds.into_iter().map(|delta| (contact.campaign_id, delta)));
            all.push(settled);
        }
        // Here, since most of the time there is nothing to settle.
        let span = trace::transaction("campaign_settle");
        settle::write(conn, &all).instrument(span).await?;
        for (campaign, deltas) in settled::sum(deltas) {
            counts::add(conn, campaign, &deltas).await?;
        }
        Ok(ended)
    })
    .await
}

/// Pauses a campaign when too many of its latest attempts failed. Returns whether it did.
///
/// # Errors
/// Of the database.
pub(super) async fn breaker(app: &Arc<App>, campaign: &Campaign) -> Result<bool, Error> {
    let rule = settings::rules(campaign)?.breaker;
    let mut conn = app.db.conn().await?;
    let now = calls::database_now(&conn).await?;
    let since = rule.since(now, campaign.running_since.unwrap_or(campaign.created_at));
    let counts = counts::since(&mut conn, campaign.id(), since).await?;
    drop(conn);
    let of = |words: &[&str]| -> i64 {
        let attempts = counts
            .iter()
            .filter_map(|(word, n)| Some((word.strip_prefix("attempt.")?, n)));
        attempts
            .filter(|(word, _)| words.is_empty() || words.contains(word))
            .map(|(_, n)| *n)
            .sum()
    };
    let failures: Vec<&str> = super::retry::Outcome::ALL
        .into_iter()
        .filter(|outcome| outcome.is_failure())
        .map(super::retry::Outcome::word)
        .collect();
    let sample = Sample {
        ended: of(&[]),
        failed: of(&failures),
    };
    let Some(trip) = rule.trip(sample) else {
        return Ok(false);
    };
    warn!(campaign.id = %campaign.id(), %trip, "too many calls of a campaign fail");
    // Not one that was resumed, or has other rules, since.
    let same = |now: &Campaign| now.running_since == campaign.running_since && now.rules == campaign.rules;
    control::by_itself(app, campaign.id(), Control::Pause, Trip::REASON, same).await
}

/// Pauses campaigns whose account Exotel does not serve: no contact is to blame, and none is used up.
async fn pause_unserved(app: &Arc<App>, ended: &[Ended]) -> Result<(), Error> {
    let mut unserved = BTreeMap::new();
    for contact in ended {
        if let Some(reason) = settled::unserved(contact) {
            let latest = unserved
                .entry(contact.campaign_id)
                .or_insert((contact.ended_at, reason));
            *latest = (*latest).max((contact.ended_at, reason));
        }
    }
    for (campaign, (at, reason)) in unserved {
        // Whoever resumed it since may have mended the account.
        let still = |now: &Campaign| now.running_since.is_none_or(|since| since < at);
        control::by_itself(app, CampaignId(campaign), Control::Pause, reason, still).await?;
    }
    Ok(())
}
