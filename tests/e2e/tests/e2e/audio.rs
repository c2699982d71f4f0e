//! What people and agents hear.

use std::path::Path;

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::{Clear, ConverseRequest, LeaveAction, converse_request::Event, converse_response::Action},
    call::v1::{Call, CallState},
};
use e2e::{Agent, CUSTOMER, Story, decode, find, kinds, quick, read_wav, registration, speech, tone, wav};
use echo_agent::{SampleRate, dtmf};
use exotel_sim::{Applet, CallReport, CallerScript, Outcome, Speech, StreamReport};
use stack::Registration;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// A sound in a file, for callers to say.
fn file(folder: &TempDir, samples: &[i16]) -> Result<Speech> {
    let path = folder.path().join("said.wav");
    std::fs::write(&path, wav(samples, 8_000)?)?;
    Ok(Speech::File(path))
}

/// A registration whose agent is the story's own.
fn with_agent(agent: &Agent) -> Result<Registration> {
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    Ok(registration)
}

async fn call(story: &Story, script: CallerScript) -> Result<Call> {
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    story.place(story.request(CUSTOMER)).await
}

/// The call after its end, with what the edge counted.
async fn counted(story: &Story, id: &str) -> Result<(Call, CallReport)> {
    story.ended(id).await?;
    let call = story
        .until(id, "the session's counters", |call| {
            call.media_sessions.iter().all(|session| !session.quality.is_empty())
        })
        .await?;
    let report = story.report(&call).await?;
    Ok((call, report))
}

fn quality(call: &Call, name: &str) -> i64 {
    call.media_sessions[0].quality.get(name).copied().unwrap_or(0)
}

fn received(stream: &StreamReport) -> Result<Vec<i16>> {
    read_wav(stream.received.as_deref())
}

/// What the person was sent is the greeting and then her own voice, sample for sample and in one piece.
#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hears_the_greeting_and_then_herself() -> Result<()> {
    let folder = TempDir::new()?;
    let (greeting, said) = (
        tone(4_800),
        tone(8_000).iter().map(|sample| -sample).collect::<Vec<_>>(),
    );
    let mut registration = registration()?;
    registration.greeting = Some(wav(&greeting, 8_000)?);
    let story = Story::with(quick(), registration).await?;
    let script = CallerScript::new()
        .wait_for_audio_end(300)
        .speak(file(&folder, &said)?)
        .wait_for_audio_end(300)
        .hang_up();
    let placed = call(&story, script).await?;
    let (call, report) = counted(&story, &placed.id).await?;
    assert_eq!(call.state(), CallState::Completed);
    let stream = &report.streams[0];

    let sent = received(stream)?;
    assert_eq!(sent[..greeting.len()], greeting[..], "the greeting comes first");
    let echo = &sent[greeting.len()..];
    let heard_by_agent = read_wav(stream.said.as_deref())?;
    assert!(
        find(echo, &heard_by_agent).is_some(),
        "the rest is what the person said, whole and in order"
    );
    assert!(find(&said, echo).is_some(), "and her speech is in it");
    let heard = read_wav(stream.heard.as_deref())?;
    assert!(
        find(&greeting, &heard).is_some(),
        "the greeting was played without a hole"
    );
    assert_eq!(
        (
            stream.gaps,
            stream.odd_messages,
            stream.invalid_messages,
            stream.overflow_bytes
        ),
        (0, 0, 0, 0)
    );
    for nothing in [
        "dropped_in_ms",
        "dropped_out_ms",
        "stale_out_ms",
        "bad_frames",
        "gaps",
        "repeats",
        "padded_ms",
    ] {
        assert_eq!(
            quality(&call, nothing),
            0,
            "{nothing} of {:?}",
            call.media_sessions[0].quality
        );
    }
    // What was on its way when she hung up is counted as well: the lead, at most.
    let (counted, heard) = (quality(&call, "bytes_out"), i64::try_from(2 * sent.len())?);
    assert!(
        (heard..=heard + 8_000).contains(&counted),
        "{counted} bytes out, {heard} received"
    );

    let events = story.events(&call.id).await?;
    let ended = events
        .iter()
        .find(|event| event.r#type == "greeting_ended")
        .context("the greeting's end")?;
    let facts = |key: &str| ended.data.get(key).map(String::as_str);
    assert_eq!((facts("played_ms"), facts("interrupted")), (Some("600"), Some("false")));
    story.stack.shut_down().await
}

/// The greeting is in the person's ear while the agent is still being reached.
#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_plays_while_the_agent_connects() -> Result<()> {
    let mut agent = Agent::start().await?;
    // Takes connections and never says a word: three seconds are spent on it.
    let deaf = TcpListener::bind("127.0.0.1:0").await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![format!("http://{}", deaf.local_addr()?), agent.url.clone()];
    let greeting = tone(4_800);
    registration.greeting = Some(wav(&greeting, 8_000)?);
    let story = Story::with(quick(), registration).await?;
    let placed = call(&story, CallerScript::new()).await?;
    let mut session = agent.session().await?;
    let start = session.start().await?;
    assert_eq!(start.greeting_ms, 600);
    let ended = session
        .until(|event| {
            if let Event::GreetingEnded(ended) = event {
                Some(ended)
            } else {
                None
            }
        })
        .await?;
    assert_eq!((ended.played_ms, ended.interrupted), (600, false));
    session.leave(LeaveAction::HangUp, false, "").await;

    let (call, report) = counted(&story, &placed.id).await?;
    let events = story.events(&call.id).await?;
    let order: Vec<_> = kinds(&events)
        .into_iter()
        .filter(|kind| ["greeting_ended", "agent_connected"].contains(kind))
        .collect();
    assert_eq!(order, ["greeting_ended", "agent_connected"]);
    let connected = events
        .iter()
        .find(|event| event.r#type == "agent_connected")
        .context("connected")?;
    assert_eq!(connected.data.get("endpoint_index").map(String::as_str), Some("1"));
    let first = report.streams[0].first_audio_ms.context("audio")?;
    assert!(first < 1_000, "the greeting began after {first} ms");
    assert_eq!(received(&report.streams[0])?, greeting);
    story.stack.shut_down().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pressed_key_is_said_back() -> Result<()> {
    let story = Story::start().await?;
    let placed = call(
        &story,
        CallerScript::new()
            .silence(200)
            .press("5")
            .wait_for_audio_end(400)
            .hang_up(),
    )
    .await?;
    let (call, report) = counted(&story, &placed.id).await?;
    let tone = dtmf('5', SampleRate::Khz8).context("a key")?;
    assert!(
        find(speech(&tone), &received(&report.streams[0])?).is_some(),
        "the key's tone came back"
    );
    let events = story.events(&call.id).await?;
    let key = events
        .iter()
        .find(|event| event.r#type == "dtmf")
        .context("the key on the timeline")?;
    assert_eq!(key.data.get("digit").map(String::as_str), Some("5"));
    let call = story
        .until(&call.id, "the agent's facts", |call| {
            call.metadata.contains_key("digits")
        })
        .await?;
    assert_eq!(call.metadata.get("digits").map(String::as_str), Some("1"));
    story.stack.shut_down().await
}

/// F72: twenty seconds of speech in one burst, and a barge-in in the middle of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_barge_in_silences_the_agent_and_drops_what_comes_late() -> Result<()> {
    let mut agent = Agent::start().await?;
    let story = Story::with(quick(), with_agent(&agent)?).await?;
    let placed = call(&story, CallerScript::new().silence(600).press("1")).await?;
    let mut session = agent.session().await?;
    let start = session.start().await?;
    assert!(start.max_buffered_ms >= 20_000, "{}", start.max_buffered_ms);
    let first = tone(160_000);
    let late: Vec<i16> = tone(1_600).iter().map(|sample| sample / 2).collect();
    let next: Vec<i16> = tone(1_600).iter().map(|sample| -sample).collect();
    session.speak(&first, 1).await;
    session.mark("never heard").await;
    session
        .until(|event| matches!(event, Event::Dtmf(_)).then_some(()))
        .await?;
    session.send(Action::Clear(Clear { generation: 1 })).await;
    session.speak(&late, 1).await;
    session.speak(&next, 2).await;
    session.mark("heard").await;
    let mut marks = Vec::new();
    session
        .until(|event| {
            if let Event::MarkPlayed(mark) = event {
                marks.push((mark.name, mark.cleared));
            }
            (marks.len() == 2).then_some(())
        })
        .await?;
    assert_eq!(marks, [("never heard".to_owned(), true), ("heard".to_owned(), false)]);
    session.leave(LeaveAction::HangUp, false, "").await;

    let (call, report) = counted(&story, &placed.id).await?;
    let stream = &report.streams[0];
    assert_eq!(stream.clears, 1);
    assert!(
        stream.cleared_bytes > 0 && stream.cleared_bytes <= 16_000,
        "the lead was {} bytes",
        stream.cleared_bytes
    );
    let sent = received(stream)?;
    let begun = sent.len() - next.len();
    assert_eq!(sent[..begun], first[..begun], "the first turn, as far as it came");
    assert_eq!(sent[begun..], next[..], "then the next, and nothing of what came late");
    assert!(begun < 16_000, "{begun} samples of the first turn were sent");
    assert_eq!((quality(&call, "clears"), quality(&call, "stale_out_ms")), (1, 200));
    let events = story.events(&call.id).await?;
    let cut = events
        .iter()
        .find(|event| event.r#type == "interrupted")
        .context("on the timeline")?;
    let dropped: u32 = cut.data.get("dropped_ms").context("how much")?.parse()?;
    assert!((15_000..20_000).contains(&dropped), "{dropped} ms");
    story.stack.shut_down().await
}

/// F74: the person hears a tone and is not left on the line.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_reached_ends_the_call() -> Result<()> {
    let mut registration = registration()?;
    // A port that is never given away, so that no other story's agent is there.
    registration.agent.endpoints = vec!["http://127.0.0.1:1".to_owned()];
    let story = Story::with(quick().edge_setting("EDGE_AGENT_SECONDS", "1"), registration).await?;
    let placed = call(&story, CallerScript::new()).await?;
    let (call, report) = counted(&story, &placed.id).await?;
    assert_eq!((call.state(), call.ended_by.as_str()), (CallState::Completed, "agent"));
    let session = &call.media_sessions[0];
    assert_eq!(
        (session.end_reason.as_str(), session.ended_by.as_str()),
        ("agent_failed", "agent")
    );
    assert!(!speech(&received(&report.streams[0])?).is_empty(), "the apology");
    let events = story.events(&call.id).await?;
    assert!(!kinds(&events).contains(&"agent_connected"));
    assert_eq!(quality(&call, "agent_audio_ms"), 0, "the apology is not the agent's");
    story.stack.shut_down().await
}

/// F73: once the agent is reached again, the second time the call ends.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_is_reached_again_once() -> Result<()> {
    let mut agent = Agent::start().await?;
    let story = Story::with(quick(), with_agent(&agent)?).await?;
    let placed = call(&story, CallerScript::new()).await?;
    let mut first = agent.session().await?;
    let opening = first.start().await?;
    first.speak(&tone(1_600), 1).await;
    first.fail().await;
    let mut second = agent.session().await?;
    assert_eq!(second.start().await?, opening, "the same session of the same call");
    second.speak(&tone(800), 1).await;
    second.mark("heard").await;
    second
        .until(|event| matches!(event, Event::MarkPlayed(_)).then_some(()))
        .await?;
    assert_eq!(story.get(&placed.id).await?.state(), CallState::InProgress);
    second.fail().await;

    let (call, _) = counted(&story, &placed.id).await?;
    assert!(!agent.has_session(), "not a third time");
    let session = &call.media_sessions[0];
    assert_eq!(
        (session.end_reason.as_str(), session.ended_by.as_str()),
        ("agent_failed", "agent")
    );
    assert_eq!(
        (call.state(), quality(&call, "agent_retries")),
        (CallState::Completed, 1)
    );
    assert!(quality(&call, "agent_audio_ms") > 0, "both agents spoke");
    let events = story.events(&call.id).await?;
    assert_eq!(
        kinds(&events).iter().filter(|kind| **kind == "agent_connected").count(),
        2
    );
    story.stack.shut_down().await
}

/// How often a wave goes through zero upwards.
fn waves(samples: &[i16]) -> usize {
    samples.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count()
}

/// A sine of 400 Hz.
fn sine(rate: u32, milliseconds: u32) -> Vec<i16> {
    let samples = rate / 1_000 * milliseconds;
    #[expect(clippy::cast_possible_truncation, reason = "far within 16 bits")]
    let sample = |n| (10_000.0 * (std::f64::consts::TAU * 400.0 * f64::from(n) / f64::from(rate)).sin()) as i16;
    (0..samples).map(sample).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_at_16_khz_talks_to_a_line_at_8_khz() -> Result<()> {
    let folder = TempDir::new()?;
    let mut agent = Agent::start().await?;
    let mut registration = with_agent(&agent)?;
    registration.agent.sample_rate = 16_000;
    let story = Story::with(quick(), registration).await?;
    let placed = call(&story, CallerScript::new().speak(file(&folder, &sine(8_000, 500))?)).await?;
    let mut session = agent.session().await?;
    assert_eq!(
        session.start().await?.audio_format.map(|format| format.sample_rate),
        Some(16_000)
    );
    session.speak(&sine(16_000, 500), 1).await;
    session.mark("heard").await;
    let mut heard: Vec<i16> = Vec::new();
    let mut marked = false;
    session
        .until(|event| {
            match event {
                Event::Audio(audio) => {
                    heard.extend(
                        audio
                            .pcm
                            .chunks_exact(2)
                            .map(|pair| i16::from_le_bytes([pair[0], pair[1]])),
                    );
                }
                Event::MarkPlayed(_) => marked = true,
                _ => {}
            }
            (marked && heard.len() >= 11_200).then_some(())
        })
        .await?;
    session.leave(LeaveAction::HangUp, false, "").await;
    let (call, report) = counted(&story, &placed.id).await?;
    let up = speech(&heard);
    assert!(
        (7_800..=8_300).contains(&up.len()),
        "half a second at 16 kHz: {} samples",
        up.len()
    );
    assert!((198..=201).contains(&waves(up)), "400 Hz: {} waves", waves(up));
    let sent = received(&report.streams[0])?;
    let down = speech(&sent);
    assert!(
        (3_900..=4_150).contains(&down.len()),
        "half a second at 8 kHz: {} samples",
        down.len()
    );
    assert!((198..=201).contains(&waves(down)), "400 Hz: {} waves", waves(down));
    assert_eq!(report.streams[0].gaps, 0);
    assert_eq!(quality(&call, "dropped_in_ms"), 0);
    story.stack.shut_down().await
}

/// A Voicebot applet with a fixed URL: the account's id and token ride as Basic credentials.
#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_socket_url_serves_both_directions() -> Result<()> {
    let story = Story::start().await?;
    let user = format!(
        "{}:{}@",
        story.registered.account_id, story.registered.urls.account_token
    );
    let url = story
        .registered
        .urls
        .socket_url
        .replacen("://", &format!("://{user}"), 1);
    story.at_account(|account| {
        account.flows[0].applets[0] = Applet::Voicebot { url, record: false };
    })?;
    let short = || CallerScript::new().silence(300).hang_up();
    let placed = call(&story, short()).await?;
    let (out, events) = story.ended(&placed.id).await?;
    assert_eq!(
        (out.state(), out.end_reason.as_str()),
        (CallState::Completed, "customer_hung_up")
    );
    assert_eq!(
        kinds(&events)[..5],
        ["queued", "dialing", "placed", "media_started", "agent_connected"]
    );

    let sid = story.call_in("+919812340018", short()).await?;
    let row = story.inbound_row().await?;
    let (incoming, events) = story.ended(&row.id).await?;
    assert_eq!(
        (incoming.state(), incoming.exotel_call_sid.as_str()),
        (CallState::Completed, sid.as_str())
    );
    assert_eq!(kinds(&events)[..3], ["placed", "media_started", "agent_connected"]);
    assert_eq!(events[0].source, "media");
    story.stack.shut_down().await
}

/// What the agent says comes from real speech as well: the echo agent's own greeting.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_greets_by_itself_where_no_greeting_is_stored() -> Result<()> {
    let mut registration = registration()?;
    registration.agent.config = String::new();
    let story = Story::with(quick(), registration).await?;
    let placed = call(&story, CallerScript::new().wait_for_audio_end(400).hang_up()).await?;
    let (call, report) = counted(&story, &placed.id).await?;
    let wav =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services/echo-agent/speech/greeting.wav"))?;
    let greeting = decode(&wav)?;
    let sent = received(&report.streams[0])?;
    assert!(
        find(speech(&greeting), &sent).is_some(),
        "the agent's greeting, sample for sample"
    );
    assert_eq!((report.streams[0].marks, report.streams[0].gaps), (1, 0));
    assert_eq!(quality(&call, "dropped_out_ms"), 0);
    story.stack.shut_down().await
}

/// A stream's first message is its start, whatever else is in a hurry.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_hears_everything_from_the_first_sample() -> Result<()> {
    let folder = TempDir::new()?;
    let mut agent = Agent::start().await?;
    let story = Story::with(quick(), with_agent(&agent)?).await?;
    let said = tone(4_000);
    let placed = call(
        &story,
        CallerScript::new()
            .speak(file(&folder, &said)?)
            .press("7#")
            .silence(100)
            .hang_up(),
    )
    .await?;
    let mut session = agent.session().await?;
    session.start().await?;
    let (mut heard, mut keys, mut stop) = (Vec::new(), String::new(), None);
    while let Some(event) = session.next().await? {
        match event {
            Event::Audio(audio) => {
                heard.extend(
                    audio
                        .pcm
                        .chunks_exact(2)
                        .map(|pair| i16::from_le_bytes([pair[0], pair[1]])),
                );
            }
            Event::Dtmf(dtmf) => keys.push_str(&dtmf.digit),
            Event::Stop(end) => stop = Some(end.reason),
            other => panic!("{:?}", ConverseRequest { event: Some(other) }),
        }
    }
    assert_eq!(heard[..said.len()], said[..]);
    assert_eq!((keys.as_str(), stop.as_deref()), ("7#", Some("caller_hung_up")));
    drop(session);
    let (call, _) = counted(&story, &placed.id).await?;
    assert_eq!(i64::try_from(2 * heard.len())?, quality(&call, "bytes_in"));
    story.stack.shut_down().await
}
