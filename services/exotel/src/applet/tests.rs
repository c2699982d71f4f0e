use super::*;
use insta::assert_json_snapshot;
use proptest::prelude::*;

fn get(query: &str) -> AppletRequest {
    AppletRequest::parse(query, None, b"").unwrap()
}

fn e164(caller: Option<&Caller>) -> &str {
    caller
        .and_then(|caller| caller.number.as_ref())
        .map_or("", PhoneNumber::expose)
}

#[test]
fn voicebot_inbound_as_captured_live() {
    let request = get(
        "CallSid=faccc8dce91e426a398475de9fdb1a8p&CallFrom=09440000609&CallTo=08030000588&Direction=incoming&Created=Tue, 25 Aug 2026 12:07:08&DialWhomNumber=&HangupLatencyStartTimeExocc=&HangupLatencyStartTime=&ServerCode=&From=09440000609&To=09513886363&CurrentTime=2026-08-25 12:07:09",
    );
    assert_eq!(request.call_sid.as_deref(), Some("faccc8dce91e426a398475de9fdb1a8p"));
    assert_eq!(e164(request.call_from.as_ref()), "+919440000609");
    assert_eq!(e164(request.call_to.as_ref()), "+918030000588");
    assert_eq!(request.direction, Some(FlowDirection::Incoming));
    assert_eq!(request.asked_at.unwrap().to_rfc3339(), "2026-08-25T06:37:09+00:00");
    assert_eq!(request.custom_field, None);
    assert!(!request.caller_hung_up());
    let shown = format!("{request:?}");
    assert!(!shown.contains("9440000609"), "{shown}");
}

#[test]
fn voicebot_outbound_as_captured_live() {
    let request = get(
        "CallSid=5979a54734e3bf7505cb8e41b96e1917&CallFrom=09400000411&CallTo=08040000155&Direction=outbound-dial&Created=Tue%2C+07+Jan+2025+15%3A51%3A06&DialWhomNumber=&HangupLatencyStartTimeExocc=&HangupLatencyStartTime=&From=09400000411&To=09513886363&CustomField=call_1.ABC&CurrentTime=2025-01-07+15%3A51%3A06",
    );
    assert_eq!(request.direction, Some(FlowDirection::OutboundDial));
    assert_eq!(request.custom_field.as_deref(), Some("call_1.ABC"));
}

#[test]
fn passthru_after_a_menu_as_captured_live() {
    let request = get(
        "CallSid=x&CallFrom=09900000691&CallTo=08060000522&Direction=incoming&Created=Tue%2C+03+Sep+2024+11%3A44%3A54&DialCallDuration=0&StartTime=2024-09-03+11%3A44%3A54&EndTime=1970-01-01+05%3A30%3A00&CallType=call-attempt&DialWhomNumber=&flow_id=11754&tenant_id=1409&From=09900000691&To=08060000522&CurrentTime=2024-09-03+11%3A44%3A59&digits=%228%22",
    );
    assert_eq!(request.digits.as_deref(), Some("8"));
    assert_eq!(request.call_type.as_deref(), Some("call-attempt"));
    assert_eq!(request.dial_call_s, Some(0));
}

#[test]
fn stream_results_flat_and_as_json() {
    let flat = get(
        "CallSid=56b1&Stream[StreamSID]=6f04&Stream[Status]=completed&Stream[Duration]=28&Stream[RecordingUrl]=https://recordings.exotel.com/x.mp3&Stream[StreamUrl]=wss://stream.customer.com/media?a=b&Stream[DisconnectedBy]=bot",
    );
    let stream = flat.stream.clone().unwrap();
    assert_eq!(stream.stream_sid.as_deref(), Some("6f04"));
    assert_eq!(stream.status, Some(StreamStatus::Completed));
    assert_eq!(stream.duration_s, Some(28));
    assert_eq!(stream.disconnected_by, DisconnectedBy::Bot);
    assert!(!flat.caller_hung_up());

    let json = get(r#"Stream={"StreamSID":"62xxx","Status":"completed","Duration":"28","DisconnectedBy":"user"}"#);
    assert_eq!(json.stream.as_ref().unwrap().stream_sid.as_deref(), Some("62xxx"));
    assert!(json.caller_hung_up());
}

#[test]
fn an_error_outweighs_the_status_and_keeps_its_code_only() {
    let request = get("Stream[Status]=completed&Stream[Error]=3009+failed+to+establish+ws+conn+wss%3A%2F%2Fsecret");
    let stream = request.stream.unwrap();
    assert_eq!(
        (stream.status, stream.error.as_deref()),
        (Some(StreamStatus::Failed), Some("3009"))
    );
    let request =
        get("Stream[Status]=failed&Stream[DisconnectedBy]=NA&Stream[DetailedStatus]=Streaming_call_throttled");
    let stream = request.stream.unwrap();
    assert_eq!(stream.detailed_status.as_deref(), Some("Streaming_call_throttled"));
    assert_eq!(stream.disconnected_by, DisconnectedBy::Na);
}

#[test]
fn hang_ups() {
    assert!(get("Stream[Status]=cancelled").caller_hung_up());
    assert!(get("CallType=client-hangup").caller_hung_up());
    assert!(get("DisconnectedBy=caller").caller_hung_up());
    assert!(!get("CallType=completed").caller_hung_up());
}

#[test]
fn query_and_bodies_are_merged_and_the_query_wins() {
    let request = AppletRequest::parse(
        "call_id=call_1&key=tok?CallSid=a",
        Some("application/json"),
        br#"{"callsid":"b","call_from":"0981-234-5678","stream":{"status":"cancelled"}}"#,
    )
    .unwrap();
    assert_eq!(request.call_id.as_deref(), Some("call_1"));
    assert_eq!(request.key.as_deref(), Some("tok"));
    assert_eq!(request.call_sid.as_deref(), Some("a"));
    assert_eq!(e164(request.call_from.as_ref()), "+919812345678");
    assert!(request.caller_hung_up());
    let form = AppletRequest::parse(
        "",
        Some("application/x-www-form-urlencoded"),
        b"CallSid=c&sample_rate=16000",
    );
    assert_eq!(
        form.map(|r| (r.call_sid, r.sample_rate)),
        Ok((Some("c".into()), Some(16_000)))
    );
}

#[test]
fn answers() {
    assert_json_snapshot!(connect_answer("wss://h/p"), @r#"
    {
      "url": "wss://h/p"
    }
    "#);
    let mut gather = GatherPrompt::new(Prompt::Text("Press one".into()));
    assert_json_snapshot!(gather.to_json(), @r##"
    {
      "finish_on_key": "#",
      "gather_prompt": {
        "text": "Press one"
      },
      "input_timeout": 5,
      "max_input_digits": 255,
      "repeat_menu": 0
    }
    "##);
    gather.repeat_prompt = Some(Prompt::AudioUrl("https://h/again.wav".into()));
    assert_eq!(
        gather.to_json()["repeat_gather_prompt"]["audio_url"],
        "https://h/again.wav"
    );
    let target = TransferTarget {
        numbers: vec![PhoneNumber::parse("09812345678").unwrap()],
        caller_id: Some(PhoneNumber::parse("+918040000155").unwrap()),
        record: true,
        ..TransferTarget::nobody()
    };
    assert_json_snapshot!(target.to_json(), @r#"
    {
      "destination": {
        "numbers": [
          "+919812345678"
        ]
      },
      "fetch_after_attempt": false,
      "max_conversation_duration": 3600,
      "max_ringing_duration": 45,
      "music_on_hold": {
        "type": "operator_tone"
      },
      "outgoing_phone_number": "08040000155",
      "record": true,
      "recording_channels": "dual"
    }
    "#);
    assert_eq!(TransferTarget::nobody().to_json()["destination"]["numbers"], json!([]));
}

proptest! {
    #[test]
    fn parse_never_panics(
        query in "([a-zA-Z_\\[\\]?%=&+0-9\"{}:,]{0,200}|\\PC{0,100})",
        content_type in proptest::option::of("(application/json|multipart/form-data; boundary=x|text/plain)"),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(request) = AppletRequest::parse(&query, content_type.as_deref(), &body) {
            let _ = request.caller_hung_up();
        }
    }
}
