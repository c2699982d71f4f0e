//! An operator is in control of a campaign: pause and abort, whatever its calls do, and controls that are repeated.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, CallFilter, CallState, ListCallsRequest, PlaceCallRequest},
    campaign::v1::{
        AbortCampaignRequest, Campaign, CampaignState, CreateCampaignRequest, PauseCampaignRequest,
        ResumeCampaignRequest, Rules,
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use e2e::{
    CUSTOMER, PATIENCE, Story,
    campaign::{again, always, numbers},
    quick, refusal, refused, registration,
};
use exotel_sim::{Answer, Arrival, CallerScript, Outcome};
use prost_types::Timestamp;
use runtime::Clock;
use stack::poll;
use tonic::Code;

use crate::{
    campaigns::{dials, everybody_answers, person},
    outbound::short,
};

/// What was on its way to Exotel may come so long after a pause was answered.
const ON_ITS_WAY: TimeDelta = TimeDelta::seconds(1);

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

/// When requests for people of a campaign came, after this time.
fn after(arrivals: &[Arrival], time: DateTime<Utc>) -> Vec<TimeDelta> {
    let is_contact = |arrival: &&Arrival| arrival.from.as_deref().is_some_and(|from| !is_customer(from));
    let contacts = arrivals.iter().filter(is_contact);
    contacts
        .map(|arrival| arrival.time - time)
        .filter(|late| *late > TimeDelta::zero())
        .collect()
}

fn is_customer(number: &str) -> bool {
    number.ends_with(&CUSTOMER[3..])
}

/// F108: once a pause is answered no replica sends a request any more, but for what was on its way; and what was dialled goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_before_the_next_dial() -> Result<()> {
    let mut registration = registration()?;
    registration.account.calls_per_minute = 6_000;
    let story = Story::with(quick().replicas(2), registration).await?;
    everybody_answers(&story, 80)?;
    let rules = Rules {
        max_concurrent_calls: 8,
        ..always()
    };
    let campaign = story.campaign_of(rules, &numbers((0..80).map(person))).await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    for _ in 0..5 {
        let before = control.arrivals().await?.len();
        poll("some more calls", PATIENCE, async || match control.arrivals().await {
            Ok(arrivals) if arrivals.len() > before => Ok(()),
            other => Err(format!("{:?}", other.map(|arrivals| arrivals.len()))),
        })
        .await?;
        pause(&story, &campaign.id).await?;
        let paused = Clock::system().now();
        // A call of somebody else goes through the same queue, later than anything of the campaign may come.
        let due = paused + ON_ITS_WAY + TimeDelta::milliseconds(500);
        let later = PlaceCallRequest {
            not_before: Some(Timestamp {
                seconds: due.timestamp(),
                nanos: i32::try_from(due.timestamp_subsec_nanos())?,
            }),
            ..story.request(CUSTOMER)
        };
        let single = story.place(later).await?;
        story.ended(&single.id).await?;
        let late = after(&control.arrivals().await?, paused);
        assert!(late.iter().all(|late| *late <= ON_ITS_WAY), "{late:?}");
        let idle = story
            .campaign_until(&campaign.id, "no active call", |got| {
                got.progress.as_ref().is_some_and(|progress| progress.active_calls == 0)
            })
            .await?;
        let progress = idle.progress.context("no progress")?;
        assert_eq!(
            (progress.state(), progress.state_reason.as_str()),
            (CampaignState::Paused, "lunch")
        );
        assert_eq!(after(&control.arrivals().await?, paused), late);
        resume(&story, &campaign.id).await?;
    }
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let ledger = story.stack.control().ledger().await?;
    let mut dials = dials(&ledger);
    dials.retain(|number, _| !is_customer(number));
    assert_eq!(dials.into_values().collect::<Vec<_>>(), [1; 80]);
    story.stack.shut_down().await
}

/// Calls of a campaign.
async fn calls(story: &Story, campaign: &str) -> Result<Vec<Call>> {
    let request = ListCallsRequest {
        filter: Some(CallFilter {
            campaign_id: campaign.to_owned(),
            ..CallFilter::default()
        }),
        page_size: 100,
        ..ListCallsRequest::default()
    };
    let listed = story.stack.clients().calls().list_calls(request).await?;
    Ok(listed.into_inner().calls)
}

/// The states of a campaign's calls, sorted.
async fn states(story: &Story, campaign: &str) -> Result<Vec<CallState>> {
    let mut states: Vec<_> = calls(story, campaign).await?.iter().map(Call::state).collect();
    states.sort_unstable();
    Ok(states)
}

/// Waits until a campaign's calls are in these states, and others wait in the queue or not.
async fn until(story: &Story, campaign: &str, wanted: &[CallState], others_wait: bool) -> Result<()> {
    poll("calls in every state", PATIENCE, async || {
        let found = states(story, campaign).await.map_err(|error| error.to_string())?;
        let (queued, active): (Vec<CallState>, Vec<CallState>) =
            found.into_iter().partition(|state| *state == CallState::Queued);
        if active == wanted && queued.is_empty() != others_wait {
            Ok(())
        } else {
            Err(format!("{active:?}, {} wait", queued.len()))
        }
    })
    .await?;
    Ok(())
}

/// F109: an abort that comes while calls are in every state cancels those that wait, dials nobody any more, and loses nothing of
/// what was dialled, perhaps dialled, or is being dialled.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_loses_nothing_in_flight() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    let control = story.stack.control();
    let rings = || Outcome {
        answer_after_ms: Some(60_000),
        list_delay_ms: Some(60_000),
        ..Outcome::default()
    };
    let in_flight = [
        (Outcome::answered_by(CallerScript::new()), CallState::InProgress),
        (rings(), CallState::Placed),
        // Exotel has not answered yet.
        (
            Outcome {
                answer_delay_ms: 20_000,
                ..rings()
            },
            CallState::Dialing,
        ),
        // It never does, and does not tell for a while what became of the call.
        (
            Outcome {
                answer: Answer::Lost,
                ..rings()
            },
            CallState::Unconfirmed,
        ),
    ];
    let mut wanted = Vec::new();
    for (number, (outcome, state)) in in_flight.into_iter().enumerate() {
        control.set_outcome(&person(number), outcome)?;
        wanted.push(state);
    }
    wanted.sort_unstable();
    let rules = Rules {
        max_concurrent_calls: 4,
        ..always()
    };
    let campaign = story.campaign_of(rules, &numbers((0..4).map(person))).await?;
    until(&story, &campaign.id, &wanted, false).await?;
    story
        .add_contacts(&campaign.id, "more", numbers((4..20).map(person)).as_bytes())
        .await?;
    until(&story, &campaign.id, &wanted, true).await?;
    let request = AbortCampaignRequest {
        campaign_id: campaign.id.clone(),
        reason: "wrong list".to_owned(),
    };
    let mut campaigns = story.stack.clients().campaigns();
    let aborted = campaigns.abort_campaign(request.clone()).await?.into_inner();
    assert_eq!(aborted.in_flight, 4);

    // What waits is cancelled and its contacts are as before, while all that is in flight goes on as it was.
    story
        .campaign_until(&campaign.id, "nothing that waits", |got| {
            let calling =
                |progress: &callbridge_proto::campaign::v1::Progress| progress.by_state.get("calling") == Some(&4);
            got.progress.as_ref().is_some_and(calling)
        })
        .await?;
    assert_eq!(story.count("calls WHERE state = 'queued'").await?, 0);
    let mut active = states(&story, &campaign.id).await?;
    active.retain(|state| *state != CallState::Canceled);
    assert_eq!(active, wanted);

    for report in control.calls() {
        control.hang_up(&report.call_sid)?;
    }
    let ended = story
        .campaign_until(&campaign.id, "no call", |got| {
            got.progress
                .as_ref()
                .is_some_and(|progress| progress.active_calls == 0 && !progress.by_state.contains_key("calling"))
        })
        .await?;
    let progress = ended.progress.context("no progress")?;
    let counts = |counts: &[(&str, i64)]| counts.iter().map(|(word, n)| ((*word).to_owned(), *n)).collect();
    assert_eq!(progress.by_outcome, counts(&[("busy", 3), ("completed", 1)]));
    assert_eq!(
        progress.by_state,
        counts(&[("exhausted", 3), ("pending", 16), ("reached", 1)])
    );
    assert_eq!(story.results(&campaign.id).await?.lines().count(), 1 + 4);

    // Somebody else's call goes through the queue, with all the room there is, and nobody else of the campaign with it.
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let single = story.place(story.request(CUSTOMER)).await?;
    story.ended(&single.id).await?;
    let arrivals = control.arrivals().await?;
    assert_eq!(arrivals.len(), 4 + 1);
    let ledger = control.ledger().await?;
    assert_eq!(dials(&ledger).into_values().collect::<Vec<_>>(), [1; 4 + 1]);

    // F110: asked again, it is the same answer and no more history.
    let again = campaigns.abort_campaign(request).await?.into_inner();
    assert_eq!(again.in_flight, 0);
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
