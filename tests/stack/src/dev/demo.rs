//! The two calls.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use callbridge_proto::call::v1::{
    Call, CallFilter, CallState, Direction, GetCallRequest, GetTranscriptRequest, PlaceCallRequest, WaitFor,
    WatchCallRequest, WatchCallsRequest, place_call_request::From,
};
use exotel_sim::{CallerScript, InboundCall, Outcome, Speech};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    folder::Folder,
    verify::{self, Recordings, Verdict},
    view::{self, Line},
};
use crate::{Registered, Stack, keys::random};

/// The person who is called. No outcome is scripted for the last four digits.
const CALLEE: &str = "+919812340017";

/// The person who calls.
const CALLER: &str = "+919812340018";

/// Both calls take about ten seconds; the rest is for a slow machine.
const CALL_LIMIT: Duration = Duration::from_mins(1);

/// How long silence after speech is the end of it: longer than any pause in the demo's sentences.
const PAUSE_MS: u64 = 700;

/// A call that ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) line: Line,
    pub(super) call: Call,
    pub(super) said: Vec<String>,
    pub(super) recordings: Option<Recordings>,
    pub(super) verdict: Verdict,
}

/// The whole demonstration.
pub(super) struct Demo {
    pub(super) registered: Registered,
    pub(super) ended: Vec<Ended>,
}

impl Demo {
    pub(super) fn new(registered: Registered) -> Self {
        Self {
            registered,
            ended: Vec::new(),
        }
    }

    /// Whether both calls were as they should be.
    pub(super) fn is_good(&self) -> bool {
        self.ended.len() == 2 && self.ended.iter().all(|ended| ended.verdict.bad.is_empty())
    }

    /// Makes both calls at the same time and shows what comes of them.
    pub(super) async fn call(&mut self, stack: &Stack, folder: &Folder) -> anyhow::Result<()> {
        view::calls_begin();
        let (out, incoming) = tokio::join!(
            timeout(CALL_LIMIT, self.outbound(stack)),
            timeout(CALL_LIMIT, self.inbound(stack)),
        );
        for (line, result) in [(Line::Outbound, out), (Line::Inbound, incoming)] {
            let result = result.unwrap_or_else(|_| bail!("it did not end within {} s", CALL_LIMIT.as_secs()));
            let id = result.with_context(|| format!("the {} call failed", line.word()))?;
            let ended = self.look_at(stack, folder, line, &id).await?;
            view::ended(&ended);
            self.ended.push(ended);
        }
        Ok(())
    }

    /// Places a call and follows it with `WatchCall`. The person listens, speaks, presses a key, and hangs up.
    async fn outbound(&self, stack: &Stack) -> anyhow::Result<String> {
        let script = CallerScript::new()
            .wait_for_audio_end(PAUSE_MS)
            .speak(Speech::Hello)
            .wait_for_audio_end(PAUSE_MS)
            .press("5")
            .wait_for_audio_end(PAUSE_MS)
            .hang_up();
        stack.control().set_outcome(CALLEE, Outcome::answered_by(script))?;
        let mut calls = stack.clients().calls();
        let request = PlaceCallRequest {
            idempotency_key: format!("dev-{}", data_encoding::HEXLOWER.encode(&random::<8>()?)),
            to: CALLEE.to_owned(),
            from: Some(From::PhoneId(self.registered.phone_id.clone())),
            metadata: [("purpose".to_owned(), "cargo dev".to_owned())].into(),
            wait_for: WaitFor::Queued.into(),
            ..PlaceCallRequest::default()
        };
        let placed = calls.place_call(request).await.context("PlaceCall")?.into_inner().call;
        let id = placed.context("PlaceCall answered without a call")?.id;
        let watch = WatchCallRequest {
            call_id: id.clone(),
            ..WatchCallRequest::default()
        };
        let mut events = calls.watch_call(watch).await.context("WatchCall")?.into_inner();
        let mut timeline = view::Timeline::new(Line::Outbound);
        while let Some(response) = events.message().await.context("WatchCall")? {
            if let Some(event) = response.event {
                timeline.show(&event);
            }
        }
        Ok(id)
    }

    /// Lets a person call in and follows the call with `WatchCalls`. The person listens, asks, presses `*`; the agent says
    /// goodbye and hangs up.
    async fn inbound(&self, stack: &Stack) -> anyhow::Result<String> {
        let mut calls = stack.clients().calls();
        let filter = CallFilter {
            direction: Direction::Inbound.into(),
            phone_id: self.registered.phone_id.clone(),
            ..CallFilter::default()
        };
        let watch = WatchCallsRequest {
            cursor: String::new(),
            filter: Some(filter),
        };
        let mut events = calls.watch_calls(watch).await.context("WatchCalls")?.into_inner();
        let script = CallerScript::new()
            .wait_for_audio_end(PAUSE_MS)
            .speak(Speech::Question)
            .wait_for_audio_end(PAUSE_MS)
            .press("*");
        let call = InboundCall {
            account: self.registered.account_sid.clone(),
            from: CALLER.to_owned(),
            to: self.registered.phone_number.clone(),
            script: Some(script),
        };
        stack
            .control()
            .inbound(call)
            .await
            .context("the simulator cannot call in")?;
        let mut timeline = view::Timeline::new(Line::Inbound);
        while let Some(response) = events.message().await.context("WatchCalls")? {
            let Some(event) = response.event else { continue };
            timeline.show(&event);
            if is_terminal(event.state()) {
                return Ok(event.call_id);
            }
        }
        bail!("WatchCalls ended before the call did")
    }

    async fn look_at(&self, stack: &Stack, folder: &Folder, line: Line, id: &str) -> anyhow::Result<Ended> {
        let mut calls = stack.clients().calls();
        let call = calls
            .get_call(GetCallRequest { call_id: id.to_owned() })
            .await
            .context("GetCall")?
            .into_inner()
            .call;
        let call = call.context("GetCall answered without a call")?;
        let report = stack.control().wait_for_end(&call.exotel_call_sid, CALL_LIMIT).await?;
        let recordings = match verify::files(&report) {
            Ok(files) => Some(keep(&files, &folder.path().join(line.word()))?),
            Err(_) => None,
        };
        let verdict = match &recordings {
            Some(recordings) => verify::verify(&call, &report, recordings),
            None => Verdict {
                good: Vec::new(),
                bad: vec!["there was no audio".to_owned()],
            },
        };
        let request = GetTranscriptRequest { call_id: id.to_owned() };
        let transcript = calls
            .get_transcript(request)
            .await
            .context("GetTranscript")?
            .into_inner();
        let said = transcript.entries.into_iter().map(|entry| entry.text).collect();
        Ok(Ended {
            line,
            call,
            said,
            recordings,
            verdict,
        })
    }

    /// What `dev.json` says.
    pub(super) fn describe(&self, stack: &Stack, folder: &Folder) -> Value {
        let address = |piece: &crate::Piece| piece.address.to_string();
        let internal = |piece: &crate::Piece| piece.internal.map(|address| address.to_string());
        let (call, edge) = (&stack.call_services[0], &stack.edges[0]);
        let (registered, urls) = (&self.registered, &self.registered.urls);
        let calls: serde_json::Map<String, Value> = self.ended.iter().map(described).collect();
        json!({
            "addresses": {
                "call_service": address(call),
                "call_service_internal": internal(call),
                "edge": stack.edge_url(),
                "edge_internal": internal(edge),
                "simulator": stack.simulator_url(),
                "echo_agent": stack.agent_url(),
            },
            "database_url": stack.database_url,
            "api_key": stack.keys.api_key,
            "edge_api_key": stack.keys.edge_api_key,
            "account_token": urls.account_token,
            "account_id": registered.account_id,
            "account_sid": registered.account_sid,
            "phone_id": registered.phone_id,
            "phone_number": registered.phone_number,
            "agent_id": registered.agent.id,
            "urls": {
                "connect": urls.connect_url,
                "greeting": urls.greeting_url,
                "gather": urls.gather_url,
                "input": urls.input_url,
                "transfer": urls.transfer_url,
                "end": urls.end_url,
                "socket": urls.socket_url,
            },
            "calls": calls,
            "log": folder.log(),
            "pid": std::process::id(),
        })
    }
}

fn described(ended: &Ended) -> (String, Value) {
    let files = ended.recordings.as_ref();
    let value = json!({
        "call_id": ended.call.id,
        "call_sid": ended.call.exotel_call_sid,
        "state": ended.call.state().as_str_name(),
        "heard_by_person": files.map(|files| &files.person),
        "heard_by_agent": files.map(|files| &files.agent),
        "problems": ended.verdict.bad,
    });
    (ended.line.word().to_owned(), value)
}

/// Copies the simulator's files to where people look for them.
fn keep(files: &Recordings, folder: &Path) -> anyhow::Result<Recordings> {
    let kept = Recordings {
        person: folder.join("heard-by-person.wav"),
        agent: folder.join("heard-by-agent.wav"),
    };
    let copy = || {
        fs::create_dir_all(folder)?;
        fs::copy(&files.person, &kept.person)?;
        fs::copy(&files.agent, &kept.agent)
    };
    copy().with_context(|| format!("cannot write {}", folder.display()))?;
    Ok(kept)
}

fn is_terminal(state: CallState) -> bool {
    match state {
        CallState::Completed | CallState::NoAnswer | CallState::Busy | CallState::Failed | CallState::Canceled => true,
        CallState::Unspecified
        | CallState::Queued
        | CallState::Dialing
        | CallState::Unconfirmed
        | CallState::Placed
        | CallState::Ringing
        | CallState::InProgress => false,
    }
}
