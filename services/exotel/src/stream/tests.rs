use super::*;
use insta::assert_snapshot;
use proptest::prelude::*;

#[test]
fn frames_we_write() {
    assert_snapshot!(media("sid\"1", &[0, 1, 255, 127], None), @r#"{"event":"media","stream_sid":"sid\"1","media":{"payload":"AAH/fw=="}}"#);
    let position = Position {
        chunk: 3,
        timestamp_ms: 200,
    };
    assert_snapshot!(media("s", &[0, 1], Some(position)), @r#"{"event":"media","stream_sid":"s","sequence_number":"3","media":{"chunk":"3","timestamp":"200","payload":"AAE="}}"#);
    assert_snapshot!(mark("s", "turn-3-end"), @r#"{"event":"mark","stream_sid":"s","mark":{"name":"turn-3-end"}}"#);
    assert_snapshot!(clear("s"), @r#"{"event":"clear","stream_sid":"s"}"#);
}

fn event(text: &str) -> Result<Incoming, FrameError> {
    decode(text).map(|received| received.event)
}

fn start(text: &str) -> Start {
    match event(text) {
        Ok(Incoming::Start(start)) => start,
        other => panic!("not a start: {other:?}"),
    }
}

#[test]
fn start_as_captured_live() {
    let start = start(
        r#"{"event":"start","stream_sid":"3357459ca698d8c765bac10b0ec418bl","sequence_number":"1",
        "start":{"stream_sid":"3357459ca698d8c765bac10b0ec418bl","call_sid":"b0c8aea60aceb0007fc5a1bb75c218bl",
        "account_sid":"examplesid1","from":"09990000105","to":"04440000319",
        "media_format":{"encoding":"base64","sample_rate":"8000","bit_rate":"128kbps"}}}"#,
    );
    assert_eq!(start.stream_sid, "3357459ca698d8c765bac10b0ec418bl");
    assert_eq!(start.call_sid, "b0c8aea60aceb0007fc5a1bb75c218bl");
    assert_eq!(start.account_sid, "examplesid1");
    assert_eq!(start.from.number.unwrap().expose(), "+919990000105");
    assert_eq!(start.to.number.unwrap().expose(), "+914440000319");
    assert_eq!(start.sample_rate, 8000);
    assert!(start.custom_parameters.is_empty() && !start.camel_case);
}

#[test]
fn start_in_camel_case_with_numbers() {
    let start = start(
        r#"{"event":"start","sequenceNumber":1,"streamSid":"s1","start":{"streamSid":"s1","callSid":"c1","accountSid":"a",
        "from":"anonymous","to":null,"customParameters":{"sample-rate":16000,"call_id":"call_1","empty":"","list":[1]},
        "mediaFormat":{"encoding":"raw"}}}"#,
    );
    assert_eq!((start.stream_sid.as_str(), start.call_sid.as_str()), ("s1", "c1"));
    assert_eq!(start.from.number, None);
    assert_eq!(start.from.raw, "anonymous");
    assert_eq!(start.sample_rate, 16_000);
    assert_eq!(start.custom_parameters["call_id"], "call_1");
    assert_eq!(start.custom_parameters["empty"], "");
    assert!(start.camel_case);
}

#[test]
fn sample_rates() {
    for (format, want) in [
        (r#"{"sample_rate":"16000Hz"}"#, 16_000),
        (r#"{"sample_rate":24000}"#, 24_000),
        (r#"{"sample_rate":"8 kHz"}"#, 8000),
        (r#"{"sample_rate":"0"}"#, 8000),
        (r#"{"sample_rate":99999999999}"#, 8000),
        ("null", 8000),
        ("[]", 8000),
    ] {
        let text =
            format!(r#"{{"event":"start","stream_sid":"s","start":{{"call_sid":"c","media_format":{format}}}}}"#);
        assert_eq!(start(&text).sample_rate, want, "{format}");
    }
}

#[test]
fn media_in_both_styles() {
    let text = r#"{"event":"media","sequence_number":"3","stream_sid":"s","media":{"chunk":"2","timestamp":"200","payload":"AAH\/fw=="}}"#;
    let media = Media {
        sequence: Some(3),
        chunk: Some(2),
        timestamp_ms: Some(200),
        payload: Bytes::from_static(&[0, 1, 255, 127]),
    };
    let want = Received {
        stream_sid: Some("s".into()),
        event: Incoming::Media(media),
    };
    assert_eq!(decode(text), Ok(want.clone()));
    let text = r#"{"event":"media","sequenceNumber":3,"streamSid":"s","media":{"chunk":2,"timestamp":200,"payload":"AAH/fw=="},"new":{"x":[1]}}"#;
    assert_eq!(decode(text), Ok(want.clone()));
    let text = r#"{"event":"media","sequence_number":3,"media":{"stream_sid":" s ","chunk":2,"timestamp":200,"payload":"AAH/fw=="}}"#;
    assert_eq!(decode(text), Ok(want));
}

#[test]
fn small_events() {
    for (text, want) in [
        (
            r#"{"event":"connected","protocol":"x","version":"1.0.0"}"#,
            Incoming::Connected,
        ),
        (
            r#"{"event":"dtmf","stream_sid":"s","dtmf":{"digit":"5","duration":"100"}}"#,
            Incoming::Dtmf {
                digit: "5".into(),
                duration_ms: Some(100),
            },
        ),
        (
            r#"{"event":"dtmf","digit":5}"#,
            Incoming::Dtmf {
                digit: "5".into(),
                duration_ms: None,
            },
        ),
        (
            r#"{"event":"mark","mark":{"name":"m"}}"#,
            Incoming::Mark { name: "m".into() },
        ),
        (
            r#"{"event":"stop","stop":{"reason":"callended"}}"#,
            Incoming::Stop { hung_up: true },
        ),
        (
            r#"{"event":"stop","stop":{"reason":"stopped"}}"#,
            Incoming::Stop { hung_up: false },
        ),
        (r#"{"event":"stop","stop":null}"#, Incoming::Stop { hung_up: false }),
        (r#"{"event":"clear","stream_sid":"s"}"#, Incoming::Other("clear".into())),
        (r#"{"event":"new thing","mark":7}"#, Incoming::Other("new thing".into())),
    ] {
        let received = decode(text).unwrap();
        assert_eq!(received.event, want, "{text}");
        assert_eq!(
            received.stream_sid.as_deref(),
            text.contains("stream_sid").then_some("s"),
            "{text}"
        );
    }
}

#[test]
fn only_a_hang_up_means_that_the_person_hung_up() {
    for (reason, want) in [
        ("callended", true),
        ("call_ended", true),
        ("CallEnded", true),
        ("caller_hangup", true),
        ("caller hung up", true),
        ("Hang-Up", true),
        ("stopped", false),
        ("stream_error", false),
        ("max_duration_reached", false),
        ("call_transferred", false),
        ("", false),
    ] {
        let text = format!(r#"{{"event":"stop","stop":{{"reason":"{reason}"}}}}"#);
        assert_eq!(event(&text), Ok(Incoming::Stop { hung_up: want }), "{reason}");
    }
}

#[test]
fn broken_frames_are_errors() {
    // F84, F85, F86
    let deep = format!("{{\"event\":{}", "[".repeat(10_000));
    for (text, want) in [
        ("", FrameError::Json),
        ("null", FrameError::Missing("event")),
        (r#"["media"]"#, FrameError::Missing("event")),
        ("{}{}", FrameError::Json),
        (deep.as_str(), FrameError::Json),
        (r#"{"event":"media","media":{"payload":NaN}}"#, FrameError::Json),
        (r#"{"event":"media","event":"stop"}"#, FrameError::Json),
        (r#"{"event":"mark","mark":{"name":"\ud800"}}"#, FrameError::Json),
        ("{}", FrameError::Missing("event")),
        (r#"{"event":["media"]}"#, FrameError::Missing("event")),
        (r#"{"event":"media"}"#, FrameError::Missing("media.payload")),
        (r#"{"event":"media","media":{"payload":"A"}}"#, FrameError::Base64),
        (r#"{"event":"media","media":{"payload":"AAAA\n"}}"#, FrameError::Base64),
        (r#"{"event":"media","media":{"payload":"AA-_"}}"#, FrameError::Base64),
        (r#"{"event":"media","media":{"payload":"AAE"}}"#, FrameError::Base64),
        (
            r#"{"event":"start","start":{"call_sid":"c"}}"#,
            FrameError::Missing("start.stream_sid"),
        ),
        (
            r#"{"event":"start","stream_sid":"s","start":{}}"#,
            FrameError::Missing("start.call_sid"),
        ),
        (r#"{"event":"mark"}"#, FrameError::Missing("mark.name")),
    ] {
        assert_eq!(event(text), Err(want), "{}", text.get(..80).unwrap_or(text));
    }
    let empty = event(r#"{"event":"media","media":{"payload":""}}"#);
    assert!(matches!(empty, Ok(Incoming::Media(media)) if media.payload.is_empty()));
}

proptest! {
    #[test]
    fn audio_round_trips(sid in "\\PC{1,40}", pcm in proptest::collection::vec(any::<u8>(), 0..4000)) {
        prop_assume!(sid.trim() == sid);
        for position in [None, Some(Position { chunk: 7, timestamp_ms: 120 })] {
            let text = media(&sid, &pcm, position);
            let Ok(Received { stream_sid, event: Incoming::Media(back) }) = decode(&text) else { panic!("not media") };
            prop_assert_eq!(stream_sid.as_deref(), Some(sid.as_str()));
            prop_assert_eq!(&back.payload[..], &pcm[..]);
            prop_assert_eq!((back.sequence, back.chunk), (position.map(|p| p.chunk), position.map(|p| p.chunk)));
            prop_assert_eq!(back.timestamp_ms, position.map(|p| p.timestamp_ms));
        }
    }

    #[test]
    fn marks_round_trip(name in "[^\\s]{1,20}") {
        prop_assert_eq!(event(&mark("s", &name)), Ok(Incoming::Mark { name }));
    }

    #[test]
    fn decode_never_panics(text in "\\PC{0,300}") {
        let _ = decode(&text);
    }

    #[test]
    fn frame_like_json_never_panics(
        event in "(media|start|dtmf|mark|stop|connected|x)",
        key in "(media|start|dtmf|mark|stop|stream_sid|streamSid|sequence_number)",
        value in "(null|1|-1|1e400|0.5|true|\"\"|\"1x\"|\\[\\]|\\{\\}|\\{\"payload\":(1|\"AA==\"|\\{\\})\\}|\\{\"call_sid\":[0-9]{1,30}\\})",
    ) {
        let _ = decode(&format!(r#"{{"event":"{event}","{key}":{value}}}"#));
    }
}
