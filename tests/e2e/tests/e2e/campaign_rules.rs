//! What keeps a campaign from calling somebody now, or for good.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::{
        CheckDialRequest, CheckDialResponse, DialDecision,
        dial_hook_service_server::{DialHookService, DialHookServiceServer},
    },
    campaign::v1::{
        AddSuppressionsRequest, Breaker, CampaignSettings, CampaignState, Contact, ContactState, FrequencyCap,
        ListSuppressionsRequest, RemoveSuppressionsRequest, ResumeCampaignRequest, Rules, UpdateCampaignRequest,
    },
};
use e2e::{
    PATIENCE, Story,
    campaign::{again, always, numbers},
    invalid, refusal, registration,
};
use exotel_sim::{Answer, Callee, CallerScript, Outcome};
use prost_types::{Duration, FieldMask};
use runtime::Tasks;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::outbound::short;

fn person(number: usize) -> String {
    format!("+91981400{number:04}")
}

fn answers(story: &Story, people: usize) -> Result<()> {
    for number in 0..people {
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::answered_by(short()))?;
    }
    Ok(())
}

fn of(contacts: &[Contact], number: usize) -> Result<&Contact> {
    let found = contacts.iter().find(|contact| contact.number == person(number));
    found.context("no such contact")
}

/// A campaign with a key of its own, started.
async fn started(story: &Story, key: &str, settings: CampaignSettings, people: &[usize]) -> Result<String> {
    let campaign = story.campaign(key, settings).await?;
    let file = numbers(people.iter().copied().map(person));
    story.add_contacts(&campaign.id, "file", file.as_bytes()).await?;
    Ok(story.start_campaign(&campaign.id).await?.id)
}

async fn update_rules(story: &Story, campaign: &str, rules: Rules) -> Result<()> {
    let update = UpdateCampaignRequest {
        campaign_id: campaign.to_owned(),
        settings: Some(story.settings(rules)),
        update_mask: Some(FieldMask {
            paths: vec!["rules".to_owned()],
        }),
    };
    story.stack.clients().campaigns().update_campaign(update).await?;
    Ok(())
}

/// F114: calls that were queued while the window was open and come to their turn after it closed are not dialled: the window
/// counts when a call is claimed. They are when it opens.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_held_over_the_end_of_a_window_waits_for_the_next_one() -> Result<()> {
    let story = Story::start().await?;
    answers(&story, 6)?;
    let control = story.stack.control();
    control.set_outcome(&person(0), Outcome::answered_by(CallerScript::new().silence(60_000)))?;
    let one = Rules {
        max_concurrent_calls: 1,
        ..always()
    };
    let id = started(&story, "held", story.settings(one), &[0, 1, 2, 3, 4, 5]).await?;
    let queued = "calls WHERE state = 'queued' AND campaign_id IS NOT NULL";
    stack::poll("one call and five that wait for it", PATIENCE, async || {
        match (story.posts(), story.count(queued).await) {
            (Ok(1), Ok(5)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let today = runtime::Clock::system().now().date_naive();
    let closed = Rules {
        holidays: (0..3)
            .map(|day| (today + chrono::Days::new(day) - chrono::Days::new(1)).to_string())
            .collect(),
        ..always()
    };
    update_rules(&story, &id, closed).await?;
    let live = story
        .at_exotel(|report| !report.streams.is_empty() && report.ended.is_none())
        .await?;
    stack::poll("a conversation", PATIENCE, async || {
        match story.count("media_sessions WHERE started_at IS NOT NULL").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    control.hang_up(&live.call_sid)?;
    let waiting = format!("{queued} AND waiting_reason = 'calling_hours' AND due_at > now()");
    stack::poll("all of them wait for the window", PATIENCE, async || {
        match story.count(&waiting).await {
            Ok(5) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    assert_eq!(story.posts()?, 1);
    update_rules(&story, &id, always()).await?;
    let done = story.campaign_is(&id, CampaignState::Finished).await?;
    assert_eq!(done.progress.context("no progress")?.by_state["reached"], 6);
    story.stack.shut_down().await
}

/// F115: one number in two campaigns: never on two calls at one time, and no more often than the frequency cap of both together.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_in_two_campaigns_is_called_as_often_as_the_cap_allows() -> Result<()> {
    let story = Story::start().await?;
    answers(&story, 4)?;
    let capped = |count| Rules {
        frequency_cap: Some(FrequencyCap {
            count,
            period: Some(Duration {
                seconds: 86_400,
                nanos: 0,
            }),
        }),
        ..always()
    };
    let first = started(&story, "first", story.settings(capped(1)), &[0, 1, 2]).await?;
    story.campaign_is(&first, CampaignState::Finished).await?;
    let second = started(&story, "second", story.settings(capped(1)), &[1, 2, 3]).await?;
    let waits = story
        .campaign_until(&second, "one was called, two wait", |got| {
            got.progress.as_ref().is_some_and(|progress| {
                progress.by_state.get("reached") == Some(&1) && progress.waiting_reason == "no_contacts_due"
            })
        })
        .await?;
    assert_eq!(waits.progress.context("no progress")?.by_state["pending"], 2);
    assert_eq!(of(&story.contacts(&second).await?, 1)?.reason, "frequency_cap");
    assert_eq!((story.dials(&person(1)[1..]).await?, story.posts()?), (1, 4));

    // Without a cap both call at once, and one waits for the other's end.
    let open = story.campaign("third", story.settings(always())).await?;
    let other = story.campaign("fourth", story.settings(always())).await?;
    for campaign in [&open, &other] {
        story
            .add_contacts(&campaign.id, "file", numbers([person(0)]).as_bytes())
            .await?;
        story.start_campaign(&campaign.id).await?;
    }
    story.campaign_is(&open.id, CampaignState::Finished).await?;
    story.campaign_is(&other.id, CampaignState::Finished).await?;
    let mut calls = story.stack.control().calls();
    calls.retain(|report| report.customer.ends_with(&person(0)[3..]));
    calls.sort_by_key(|report| report.created);
    assert_eq!(calls.len(), 3);
    assert!(
        calls
            .windows(2)
            .all(|two| two[0].ended.is_some_and(|ended| ended <= two[1].created))
    );
    story.stack.shut_down().await
}

/// A dial that Exotel did not take is none: it neither counts for the frequency cap nor uses an attempt up.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_dialled_does_not_count() -> Result<()> {
    let story = Story::start().await?;
    let limited = Answer::RateLimited {
        retry_after: Some("1".to_owned()),
    };
    story
        .stack
        .control()
        .set_outcome(&person(0), Outcome::answer(limited))?;
    let rules = Rules {
        frequency_cap: Some(FrequencyCap {
            count: 1,
            period: Some(Duration {
                seconds: 86_400,
                nanos: 0,
            }),
        }),
        ..always()
    };
    let id = started(&story, "capped", story.settings(rules), &[0]).await?;
    let refused = "calls WHERE attempt = 1 AND state = 'queued' AND waiting_reason = 'retry'";
    stack::poll("the first answer", PATIENCE, async || {
        match story.count(refused).await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    answers(&story, 1)?;
    story.campaign_is(&id, CampaignState::Finished).await?;
    let contacts = story.contacts(&id).await?;
    assert_eq!((of(&contacts, 0)?.state(), story.posts()?), (ContactState::Reached, 2));
    story.stack.shut_down().await
}

/// An account that Exotel does not serve pauses its campaigns at once, and no contact is used up; resumed when it is served again,
/// they call everybody.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_served_pauses_its_campaigns() -> Result<()> {
    let story = Story::start().await?;
    for number in 0..20 {
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::answer(Answer::Kyc))?;
    }
    let rules = Rules {
        max_concurrent_calls: 1,
        ..always()
    };
    let id = started(&story, "poor", story.settings(rules), &(0..20).collect::<Vec<_>>()).await?;
    let paused = story.campaign_is(&id, CampaignState::Paused).await?;
    assert_eq!(paused.campaign.context("no campaign")?.state_reason, "kyc");
    assert!(story.posts()? < 20, "{}", story.posts()?);
    let contacts = story.contacts(&id).await?;
    assert!(contacts.iter().all(|contact| contact.attempts == 0));
    answers(&story, 20)?;
    let resume = ResumeCampaignRequest {
        campaign_id: id.clone(),
    };
    story.stack.clients().campaigns().resume_campaign(resume).await?;
    story
        .campaign_until(&id, "nearly all are reached", |got| {
            let reached = got
                .progress
                .as_ref()
                .and_then(|progress| progress.by_state.get("reached"));
            reached.is_some_and(|reached| *reached >= 15)
        })
        .await?;
    story.stack.shut_down().await
}

/// Whom Exotel refuses by the do-not-disturb register is not called again by any campaign; a list that people keep does the same,
/// for as long as an entry holds.
#[tokio::test(flavor = "multi_thread")]
async fn refused_and_listed_numbers_are_not_called() -> Result<()> {
    let story = Story::start().await?;
    answers(&story, 5)?;
    story
        .stack
        .control()
        .set_outcome(&person(0), Outcome::answer(Answer::Dnd))?;
    let first = started(&story, "first", story.settings(again(3)), &[0, 1]).await?;
    story.campaign_is(&first, CampaignState::Finished).await?;
    let contacts = story.contacts(&first).await?;
    assert_eq!(
        (of(&contacts, 0)?.state(), of(&contacts, 0)?.attempts, story.posts()?),
        (ContactState::Refused, 1, 2)
    );
    let mut campaigns = story.stack.clients().campaigns();
    let listed = campaigns
        .list_suppressions(ListSuppressionsRequest::default())
        .await?
        .into_inner();
    // Whoever adds it for a while has an entry of its own: what Exotel said stays, whatever becomes of that.
    let for_a_while = AddSuppressionsRequest {
        campaign_id: String::new(),
        numbers: vec![person(0)],
        reason: "for a while".to_owned(),
        expires_at: Some(prost_types::Timestamp {
            seconds: runtime::Clock::system().now().timestamp() + 600,
            nanos: 0,
        }),
    };
    for (expires_at, added) in [(for_a_while.expires_at, 1), (None, 0), (for_a_while.expires_at, 0)] {
        let entry = AddSuppressionsRequest {
            expires_at,
            ..for_a_while.clone()
        };
        assert_eq!(campaigns.add_suppressions(entry).await?.into_inner().added, added);
    }
    assert_eq!(story.count("suppressions WHERE expires_at IS NULL").await?, 2);
    let exotels = AddSuppressionsRequest {
        reason: "exotel_dnd".to_owned(),
        ..for_a_while
    };
    let refused = campaigns
        .add_suppressions(exotels)
        .await
        .err()
        .context("it was taken")?;
    assert_eq!(refusal(&refused), invalid(&["reason"]));
    let take_off = |exotel_dnd| RemoveSuppressionsRequest {
        campaign_id: String::new(),
        numbers: vec![person(0)],
        exotel_dnd,
    };
    assert_eq!(
        campaigns
            .remove_suppressions(take_off(false))
            .await?
            .into_inner()
            .removed,
        1
    );
    assert_eq!(story.count("suppressions WHERE source = 'exotel'").await?, 1);
    let listed: Vec<_> = listed
        .suppressions
        .iter()
        .map(|s| (s.number.as_str(), s.reason.as_str(), s.by.as_str()))
        .collect();
    assert_eq!(listed, [(person(0).as_str(), "exotel_dnd", "callbridge")]);

    let second = story.campaign("second", story.settings(always())).await?;
    let on_its_list = AddSuppressionsRequest {
        campaign_id: second.id.clone(),
        numbers: vec![person(2), person(3)],
        reason: "asked us not to".to_owned(),
        expires_at: None,
    };
    assert_eq!(campaigns.add_suppressions(on_its_list).await?.into_inner().added, 2);
    let off = RemoveSuppressionsRequest {
        campaign_id: second.id.clone(),
        numbers: vec![person(3)],
        exotel_dnd: false,
    };
    assert_eq!(campaigns.remove_suppressions(off).await?.into_inner().removed, 1);
    // Each request is kept, also one that changed nothing.
    for (kind, number, times) in [("added", 0, 4), ("removed", 0, 1), ("added", 3, 1), ("removed", 3, 1)] {
        let number = person(number);
        let kept = format!("suppression_history WHERE type = '{kind}' AND number = '{number}' AND by <> ''");
        assert_eq!(story.count(&kept).await?, times, "{kind}");
    }
    let file = numbers([0, 2, 3, 4].map(person));
    story.add_contacts(&second.id, "file", file.as_bytes()).await?;
    story.start_campaign(&second.id).await?;
    story.campaign_is(&second.id, CampaignState::Finished).await?;
    let contacts = story.contacts(&second.id).await?;
    let states = [0, 2, 3, 4].map(|number| of(&contacts, number).map(Contact::state).ok());
    let (suppressed, reached) = (Some(ContactState::Suppressed), Some(ContactState::Reached));
    assert_eq!(states, [suppressed, suppressed, reached, reached]);
    assert_eq!(story.posts()?, 4);
    story.stack.shut_down().await
}

/// A campaign whose calls fail pauses by itself and says why; resumed, it has a fresh start.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_failures_pause_a_campaign() -> Result<()> {
    let story = Story::start().await?;
    for number in 0..40 {
        story
            .stack
            .control()
            .set_outcome(&person(number), Outcome::callee(Callee::Fails))?;
    }
    let rules = Rules {
        breaker: Some(Breaker {
            limit: 50,
            least_sample: 5,
            period: None,
        }),
        max_concurrent_calls: 2,
        ..always()
    };
    let id = started(&story, "failing", story.settings(rules), &(0..40).collect::<Vec<_>>()).await?;
    let paused = story.campaign_is(&id, CampaignState::Paused).await?;
    let campaign = paused.campaign.context("no campaign")?;
    assert_eq!(campaign.state_reason, "failure_rate");
    let entry = paused.history.first().context("no history")?;
    assert_eq!((entry.r#type.as_str(), entry.by.as_str()), ("paused", "callbridge"));
    assert!(story.posts()? < 40, "{}", story.posts()?);
    story.stack.shut_down().await
}

/// An agent takes no more calls than it can, whichever way they come, and whoever asks is told how many more there may be.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_takes_no_more_calls_than_it_can() -> Result<()> {
    let mut registration = registration()?;
    registration.agent.max_concurrent_calls = 2;
    registration.account.max_concurrent_calls = 10;
    registration.account.inbound_reserve = 3;
    let story = Story::with(e2e::quick().replicas(2), registration).await?;
    answers(&story, 12)?;
    let file = numbers((0..12).map(person));
    let campaign = story.campaign_of(always(), &file).await?;
    let done = story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let load = story.stack.control().load(&story.registered.account_sid)?;
    assert_eq!(load.peak_calls, 2);
    let capacity = done
        .progress
        .and_then(|progress| progress.capacity)
        .context("no capacity")?;
    assert_eq!(
        (capacity.account, capacity.agent, capacity.campaign, capacity.phone),
        (Some(7), Some(2), None, None)
    );
    let long = Outcome::answered_by(CallerScript::new().silence(60_000));
    let mut left = Vec::new();
    for number in 20..23 {
        story.stack.control().set_outcome(&person(number), long.clone())?;
        let request = story.request(&person(number));
        let placed = story.stack.clients().calls().place_call(request).await?.into_inner();
        let (call, capacity) = (placed.call.context("no call")?, placed.capacity.context("no capacity")?);
        left.push((call.waiting_reason, capacity.agent));
    }
    let free = |left| (String::new(), Some(left));
    assert_eq!(left, [free(1), free(0), ("agent_capacity".to_owned(), Some(0))]);
    story.stack.shut_down().await
}

/// A hook that answers what the story tells it, by number.
#[derive(Clone, Default)]
struct Hook(Arc<Mutex<HashMap<String, DialDecision>>>);

#[tonic::async_trait]
impl DialHookService for Hook {
    async fn check_dial(&self, request: Request<CheckDialRequest>) -> Result<Response<CheckDialResponse>, Status> {
        let request = request.into_inner();
        let decision = self.0.lock().await.get(&request.number).copied();
        let decision = decision.ok_or_else(|| Status::internal("nobody knows"))?;
        Ok(Response::new(CheckDialResponse {
            decision: decision.into(),
            delay: Some(Duration {
                seconds: 3_600,
                nanos: 0,
            }),
            reason: "consent".to_owned(),
        }))
    }
}

/// What is changed of a campaign reaches the calls that wait already: they are made anew, and nobody loses an attempt.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_are_made_anew_when_their_campaign_changes() -> Result<()> {
    let story = Story::start().await?;
    answers(&story, 4)?;
    let control = story.stack.control();
    control.set_outcome(&person(0), Outcome::answered_by(CallerScript::new().silence(60_000)))?;
    let rules = Rules {
        max_concurrent_calls: 1,
        max_attempts: 1,
        ..always()
    };
    let id = started(&story, "changed", story.settings(rules), &[0, 1, 2, 3]).await?;
    let queued = "calls WHERE state = 'queued' AND campaign_id IS NOT NULL";
    stack::poll("one call and three that wait for it", PATIENCE, async || {
        match (story.posts(), story.count(queued).await) {
            (Ok(1), Ok(3)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let update = UpdateCampaignRequest {
        campaign_id: id.clone(),
        settings: Some(CampaignSettings {
            metadata: [("offer".to_owned(), "second".to_owned())].into(),
            ..CampaignSettings::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["metadata".to_owned()],
        }),
    };
    story.stack.clients().campaigns().update_campaign(update).await?;
    let renewed = format!("{queued} AND metadata->>'offer' = 'second'");
    stack::poll("three that were made anew", PATIENCE, async || {
        match (story.count(&renewed).await, story.count(queued).await) {
            (Ok(3), Ok(3)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let live = story
        .at_exotel(|report| !report.streams.is_empty() && report.ended.is_none())
        .await?;
    control.hang_up(&live.call_sid)?;
    let done = story.campaign_is(&id, CampaignState::Finished).await?;
    let progress = done.progress.context("no progress")?;
    assert_eq!(progress.by_state["reached"], 4, "{progress:?}");
    assert_eq!(progress.by_outcome, [("completed".to_owned(), 4)].into());
    assert_eq!(story.posts()?, 4);
    let dropped = "calls WHERE state = 'canceled' AND end_reason = 'campaign_changed' AND attempt = 0";
    assert_eq!(story.count(dropped).await?, 3);
    story.stack.shut_down().await
}

/// The hook has the last word: only its yes dials, and its silence is no yes.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_hooks_yes_dials() -> Result<()> {
    let story = Story::start().await?;
    answers(&story, 4)?;
    let hook = Hook::default();
    let say = async |number, decision| hook.0.lock().await.insert(person(number), decision);
    say(0, DialDecision::Allow).await;
    say(1, DialDecision::Never).await;
    say(2, DialDecision::Later).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let settings = CampaignSettings {
        hook_endpoint: format!("http://{}", listener.local_addr()?),
        ..story.settings(always())
    };
    let tasks = Tasks::new();
    let server = Server::builder()
        .add_service(DialHookServiceServer::new(hook.clone()))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), tasks.stopping());
    tasks.spawn(async move {
        // The story notices by itself when nobody serves.
        let _ = server.await;
    });
    let id = started(&story, "hooked", settings, &[0, 1, 2, 3]).await?;
    let away = format!(
        "calls WHERE state = 'queued' AND customer = '{}' AND waiting_reason = 'hook_unavailable'",
        person(3)
    );
    // What is for later is in nobody's way until then.
    let later = format!(
        "contacts WHERE number = '{}' AND state = 'pending' AND reason = 'hook_later' AND next_at > now() + interval '59 minutes'",
        person(2)
    );
    stack::poll("two that wait", PATIENCE, async || {
        match (story.count(&later).await, story.count(&away).await) {
            (Ok(1), Ok(1)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    story
        .campaign_until(&id, "one reached, one dropped", |got| {
            got.progress.as_ref().is_some_and(|progress| {
                progress.by_state.get("reached") == Some(&1) && progress.by_state.get("suppressed") == Some(&1)
            })
        })
        .await?;
    assert_eq!(of(&story.contacts(&id).await?, 1)?.reason, "hook_never");
    assert_eq!(story.posts()?, 1);
    tasks.stop();
    story.stack.shut_down().await
}
