//! AgentStream: what a bot sees and what the caller hears.

use exotel_sim::{
    Account, CallerScript, Chunks, ClearedMarks, Outcome, Phase, Speech, StartShape, StreamEnd, StreamReport, Streams,
};
use serde_json::json;

use crate::{CUSTOMER, EXOPHONE, PATIENCE, World, server::audio};

fn stream_params(url: &str) -> [(&str, &str); 2] {
    [("StreamUrl", url), ("StreamType", "bidirectional")]
}

async fn ended(world: &World, sid: &str) -> StreamReport {
    let report = world.control.wait_for_end(sid, PATIENCE).await.expect("ends");
    report.streams.last().expect("a stream").clone()
}

fn wav(path: Option<&std::path::PathBuf>) -> (u32, Vec<i16>) {
    let reader = hound::WavReader::open(path.expect("a recording")).expect("a WAV file");
    let rate = reader.spec().sample_rate;
    (
        rate,
        reader
            .into_samples::<i16>()
            .map(|sample| sample.expect("a sample"))
            .collect(),
    )
}

fn tone(samples: usize) -> Vec<u8> {
    (0..samples)
        .flat_map(|at| i16::try_from(1_000 + at % 500).expect("small").to_le_bytes())
        .collect()
}

#[tokio::test]
async fn a_stream_is_opened_in_the_captured_shape_and_its_query_is_stripped() {
    let world = World::start().await;
    let url = world.server.ws("/bot/a?lang=hi").replace("ws://", "ws://user:pa%3Ass@");
    let sid = world.call(&stream_params(&url)).await;
    let mut session = world.server.session().await;
    assert_eq!((session.hit.path.as_str(), session.hit.query.len()), ("/bot/a", 0));
    assert_eq!(session.hit.header("authorization"), "Basic dXNlcjpwYTpzcw==");
    let start = session.open().await;
    let stream_sid = start["stream_sid"].as_str().expect("a sid").to_owned();
    let expected = json!({
        "event": "start", "sequence_number": "1", "stream_sid": stream_sid,
        "start": {
            "stream_sid": stream_sid, "call_sid": sid, "account_sid": "examplesid1", "from": CUSTOMER, "to": EXOPHONE,
            "custom_parameters": {"lang": "hi"},
            "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"},
        },
    });
    assert_eq!(start, expected);
    let media = session.next().await.expect("media");
    assert_eq!(media["sequence_number"], "2");
    assert_eq!(
        (&media["media"]["chunk"], &media["media"]["timestamp"]),
        (&json!("1"), &json!("100"))
    );
    assert_eq!(audio(&media).len(), 1_600);
    session.close().await;
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.status.as_deref(), Some("completed"));
    assert_eq!(report.cause, Some(exotel_sim::Cause::Bot));
    let stream = &report.streams[0];
    assert_eq!(
        (stream.status.as_deref(), stream.disconnected_by.as_deref()),
        (Some("completed"), Some("bot"))
    );
    assert_eq!(stream.close_code, Some(1000));
    assert!(!stream.url.contains("pa%3Ass"), "credentials are not reported");
}

#[tokio::test]
async fn the_documented_shape_has_numbers_and_e164() {
    let world = World::with(|config| config.settings.stream.start = StartShape::Documented).await;
    world
        .call(&stream_params(&world.server.ws("/bot/a?sample-rate=16000")))
        .await;
    let mut session = world.server.session().await;
    let start = session.open().await;
    assert_eq!(start["sequence_number"], 1);
    assert_eq!(start["start"]["from"], "+919440000609");
    assert_eq!(start["start"]["custom_parameters"], json!({}));
    assert_eq!(start["start"]["media_format"]["sample_rate"], "16000");
    let media = session.next().await.expect("media");
    assert_eq!(media["media"]["chunk"], 1);
    assert_eq!(audio(&media).len(), 3_200, "100 ms at 16 kHz");
    session.close().await;
}

/// The bot hears exactly the speech file; the recordings agree with the wire on both sides; marks come after play-out.
#[tokio::test]
async fn speech_is_carried_sample_for_sample_and_marks_wait_for_it() {
    let world = World::start().await;
    let script = CallerScript::new().speak(Speech::Hello);
    world
        .control
        .set_outcome(CUSTOMER, Outcome::answered_by(script))
        .expect("a number");
    let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
    let mut session = world.server.session().await;
    session.open().await;
    let spoken = tone(4_000);
    for part in spoken.chunks(3_200) {
        session.say(part).await;
    }
    session.mark("said").await;
    let began = tokio::time::Instant::now();
    let mut heard_by_bot = Vec::new();
    let mut echoed_after = None;
    while heard_by_bot.len() < 40_000 {
        let message = session.next().await.expect("more");
        match message["event"].as_str() {
            Some("media") => heard_by_bot.extend(audio(&message)),
            Some("mark") => {
                assert_eq!(message["mark"]["name"], "said");
                echoed_after = Some(began.elapsed());
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    session.close().await;
    let stream = ended(&world, &sid).await;

    let hello = wav(Some(&std::path::PathBuf::from("speech/caller-hello.wav")));
    let samples: Vec<i16> = heard_by_bot
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    assert_eq!(samples[..hello.1.len()], hello.1[..], "the caller's speech");
    assert!(
        samples[hello.1.len()..].iter().all(|sample| *sample == 0),
        "silence follows"
    );
    let (rate, spoken_to_bot) = wav(stream.said.as_ref());
    assert_eq!(rate, 8_000);
    assert_eq!(spoken_to_bot[..samples.len()], samples[..]);

    let sent: Vec<i16> = spoken
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    assert_eq!(wav(stream.received.as_ref()).1, sent);
    let heard = wav(stream.heard.as_ref()).1;
    let first = heard.iter().position(|sample| *sample != 0).expect("sound");
    assert_eq!(heard[first..first + sent.len()], sent[..], "played without a hole");
    let echoed_after = echoed_after.expect("a mark");
    assert!(
        echoed_after.as_millis() >= 450,
        "500 ms of speech were echoed after {echoed_after:?}"
    );
    assert_eq!(
        (stream.underruns, stream.gaps, stream.marks, stream.echoed_marks),
        (0, 0, 1, 1)
    );
}

#[tokio::test]
async fn short_packets_make_gaps_and_huge_ones_break_the_stream() {
    let world = World::start().await;
    let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
    let mut session = world.server.session().await;
    session.open().await;
    session.say(&tone(100)).await;
    session.say(&tone(160)[..319]).await;
    session
        .send(json!({"event": "media", "media": {"payload": "%%%"}}))
        .await;
    session.send(json!({"event": "dance"})).await;
    session.mark("after").await;
    session.until("mark").await;
    session.say(&vec![0; 100_002]).await;
    session.rest().await;
    let stream = ended(&world, &sid).await;
    assert_eq!(
        (
            stream.gaps,
            stream.odd_messages,
            stream.invalid_messages,
            stream.unknown_messages
        ),
        (2, 1, 1, 1)
    );
    assert_eq!(
        (stream.status.as_deref(), stream.disconnected_by.as_deref()),
        (Some("failed"), Some("NA"))
    );
    assert!(stream.error.expect("an error").starts_with("3010"));
}

#[tokio::test]
async fn clear_silences_what_has_not_started() {
    for (setting, echoes) in [(ClearedMarks::Dropped, 0), (ClearedMarks::Echoed, 1)] {
        let world = World::with(|config| config.settings.stream.cleared_marks = setting).await;
        let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
        let mut session = world.server.session().await;
        session.open().await;
        for _ in 0..50 {
            session.say(&tone(1_600)).await;
        }
        session.mark("never played").await;
        session.next().await;
        session.send(json!({"event": "clear"})).await;
        session.mark("probe").await;
        while session.until("mark").await["mark"]["name"] != "probe" {}
        session.close().await;
        let stream = ended(&world, &sid).await;
        assert_eq!((stream.clears, stream.marks, stream.echoed_marks), (1, 2, 1 + echoes));
        assert!(stream.cleared_bytes >= 45 * 3_200, "{}", stream.cleared_bytes);
        let (_, heard) = wav(stream.heard.as_ref());
        assert!(heard.iter().filter(|sample| **sample != 0).count() <= 5 * 1_600);
        assert_eq!(stream.received_bytes, 50 * 3_200);
    }
}

#[tokio::test]
async fn keys_reach_the_bot_and_a_hang_up_ends_with_callended() {
    let world = World::start().await;
    let script = CallerScript::new().press("5#").silence(100).hang_up();
    world
        .control
        .set_outcome(CUSTOMER, Outcome::answered_by(script))
        .expect("a number");
    let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
    let mut session = world.server.session().await;
    session.open().await;
    let messages = session.rest().await;
    let keys: Vec<&str> = messages
        .iter()
        .filter_map(|message| message["dtmf"]["digit"].as_str())
        .collect();
    assert_eq!(keys, ["5", "#"]);
    let stop = messages.last().expect("a stop");
    assert_eq!(
        (&stop["event"], &stop["stop"]["reason"]),
        (&json!("stop"), &json!("callended"))
    );
    let numbers: Vec<u64> = messages
        .iter()
        .map(|message| {
            message["sequence_number"]
                .as_str()
                .expect("a string")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(
        numbers.iter().zip(2..).all(|(number, expected)| *number == expected),
        "{numbers:?}"
    );
    let stream = ended(&world, &sid).await;
    assert_eq!(
        (stream.status.as_deref(), stream.disconnected_by.as_deref()),
        (Some("cancelled"), Some("user"))
    );
    assert_eq!(stream.digits, "5#");
}

#[tokio::test]
async fn the_time_limit_stops_the_stream() {
    let world = World::with(|config| config.settings.time_scale = 10.0).await;
    let url = world.server.ws("/bot/a");
    let sid = world
        .call(&[&stream_params(&url)[..], &[("TimeLimit", "5")]].concat())
        .await;
    let mut session = world.server.session().await;
    session.open().await;
    let messages = session.rest().await;
    assert_eq!(messages.last().expect("a stop")["stop"]["reason"], "stopped");
    let report = world.control.wait_for_end(&sid, PATIENCE).await.expect("ends");
    assert_eq!(report.cause, Some(exotel_sim::Cause::TimeLimit));
}

#[tokio::test]
async fn streams_end_in_every_way_by_setting() {
    for (end, without_media, last) in [
        (StreamEnd::StopAndClose, true, Some("stop")),
        (StreamEnd::CloseOnly, true, None),
        (StreamEnd::Drop, false, Some("media")),
    ] {
        let world = World::start().await;
        let stream = Streams {
            end,
            stop_without_media: without_media,
            ..Streams::default()
        };
        let script = CallerScript::new().silence(300).hang_up();
        let outcome = Outcome {
            stream: Some(stream),
            ..Outcome::answered_by(script)
        };
        world.control.set_outcome(CUSTOMER, outcome).expect("a number");
        let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
        let mut session = world.server.session().await;
        session.open().await;
        let messages = session.rest().await;
        assert_eq!(
            messages
                .last()
                .map(|message| message["event"].as_str().expect("an event")),
            last,
            "{end:?}"
        );
        assert_eq!(
            messages.iter().any(|message| message["event"] == "media"),
            !without_media,
            "{end:?}"
        );
        ended(&world, &sid).await;
    }
}

#[tokio::test]
async fn chunks_have_the_sizes_asked_for() {
    for (chunks, allowed) in [
        (Chunks::Bytes(320), vec![320]),
        (Chunks::Bytes(3_200), vec![3_200]),
        (Chunks::Mixed, vec![320, 640, 1_600, 3_200]),
        (
            Chunks::Bursts {
                bytes: 640,
                every_ms: 200,
            },
            vec![640],
        ),
    ] {
        let world = World::with(|config| config.settings.stream.chunks = chunks).await;
        let sid = world.call(&stream_params(&world.server.ws("/bot/a"))).await;
        let mut session = world.server.session().await;
        session.open().await;
        let mut timestamp = 0;
        for _ in 0..8 {
            let media = session.until("media").await;
            let size = audio(&media).len();
            assert!(allowed.contains(&size), "{chunks:?}: {size}");
            timestamp += size / 16;
            assert_eq!(media["media"]["timestamp"], timestamp.to_string());
        }
        session.close().await;
        ended(&world, &sid).await;
    }
}

#[tokio::test]
async fn a_failed_handshake_is_tried_once_more() {
    let world = World::start().await;
    // The webhook path answers a plain 200 where a 101 is wanted.
    let sid = world.call(&stream_params(&world.server.ws("/no-bot"))).await;
    let stream = ended(&world, &sid).await;
    assert_eq!(stream.handshakes, 2);
    assert_eq!(world.server.hits("/no-bot").len(), 2);
    assert!(
        stream
            .error
            .expect("an error")
            .starts_with("3009 failed to establish ws conn")
    );
    assert!(!world.server.has_session().await);
}

#[tokio::test]
async fn too_many_streams_are_throttled() {
    let world = World::start().await;
    world
        .control
        .put_account(Account {
            max_streams: 1,
            ..Account::default()
        })
        .expect("valid");
    let url = world.server.ws("/bot/a");
    let first = world.call(&stream_params(&url)).await;
    let mut session = world.server.session().await;
    session.open().await;
    let body = world.get("ActiveStreams").await.1;
    assert!(
        body.contains("<ActiveStreamCount>1</ActiveStreamCount><ThrottleLimit>1</ThrottleLimit>"),
        "{body}"
    );
    let second = world.call(&stream_params(&url)).await;
    let refused = ended(&world, &second).await;
    assert_eq!(refused.detailed_status.as_deref(), Some("Streaming_call_throttled"));
    assert_eq!(world.control.call(&first).expect("known").phase, Phase::InProgress);
    session.close().await;
    ended(&world, &first).await;
    assert_eq!(world.control.load("examplesid1").expect("known").peak_streams, 1);
}

#[tokio::test]
async fn a_stop_of_the_simulator_ends_its_streams() {
    let world = World::start().await;
    world.call(&stream_params(&world.server.ws("/bot/a"))).await;
    let mut session = world.server.session().await;
    session.open().await;
    let (messages, ()) = tokio::join!(session.rest(), world.simulator.shutdown());
    assert_eq!(messages.last().expect("a stop")["stop"]["reason"], "stopped");
}
