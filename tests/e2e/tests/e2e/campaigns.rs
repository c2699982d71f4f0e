//! Campaigns: contacts become calls, within caps, and an operator is in control.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use callbridge_proto::campaign::v1::{
    AbortCampaignRequest, Campaign, CampaignState, ContactState, CreateCampaignRequest, PauseCampaignRequest,
    ResumeCampaignRequest, Rules, UpdateCampaignRequest, WatchCampaignRequest,
};
use e2e::{
    PATIENCE, Story,
    campaign::{again, always, numbers},
    invalid, quick, refusal, refused, registration,
};
use exotel_sim::{Callee, CallerScript, LedgerEntry, Outcome};
use prost_types::FieldMask;
use tonic::Code;

use crate::outbound::short;

/// Rows that hold a slot.
const ACTIVE: &str = "calls WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')";

fn person(number: usize) -> String {
    format!("+91981300{number:04}")
}

/// Everybody is answered, and hangs up soon.
fn everybody_answers(story: &Story, people: usize) -> Result<()> {
    for number in 0..people {
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::answered_by(short()))?;
    }
    Ok(())
}

/// How often each person was dialled.
fn dials(ledger: &[LedgerEntry]) -> BTreeMap<&str, usize> {
    let mut dials = BTreeMap::new();
    for entry in ledger {
        *dials.entry(entry.from.as_str()).or_default() += 1;
    }
    dials
}

async fn pause(story: &Story, id: &str) -> Result<Campaign> {
    let request = PauseCampaignRequest {
        campaign_id: id.to_owned(),
        reason: "lunch".to_owned(),
    };
    let paused = story.stack.clients().campaigns().pause_campaign(request).await?;
    paused.into_inner().campaign.context("no campaign")
}

async fn resume(story: &Story, id: &str) -> Result<Campaign> {
    let request = ResumeCampaignRequest {
        campaign_id: id.to_owned(),
    };
    let resumed = story.stack.clients().campaigns().resume_campaign(request).await?;
    resumed.into_inner().campaign.context("no campaign")
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

/// F108: nothing is dialled once a pause is answered, by any replica, and what was dialled goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_before_the_next_dial() -> Result<()> {
    let mut registration = registration()?;
    registration.account.calls_per_minute = 6_000;
    let story = Story::with(quick().replicas(2), registration).await?;
    everybody_answers(&story, 60)?;
    let campaign = story
        .campaign_of(
            Rules {
                max_concurrent_calls: 8,
                ..always()
            },
            &numbers((0..60).map(person)),
        )
        .await?;
    for _ in 0..3 {
        let control = story.stack.control();
        let before = control.ledger().await?.len();
        stack::poll("some more calls", PATIENCE, async || match control.ledger().await {
            Ok(ledger) if ledger.len() > before => Ok(()),
            other => Err(format!("{:?}", other.map(|ledger| ledger.len()))),
        })
        .await?;
        pause(&story, &campaign.id).await?;
        // Whatever was committed before the pause is at the simulator when no call is being dialled any more.
        story
            .campaign_until(&campaign.id, "no active call", |got| {
                got.progress.as_ref().is_some_and(|progress| progress.active_calls == 0)
            })
            .await?;
        let paused = control.ledger().await?.len();
        let idle = story
            .get_campaign(&campaign.id)
            .await?
            .progress
            .context("no progress")?;
        assert_eq!(
            (idle.state(), idle.state_reason.as_str()),
            (CampaignState::Paused, "lunch")
        );
        // A call of somebody else goes through the same queue meanwhile, and nothing of the campaign with it.
        control.set_outcome(e2e::CUSTOMER, Outcome::answered_by(short()))?;
        let single = story.place(story.request(e2e::CUSTOMER)).await?;
        story.ended(&single.id).await?;
        assert_eq!(control.ledger().await?.len(), paused + 1);
        resume(&story, &campaign.id).await?;
    }
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let ledger = story.stack.control().ledger().await?;
    let mut dials = dials(&ledger);
    dials.retain(|number, _| !number.ends_with(&e2e::CUSTOMER[3..]));
    assert_eq!(dials.into_values().collect::<Vec<_>>(), [1; 60]);
    story.stack.shut_down().await
}

/// F109: an abort cancels what waits, loses nothing of what was dialled, and says how much that is.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_loses_nothing_in_flight() -> Result<()> {
    let story = Story::start().await?;
    for number in 0..20 {
        let script = CallerScript::new().silence(1_500).hang_up();
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::answered_by(script))?;
    }
    let campaign = story
        .campaign_of(
            Rules {
                max_concurrent_calls: 3,
                ..always()
            },
            &numbers((0..20).map(person)),
        )
        .await?;
    story
        .campaign_until(&campaign.id, "three calls", |got| {
            got.progress.as_ref().is_some_and(|progress| progress.active_calls == 3)
        })
        .await?;
    let request = AbortCampaignRequest {
        campaign_id: campaign.id.clone(),
        reason: "wrong list".to_owned(),
    };
    let mut campaigns = story.stack.clients().campaigns();
    let aborted = campaigns.abort_campaign(request.clone()).await?.into_inner();
    assert!(aborted.in_flight > 0, "{}", aborted.in_flight);
    let ended = story
        .campaign_until(&campaign.id, "no call", |got| {
            got.progress
                .as_ref()
                .is_some_and(|progress| progress.active_calls == 0 && !progress.by_state.contains_key("calling"))
        })
        .await?;
    let progress = ended.progress.context("no progress")?;
    let dialled = i64::try_from(story.stack.control().ledger().await?.len())?;
    assert_eq!(progress.by_outcome, [("completed".to_owned(), dialled)].into());
    assert_eq!(progress.by_state["pending"], 20 - dialled);
    assert_eq!(story.count("calls WHERE state = 'queued'").await?, 0);
    // F110: asked again, it is the same answer and no more history.
    let again = campaigns.abort_campaign(request).await?.into_inner();
    assert_eq!(
        again.campaign.context("no campaign")?.version,
        aborted.campaign.context("no campaign")?.version
    );
    let status = story.add_contacts(&campaign.id, "late", b"number\n").await.unwrap_err();
    assert_eq!(refusal(&status), refused(Code::FailedPrecondition, "CAMPAIGN_OVER"));
    story.stack.shut_down().await
}

/// F110: controls may be repeated, make no sense out of order, and a phone or an agent that a campaign needs cannot be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn controls_may_be_repeated_and_nothing_that_a_campaign_needs_goes_away() -> Result<()> {
    let story = Story::start().await?;
    let campaign = story.campaign("one", story.settings(always())).await?;
    let same = story.campaign("one", story.settings(always())).await?;
    assert_eq!(campaign, same);
    let other = CreateCampaignRequest {
        idempotency_key: "one".to_owned(),
        settings: Some(story.settings(again(1))),
    };
    let mut campaigns = story.stack.clients().campaigns();
    let status = campaigns.create_campaign(other).await.unwrap_err();
    assert_eq!(refusal(&status), refused(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
    let resume_first = ResumeCampaignRequest {
        campaign_id: campaign.id.clone(),
    };
    let status = campaigns.resume_campaign(resume_first).await.unwrap_err();
    assert_eq!(refusal(&status), refused(Code::FailedPrecondition, "CAMPAIGN_STATE"));
    let started = story.start_campaign(&campaign.id).await?;
    assert_eq!(story.start_campaign(&campaign.id).await?.version, started.version);
    let paused = pause(&story, &campaign.id).await?;
    assert_eq!(pause(&story, &campaign.id).await?.version, paused.version);
    let resumed = resume(&story, &campaign.id).await?;
    assert_eq!(resume(&story, &campaign.id).await?.version, resumed.version);
    let history = story.get_campaign(&campaign.id).await?.history;
    let kinds: Vec<(&str, &str)> = history
        .iter()
        .map(|entry| (entry.r#type.as_str(), entry.by.as_str()))
        .collect();
    let by = |kind| (kind, "stack");
    assert_eq!(kinds, ["resumed", "paused", "started", "created"].map(by));

    let client = e2e::session(&story.stack.database_url).await?;
    for delete in ["DELETE FROM phones", "DELETE FROM agents"] {
        let error = client.execute(delete, &[]).await.unwrap_err();
        let code = error.code().context("no code")?.code();
        assert_eq!(code, "23503", "{delete}");
    }
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
