//! Dials with an unknown outcome of which nothing is heard: Exotel's list settles them, and they are never dialled again.

use anyhow::{Context as _, Result};
use callbridge_proto::call::v1::{Call, CallEvent, CallFilter, CallState, ListCallsRequest};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use e2e::{CUSTOMER, PATIENCE, Story, callback_url, http, kinds, quick, registration, seconds_from_now};
use exotel_sim::{Account, Answer, Callbacks, Callee, Outcome};
use stack::poll;

/// The customer's number as the ledger's helper wants it.
const NATIONAL: &str = "09812340017";

/// With a settle window that a test can wait for, and an Exotel that sends no callbacks.
async fn silent(window: &str, simulated: impl FnOnce(&mut Account)) -> Result<Story> {
    let mut registration = registration()?;
    registration.simulated.callbacks = Some(Callbacks {
        drop: 1.0,
        ..Callbacks::default()
    });
    simulated(&mut registration.simulated);
    Story::with(quick().call_setting("SETTLE_WINDOW", window), registration).await
}

/// A dial that is made, or not, and whose answer says neither.
fn unknown(dialled: bool, callee: Callee) -> Outcome {
    Outcome {
        dialled: Some(dialled),
        callee,
        ..Outcome::answer(Answer::Unavailable)
    }
}

fn data<'a>(event: &'a CallEvent, key: &str) -> Option<&'a str> {
    event.data.get(key).map(String::as_str)
}

/// Another program of the company's calls the same person from the same number, past us. Returns Exotel's id of the call.
async fn stranger(story: &Story) -> Result<String> {
    let accounts = story.stack.control().accounts();
    let account = accounts
        .iter()
        .find(|account| account.sid == story.registered.account_sid)
        .context("no account")?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::callee(Callee::Busy))?;
    let sid = &account.sid;
    let form = [
        ("From", CUSTOMER.to_owned()),
        ("CallerId", story.registered.phone_number.clone()),
        ("Url", format!("http://my.exotel.com/{sid}/exoml/start_voice/1001")),
    ];
    let answer = http()?
        .post(format!(
            "{}/v1/Accounts/{sid}/Calls/connect.json",
            story.stack.simulator_url()
        ))
        .basic_auth(&account.api_key, Some(&account.api_token))
        .form(&form)
        .send()
        .await?;
    let answer: serde_json::Value = answer.error_for_status()?.json().await?;
    Ok(answer["Call"]["Sid"].as_str().context("no Sid")?.to_owned())
}

/// Follows a dial that Exotel made to its end: it may be found while the phone rings.
async fn followed(story: &Story, call: &Call) -> Result<(Call, Vec<CallEvent>)> {
    let open = [CallState::Queued, CallState::Dialing, CallState::Unconfirmed];
    let found = story
        .until(&call.id, "the list to tell", |call| !open.contains(&call.state()))
        .await?;
    if found.state() == CallState::Placed {
        story.report(&found).await?;
        story.read_back_now(&found).await?;
    }
    story.ended(&call.id).await
}

async fn for_review(story: &Story) -> Result<Vec<String>> {
    let filter = Some(CallFilter {
        needs_review: true,
        ..CallFilter::default()
    });
    let request = ListCallsRequest {
        filter,
        ..ListCallsRequest::default()
    };
    let found = story.stack.clients().calls().list_calls(request).await?.into_inner();
    Ok(found.calls.into_iter().map(|call| call.id).collect())
}

/// F4, F19, F21: nobody was dialled, and nothing is heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_exotel_does_not_list_was_not_made() -> Result<()> {
    let story = silent("2s", |_| ()).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, unknown(false, Callee::Answers))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.end_presumed, call.attempt),
        (CallState::Failed, "unconfirmed", true, 1)
    );
    assert_eq!(kinds(&events), ["queued", "dialing", "unconfirmed", "ended"]);
    assert_eq!(
        (events[3].source.as_str(), data(&events[3], "candidates")),
        ("read_back", None)
    );
    assert!(!call.needs_review);
    let waited = call.ended_at.zip(call.dialed_at).context("times")?;
    assert!(
        waited.0.seconds - waited.1.seconds >= 2,
        "not before the window is over"
    );
    assert_eq!(
        story.count("calls WHERE settle_polls >= 2").await?,
        1,
        "looked for more than once"
    );
    assert_eq!((story.posts()?, story.dials(NATIONAL).await?), (1, 0));
    story.stack.shut_down().await
}

/// F6, F7, F19, F20, F21, F24: the person was dialled, the answer did not say so, and no callback comes.
#[tokio::test(flavor = "multi_thread")]
async fn exotels_list_settles_a_dial_that_was_made() -> Result<()> {
    let story = silent("3s", |_| ()).await?;
    let answer = |answer| Outcome {
        dialled: Some(true),
        ..Outcome::answer(answer)
    };
    let xml = Answer::Custom {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/xml".to_owned())],
        body: "<TwilioResponse><Call><Sid>{CallSid}".to_owned(),
        repeat: 1,
    };
    let huge = Answer::Custom {
        status: 200,
        headers: Vec::new(),
        body: "{\"Call\":{\"Sid\":\"{CallSid}\"},".to_owned(),
        repeat: 100_000,
    };
    let cases = [
        (
            "+919812340071",
            answer(Answer::Unavailable),
            Callee::Busy,
            CallState::Busy,
        ),
        ("+919812340072", answer(Answer::Lost), Callee::Fails, CallState::Failed),
        ("+919812340073", answer(Answer::Html), Callee::Busy, CallState::Busy),
        ("+919812340074", answer(Answer::Empty), Callee::Busy, CallState::Busy),
        (
            "+919812340075",
            answer(Answer::Truncated),
            Callee::Busy,
            CallState::Busy,
        ),
        ("+919812340076", answer(xml), Callee::Busy, CallState::Busy),
        ("+919812340077", answer(huge), Callee::Busy, CallState::Busy),
    ];
    let mut calls = Vec::new();
    for (number, outcome, callee, _) in &cases {
        let outcome = Outcome {
            callee: *callee,
            ..outcome.clone()
        };
        story.stack.control().set_outcome(number, outcome)?;
        calls.push(story.place(story.request(number)).await?);
    }
    for (call, (number, _, _, state)) in calls.iter().zip(&cases) {
        let (call, events) = followed(&story, call).await?;
        assert_eq!(
            (call.state(), call.end_presumed, call.needs_review, call.attempt),
            (*state, false, false, 1),
            "{number}"
        );
        assert_eq!(
            kinds(&events),
            ["queued", "dialing", "unconfirmed", "placed", "ended"],
            "{number}"
        );
        assert_eq!(
            (events[3].source.as_str(), data(&events[3], "found")),
            ("read_back", Some("list"))
        );
        let ledger = story.stack.control().ledger().await?;
        let dials: Vec<_> = ledger.iter().filter(|dial| dial.from.ends_with(&number[3..])).collect();
        let [dial] = &dials[..] else {
            panic!("one dial of {number}: {dials:?}")
        };
        assert_eq!(dial.call_sid, call.exotel_call_sid);
    }
    assert_eq!(story.posts()?, cases.len());
    story.stack.shut_down().await
}

/// A call that rings is found too, and goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_dial_that_still_rings_is_placed_when_it_is_found() -> Result<()> {
    let story = silent("3s", |_| ()).await?;
    let outcome = Outcome {
        answer_after_ms: Some(25_000),
        ..unknown(true, Callee::Answers)
    };
    story.stack.control().set_outcome(CUSTOMER, outcome)?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let placed = story.until_state(&call.id, CallState::Placed).await?;
    let [dial] = &story.stack.control().ledger().await?[..] else {
        anyhow::bail!("one dial")
    };
    assert_eq!(placed.exotel_call_sid, dial.call_sid);
    story.stack.control().hang_up(&dial.call_sid)?;
    story.report(&placed).await?;
    story.read_back_now(&placed).await?;
    let (call, _) = story.ended(&call.id).await?;
    assert!(!call.end_presumed, "by Exotel's own word");
    assert_eq!((story.posts()?, story.dials(NATIONAL).await?), (1, 1));
    story.stack.shut_down().await
}

/// Exotel's list lags.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_listed_late_is_found() -> Result<()> {
    let story = silent("6s", |_| ()).await?;
    let control = story.stack.control();
    control.change_settings(|settings| settings.list_delay_ms = 2_000);
    control.set_outcome(CUSTOMER, unknown(true, Callee::Busy))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let (call, _) = followed(&story, &call).await?;
    assert_eq!((call.state(), call.end_presumed), (CallState::Busy, false));
    assert_eq!(
        story.count("calls WHERE settle_polls >= 1").await?,
        1,
        "it was not there at first"
    );
    assert_eq!((story.posts()?, story.dials(NATIONAL).await?), (1, 1));
    story.stack.shut_down().await
}

/// Two calls can be ours: neither is taken, a person has to look, and later evidence tells.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_candidates_none_is_taken() -> Result<()> {
    let story = silent("2s", |_| ()).await?;
    let strangers = stranger(&story).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, unknown(true, Callee::Busy))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let (call, events) = story.ended(&call.id).await?;
    assert_eq!(
        (
            call.state(),
            call.end_reason.as_str(),
            call.end_presumed,
            call.needs_review
        ),
        (CallState::Failed, "unconfirmed_ambiguous", true, true)
    );
    assert_eq!(call.exotel_call_sid, "", "nothing is guessed");
    let ledger = story.stack.control().ledger().await?;
    let ours = ledger
        .iter()
        .find(|dial| dial.call_sid != strangers)
        .context("our dial")?
        .call_sid
        .clone();
    let last = events.last().context("an end")?;
    let mut named: Vec<&str> = data(last, "candidates").context("candidates")?.split(',').collect();
    named.sort_unstable();
    let mut both = [ours.as_str(), &strangers];
    both.sort_unstable();
    assert_eq!(named, both);
    assert_eq!(for_review(&story).await?, std::slice::from_ref(&call.id));

    let url = callback_url(&story, &call.id, seconds_from_now(60))?;
    let told = http()?
        .post(url)
        .form(&[("CallSid", ours.as_str()), ("Status", "busy")])
        .send()
        .await?;
    assert_eq!(told.status().as_u16(), 200);
    let call = story.until_state(&call.id, CallState::Busy).await?;
    assert_eq!((call.exotel_call_sid, call.end_presumed), (ours, false));
    assert_eq!(
        (story.posts()?, ledger.len()),
        (2, 2),
        "one of them is ours, the other the stranger's"
    );
    story.stack.shut_down().await
}

/// Exotel's times have no zone: the account's is learned, and a dial is found before it is.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_in_other_zones_are_settled() -> Result<()> {
    for minutes in [480, -300] {
        let story = silent("3s", |account| account.utc_offset_minutes = minutes).await?;
        let known = format!("accounts WHERE utc_offset_minutes = {minutes}");
        story
            .stack
            .control()
            .set_outcome(CUSTOMER, unknown(true, Callee::Busy))?;
        let call = story.place(story.request(CUSTOMER)).await?;
        let (first, _) = followed(&story, &call).await?;
        assert_eq!(
            (first.state(), first.end_presumed),
            (CallState::Busy, false),
            "{minutes} minutes"
        );
        poll("the account's zone", PATIENCE, async || {
            story.read_back_now(&first).await.map_err(|error| error.to_string())?;
            match story.count(&known).await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        // With the zone known; the first call is not taken for the second.
        let call = story.place(story.request(CUSTOMER)).await?;
        let (second, _) = followed(&story, &call).await?;
        assert_eq!(
            (second.state(), second.end_presumed),
            (CallState::Busy, false),
            "{minutes} minutes"
        );
        assert_ne!(first.exotel_call_sid, second.exotel_call_sid);
        assert_eq!((story.posts()?, story.dials(NATIONAL).await?), (2, 2));
        story.stack.shut_down().await?;
    }
    Ok(())
}

/// An Exotel that cannot be asked is no proof of anything: the window stays open.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_stays_open_while_exotel_cannot_be_asked() -> Result<()> {
    let story = silent("1s", |account| account.reads_per_minute = 1).await?;
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, unknown(false, Callee::Answers))?;
    let call: Call = story.place(story.request(CUSTOMER)).await?;
    story.until_state(&call.id, CallState::Unconfirmed).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let open = story.get(&call.id).await?;
    assert_eq!(open.state(), CallState::Unconfirmed, "long after the window");
    assert_eq!(story.count("calls WHERE settle_polls < 3").await?, 1);
    story.at_account(|account| account.reads_per_minute = 0)?;
    // The account's reads rest for a minute.
    let mut conn = AsyncPgConnection::establish(&story.stack.database_url).await?;
    conn.batch_execute("UPDATE rates SET next_at = now(); UPDATE calls SET read_back_at = now()")
        .await?;
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.needs_review),
        (CallState::Failed, "unconfirmed", false)
    );
    assert_eq!((story.posts()?, story.dials(NATIONAL).await?), (1, 0));
    story.stack.shut_down().await
}
