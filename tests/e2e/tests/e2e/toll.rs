//! Toll fraud (F126): a key that was stolen rings nobody abroad, and nobody without end.

use anyhow::{Context as _, Result};
use call_service::store::caller_days::{self, Lately};
use callbridge_proto::{
    access::v1::{CreateKeyRequest, key_service_client::KeyServiceClient},
    call::v1::{CallState, PlaceCallRequest, TransferCallRequest},
    campaign::v1::CampaignState,
    directory::v1::{CreatePhoneRequest, DiagnoseRequest, Phone, UpdatePhoneRequest},
};
use chrono::TimeDelta;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use e2e::{
    CUSTOMER, Story,
    campaign::{always, numbers},
    kinds, quick, refusal, refused, registration,
};
use exotel_sim::{Callee, CallerScript, Outcome};
use futures_util::future::join_all;
use prost_types::FieldMask;
use stack::{ApiKey, Clients, poll};
use tonic::{Code, Request, Status, transport::Endpoint};

use crate::{
    campaigns::{everybody_answers, person},
    outbound::short,
};

/// Britain, and a number of India whose callers pay extra.
const ABROAD: &str = "+442079460123";
const EXTRA: &str = "18601234567";

fn not_allowed<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("it is refused");
    assert_eq!(
        refusal(&status),
        refused(Code::PermissionDenied, "DESTINATION_NOT_ALLOWED")
    );
    assert!(!status.message().contains("2079460"), "{}", status.message());
}

/// A key of the database, with a name and limits of its own.
async fn key(story: &Story, request: CreateKeyRequest) -> Result<Clients> {
    let channel = Endpoint::from_shared(format!("http://{}", story.stack.grpc_address()))?.connect_lazy();
    let bearer = format!("Bearer {}", story.stack.keys.api_key).parse()?;
    let mut request = Request::new(CreateKeyRequest {
        scopes: ["calls.write", "calls.read", "campaigns.write"]
            .map(str::to_owned)
            .into(),
        ..request
    });
    request.metadata_mut().insert("authorization", bearer);
    let made = KeyServiceClient::new(channel).create_key(request).await?.into_inner();
    Ok(story.stack.clients().with_key(ApiKey::new(&made.api_key)))
}

/// Every way to have a number rung.
#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_abroad() -> Result<()> {
    let story = Story::start().await?;
    let clients = story.stack.clients();
    for number in [ABROAD, EXTRA, "+8801712345678", "+881612345678"] {
        not_allowed(clients.calls().place_call(story.request(number)).await);
    }
    let phone_id = story.registered.phone_id.clone();
    let diagnose = DiagnoseRequest {
        phone_id: phone_id.clone(),
        call: ABROAD.to_owned(),
        ..DiagnoseRequest::default()
    };
    not_allowed(clients.phones().diagnose(diagnose).await);
    let create = CreatePhoneRequest {
        account_id: story.registered.account_id.clone(),
        number: "08042220002".to_owned(),
        transfer_numbers: vec![CUSTOMER.to_owned(), ABROAD.to_owned()],
        ..CreatePhoneRequest::default()
    };
    not_allowed(clients.phones().create_phone(create).await);
    let update = UpdatePhoneRequest {
        phone: Some(Phone {
            id: phone_id,
            transfer_numbers: vec![ABROAD.to_owned()],
            ..Phone::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["transfer_numbers".to_owned()],
        }),
    };
    not_allowed(clients.phones().update_phone(update).await);
    let campaign = story.campaign("c", story.settings(always())).await?;
    let file = numbers([ABROAD.to_owned(), person(1), EXTRA.to_owned()]);
    let report = story.add_contacts(&campaign.id, "file", file.as_bytes()).await?;
    let errors: Vec<(i64, &str)> = report
        .problems
        .iter()
        .map(|error| (error.line, error.problem.as_str()))
        .collect();
    assert_eq!(errors, [(2, "number_not_allowed"), (4, "number_not_allowed")]);

    // Nothing was dialled, stored or counted of all that; a live call is handed to nobody either.
    assert_eq!((story.posts()?, story.count("calls").await?), (0, 0));
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    story.until_state(&call.id, CallState::InProgress).await?;
    let transfer = TransferCallRequest {
        call_id: call.id.clone(),
        to: ABROAD.to_owned(),
        reason: String::new(),
    };
    not_allowed(clients.calls().transfer_call(transfer).await);
    assert!(!kinds(&story.events(&call.id).await?).contains(&"leave_requested"));
    assert_eq!(story.posts()?, 1);
    Ok(())
}

/// What waited when the setting became narrower is not dialled.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_any_more_is_not_dialled() -> Result<()> {
    let story = Story::start().await?;
    let call = story.place(PlaceCallRequest {
        not_before: Some(prost_types::Timestamp {
            seconds: runtime::Clock::system().now().timestamp() + 3_600,
            nanos: 0,
        }),
        ..story.request(CUSTOMER)
    });
    let call = call.await?;
    // As it would be if the setting had been wider.
    story
        .change("calls SET customer = '+442079460123', not_before = now(), due_at = now()")
        .await?;
    let (call, _) = story.ended(&call.id).await?;
    assert_eq!(
        (call.state(), call.end_reason.as_str(), call.attempt),
        (CallState::Failed, "destination_not_allowed", 0)
    );
    assert_eq!(story.posts()?, 0);
    Ok(())
}

/// A key's own list and cap; a key that was made with it has no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_less_than_the_service() -> Result<()> {
    let story = Story::start().await?;
    let narrow = key(
        &story,
        CreateKeyRequest {
            name: "narrow".to_owned(),
            dial_prefixes: vec!["+9198".to_owned()],
            daily_calls: 2,
            ..CreateKeyRequest::default()
        },
    )
    .await?;
    not_allowed(narrow.calls().place_call(story.request("02223456789")).await);
    let first = story.request(CUSTOMER);
    for request in [first.clone(), story.request("+919812340018")] {
        narrow.calls().place_call(request).await?;
    }
    let spent = narrow
        .calls()
        .place_call(story.request("+919812340019"))
        .await
        .unwrap_err();
    assert_eq!(refusal(&spent), refused(Code::ResourceExhausted, "DAILY_CALLS_SPENT"));
    // A repeat is answered as the first one was, and is no call more; nor was the one that was refused.
    assert!(narrow.calls().place_call(first).await?.into_inner().repeated);
    assert_eq!(
        story.count("caller_days WHERE caller = 'narrow' AND calls = 2").await?,
        1
    );
    assert_eq!(story.count("calls WHERE caller = 'narrow'").await?, 2);

    let create = [
        "--json",
        "keys",
        "create",
        "b",
        "--scope",
        "calls.write",
        "--prefix",
        "+9199",
        "--daily-calls",
        "7",
    ];
    let made = story.callbridge(&create).await?.json()?.remove(0);
    assert_eq!(made["key"]["dial_prefixes"], serde_json::json!(["+9199"]));
    assert_eq!(made["key"]["daily_calls"], 7);
    for (wrong, told) in [("+44", "DIAL_ALLOWED_PREFIXES"), ("91", "a plus")] {
        let create = ["keys", "create", "b", "--scope", "calls.write", "--prefix", wrong];
        let (text, exit) = story.callbridge(&create).await?.failure.context("it is made")?;
        assert!(exit == 1 && text.contains(told), "{exit}: {text}");
    }
    Ok(())
}

/// However many ask at one time, at whichever replica.
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_a_day_holds_at_all_replicas_together() -> Result<()> {
    let builder = quick().replicas(2).call_setting("DIAL_DAILY_CALLS", "5");
    let story = Story::with(builder, registration()?).await?;
    let other = Clients::new(
        story.stack.call_services[1].address,
        ApiKey::new(&story.stack.keys.api_key),
    );
    let requests: Vec<PlaceCallRequest> = (0..24).map(|number| story.request(&person(number))).collect();
    let placing = requests.iter().enumerate().map(|(at, request)| {
        let clients = if at % 2 == 0 {
            story.stack.clients()
        } else {
            other.clone()
        };
        async move {
            // On a machine that is loaded some are told to come again.
            poll("an answer", e2e::PATIENCE, async || {
                match clients.calls().place_call(request.clone()).await {
                    Err(status) if refusal(&status).retryable => Err(status),
                    answer => Ok(answer),
                }
            })
            .await
        }
    });
    let answers = join_all(placing).await;
    let mut placed = Vec::new();
    for (request, answer) in requests.iter().zip(answers) {
        match answer? {
            Ok(_) => placed.push(request.clone()),
            Err(status) => assert_eq!(refusal(&status), refused(Code::ResourceExhausted, "DAILY_CALLS_SPENT")),
        }
    }
    assert_eq!(placed.len(), 5);
    for request in placed {
        assert!(
            story
                .stack
                .clients()
                .calls()
                .place_call(request)
                .await?
                .into_inner()
                .repeated
        );
    }
    assert_eq!(story.count("calls").await?, 5);
    assert_eq!(story.count("caller_days WHERE calls = 5").await?, 1);
    Ok(())
}

/// Campaigns dial within the day's calls of whoever made them, all together; the rest waits for the next day, or for more.
#[tokio::test(flavor = "multi_thread")]
async fn campaigns_wait_for_another_day() -> Result<()> {
    let builder = quick().call_setting("DIAL_DAILY_CALLS", "3");
    let mut registration = registration()?;
    registration.account.calls_per_minute = 6_000;
    let story = Story::with(builder, registration).await?;
    everybody_answers(&story, 6)?;
    let mut campaigns = Vec::new();
    for (name, people) in [("one", 0..2), ("two", 2..4)] {
        let campaign = story.campaign(name, story.settings(always())).await?;
        story
            .add_contacts(&campaign.id, name, numbers(people.map(person)).as_bytes())
            .await?;
        campaigns.push(story.start_campaign(&campaign.id).await?.id);
    }
    poll("three dials", e2e::PATIENCE, async || match story.posts() {
        Ok(3) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    // One of the four has no call left: it was not queued, or waits.
    let waits = poll("a campaign that waits for tomorrow", e2e::PATIENCE, async || {
        for id in &campaigns {
            let got = story.get_campaign(id).await.map_err(|error| error.to_string())?;
            if got
                .progress
                .is_some_and(|progress| progress.waiting_reason == "daily_calls")
            {
                return Ok(());
            }
        }
        Err("none".to_owned())
    });
    waits.await?;
    let answer = story.stack.clients().calls().place_call(story.request(CUSTOMER)).await;
    assert_eq!(
        refusal(&answer.unwrap_err()),
        refused(Code::ResourceExhausted, "DAILY_CALLS_SPENT")
    );
    assert_eq!(
        (story.posts()?, story.count("caller_days WHERE calls = 3").await?),
        (3, 1)
    );
    Ok(())
}

/// What alarms are told from: the calls of the last hour by caller, those of campaigns for whoever made them.
#[tokio::test(flavor = "multi_thread")]
async fn what_callers_did_lately_is_known() -> Result<()> {
    let story = Story::start().await?;
    let control = story.stack.control();
    control.set_outcome(&person(0), Outcome::answered_by(short()))?;
    control.set_outcome(&person(1), Outcome::callee(Callee::Fails))?;
    let campaign = story.campaign_of(always(), &numbers([person(0)])).await?;
    story.campaign_is(&campaign.id, CampaignState::Finished).await?;
    let call = story.place(story.request(&person(1))).await?;
    story.ended(&call.id).await?;
    let mut conn = AsyncPgConnection::establish(&story.stack.database_url).await?;
    let now = runtime::Clock::system().now();
    let lately = caller_days::lately(&mut conn, now).await?;
    let stack = |minute, hour| Lately {
        caller: "stack".to_owned(),
        minute,
        hour,
        ended: 2,
        failed: 1,
    };
    assert_eq!(lately, [stack(2, 2)]);
    let later = caller_days::lately(&mut conn, now + TimeDelta::minutes(30)).await?;
    assert_eq!(later, [stack(0, 2)]);
    assert_eq!(caller_days::lately(&mut conn, now + TimeDelta::hours(2)).await?, []);
    Ok(())
}
