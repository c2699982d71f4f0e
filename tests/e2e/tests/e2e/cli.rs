//! The operators' command line on a whole stack: tables for people, JSON for scripts, and exit codes.

use std::{
    io::{self, Write},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use callbridge_cli::{Arguments, run};
use callbridge_proto::call::v1::{CallState, PlaceCallRequest};
use clap::Parser as _;
use e2e::{CUSTOMER, Ran, Story, callbridge_at};
use exotel_sim::{CallerScript, Outcome};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

const MASKED: &str = "+91******0017";

fn done(ran: Ran) -> Result<Ran> {
    anyhow::ensure!(ran.failure.is_none(), "{ran:?}");
    Ok(ran)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_shown_watched_and_ended() -> Result<()> {
    let story = Story::start().await?;
    let script = CallerScript::new().silence(60_000);
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let call = story.place(story.request(CUSTOMER)).await?;
    let id = call.id.as_str();
    story.until_state(id, CallState::InProgress).await?;
    story
        .until(id, "the audio", |call| {
            call.media_sessions.iter().any(|session| session.started_at.is_some())
        })
        .await?;

    let ran = done(story.callbridge(&["calls", "list", "--state", "in_progress"]).await?)?;
    let lines: Vec<_> = ran.output.lines().collect();
    assert_eq!(lines.len(), 2, "a head and a row: {}", ran.output);
    assert!(lines[1].starts_with(id) && lines[1].contains(MASKED), "{}", ran.output);
    assert!(!ran.output.contains(CUSTOMER), "{}", ran.output);

    // Both at once: a script and a person.
    let (watch, end) = (
        ["--json", "calls", "watch", id],
        ["calls", "end", id, "--reason", "a test"],
    );
    let (watched, ended) = tokio::join!(story.callbridge(&watch), story.callbridge(&end));
    assert!(done(ended?)?.output.starts_with(id));
    let events = done(watched?)?.json()?;
    let types: Vec<_> = events.iter().map(|event| text(&event["type"])).collect();
    for expected in ["queued", "dialing", "media_started", "media_ended"] {
        assert!(types.contains(&expected), "{types:?}");
    }
    assert_eq!(events.last().context("no event")?["state"], "CALL_STATE_COMPLETED");

    let ran = done(story.callbridge(&["--json", "calls", "show", id]).await?)?;
    let shown = ran.json()?;
    assert_eq!(
        (text(&shown[0]["id"]), text(&shown[0]["customer_number"])),
        (id, MASKED)
    );
    assert!(
        shown[1..].iter().any(|event| event["type"] == "media_started"),
        "{}",
        ran.output
    );
    let ran = done(story.callbridge(&["--full-numbers", "calls", "show", id]).await?)?;
    assert!(
        ran.output.contains(CUSTOMER) && ran.output.contains("media_started"),
        "{}",
        ran.output
    );

    let ran = story
        .callbridge(&["calls", "transfer", id, "--to", "+919812345679"])
        .await?;
    let (told, exit) = ran.failure.context("a call that is over was handed over")?;
    assert_eq!(exit, 1);
    assert!(told.starts_with("cannot hand the call over: "), "{told}");
    story.stack.shut_down().await
}

/// Standard output of a program, which tells when something is written.
#[derive(Default)]
struct Told {
    text: Vec<u8>,
    written: Arc<Notify>,
}

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        self.written.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_it_was_when_call_service_restarts() -> Result<()> {
    let mut story = Story::start().await?;
    let in_an_hour = Timestamp {
        seconds: runtime::Clock::system().now().timestamp() + 3600,
        nanos: 0,
    };
    let request = PlaceCallRequest {
        not_before: Some(in_an_hour),
        ..story.request(CUSTOMER)
    };
    let id = story.place(request).await?.id;
    let endpoint = format!("http://{}", story.stack.grpc_address());
    let key = story.stack.keys.api_key.clone();
    let arguments = [
        "callbridge",
        "--endpoint",
        &endpoint,
        "--api-key",
        &key,
        "--json",
        "calls",
        "watch",
        &id,
    ];
    let arguments = Arguments::try_parse_from(arguments)?;
    let mut told = Told::default();
    let written = Arc::clone(&told.written);
    let restarted = async {
        written.notified().await;
        story.stack.restart_call_service(0).await?;
        done(callbridge_at(&endpoint, &key, &["calls", "end", &id]).await?)
    };
    let (watched, ended) = tokio::join!(run(arguments, &mut told), restarted);
    watched?;
    ended?;
    let events: Vec<Value> = String::from_utf8(told.text)?
        .lines()
        .map(serde_json::from_str)
        .collect::<serde_json::Result<_>>()?;
    let versions: Vec<_> = events.iter().filter_map(|event| event["version"].as_u64()).collect();
    let all: Vec<_> = (1..=u64::try_from(versions.len())?).collect();
    assert_eq!(versions, all, "each once and in order");
    assert_eq!(events.last().context("no event")?["state"], "CALL_STATE_CANCELED");
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_is_made_filled_run_and_exported() -> Result<()> {
    let story = Story::start().await?;
    let folder = TempDir::new()?;
    let path = |name: &str| folder.path().join(name).to_str().unwrap_or_default().to_owned();
    let (settings, contacts, results) = (path("settings.json"), path("contacts.csv"), path("results.csv"));
    std::fs::write(
        &settings,
        json!({
            "name": "from the file",
            "rules": {
                "windows": [{ "from": 0, "until": 1440 }],
                "retries": { "busy": {}, "no_answer": {}, "failed": {}, "agent_unavailable": {} },
            },
        })
        .to_string(),
    )?;
    std::fs::write(
        &contacts,
        format!("number,city\n{CUSTOMER},Pune\n{CUSTOMER},Pune\nnobody,Pune\n"),
    )?;
    story.stack.control().set_outcome(
        CUSTOMER,
        Outcome::answered_by(CallerScript::new().silence(300).hang_up()),
    )?;
    let (agent, phone) = (story.registered.agent.id.as_str(), story.registered.phone_id.as_str());
    let create = [
        "--json",
        "campaigns",
        "create",
        "--settings",
        &settings,
        "--name",
        "spring",
        "--agent",
        agent,
        "--phone",
        phone,
        "--max-concurrent-calls",
        "3",
    ];
    let made = done(story.callbridge(&create).await?)?.json()?;
    let id = text(&made[0]["id"]).to_owned();
    assert_eq!(
        (
            &made[0]["settings"]["name"],
            &made[0]["settings"]["rules"]["max_concurrent_calls"]
        ),
        (&json!("spring"), &json!(3))
    );

    let ran = done(story.callbridge(&["campaigns", "import", &id, &contacts]).await?)?;
    assert!(
        ran.output
            .starts_with("3 rows: 1 contacts taken, 1 duplicates, 1 in error"),
        "{}",
        ran.output
    );
    let again = done(
        story
            .callbridge(&["--json", "campaigns", "import", &id, &contacts])
            .await?,
    )?;
    assert_eq!(again.json()?[0]["repeated"], json!(true), "the same file is taken once");

    done(story.callbridge(&["campaigns", "start", &id]).await?)?;
    let watched = done(story.callbridge(&["--json", "campaigns", "watch", &id]).await?)?;
    let last = watched.json()?.pop().context("no progress")?;
    assert_eq!(
        (&last["state"], &last["by_state"]),
        (&json!("CAMPAIGN_STATE_FINISHED"), &json!({ "reached": 1 }))
    );

    let shown = done(story.callbridge(&["campaigns", "show", &id]).await?)?;
    assert!(
        shown.output.contains("finished") && shown.output.contains("contacts_added"),
        "{}",
        shown.output
    );
    done(
        story
            .callbridge(&["campaigns", "export", &id, "--output", &results])
            .await?,
    )?;
    let rows = std::fs::read_to_string(&results)?;
    assert_eq!(rows.lines().count(), 2, "a head and one attempt: {rows}");
    let piped = done(story.callbridge(&["campaigns", "export", &id]).await?)?;
    assert_eq!(piped.output, rows);

    let ran = story.callbridge(&["campaigns", "pause", &id]).await?;
    assert_eq!(ran.failure.context("it was paused")?.1, 1);
    let ran = story
        .callbridge(&["campaigns", "import", &id, &path("missing.csv")])
        .await?;
    let (told, exit) = ran.failure.context("it was read")?;
    assert!(exit == 66 && told.contains("missing.csv"), "{exit}: {told}");
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_shown() -> Result<()> {
    let story = Story::start().await?;
    let registered = &story.registered;
    for (kind, id) in [
        ("accounts", &registered.account_id),
        ("phones", &registered.phone_id),
        ("agents", &registered.agent.id),
    ] {
        let listed = done(story.callbridge(&["--json", kind, "list"]).await?)?.json()?;
        assert!(listed.iter().any(|one| text(&one["id"]) == id), "{kind}: {listed:?}");
        let shown = done(story.callbridge(&[kind, "show", id]).await?)?;
        assert!(
            shown.output.starts_with("id") && shown.output.contains(id.as_str()),
            "{}",
            shown.output
        );
    }
    let completions = done(story.callbridge(&["completions", "bash"]).await?)?;
    assert!(
        completions.output.contains("campaigns") && completions.output.contains("complete"),
        "no script"
    );
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_has_its_exit_code() -> Result<()> {
    let story = Story::start().await?;
    let unknown = "ck_1_0000000000000000000000000000000000000000";
    let ran = story.callbridge_with(unknown, &["calls", "list"]).await?;
    let (told, exit) = ran.failure.context("a key that nobody knows")?;
    assert!(exit == 77 && told.contains("CALLBRIDGE_API_KEY"), "{exit}: {told}");
    assert!(!told.contains(unknown), "no key in an error");
    let ran = story
        .callbridge(&["calls", "show", "call_01980a6f3c1e7d0f8a2b4c6d8e0f1a2b"])
        .await?;
    assert_eq!(ran.failure.context("no such call")?.1, 1);
    assert!(story.callbridge(&["calls", "list", "--state", "asleep"]).await.is_err());

    let key = story.stack.keys.api_key.clone();
    let address = story.stack.grpc_address().to_string();
    story.stack.shut_down().await?;
    let ran = callbridge_at(&format!("http://{address}"), &key, &["calls", "list"]).await?;
    let (told, exit) = ran.failure.context("nobody is there")?;
    assert!(exit == 69 && told.contains(&address), "{exit}: {told}");
    Ok(())
}
