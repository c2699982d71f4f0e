//! Following calls: nothing is missed, and nothing comes twice.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::call::v1::{
    Call, CallEvent, CallFilter, CallState, EndCallRequest, PlaceCallRequest, WatchCallRequest, WatchCallsRequest,
    WatchCallsResponse,
};
use chrono::TimeDelta;
use e2e::{CUSTOMER, PATIENCE, Story, invalid, kinds, quick, refusal, refused, registration};
use exotel_sim::{CallerScript, Outcome};
use prost_types::Timestamp;
use runtime::{Clock, Tasks};
use stack::{Clients, Stack, poll, postgres::Postgres};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

fn short() -> Outcome {
    Outcome::answered_by(CallerScript::new().silence(100).hang_up())
}

/// A call that waits: an event when it is placed, and one when it is ended.
async fn waiting(story: &Story, to: &str) -> Result<Call> {
    let at = Clock::system().now() + TimeDelta::hours(1);
    let not_before = Some(Timestamp {
        seconds: at.timestamp(),
        nanos: 0,
    });
    story
        .place(PlaceCallRequest {
            not_before,
            ..story.request(to)
        })
        .await
}

async fn end(clients: &Clients, call: &Call) -> Result<()> {
    clients
        .calls()
        .end_call(EndCallRequest {
            call_id: call.id.clone(),
            reason: String::new(),
        })
        .await?;
    Ok(())
}

async fn watch(clients: &Clients, cursor: &str) -> Result<Streaming<WatchCallsResponse>, Status> {
    let request = WatchCallsRequest {
        cursor: cursor.to_owned(),
        filter: None,
    };
    Ok(clients.calls().watch_calls(request).await?.into_inner())
}

/// The next event and its cursor; responses that only carry a cursor are passed by.
async fn next(stream: &mut Streaming<WatchCallsResponse>) -> Result<(CallEvent, String)> {
    let read = async {
        loop {
            let response = stream.message().await?.context("WatchCalls ended")?;
            if let Some(event) = response.event {
                return anyhow::Ok((event, response.cursor));
            }
        }
    };
    timeout(PATIENCE, read).await.context("WatchCalls is silent")?
}

/// The first response: a cursor without an event.
async fn opened(stream: &mut Streaming<WatchCallsResponse>) -> Result<String> {
    let first = timeout(PATIENCE, stream.message())
        .await
        .context("WatchCalls is silent")??
        .context("it ended")?;
    ensure!(first.event.is_none() && !first.cursor.is_empty(), "{first:?}");
    Ok(first.cursor)
}

fn place_of(event: &CallEvent) -> (String, i64) {
    (event.call_id.clone(), event.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_replayed_from_anywhere_and_late_facts_follow_its_end() -> Result<()> {
    let story = Story::start().await?;
    story.stack.control().set_outcome(CUSTOMER, short())?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let (ended, events) = story.ended(&call.id).await?;
    let end = events.iter().find(|event| event.r#type == "ended").context("no end")?;
    assert_eq!(end.state(), CallState::Completed);

    // Price and duration come after the end, and only to who asks for them.
    let mut client = story.stack.clients().calls();
    let request = WatchCallRequest {
        call_id: call.id.clone(),
        after_version: end.version,
        follow_late_facts: true,
    };
    let mut stream = client.watch_call(request).await?.into_inner();
    poll("Exotel to know the price", PATIENCE, async || {
        story.read_back_now(&ended).await.map_err(|error| error.to_string())?;
        let now = story.get(&call.id).await.map_err(|error| error.to_string())?;
        if now.price.is_empty() {
            Err("no price".to_owned())
        } else {
            Ok(())
        }
    })
    .await?;
    let mut late = Vec::new();
    while late.last().is_none_or(|event: &CallEvent| event.source != "read_back") {
        let next = timeout(PATIENCE, stream.message()).await.context("no late facts")??;
        late.extend(next.and_then(|response| response.event));
    }
    assert!(
        late.iter().all(|event| event.state() == CallState::Completed),
        "{late:?}"
    );
    assert_eq!(late.last().map(|event| event.r#type.as_str()), Some("details"));

    // From each version on: exactly the rest, and then the end of the stream.
    let all = story.events(&call.id).await?;
    let last = i64::try_from(all.len())?;
    assert_eq!(
        all.iter().map(|event| event.version).collect::<Vec<_>>(),
        (1..=last).collect::<Vec<_>>()
    );
    for after_version in 0..=last {
        let request = WatchCallRequest {
            call_id: call.id.clone(),
            after_version,
            follow_late_facts: false,
        };
        let mut stream = client.watch_call(request).await?.into_inner();
        let mut seen = Vec::new();
        let read = async {
            while let Some(response) = stream.message().await? {
                seen.extend(response.event);
            }
            Ok::<_, Status>(())
        };
        timeout(PATIENCE, read).await.context("the stream does not end")??;
        assert_eq!(seen, all[usize::try_from(after_version)?..]);
    }

    let request = WatchCallRequest {
        call_id: call.id,
        after_version: -1,
        follow_late_facts: false,
    };
    assert_eq!(
        refusal(&client.watch_call(request).await.unwrap_err()),
        invalid(&["after_version"])
    );
    let nobody = "call_00000000000070008000000000000000".to_owned();
    let request = WatchCallRequest {
        call_id: nobody,
        after_version: 0,
        follow_late_facts: false,
    };
    assert_eq!(
        refusal(&client.watch_call(request).await.unwrap_err()),
        refused(Code::NotFound, "NOT_FOUND")
    );
    Ok(())
}

/// The watcher is on one replica and breaks off again and again; the call lives on the other.
#[tokio::test(flavor = "multi_thread")]
async fn one_call_is_followed_across_disconnects_and_replicas() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    story.stack.control().set_outcome(CUSTOMER, short())?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let mut seen: Vec<CallEvent> = Vec::new();
    let follow = async {
        loop {
            let after_version = seen.last().map_or(0, |event| event.version);
            let request = WatchCallRequest {
                call_id: call.id.clone(),
                after_version,
                follow_late_facts: false,
            };
            let client = story.stack.clients_of(usize::try_from(after_version)? % 2);
            let mut stream = client.calls().watch_call(request).await?.into_inner();
            // At most two events, then a broken connection.
            for _ in 0..2 {
                match stream.message().await? {
                    Some(response) => seen.extend(response.event),
                    None => return anyhow::Ok(()),
                }
            }
        }
    };
    timeout(PATIENCE, follow).await.context("it does not end")??;
    assert!(kinds(&seen).contains(&"ended"), "{:?}", kinds(&seen));
    // Late facts may have come since.
    assert_eq!(seen, story.events(&call.id).await?[..seen.len()]);
    Ok(())
}

/// What one replica commits is seen on the other, in order, once, whatever breaks in between.
#[tokio::test(flavor = "multi_thread")]
async fn all_calls_are_followed_across_disconnects_and_replicas() -> Result<()> {
    let story = Story::with(quick().replicas(2), registration()?).await?;
    let mut stream = watch(&story.stack.clients_of(1), "").await?;
    let mut cursor = opened(&mut stream).await?;
    let mut live = Vec::new();
    for at in 0..6 {
        let call = waiting(&story, &format!("+9198123000{:02}", 10 + at)).await?;
        end(&story.stack.clients_of(at % 2), &call).await?;
        live.push((call.id.clone(), 1));
        live.push((call.id, 2));
    }
    let mut seen = Vec::new();
    let mut cursors = BTreeMap::new();
    while seen.len() < live.len() {
        // Every third event the connection breaks, and the next one is to another replica.
        if seen.len() % 3 == 2 {
            stream = watch(&story.stack.clients_of(seen.len() % 2), &cursor).await?;
        }
        let (event, at) = next(&mut stream).await?;
        seen.push(place_of(&event));
        cursors.insert(seen.len(), at.clone());
        cursor = at;
    }
    assert_eq!(seen, live);

    // Every cursor that was ever given resumes exactly behind its event.
    for (count, cursor) in cursors.iter().filter(|(count, _)| **count < live.len()) {
        let mut stream = watch(&story.stack.clients(), cursor).await?;
        assert_eq!(place_of(&next(&mut stream).await?.0), live[*count]);
    }
    Ok(())
}

/// A transaction that stays open for long hides no event: those behind it wait for it, and it is never passed by.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_commits_late_is_not_skipped() -> Result<()> {
    // Transactions of one cluster wait for each other here, so this story has one of its own.
    let postgres = Postgres::start().await?;
    let url = postgres.create_database().await?;
    let story = Story::with(Stack::builder().database_url(&url).replicas(2), registration()?).await?;
    let mut stream = watch(&story.stack.clients_of(1), "").await?;
    opened(&mut stream).await?;
    let early = waiting(&story, "+919812300001").await?;
    let held = waiting(&story, "+919812300002").await?;
    assert_eq!(place_of(&next(&mut stream).await?.0), (early.id.clone(), 1));
    let (event, cursor) = next(&mut stream).await?;
    assert_eq!(place_of(&event), (held.id.clone(), 1));

    let (mut slow, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    Tasks::new().spawn(connection);
    let transaction = slow.transaction().await?;
    // An event of our own making, as a replica would write it.
    let id = held.id.trim_start_matches("call_");
    transaction
        .execute(&format!("UPDATE calls SET version = 2 WHERE id = '{id}'"), &[])
        .await?;
    let append = "INSERT INTO call_events (call_id, version, type, state, source) VALUES";
    transaction
        .execute(&format!("{append} ('{id}', 2, 'waiting', 'queued', 'dialer')"), &[])
        .await?;

    // Later transactions commit sooner.
    end(&story.stack.clients(), &early).await?;
    let later = waiting(&story, "+919812300003").await?;
    assert_eq!(story.get(&early.id).await?.state(), CallState::Canceled);
    let silent = timeout(Duration::from_millis(1_500), next(&mut stream)).await;
    assert!(
        silent.is_err(),
        "an event overtook one that may still commit: {silent:?}"
    );
    // WatchCall goes by versions and waits for nobody.
    assert_eq!(kinds(&story.ended(&early.id).await?.1), ["queued", "ended"]);

    transaction.commit().await?;
    let expected = [(held.id.clone(), 2), (early.id.clone(), 2), (later.id.clone(), 1)];
    for resumed in [&mut stream, &mut watch(&story.stack.clients(), &cursor).await?] {
        for expected in &expected {
            assert_eq!(&place_of(&next(resumed).await?.0), expected);
        }
    }
    // Nothing comes twice: the next event is the next change.
    end(&story.stack.clients(), &later).await?;
    assert_eq!(place_of(&next(&mut stream).await?.0), (later.id, 2));
    drop(story);
    postgres.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_wanted_events_come() -> Result<()> {
    let story = Story::start().await?;
    let filter = CallFilter {
        customer_number: "098123 00002".to_owned(),
        states: vec![CallState::Canceled.into()],
        ..CallFilter::default()
    };
    let mut client = story.stack.clients().calls();
    let request = WatchCallsRequest {
        cursor: String::new(),
        filter: Some(filter),
    };
    let mut stream = client.watch_calls(request).await?.into_inner();
    opened(&mut stream).await?;
    let other = waiting(&story, "+919812300001").await?;
    let wanted = waiting(&story, "+919812300002").await?;
    end(&story.stack.clients(), &other).await?;
    end(&story.stack.clients(), &wanted).await?;
    let (event, _) = next(&mut stream).await?;
    assert_eq!((place_of(&event), event.state()), ((wanted.id, 2), CallState::Canceled));

    for cursor in ["AAAA", "not a cursor", &"_".repeat(22)] {
        assert_eq!(
            refusal(&watch(&story.stack.clients(), cursor).await.unwrap_err()),
            invalid(&["cursor"])
        );
    }
    let filter = Some(CallFilter {
        states: vec![99],
        ..CallFilter::default()
    });
    let request = WatchCallsRequest {
        cursor: String::new(),
        filter,
    };
    assert_eq!(
        refusal(&client.watch_calls(request).await.unwrap_err()),
        invalid(&["filter.states"])
    );
    Ok(())
}

/// A watcher that does not read is closed, with a cursor that loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_closed_and_resumes() -> Result<()> {
    const BATCH: usize = 2_000;
    const FLOOD: i64 = 10_001;
    let story = Story::start().await?;
    let mut slow = watch(&story.stack.clients(), "").await?;
    let mut cursor = opened(&mut slow).await?;
    let mut quick = watch(&story.stack.clients(), &cursor).await?;
    let call = waiting(&story, CUSTOMER).await?;
    assert_eq!(place_of(&next(&mut quick).await?.0), (call.id.clone(), 1));

    // More than a replica keeps for its watchers, and a connection for its reader. Whoever reads gets all of it.
    let (client, connection) = tokio_postgres::connect(&story.stack.database_url, tokio_postgres::NoTls).await?;
    Tasks::new().spawn(connection);
    let id = call.id.trim_start_matches("call_");
    for begin in (2..=FLOOD).step_by(BATCH) {
        let end = begin + i64::try_from(BATCH)? - 1;
        let flood = format!(
            "INSERT INTO call_events (call_id, version, type, state, source, data) SELECT '{id}', version, 'flood', 'queued', \
             'dialer', jsonb_build_object('text', repeat('x', 1000)) FROM generate_series({begin}, {end}) AS version"
        );
        client.execute(&flood, &[]).await?;
        for version in begin..=end {
            assert_eq!(next(&mut quick).await?.0.version, version);
        }
    }

    let mut version = 0;
    let status = loop {
        match timeout(PATIENCE, slow.message())
            .await
            .context("the slow watcher is not closed")?
        {
            Ok(response) => {
                let response = response.context("it ended without a status")?;
                ensure!(version < FLOOD, "it was not closed");
                if let Some(event) = response.event {
                    version += 1;
                    assert_eq!(event.version, version);
                }
                cursor = response.cursor;
            }
            Err(status) => break status,
        }
    };
    let refused = refusal(&status);
    assert_eq!(
        (refused.code, refused.reason.as_str(), refused.retryable),
        (Code::ResourceExhausted, "WATCHER_TOO_SLOW", true)
    );
    assert!(version < FLOOD, "it was not slow");
    let mut resumed = watch(&story.stack.clients(), &cursor).await?;
    for version in version + 1..=FLOOD {
        assert_eq!(next(&mut resumed).await?.0.version, version);
    }
    Ok(())
}
