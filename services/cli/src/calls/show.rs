//! A call with its audio sessions and its timeline.

use callbridge_proto::call::v1::{Call, CallEvent, GetCallRequest, MediaSession, WatchCallRequest};

use crate::{Failure, client::Client, output::Out, words};

/// The counters that tell how the audio was; `--json` has all of them.
const COUNTERS: [(&str, &str); 6] = [
    ("first_audio_ms", "first audio after ms"),
    ("underruns", "gaps heard"),
    ("clear_to_silence_ms", "barge-in to silence ms"),
    ("gaps", "pieces lost"),
    ("dropped_in_ms", "not heard by the agent ms"),
    ("dropped_out_ms", "not said ms"),
];

pub(super) async fn run(client: &Client, out: &mut Out<'_>, id: String) -> Result<(), Failure> {
    let request = GetCallRequest { call_id: id };
    let answer = client.calls().get_call(request).await;
    let call = answer
        .map_err(client.failed("show the call"))?
        .into_inner()
        .call
        .unwrap_or_default();
    let events = timeline(client, &call).await?;
    if out.json {
        out.message(&call)?;
        for event in &events {
            out.message(event)?;
        }
        return Ok(());
    }
    show(out, &call)?;
    for session in &call.media_sessions {
        out.line("")?;
        show_session(out, session)?;
    }
    out.line("")?;
    Ok(out.table(HEAD, events.iter().map(row).collect())?)
}

/// What happened up to the version that was read: a live call's timeline does not end by itself.
async fn timeline(client: &Client, call: &Call) -> Result<Vec<CallEvent>, Failure> {
    let request = WatchCallRequest {
        call_id: call.id.clone(),
        after_version: 0,
        follow_late_facts: true,
    };
    let answer = client.calls().watch_call(request).await;
    let mut stream = answer.map_err(client.failed("show the call's timeline"))?.into_inner();
    let mut events: Vec<CallEvent> = Vec::new();
    while events.last().is_none_or(|event| event.version < call.version) {
        let next = stream
            .message()
            .await
            .map_err(client.failed("show the call's timeline"))?;
        match next.and_then(|response| response.event) {
            Some(event) => events.push(event),
            None => break,
        }
    }
    Ok(events)
}

pub(super) const HEAD: [&str; 5] = ["at", "event", "state", "from", "facts"];

/// An event in a timeline's table.
pub(super) fn row(event: &CallEvent) -> [String; 5] {
    [
        words::clock(event.at),
        event.r#type.clone(),
        words::call_state(event.state()),
        event.source.clone(),
        words::facts(&event.data),
    ]
}

fn show(out: &mut Out<'_>, call: &Call) -> Result<(), Failure> {
    let seconds = |seconds: Option<i32>| seconds.map(|seconds| format!("{seconds} s")).unwrap_or_default();
    let ended = match (call.end_reason.as_str(), call.ended_by.as_str(), call.end_presumed) {
        ("", ..) => String::new(),
        (reason, by, false) => format!("{reason}, by {by}"),
        (reason, by, true) => format!("{reason}, by {by}, presumed"),
    };
    let flag = |set: bool| if set { "yes".to_owned() } else { String::new() };
    let person = out.number(&call.customer_number);
    Ok(out.facts(&[
        ("id", call.id.clone()),
        ("direction", words::direction(call.direction())),
        ("state", words::call_state(call.state())),
        ("ended", ended),
        ("Exotel's code", call.provider_code.clone()),
        ("waits for", call.waiting_reason.clone()),
        ("behind", call.waiting_for_call_id.clone()),
        ("needs review", flag(call.needs_review)),
        ("end asked for", flag(call.end_requested)),
        ("person", person),
        (
            "phone",
            format!("{} {}", call.phone_number, call.phone_id).trim().to_owned(),
        ),
        ("account", call.account_id.clone()),
        ("agent", call.agent_id.clone()),
        ("placed by", call.caller.clone()),
        ("campaign", call.campaign_id.clone()),
        ("Exotel's id", call.exotel_call_sid.clone()),
        ("attempts", call.attempt.to_string()),
        ("queued", words::time(call.queued_at)),
        ("dialled", words::time(call.dialed_at)),
        ("answered", words::time(call.answered_at)),
        ("over", words::time(call.ended_at)),
        ("rang", seconds(call.ring_seconds)),
        ("talked", seconds(call.talk_seconds)),
        ("price", call.price.clone()),
        ("metadata", words::facts(&call.metadata)),
    ])?)
}

fn show_session(out: &mut Out<'_>, session: &MediaSession) -> Result<(), Failure> {
    let ended = match session.end_reason.as_str() {
        "" => String::new(),
        reason => format!("{} ({reason}, by {})", words::time(session.ended_at), session.ended_by),
    };
    let counted = COUNTERS.map(|(name, _)| session.quality.get(name).map(ToString::to_string).unwrap_or_default());
    let mut facts = vec![
        ("audio", session.id.clone()),
        ("began", words::time(session.started_at)),
        ("ended", ended),
    ];
    facts.extend(COUNTERS.iter().map(|(_, shown)| *shown).zip(counted));
    if let Some(recording) = &session.recording {
        let state = words::plain(recording.state().as_str_name(), "RECORDING_STATE_");
        facts.push(("recording", format!("{state} {}", recording.reason).trim().to_owned()));
    }
    Ok(out.facts(&facts)?)
}
