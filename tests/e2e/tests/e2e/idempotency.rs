//! The same key is the same call, for ever.

use std::{collections::BTreeSet, time::Duration};

use callbridge_proto::call::v1::{CallState, PlaceCallRequest, WaitFor};
use e2e::{PATIENCE, Story, invalid, quick, refusal, refused, registration, with_another_key};
use exotel_sim::{Callee, CallerScript, Outcome};
use futures_util::future::{join_all, try_join_all};
use stack::poll;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

const NUMBER: &str = "+919812300001";

fn short() -> Outcome {
    Outcome::answered_by(CallerScript::new().silence(100).hang_up())
}

fn keyed(story: &Story, key: &str, to: &str) -> PlaceCallRequest {
    PlaceCallRequest {
        idempotency_key: key.to_owned(),
        wait_for: WaitFor::Placed.into(),
        ..story.request(to)
    }
}

/// Dials at Exotel, and rows.
async fn counted(story: &Story) -> anyhow::Result<(usize, i64)> {
    Ok((story.stack.control().ledger().await?.len(), story.count("calls").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_answers_the_same_call_and_dials_nobody() -> anyhow::Result<()> {
    let (builder, other_caller) = with_another_key(quick(), "other", "calls.write+calls.read")?;
    let story = Story::with(builder, registration()?).await?;
    story.stack.control().set_outcome(NUMBER, short())?;

    let mut client = story.stack.clients().calls();
    let first = client.place_call(keyed(&story, "k", NUMBER)).await?.into_inner();
    let call = first.call.unwrap_or_default();
    assert_eq!(
        (first.repeated, call.state(), call.caller.as_str()),
        (false, CallState::Placed, "stack")
    );

    let again = client.place_call(keyed(&story, "k", NUMBER)).await?.into_inner();
    assert_eq!(
        (again.repeated, again.call.unwrap_or_default().id),
        (true, call.id.clone())
    );

    // Another wait is no other request.
    let mut patient = keyed(&story, "k", NUMBER);
    patient.wait_for = WaitFor::Ended.into();
    let ended = client.place_call(patient).await?.into_inner();
    let last = ended.call.unwrap_or_default();
    assert_eq!(
        (ended.repeated, &last.id, last.state()),
        (true, &call.id, CallState::Completed)
    );

    // The same number in other words is no other request either.
    let spoken = client
        .place_call(keyed(&story, "k", "098123 00001"))
        .await?
        .into_inner();
    assert_eq!(
        (spoken.repeated, spoken.call.unwrap_or_default().id),
        (true, call.id.clone())
    );
    assert_eq!(counted(&story).await?, (1, 1));

    // The key of another caller is another key.
    let mut others = story.stack.clients().with_key(other_caller).calls();
    let placed = others.place_call(keyed(&story, "k", NUMBER)).await?.into_inner();
    let theirs = placed.call.unwrap_or_default();
    assert!(!placed.repeated && theirs.id != call.id);
    assert_eq!(theirs.caller, "other");
    story.ended(&theirs.id).await?;
    assert_eq!(counted(&story).await?, (2, 2));
    Ok(())
}

/// F12.
#[tokio::test(flavor = "multi_thread")]
async fn a_used_key_is_not_taken_for_another_request() -> anyhow::Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(NUMBER, short())?;
    let call = story.place(keyed(&story, "k", NUMBER)).await?;
    let reused = refused(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");

    let mut changed = vec![keyed(&story, "k", "+919812300002")];
    changed.push({
        let mut request = keyed(&story, "k", NUMBER);
        request.metadata.insert("order".to_owned(), "7".to_owned());
        request
    });
    changed.push({
        let mut request = keyed(&story, "k", NUMBER);
        request.record = true;
        request
    });
    changed.push({
        let mut request = keyed(&story, "k", NUMBER);
        request.priority = 1;
        request
    });
    for request in changed {
        let status = story.stack.clients().calls().place_call(request).await.unwrap_err();
        assert_eq!(refusal(&status), reused);
        assert!(status.message().contains(&call.id), "{}", status.message());
    }
    story.ended(&call.id).await?;
    assert_eq!(counted(&story).await?, (1, 1));
    Ok(())
}

/// F11.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_with_one_key_on_two_replicas_are_one_call() -> anyhow::Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    story.stack.control().set_outcome(NUMBER, short())?;
    let callers = (0..50).map(|at| {
        let mut client = story.stack.clients_of(at % 2).calls();
        let request = keyed(&story, "k", NUMBER);
        async move { client.place_call(request).await }
    });
    let answers = try_join_all(callers).await?;
    let answers: Vec<_> = answers.into_iter().map(tonic::Response::into_inner).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1);
    let calls: Vec<_> = answers.into_iter().filter_map(|answer| answer.call).collect();
    let ids: BTreeSet<&str> = calls.iter().map(|call| call.id.as_str()).collect();
    let sids: BTreeSet<&str> = calls.iter().map(|call| call.exotel_call_sid.as_str()).collect();
    assert_eq!((calls.len(), ids.len(), sids.len()), (50, 1, 1), "{sids:?}");
    story.ended(&calls[0].id).await?;
    assert_eq!(counted(&story).await?, (1, 1));
    assert!(sids.contains(story.stack.control().ledger().await?[0].call_sid.as_str()));
    Ok(())
}

/// F13.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_key_leaves_no_trace() -> anyhow::Result<()> {
    let story = Story::start().await?;
    for key in ["", &"k".repeat(129)] {
        let status = story
            .stack
            .clients()
            .calls()
            .place_call(keyed(&story, key, NUMBER))
            .await
            .unwrap_err();
        assert_eq!(refusal(&status), invalid(&["idempotency_key"]));
    }
    assert_eq!(counted(&story).await?, (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_deadline_is_answered_with_the_call_as_it_stands() -> anyhow::Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(
        NUMBER,
        Outcome {
            answer_after_ms: Some(30_000),
            ..Outcome::default()
        },
    )?;
    let mut request = keyed(&story, "k", NUMBER);
    request.wait_for = WaitFor::Answered.into();
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_millis(1_200));
    let began = Instant::now();
    let answer = story.stack.clients().calls().place_call(request).await?.into_inner();
    let waited = began.elapsed();
    assert_eq!(answer.call.unwrap_or_default().state(), CallState::Placed);
    assert!(waited >= Duration::from_secs(1), "it waited only {waited:?}");
    assert_eq!(counted(&story).await?, (1, 1));
    Ok(())
}

/// F10.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_gets_its_call_later() -> anyhow::Result<()> {
    let story = Story::start().await?;
    let numbers: Vec<String> = (0..8_u64).map(|at| format!("+9198123000{}", 10 + at)).collect();
    for number in &numbers {
        story.stack.control().set_outcome(
            number,
            Outcome {
                answer_delay_ms: 500,
                ..short()
            },
        )?;
    }
    // A dropped future is a cancelled RPC: most of these before there is a row, or while there is one.
    let given_up = numbers[1..].iter().zip(0_u64..).map(|(number, at)| {
        let mut client = story.stack.clients().calls();
        let request = keyed(&story, number, number);
        async move {
            timeout(Duration::from_millis(at * 25), client.place_call(request))
                .await
                .is_err()
        }
    });
    let given_up = join_all(given_up).await;
    assert!(given_up.iter().all(|given_up| *given_up), "{given_up:?}");

    // And one while Exotel has the dial and has not answered.
    let number = &numbers[0];
    let mut client = story.stack.clients().calls();
    let (request, dialled) = (keyed(&story, number, number), number[3..].to_owned());
    let at_exotel = poll("the dial", PATIENCE, async || {
        let dials = story
            .stack
            .control()
            .ledger()
            .await
            .map_err(|error| error.to_string())?;
        if dials.iter().any(|dial| dial.from.ends_with(&dialled)) {
            Ok(())
        } else {
            Err(format!("{} dials", dials.len()))
        }
    });
    tokio::select! {
        answer = client.place_call(request) => anyhow::bail!("it was answered: {answer:?}"),
        dialled = at_exotel => dialled?,
    }
    let later = story
        .stack
        .clients()
        .calls()
        .place_call(keyed(&story, number, number))
        .await?
        .into_inner();
    assert!(later.repeated);

    let mut ids = BTreeSet::new();
    for number in &numbers {
        let call = story.place(keyed(&story, number, number)).await?;
        assert_eq!(call.attempt, 1);
        assert_eq!(story.ended(&call.id).await?.0.state(), CallState::Completed);
        ids.insert(call.id);
    }
    assert_eq!((ids.len(), counted(&story).await?), (8, (8, 8)));
    Ok(())
}

/// F10: three hundred clients give up after up to 200 ms, wherever their calls are by then. Each call is found with its key, and
/// was dialled once or not at all until then.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_give_up_at_any_moment_find_their_calls() -> anyhow::Result<()> {
    const CLIENTS: usize = 300;
    let mut registration = registration()?;
    registration.account.calls_per_minute = 6_000;
    let story = Story::with(quick(), registration).await?;
    let numbers: Vec<String> = (0..CLIENTS).map(|at| format!("+919812{at:06}")).collect();
    for number in &numbers {
        // So many conversations would be another test.
        story
            .stack
            .control()
            .set_outcome(number, Outcome::callee(Callee::Busy))?;
    }
    let dice = |at: usize| (u64::try_from(at).unwrap_or_default() + 17).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let (mut given_up, mut again) = (0, Vec::new());
    for numbers in numbers.chunks(30) {
        let tries = numbers.iter().zip(again.len()..).map(|(number, at)| {
            let (mut client, request) = (story.stack.clients().calls(), keyed(&story, number, number));
            async move {
                let patience = Duration::from_millis(dice(at) % 200);
                timeout(patience, client.place_call(request)).await.is_err()
            }
        });
        given_up += join_all(tries).await.into_iter().filter(|given_up| *given_up).count();
        again.extend(numbers);
    }
    assert!(given_up > CLIENTS / 3, "only {given_up} gave up");
    let mut ids = BTreeSet::new();
    for numbers in numbers.chunks(10) {
        let calls = numbers.iter().map(|number| story.place(keyed(&story, number, number)));
        for call in try_join_all(calls).await? {
            assert!(call.state() != CallState::Failed, "{}", call.end_reason);
            ids.insert(call.id);
        }
    }
    assert_eq!(ids.len(), CLIENTS);
    poll("all dials", PATIENCE, async || match story.posts() {
        Ok(CLIENTS) => Ok(()),
        Ok(posts) => Err(format!("{posts} dials")),
        Err(error) => Err(error.to_string()),
    })
    .await?;
    assert_eq!(story.count("calls WHERE attempt <> 1").await?, 0);
    assert_eq!(counted(&story).await?, (CLIENTS, i64::try_from(CLIENTS)?));
    Ok(())
}
