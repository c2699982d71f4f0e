//! Campaigns: contacts become calls, within caps, by rules that may change.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use callbridge_proto::campaign::v1::{
    CampaignState, ContactState, CreateCampaignRequest, Rules, UpdateCampaignRequest, WatchCampaignRequest,
};
use e2e::{
    Story,
    campaign::{again, always, numbers},
    invalid, quick, refusal, registration,
};
use exotel_sim::{Callee, LedgerEntry, Outcome};
use prost_types::FieldMask;

use crate::outbound::short;

/// Rows that hold a slot.
const ACTIVE: &str = "calls WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')";

pub(super) fn person(number: usize) -> String {
    format!("+91981300{number:04}")
}

/// Everybody is answered, and hangs up soon.
pub(super) fn everybody_answers(story: &Story, people: usize) -> Result<()> {
    for number in 0..people {
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::answered_by(short()))?;
    }
    Ok(())
}

/// How often each person was dialled.
pub(super) fn dials(ledger: &[LedgerEntry]) -> BTreeMap<&str, usize> {
    let mut dials = BTreeMap::new();
    for entry in ledger {
        *dials.entry(entry.from.as_str()).or_default() += 1;
    }
    dials
}

/// F107, F112: four replicas fill, claim and dial at one time; everybody is dialled once, within the campaign's cap.
#[tokio::test(flavor = "multi_thread")]
async fn four_replicas_dial_each_contact_once_and_within_the_cap() -> Result<()> {
    let mut registration = registration()?;
    registration.account.calls_per_minute = 6_000;
    let story = Story::with(quick().replicas(4), registration).await?;
    everybody_answers(&story, 60)?;
    let rules = Rules {
        max_concurrent_calls: 5,
        ..always()
    };
    let campaign = story.campaign_of(rules, &numbers((0..60).map(person))).await?;
    let done = story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let progress = done.progress.context("no progress")?;
    assert_eq!((progress.contacts, progress.by_state["reached"]), (60, 60));
    assert_eq!(progress.by_outcome, [("completed".to_owned(), 60)].into());
    let control = story.stack.control();
    let ledger = control.ledger().await?;
    assert_eq!(dials(&ledger).into_values().collect::<Vec<_>>(), [1; 60]);
    let load = control.load(&story.registered.account_sid)?;
    assert!(load.peak_calls <= 5, "{} at one time", load.peak_calls);
    assert_eq!(story.count(ACTIVE).await?, 0);
    let history: Vec<String> = done.history.into_iter().map(|entry| entry.r#type).collect();
    assert_eq!(history, ["finished", "started", "contacts_added", "created"]);
    story.stack.shut_down().await
}

/// F116: somebody whose calls always fail comes to an end, with each attempt counted, and the others are called meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_poison_contact_ends_and_the_others_go_on() -> Result<()> {
    let story = Story::start().await?;
    everybody_answers(&story, 10)?;
    let control = story.stack.control();
    control.set_outcome(&person(3), Outcome::callee(Callee::Fails))?;
    control.set_outcome(&person(4), Outcome::callee(Callee::Busy))?;
    let rules = Rules {
        max_attempts: 3,
        ..again(5)
    };
    let campaign = story.campaign_of(rules, &numbers((0..10).map(person))).await?;
    let done = story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let progress = done.progress.context("no progress")?;
    assert_eq!(
        progress.by_state,
        [("exhausted".to_owned(), 2), ("reached".to_owned(), 8)].into()
    );
    let expected = [("busy", 3), ("completed", 8), ("failed", 3)].map(|(word, n)| (word.to_owned(), n));
    assert_eq!(progress.by_outcome, expected.into());
    let contacts = story.contacts(&campaign.id).await?;
    let of = |number| {
        contacts
            .iter()
            .find(|contact| contact.number == person(number))
            .context("no contact")
    };
    let poison = of(3)?;
    assert_eq!(
        (poison.state(), poison.reason.as_str(), poison.attempts),
        (ContactState::Exhausted, "failed", 3)
    );
    assert_eq!((of(4)?.reason.as_str(), of(4)?.attempts), ("busy", 3));
    let results = story.results(&campaign.id).await?;
    assert_eq!(results.lines().count(), 1 + 14);
    let numbers: BTreeSet<&str> = results
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(1))
        .collect();
    assert_eq!(numbers.len(), 10);
    story.stack.shut_down().await
}

/// Rules change while the campaign runs, and the next claim goes by them.
#[tokio::test(flavor = "multi_thread")]
async fn rules_and_contacts_change_while_it_runs() -> Result<()> {
    let story = Story::start().await?;
    everybody_answers(&story, 12)?;
    let closed = Rules {
        windows: Vec::new(),
        holidays: (0..3).map(holiday).collect(),
        ..always()
    };
    let campaign = story.campaign_of(closed, &numbers((0..6).map(person))).await?;
    story
        .campaign_until(&campaign.id, "the window is closed", |got| {
            got.progress
                .as_ref()
                .is_some_and(|progress| progress.waiting_reason == "closed_window")
        })
        .await?;
    let mut watch = story
        .stack
        .clients()
        .campaigns()
        .watch_campaign(WatchCampaignRequest {
            campaign_id: campaign.id.clone(),
        })
        .await?
        .into_inner();
    let update = UpdateCampaignRequest {
        campaign_id: campaign.id.clone(),
        settings: Some(story.settings(always())),
        update_mask: Some(FieldMask {
            paths: vec!["rules".to_owned()],
        }),
    };
    story
        .stack
        .clients()
        .campaigns()
        .update_campaign(update.clone())
        .await?;
    let added = story
        .add_contacts(&campaign.id, "more", numbers((4..12).map(person)).as_bytes())
        .await?;
    assert_eq!((added.accepted, added.duplicates), (6, 2));
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let mut last = None;
    while let Some(seen) = watch.message().await? {
        last = seen.progress;
    }
    let last = last.context("nothing was seen")?;
    assert_eq!((last.state(), last.by_state["reached"]), (CampaignState::Finished, 12));
    story.stack.shut_down().await
}

/// A day from yesterday on, wherever the contact is.
fn holiday(day: u64) -> String {
    let today = runtime::Clock::system().now().date_naive();
    let day = today - chrono::Days::new(1) + chrono::Days::new(day);
    day.to_string()
}

/// All that is impossible about a campaign is told at once, by field.
#[tokio::test(flavor = "multi_thread")]
async fn impossible_settings_are_refused_with_their_fields() -> Result<()> {
    let story = Story::start().await?;
    let mut settings = story.settings(Rules {
        windows: vec![callbridge_proto::campaign::v1::Window {
            days: Vec::new(),
            from: 600,
            until: 600,
        }],
        time_zone: "Mars/Olympus".to_owned(),
        retries: Some(callbridge_proto::campaign::v1::Retries {
            busy: Some(callbridge_proto::campaign::v1::Retry {
                delays: vec![prost_types::Duration { seconds: -1, nanos: 0 }],
                most: 1,
            }),
            ..callbridge_proto::campaign::v1::Retries::default()
        }),
        ..Rules::default()
    });
    let mut campaigns = story.stack.clients().campaigns();
    let mut create = async |settings| {
        let request = CreateCampaignRequest {
            idempotency_key: "impossible".to_owned(),
            settings: Some(settings),
        };
        refusal(&campaigns.create_campaign(request).await.unwrap_err())
    };
    assert_eq!(create(settings.clone()).await, invalid(&["rules.time_zone"]));
    if let Some(rules) = &mut settings.rules {
        rules.time_zone.clear();
    }
    settings.agent_id = "agent_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b".to_owned();
    settings
        .phone_ids
        .push("phone_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b".to_owned());
    let expected = invalid(&[
        "rules.windows[0].until",
        "rules.retries.busy.delays[0]",
        "agent_id",
        "phone_ids[1]",
    ]);
    assert_eq!(create(settings).await, expected);
    story.stack.shut_down().await
}
