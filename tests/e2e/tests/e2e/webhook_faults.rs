//! Webhooks while call-service, or its database, is not there: they are answered in time, and 200 is never a lie.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{Call, CallState};
use e2e::{CUSTOMER, Database, PATIENCE, Story, callback_url, http, kinds, quick, registration, seconds_from_now};
use exotel_sim::{CallerScript, Outcome};
use futures_util::future::{join_all, try_join_all};
use runtime::Tasks;
use stack::poll;
use tokio::time::Instant;

/// A call that rings, and where its callbacks go.
pub(super) async fn ringing(story: &Story, number: &str) -> Result<(Call, String)> {
    let outcome = Outcome {
        answer_after_ms: Some(60_000),
        ..Outcome::default()
    };
    story.stack.control().set_outcome(number, outcome)?;
    let call = story.place(story.request(number)).await?;
    let call = story.until_state(&call.id, CallState::Placed).await?;
    let url = callback_url(story, &call.id, seconds_from_now(3600))?;
    Ok((call, url))
}

/// Sends the callback that says that nobody answered.
pub(super) async fn nobody_answered(call: &Call, url: &str) -> Result<(u16, Duration)> {
    let form = [("CallSid", call.exotel_call_sid.as_str()), ("Status", "no-answer")];
    let began = Instant::now();
    let answer = http()?.post(url).form(&form).send().await?;
    Ok((answer.status().as_u16(), began.elapsed()))
}

/// F54: call-service comes back while the edge still tries. The callback is answered when it is kept, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_waits_for_call_service_to_come_back() -> Result<()> {
    let mut story = Story::start().await?;
    let (call, url) = ringing(&story, CUSTOMER).await?;
    story.stack.call_services[0].kill().await;
    let telling = Tasks::new().spawn({
        let call = call.clone();
        async move { nobody_answered(&call, &url).await }
    });
    // The edge has asked in vain for three seconds by then.
    let began = Instant::now();
    poll("three seconds", PATIENCE, async || match began.elapsed() {
        so_far if so_far > Duration::from_secs(3) => Ok(()),
        so_far => Err(format!("{so_far:?}")),
    })
    .await?;
    assert!(!telling.is_finished(), "it was answered while nobody could keep it");
    assert_eq!(story.count("webhook_inbox").await?, 0);
    story.stack.restart_call_service(0).await?;
    let (status, took) = telling.await?.context("dropped")??;
    assert_eq!(status, 200);
    assert!(took < Duration::from_secs(12), "{took:?}");
    assert_eq!(story.count("webhook_inbox").await?, 1);
    story.until_state(&call.id, CallState::NoAnswer).await?;
    Ok(())
}

/// F54: it does not come back. The callback is refused in time, so that Exotel sends it again, and then it is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_nobody_can_keep_is_refused_and_taken_when_it_comes_again() -> Result<()> {
    let mut story = Story::start().await?;
    let (call, url) = ringing(&story, CUSTOMER).await?;
    story.stack.call_services[0].kill().await;
    let told = join_all((0..5).map(|_| nobody_answered(&call, &url))).await;
    for told in told {
        let (status, took) = told?;
        assert_eq!(status, 503);
        assert!((10..=13).contains(&took.as_secs()), "{took:?}");
    }
    assert_eq!(story.count("webhook_inbox").await?, 0, "nothing is kept");
    story.stack.restart_call_service(0).await?;
    assert_eq!(nobody_answered(&call, &url).await?.0, 200);
    story.until_state(&call.id, CallState::NoAnswer).await?;
    Ok(())
}

/// F55: the database is locked. What a person waits for is answered within two seconds, with a 503 on which the flow goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_flow_hears_within_two_seconds_that_there_is_no_answer() -> Result<()> {
    let database = Database::proxied().await?;
    let story = Story::with(database.builder(), registration()?).await?;
    let holder = database.session().await?;
    let urls = &story.registered.urls;
    let applets = [
        &urls.connect_url,
        &urls.greeting_url,
        &urls.gather_url,
        &urls.input_url,
        &urls.transfer_url,
        &urls.end_url,
    ];
    let ask = || {
        let query = story.arrival("sid-1", "09812340018");
        applets.map(|url| {
            let query = query.clone();
            async move {
                let began = Instant::now();
                let answer = http()?
                    .get(url)
                    .query(&query)
                    .query(&[("digits", "\"1\"")])
                    .send()
                    .await?;
                anyhow::Ok((url, answer.status().as_u16(), began.elapsed()))
            }
        })
    };
    holder
        .batch_execute("BEGIN; LOCK TABLE accounts, phones, agents, calls, media_sessions IN ACCESS EXCLUSIVE MODE")
        .await?;
    for (url, status, took) in try_join_all(ask()).await? {
        assert_eq!(status, 503, "{}", url.rsplit('/').next().unwrap_or_default());
        assert!(took < Duration::from_millis(2_600), "{url}: {took:?}");
    }
    holder.batch_execute("ROLLBACK").await?;
    // The first of them makes the call that the others are about.
    for asked in ask() {
        let (url, status, _) = asked.await?;
        assert!(
            status == 200 || status == 302,
            "{}: {status}",
            url.rsplit('/').next().unwrap_or_default()
        );
    }
    assert_eq!(story.count("calls").await?, 1);
    Ok(())
}

/// F43: one callback a hundred times at one moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_copies_at_one_moment_are_one_change() -> Result<()> {
    let story = Story::with(quick().replicas(2).edges(2), registration()?).await?;
    let (call, url) = ringing(&story, CUSTOMER).await?;
    let told = join_all((0..100).map(|_| nobody_answered(&call, &url))).await;
    for told in told {
        assert_eq!(told?.0, 200);
    }
    poll("all copies to be applied", PATIENCE, async || {
        match story
            .count("webhook_inbox WHERE applied_at IS NOT NULL AND problem IS NULL")
            .await
        {
            Ok(100) => Ok(()),
            Ok(applied) => Err(format!("{applied} are")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await?;
    let events = story.events(&call.id).await?;
    assert_eq!(kinds(&events), ["queued", "dialing", "placed", "ended"]);
    Ok(())
}

/// F20: the connection breaks within the answer, wherever that is. The phone rings, nobody dials again, and the callback tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_anywhere_is_never_dialled_again() -> Result<()> {
    let story = Story::start().await?;
    // In the status line, in the headers, at the body's beginning, in its Sid, and shortly before its end.
    let cuts = [0, 1, 9, 17, 40, 90, 150, 220, 300, 420, 600, 800];
    let mut calls = Vec::new();
    for (cut, at) in cuts.into_iter().zip(0..) {
        let number = format!("+9198123405{at:02}");
        let outcome = Outcome {
            cut_at_byte: Some(cut),
            answer_after_ms: Some(700),
            ..Outcome::answered_by(CallerScript::new().silence(200).hang_up())
        };
        story.stack.control().set_outcome(&number, outcome)?;
        calls.push((
            cut,
            number.replace("+91", "0"),
            story.place(story.request(&number)).await?,
        ));
    }
    let mut unknown = 0;
    for (cut, national, call) in calls {
        let (ended, events) = story.ended(&call.id).await?;
        assert_eq!(
            (ended.state(), ended.attempt),
            (CallState::Completed, 1),
            "cut at {cut}: {:?}",
            kinds(&events)
        );
        assert_eq!(story.dials(&national).await?, 1, "cut at {cut}");
        story.told(&ended.exotel_call_sid).await?;
        unknown += usize::from(kinds(&events).contains(&"unconfirmed"));
    }
    assert!(unknown >= 8, "only {unknown} answers were broken");
    assert_eq!(story.posts()?, cuts.len());
    Ok(())
}
