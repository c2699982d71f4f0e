//! A phone's audio settings, from the directory to the wire.

use anyhow::{Context as _, Result};
use callbridge_proto::{
    agent::v1::{LeaveAction, converse_request::Event},
    directory::v1::{AudioEncoding, AudioSettings, GetPhoneRequest, Phone, UpdatePhoneRequest},
};
use e2e::{Agent, CUSTOMER, Story, invalid, quick, read_wav, refusal, registration, session, tone};
use exotel_sim::{CallerScript, Outcome, StreamReport};
use prost_types::FieldMask;

fn update(phone_id: &str, audio: AudioSettings) -> UpdatePhoneRequest {
    UpdatePhoneRequest {
        phone: Some(Phone {
            id: phone_id.to_owned(),
            audio: Some(audio),
            ..Phone::default()
        }),
        update_mask: Some(FieldMask {
            paths: vec!["audio".to_owned()],
        }),
    }
}

/// A call on which the agent says three seconds at once.
async fn speech(story: &Story, agent: &mut Agent, said: &[i16]) -> Result<StreamReport> {
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(CallerScript::new()))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let mut session = agent.session().await?;
    session.start().await?;
    session.speak(said, 1).await;
    session.mark("heard").await;
    session
        .until(|event| matches!(event, Event::MarkPlayed(_)).then_some(()))
        .await?;
    session.leave(LeaveAction::HangUp, false, "").await;
    story.ended(&placed.id).await?;
    let call = story
        .until(&placed.id, "the session's counters", |call| {
            call.media_sessions.iter().all(|session| !session.quality.is_empty())
        })
        .await?;
    let quality = &call.media_sessions[0].quality;
    for told in ["first_audio_ms", "frames_in", "frames_out", "marks"] {
        assert!(quality.get(told).is_some_and(|value| *value > 0), "{told}: {quality:?}");
    }
    let report = story.report(&call).await?;
    report.streams.into_iter().next().context("a stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phones_audio_settings_reach_its_calls() -> Result<()> {
    let mut agent = Agent::start().await?;
    let mut registration = registration()?;
    registration.agent.endpoints = vec![agent.url.clone()];
    let story = Story::with(quick(), registration).await?;
    let phone_id = story.registered.phone_id.clone();
    let mut phones = story.stack.clients().phones();
    let said = tone(24_000);

    let before = speech(&story, &mut agent, &said).await?;
    assert!(before.small_messages > 0, "an answer begins with small packets");

    let wrong = AudioSettings {
        lead_ms: 50,
        min_packet_bytes: 100,
        ..AudioSettings::default()
    };
    let status = phones.update_phone(update(&phone_id, wrong)).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        invalid(&["phone.audio.min_packet_bytes", "phone.audio.lead_ms"])
    );
    let audio = AudioSettings {
        min_packet_bytes: 3200,
        max_packet_bytes: 3200,
        lead_ms: 400,
        positions: true,
        fill_gaps: true,
        encoding: AudioEncoding::Pcm16.into(),
    };
    phones.update_phone(update(&phone_id, audio)).await?;
    let shown = phones
        .get_phone(GetPhoneRequest {
            phone_id: phone_id.clone(),
        })
        .await?;
    assert_eq!(shown.into_inner().phone.context("the phone")?.audio, Some(audio));

    let stream = speech(&story, &mut agent, &said).await?;
    assert_eq!(stream.small_messages, 0, "the documented minimum");
    let (short, long) = (stream.longest_queue_ms, before.longest_queue_ms);
    assert!(short < long, "a lead of {short} ms, after one of {long} ms");
    assert_eq!((stream.invalid_messages, stream.gaps, stream.odd_messages), (0, 0, 0));
    let received = read_wav(stream.received.as_deref())?;
    assert_eq!(received[..said.len()], said[..], "all was heard");

    // Back to the defaults.
    phones.update_phone(update(&phone_id, AudioSettings::default())).await?;
    let shown = phones.get_phone(GetPhoneRequest { phone_id }).await?;
    assert_eq!(shown.into_inner().phone.context("the phone")?.audio, None);

    // F40: settings of a later release are no reason to refuse a call.
    session(&story.stack.database_url)
        .await?
        .batch_execute(r#"UPDATE phones SET audio = '{"encoding": "later"}'"#)
        .await?;
    let stream = speech(&story, &mut agent, &said).await?;
    assert!(stream.small_messages > 0, "the defaults");
    story.stack.shut_down().await
}
