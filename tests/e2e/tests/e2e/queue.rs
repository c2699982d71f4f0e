//! Calls that wait for room, and in which order they get it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use callbridge_proto::{
    call::v1::{Call, CallState, PlaceCallRequest, WhenAtCapacity, WhenNumberBusy, place_call_request::From},
    directory::v1::{CreatePhoneRequest, ExotelCredentials, SetAccountCredentialsRequest},
};
use e2e::{CUSTOMER, PATIENCE, Refusal, Story, kinds, quick, refusal, refused, registration};
use exotel_sim::{Answer, Callbacks, CallerScript, ExoPhone, LedgerEntry, Outcome};
use prost_types::Timestamp;
use runtime::Clock;
use stack::poll;
use tonic::Code;

use crate::outbound::short;

/// Rows that hold a slot.
const ACTIVE: &str = "calls WHERE state IN ('dialing', 'unconfirmed', 'placed', 'ringing', 'in_progress')";

/// Somebody who stays on the line.
fn long() -> Outcome {
    Outcome::answered_by(CallerScript::new().silence(60_000))
}

fn person(number: u32) -> String {
    format!("+9198123500{number:02}")
}

fn retryable(code: Code, reason: &str) -> Refusal {
    Refusal {
        retryable: true,
        ..refused(code, reason)
    }
}

/// Whom the simulator rang, in order, by the last two digits.
fn rung(ledger: &[LedgerEntry]) -> Vec<&str> {
    ledger.iter().map(|dial| &dial.from[dial.from.len() - 2..]).collect()
}

async fn capped(account: i32, builder: stack::Builder) -> Result<Story> {
    let mut registration = registration()?;
    registration.account.max_concurrent_calls = account;
    Story::with(builder, registration).await
}

async fn at(story: &Story, call: &Call, reason: &str) -> Result<Call> {
    story
        .until(&call.id, reason, |call| call.waiting_reason == reason)
        .await
}

/// F111, F112: two replicas, no callback ever comes, and still no more than three at one time and no slot left in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_on_two_replicas_and_no_slot_leaks_when_callbacks_are_lost() -> Result<()> {
    let builder = quick().replicas(2).call_setting("READ_BACK_STEPS", "500ms,1s");
    let story = capped(3, builder).await?;
    let control = story.stack.control();
    control.change_settings(|settings| {
        settings.callbacks = Callbacks {
            drop: 1.0,
            ..settings.callbacks.clone()
        };
    });
    let mut calls = Vec::new();
    for number in 0..8 {
        control.set_outcome(&person(number), Outcome::answered_by(short()))?;
        let replica = story.stack.clients_of(usize::try_from(number % 2)?);
        let placed = replica.calls().place_call(story.request(&person(number))).await?;
        calls.push(placed.into_inner().call.context("no call")?);
    }
    let waiting = calls.iter().filter(|call| call.state() == CallState::Queued).count();
    assert!(waiting >= 5, "{waiting} of 8 wait");
    for call in &calls {
        let (call, _) = story.ended(&call.id).await?;
        assert_eq!((call.state(), call.attempt), (CallState::Completed, 1));
    }
    let load = control.load(&story.registered.account_sid)?;
    assert!(load.peak_calls <= 3, "{} at one time", load.peak_calls);
    assert_eq!((control.ledger().await?.len(), story.count(ACTIVE).await?), (8, 0));
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_full_does_not_hold_up_another_one() -> Result<()> {
    let mut registration = registration()?;
    registration.phone.max_concurrent_calls = 1;
    let story = Story::with(quick(), registration).await?;
    let number = story.registered.phone_number.replace("+918040", "+918041");
    story.at_account(|account| {
        let flow = account.exophones[0].flow.clone();
        account.exophones.push(ExoPhone {
            number: number.clone(),
            flow,
        });
    })?;
    let other = CreatePhoneRequest {
        account_id: story.registered.account_id.clone(),
        number,
        agent_id: story.registered.agent.id.clone(),
        ..CreatePhoneRequest::default()
    };
    let other = story.stack.clients().phones().create_phone(other).await?.into_inner();
    let other = other.phone.context("no phone")?;
    let control = story.stack.control();
    for number in 0..3 {
        control.set_outcome(&person(number), long())?;
    }
    let first = story.place(story.request(&person(0))).await?;
    let waits = story.place(story.request(&person(1))).await?;
    assert_eq!(
        (waits.state(), waits.waiting_reason.as_str()),
        (CallState::Queued, "phone_capacity")
    );
    let elsewhere = PlaceCallRequest {
        from: Some(From::PhoneId(other.id)),
        ..story.request(&person(2))
    };
    let elsewhere = story.place(elsewhere).await?;
    story.until_state(&elsewhere.id, CallState::InProgress).await?;
    assert_eq!(story.get(&waits.id).await?.state(), CallState::Queued);
    let first = story.until_state(&first.id, CallState::InProgress).await?;
    control.hang_up(&first.exotel_call_sid)?;
    story.until_state(&waits.id, CallState::InProgress).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn priority_comes_first_and_then_who_came_first_and_a_fresh_call_last() -> Result<()> {
    let story = capped(1, quick()).await?;
    let control = story.stack.control();
    control.set_outcome(&person(0), long())?;
    for number in 1..5 {
        control.set_outcome(&person(number), Outcome::answered_by(short()))?;
    }
    let first = story.place(story.request(&person(0))).await?;
    let first = story.until_state(&first.id, CallState::InProgress).await?;
    let mut last = String::new();
    for (number, priority) in [(1, 0), (2, 10), (3, 0), (4, 10)] {
        let request = PlaceCallRequest {
            priority,
            ..story.request(&person(number))
        };
        let call = story.place(request).await?;
        assert_eq!(call.waiting_reason, "account_capacity");
        if priority == 0 {
            last = call.id;
        }
    }
    control.hang_up(&first.exotel_call_sid)?;
    // Comes while the others wait, and must not take the slot that is free for a moment.
    let fresh = story.place(story.request(&person(5))).await?;
    assert_eq!(fresh.state(), CallState::Queued);
    story.ended(&last).await?;
    story.until(&fresh.id, "its dial", |call| call.attempt == 1).await?;
    let ledger = control.wait_for_any(PATIENCE, |call| call.customer.ends_with("05"));
    ledger.await?;
    assert_eq!(rung(&control.ledger().await?), ["00", "02", "04", "01", "03", "05"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_to_wait_is_refused_and_keeps_the_key() -> Result<()> {
    let story = capped(1, quick()).await?;
    let control = story.stack.control();
    control.set_outcome(&person(0), long())?;
    control.set_outcome(&person(1), Outcome::answered_by(short()))?;
    let first = story.place(story.request(&person(0))).await?;
    let request = PlaceCallRequest {
        when_at_capacity: WhenAtCapacity::Refuse.into(),
        ..story.request(&person(1))
    };
    let mut calls = story.stack.clients().calls();
    let status = calls.place_call(request.clone()).await.unwrap_err();
    assert_eq!(refusal(&status), retryable(Code::ResourceExhausted, "AT_CAPACITY"));
    assert_eq!(story.count("calls").await?, 1);

    let first = story.until_state(&first.id, CallState::InProgress).await?;
    control.hang_up(&first.exotel_call_sid)?;
    story.ended(&first.id).await?;
    let placed = calls.place_call(request).await?.into_inner();
    assert!(!placed.repeated);
    let (call, _) = story.ended(&placed.call.context("no call")?.id).await?;
    assert_eq!((call.state(), call.attempt), (CallState::Completed, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_too_long_is_given_up_whatever_it_waits_for() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, long())?;
    story.place(story.request(CUSTOMER)).await?;
    let soon = Clock::system().now().timestamp() + 2;
    let request = PlaceCallRequest {
        expire_at: Some(Timestamp {
            seconds: soon,
            nanos: 0,
        }),
        ..story.request(CUSTOMER)
    };
    let second = story.place(request).await?;
    let (second, _) = story.ended(&second.id).await?;
    assert_eq!(
        (second.state(), second.end_reason.as_str(), second.attempt),
        (CallState::Failed, "expired", 0)
    );
    assert_eq!(story.dials("09812340017").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_on_another_call_is_waited_for_refused_or_dialled_as_the_caller_says() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, long())?;
    let first = story.place(story.request(CUSTOMER)).await?;
    let first = story.until_state(&first.id, CallState::InProgress).await?;

    let waits = story.place(story.request(CUSTOMER)).await?;
    assert_eq!(
        (waits.state(), waits.waiting_reason.as_str(), &waits.waiting_for_call_id),
        (CallState::Queued, "number_busy", &first.id)
    );
    let request = PlaceCallRequest {
        when_number_busy: WhenNumberBusy::Refuse.into(),
        ..story.request(CUSTOMER)
    };
    let status = story.stack.clients().calls().place_call(request).await.unwrap_err();
    assert_eq!(refusal(&status), retryable(Code::ResourceExhausted, "NUMBER_BUSY"));
    assert!(status.message().contains(&first.id), "{}", status.message());

    let request = PlaceCallRequest {
        when_number_busy: WhenNumberBusy::Allow.into(),
        ..story.request(CUSTOMER)
    };
    let beside = story.place(request).await?;
    let beside = story.until_state(&beside.id, CallState::InProgress).await?;
    assert_eq!(story.get(&waits.id).await?.state(), CallState::Queued);
    control.hang_up(&first.exotel_call_sid)?;
    // It goes on waiting, for the other one now, and says so.
    let waits = story
        .until(&waits.id, "another reason", |call| {
            call.waiting_for_call_id == beside.id
        })
        .await?;
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    control.hang_up(&beside.exotel_call_sid)?;
    let (waits, _) = story.ended(&waits.id).await?;
    assert_eq!((waits.state(), waits.attempt), (CallState::Completed, 1));
    assert_eq!(waits.waiting_for_call_id, "");
    assert_eq!(story.dials("09812340017").await?, 3);
    Ok(())
}

/// Single flight: of two dials without an outcome to one number nobody could tell which one Exotel has.
#[tokio::test(flavor = "multi_thread")]
async fn two_unresolved_dials_to_one_number_never_coexist() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    let slow = Outcome {
        answer_delay_ms: 1_500,
        times: Some(1),
        ..long()
    };
    control.set_outcome(CUSTOMER, slow)?;
    let first = story.place(story.request(CUSTOMER)).await?;
    assert_eq!(first.state(), CallState::Dialing);
    let request = PlaceCallRequest {
        when_number_busy: WhenNumberBusy::Allow.into(),
        ..story.request(CUSTOMER)
    };
    let second = story.place(request).await?;
    assert_eq!(
        (
            second.state(),
            second.waiting_reason.as_str(),
            &second.waiting_for_call_id
        ),
        (CallState::Queued, "same_number_unresolved", &first.id)
    );
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let (second, _) = story.ended(&second.id).await?;
    assert_eq!(second.state(), CallState::Completed);
    assert_eq!(story.dials("09812340017").await?, 2);
    Ok(())
}

/// F113: Exotel's own limit is met to the call, from two replicas.
#[tokio::test(flavor = "multi_thread")]
async fn dials_are_paced_over_all_replicas() -> Result<()> {
    let mut registration = registration()?;
    registration.account.calls_per_minute = 120;
    registration.simulated.calls_per_minute = 120;
    let story = Story::with(quick().replicas(2), registration).await?;
    let control = story.stack.control();
    for number in 0..6 {
        control.set_outcome(&person(number), Outcome::answered_by(short()))?;
        let replica = story.stack.clients_of(usize::try_from(number % 2)?);
        replica.calls().place_call(story.request(&person(number))).await?;
    }
    let all = poll("six dials", PATIENCE, async || {
        let ledger = control.ledger().await.map_err(|error| error.to_string())?;
        if ledger.len() == 6 {
            Ok(ledger)
        } else {
            Err(format!("{} dials", ledger.len()))
        }
    });
    let all = all.await?;
    // 65 s / 120 apart, the first two at most a quarter of a second closer. The first one may be longer on its way than the last.
    let took = all[5].time - all[0].time;
    assert!(
        took.num_milliseconds() >= 5 * 541 - 250 - 400,
        "six dials within {took}"
    );
    assert!(took.num_milliseconds() < 6_000, "six dials took {took}");
    assert_eq!(control.load(&story.registered.account_sid)?.refused_by_rate, 0);
    Ok(())
}

/// F22: a 429 holds all of the account's dials, in every replica.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_hold_the_whole_account() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    let control = story.stack.control();
    let limited = Answer::RateLimited {
        retry_after: Some("2".to_owned()),
    };
    let limited = Outcome {
        times: Some(1),
        ..Outcome::answer(limited)
    };
    control.set_outcome(&person(0), limited)?;
    control.set_outcome(&person(1), Outcome::answered_by(short()))?;
    let begun = std::time::Instant::now();
    let first = story.place(story.request(&person(0))).await?;
    at(&story, &first, "retry").await?;
    control.set_outcome(&person(0), Outcome::answered_by(short()))?;
    poll("the pause", PATIENCE, async || {
        match story.count("rates WHERE next_at > now() + interval '1 second'").await {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let other = story
        .stack
        .clients_of(1)
        .calls()
        .place_call(story.request(&person(1)))
        .await?
        .into_inner();
    let other = other.call.context("no call")?;
    assert_eq!(
        (other.state(), other.waiting_reason.as_str()),
        (CallState::Queued, "rate")
    );
    let (other, _) = story.ended(&other.id).await?;
    assert_eq!(other.state(), CallState::Completed);
    let dial = control
        .ledger()
        .await?
        .into_iter()
        .find(|dial| dial.from.ends_with("01"))
        .context("no dial")?;
    assert!(
        begun.elapsed() > Duration::from_millis(1_700),
        "dialled at {}",
        dial.time
    );
    let (first, _) = story.ended(&first.id).await?;
    assert_eq!((first.attempt, story.posts()?), (2, 3));
    Ok(())
}

/// F23: credentials that Exotel refused are left alone, and new ones are used at once.
#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_not_tried_again_and_again() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(CUSTOMER, Outcome::answered_by(short()))?;
    let key = |key: &str| SetAccountCredentialsRequest {
        account_id: story.registered.account_id.clone(),
        credentials: Some(ExotelCredentials {
            api_key: key.to_owned(),
            api_token: "token".to_owned(),
        }),
    };
    let mut accounts = story.stack.clients().accounts();
    accounts.set_account_credentials(key("wrong")).await?;
    let refused = story.place(story.request(CUSTOMER)).await?;
    let (refused, _) = story.ended(&refused.id).await?;
    assert_eq!(refused.end_reason, "bad_credentials");
    let waits = story.place(story.request(CUSTOMER)).await?;
    assert_eq!(
        (waits.state(), waits.waiting_reason.as_str()),
        (CallState::Queued, "bad_credentials")
    );

    story.at_account(|account| {
        "right".clone_into(&mut account.api_key);
        "token".clone_into(&mut account.api_token);
    })?;
    accounts.set_account_credentials(key("right")).await?;
    let dialled = story.place(story.request(CUSTOMER)).await?;
    let (dialled, events) = story.ended(&dialled.id).await?;
    assert_eq!(
        (dialled.state(), dialled.attempt),
        (CallState::Completed, 1),
        "{:?}",
        kinds(&events)
    );
    assert_eq!(story.get(&waits.id).await?.attempt, 0);
    Ok(())
}
