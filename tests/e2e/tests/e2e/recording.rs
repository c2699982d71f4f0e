//! Recordings: ours of a session, and Exotel's of a call.

use std::{collections::HashSet, path::Path};

use anyhow::{Context as _, Result, ensure};
use callbridge_proto::call::v1::{
    Call, GetRecordingRequest, PlaceCallRequest, RecordingHeader, RecordingSource, RecordingState,
    get_recording_response::Message,
};
use e2e::{CUSTOMER, PATIENCE, Story, find, kinds, quick, read_wav, refusal, refused, registration, tone, wav};
use exotel_sim::{CallerScript, Outcome, Speech};
use stack::{Builder, Registration, poll};
use tempfile::TempDir;
use tonic::Code;

/// On the recording both sides lie as the person's phone had them, to within this many samples: a tenth of a second.
const APART: usize = 800;

/// A stack whose edges record into a folder, which call-service can read.
fn recording(folder: &Path) -> Builder {
    quick()
        .edge_setting("RECORDING_SPOOL", &format!("{}/spool", folder.display()))
        .edge_setting("RECORDING_STORE", &format!("file://{}/stored", folder.display()))
        .call_setting("RECORDING_STORE", &format!("file://{}/stored", folder.display()))
}

/// A registration whose phone is recorded.
fn recorded() -> Result<Registration> {
    let mut registration = registration()?;
    registration.phone.record_audio = true;
    Ok(registration)
}

/// A recording as the API gives it.
async fn fetched(story: &Story, request: GetRecordingRequest) -> Result<(RecordingHeader, Vec<u8>)> {
    let mut calls = story.stack.clients().calls();
    let mut stream = calls.get_recording(request).await?.into_inner();
    let mut first = None;
    let mut bytes = Vec::new();
    while let Some(response) = stream.message().await? {
        match response.message.context("a message")? {
            Message::Header(header) => first = Some(header),
            Message::Chunk(chunk) => {
                ensure!(
                    first.is_some() && chunk.len() <= 64 * 1024,
                    "a piece of {}",
                    chunk.len()
                );
                bytes.extend_from_slice(&chunk);
            }
        }
    }
    Ok((first.context("a header")?, bytes))
}

fn of(call: &Call, source: RecordingSource) -> GetRecordingRequest {
    GetRecordingRequest {
        call_id: call.id.clone(),
        source: source.into(),
        ..GetRecordingRequest::default()
    }
}

fn state(call: &Call) -> Option<RecordingState> {
    Some(call.media_sessions.first()?.recording.as_ref()?.state())
}

/// Every object in the store.
fn objects(folder: &Path) -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(folder.join("stored")).into_iter().flatten().flatten();
    folders
        .flat_map(|call| std::fs::read_dir(call.path()).into_iter().flatten().flatten())
        .map(|file| file.path())
        .collect()
}

/// One call: the person on the left, the agent on the right, whole, and where the person's own phone had them.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_call_has_both_sides_where_they_belong() -> Result<()> {
    let folder = TempDir::new()?;
    let (greeting, said) = (tone(4_800), tone(8_000).iter().map(|s| -s).collect::<Vec<_>>());
    let speech = folder.path().join("said.wav");
    std::fs::write(&speech, wav(&said, 8_000)?)?;
    let mut registration = recorded()?;
    registration.greeting = Some(wav(&greeting, 8_000)?);
    let story = Story::with(recording(folder.path()), registration).await?;
    let script = CallerScript::new()
        .wait_for_audio_end(300)
        .speak(Speech::File(speech))
        .wait_for_audio_end(300)
        .hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    story.ended(&placed.id).await?;
    let call = story
        .until(&placed.id, "the recording", |call| {
            state(call) == Some(RecordingState::Stored)
        })
        .await?;
    let recording = call.media_sessions[0].recording.clone().context("a recording")?;
    assert_eq!((recording.reason.as_str(), recording.missing_ms), ("", 0));
    assert!(kinds(&story.events(&call.id).await?).contains(&"recording_stored"));

    let (header, file) = fetched(&story, of(&call, RecordingSource::Edge)).await?;
    assert_eq!(header.content_type, "audio/wav");
    assert_eq!(
        (header.size_bytes, &header.sha256),
        (recording.size_bytes, &recording.sha256)
    );
    let digest = ring::digest::digest(&ring::digest::SHA256, &file);
    assert_eq!(data_encoding::HEXLOWER.encode(digest.as_ref()), header.sha256);
    let reader = hound::WavReader::new(&file[..])?;
    assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 8_000));
    let samples: Vec<i16> = reader.into_samples().collect::<Result<_, _>>()?;
    let side = |first: usize| -> Vec<i16> { samples.iter().copied().skip(first).step_by(2).collect() };
    let (left, right) = (side(0), side(1));
    assert_eq!(left.len() as u64 * 1000 / 8_000, recording.duration_ms);

    // Sample for sample, each on its own side alone.
    let greeted = find(&greeting, &right).context("the greeting is on the right, whole")?;
    let spoke = find(&said, &left).context("the person is on the left, whole")?;
    // Where it came late the person heard a gap, and so does the recording.
    let (heard_at, sounds): (Vec<usize>, Vec<i16>) = right.iter().enumerate().filter(|(_, s)| **s != 0).unzip();
    let said_sounds: Vec<i16> = said.iter().copied().filter(|s| *s != 0).collect();
    let echo = find(&said_sounds, &sounds).context("the echo is on the right, whole")?;
    let echoed = heard_at[echo];
    assert!(find(&greeting[..400], &left).is_none() && greeted + greeting.len() < spoke && spoke < echoed);

    // The person's own phone is the judge of when.
    let report = story.report(&call).await?;
    let stream = &report.streams[0];
    let (heard, spoken) = (read_wav(stream.heard.as_deref())?, read_wav(stream.said.as_deref())?);
    let at_phone = |sound: &[i16], whole: &[i16]| find(sound, whole).context("at the person's phone");
    let (greeted_there, spoke_there) = (at_phone(&greeting, &heard)?, at_phone(&said, &spoken)?);
    let (here, there) = (spoke - greeted, spoke_there - greeted_there);
    assert!(
        here.abs_diff(there) <= APART,
        "{here} samples apart here, {there} there"
    );
    story.stack.shut_down().await
}

/// A call from a phone that is not recorded has no recording, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_not_recorded_has_none() -> Result<()> {
    let folder = TempDir::new()?;
    let story = Story::with(recording(folder.path()), registration()?).await?;
    let script = CallerScript::new().silence(300).hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let (call, _) = story.ended(&placed.id).await?;
    assert!(call.media_sessions[0].recording.is_none());
    for source in [RecordingSource::Edge, RecordingSource::Exotel] {
        let mut calls = story.stack.clients().calls();
        let status = calls.get_recording(of(&call, source)).await.unwrap_err();
        assert_eq!(refusal(&status), refused(Code::NotFound, "NOT_FOUND"));
    }
    story.stack.shut_down().await?;
    assert!(objects(folder.path()).is_empty());
    Ok(())
}

/// F125: Exotel's recording comes through call-service with the account's key; whoever has only its address gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn exotels_recording_is_fetched_with_the_accounts_key() -> Result<()> {
    let story = Story::with(quick(), registration()?).await?;
    let script = CallerScript::new().silence(500).hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let request = PlaceCallRequest {
        record: true,
        ..story.request(CUSTOMER)
    };
    let placed = story.place(request).await?;
    story.ended(&placed.id).await?;
    let call = story
        .until(&placed.id, "Exotel to say where it is", |call| {
            !call.recording_url.is_empty()
        })
        .await?;
    let stranger = reqwest::Client::builder().no_proxy().build()?;
    assert_eq!(stranger.get(&call.recording_url).send().await?.status(), 401);
    let (header, file) = fetched(&story, of(&call, RecordingSource::Exotel)).await?;
    assert_eq!((header.size_bytes, header.sha256.as_str()), (file.len() as u64, ""));
    let report = story.report(&call).await?;
    assert_eq!(report.recording_fetches, 1);
    let heard = report.streams[0].heard.as_ref().context("what was heard")?;
    assert_eq!(file, std::fs::read(heard)?);
    let mut calls = story.stack.clients().calls();
    let ours = calls.get_recording(of(&call, RecordingSource::Edge)).await.unwrap_err();
    assert_eq!(refusal(&ours), refused(Code::NotFound, "NOT_FOUND"));
    story.stack.shut_down().await
}

/// A recording goes with the call's other personal data, out of the object store too.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_recording_is_erased() -> Result<()> {
    let folder = TempDir::new()?;
    let builder = recording(folder.path()).call_setting("RETENTION", "3s");
    let story = Story::with(builder, recorded()?).await?;
    let script = CallerScript::new().silence(500).hang_up();
    story
        .stack
        .control()
        .set_outcome(CUSTOMER, Outcome::answered_by(script))?;
    let placed = story.place(story.request(CUSTOMER)).await?;
    let call = story
        .until(&placed.id, "the recording", |call| {
            state(call) == Some(RecordingState::Stored)
        })
        .await?;
    assert_eq!(objects(folder.path()).len(), 1);
    let keys: HashSet<_> = call.media_sessions.iter().map(|session| &session.id).collect();
    assert!(objects(folder.path()).iter().all(|path| {
        let name = path.file_stem().and_then(|name| name.to_str());
        name.is_some_and(|name| keys.iter().any(|key| *key == name))
    }));
    let call = story
        .until(&call.id, "the recording to go", |call| {
            state(call) == Some(RecordingState::Erased)
        })
        .await?;
    let recording = call.media_sessions[0].recording.clone().context("a recording")?;
    assert_eq!((recording.object_key.as_str(), recording.sha256.as_str()), ("", ""));
    let gone = "media_sessions WHERE recording_state = 'erased' AND recording_key IS NULL AND recording_sha256 IS NULL";
    poll("the object to go", PATIENCE, async || {
        match (story.count(gone).await, objects(folder.path()).len()) {
            (Ok(1), 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    story.stack.shut_down().await
}
