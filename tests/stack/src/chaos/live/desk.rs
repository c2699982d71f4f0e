//! One person's calls, one after the other: how each comes about, and what became of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use callbridge_proto::call::v1::{PlaceCallRequest, WaitFor, place_call_request::From};
use exotel_sim::{CallReport, CallerScript, Cause, Control, InboundCall, Outcome, Speech};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    super::{
        check::{Accepted, Sound, Talk},
        dice::Dice,
        load::{self, Told},
    },
    sound::Clip,
};
use crate::Clients;

/// A person who hears nothing for so long after the last word hangs up.
const SILENT_MS: u64 = 1_000;
/// Longer than any call.
pub(super) const ENDED: Duration = Duration::from_mins(1);
/// One try to place a call.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause before a call is asked for again, which doubles.
const AGAIN: Duration = Duration::from_millis(50);

/// What became of all calls.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// What clients were told.
    pub(super) told: Told,
    /// The calls.
    pub(super) talks: Vec<Talk>,
    /// Requests that were sent again.
    pub(super) retried: u64,
}

/// What callers share.
pub(super) struct Desk {
    /// The simulator.
    pub(super) control: Control,
    /// Of call-service.
    pub(super) clients: Vec<Clients>,
    /// Whose calls they are.
    pub(super) account_sid: String,
    /// Who calls out.
    pub(super) phone_id: String,
    /// Who is called.
    pub(super) phone_number: String,
    /// What is said.
    pub(super) clips: Vec<Clip>,
    /// Nobody begins any more.
    pub(super) enough: CancellationToken,
    /// Nobody waits any more.
    pub(super) give_up: CancellationToken,
    /// Whether somebody may begin now.
    pub(super) begin: watch::Receiver<bool>,
    /// Held by each call until its first audio.
    pub(super) beginning: Arc<()>,
    /// Numbers calls.
    pub(super) next: AtomicU64,
    /// Begins all idempotency keys.
    pub(super) key: String,
    /// How often a call is asked for.
    pub(super) tries: u32,
}

impl Desk {
    /// One call after the other.
    pub(super) async fn talk(&self, mut dice: Dice, spread_ms: u64) -> Heard {
        let mut heard = Heard::default();
        let first = dice.millis(0, spread_ms);
        let _ = timeout(first, self.enough.cancelled()).await;
        let mut begin = self.begin.clone();
        loop {
            let may_begin = async { begin.wait_for(|may| *may).await.is_ok() };
            tokio::select! {
                biased;
                () = self.enough.cancelled() => return heard,
                may = may_begin => if !may { return heard },
            }
            let beginning = Arc::clone(&self.beginning);
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(clip) = dice.pick(&self.clips).cloned() else {
                return heard;
            };
            let script = CallerScript::new()
                .speak(Speech::File(clip.path.clone()))
                .wait_for_audio_end(SILENT_MS)
                .hang_up();
            let person = format!("+9196{:08}", 10_000_000 + number % 80_000_000);
            let call = if dice.percent(50) {
                self.call_out(&person, script, number, &mut heard).await
            } else {
                self.call_in(&person, script).await
            };
            match call {
                Ok(sid) => heard.talks.push(self.listen(&sid, clip, beginning).await),
                // A client that was refused is told of there.
                Err(None) => {}
                Err(Some(wrong)) => heard.talks.push(Talk {
                    wrong: Some(wrong),
                    ..Talk::default()
                }),
            }
        }
    }

    async fn call_in(&self, person: &str, script: CallerScript) -> Result<String, Option<String>> {
        let call = InboundCall {
            account: self.account_sid.clone(),
            from: person.to_owned(),
            to: self.phone_number.clone(),
            script: Some(script),
        };
        self.control
            .inbound(call)
            .await
            .map_err(|error| Some(error.to_string()))
    }

    async fn call_out(
        &self,
        person: &str,
        script: CallerScript,
        number: u64,
        heard: &mut Heard,
    ) -> Result<String, Option<String>> {
        let said = self.control.set_outcome(person, Outcome::answered_by(script));
        said.map_err(|error| Some(error.to_string()))?;
        let request = PlaceCallRequest {
            idempotency_key: format!("{}-{number}", self.key),
            to: person.to_owned(),
            from: Some(From::PhoneId(self.phone_id.clone())),
            wait_for: WaitFor::Placed.into(),
            ..PlaceCallRequest::default()
        };
        let key = request.idempotency_key.clone();
        let client = usize::try_from(number).unwrap_or(0) % self.clients.len().max(1);
        let placed = self.place(&self.clients[client], &request, &mut heard.retried).await;
        let began = match placed {
            Ok(call) => {
                let (id, call_sid) = (call.id, call.exotel_call_sid);
                heard.told.accepted.push(Accepted { key, call: id.clone() });
                if call_sid.is_empty() {
                    self.dialled(&id).await
                } else {
                    Ok(call_sid)
                }
            }
            Err(status) => {
                let status = format!("{:?}: {}", status.code(), status.message());
                heard.told.refused.push((key, status));
                Err(None)
            }
        };
        // Not before it was dialled.
        let _ = self.control.clear_outcome(person);
        began
    }

    /// The dial of a call whose client was answered before it was made: by a replica that stops.
    async fn dialled(&self, id: &str) -> Result<String, Option<String>> {
        let ours = |report: &CallReport| {
            report
                .custom_field
                .as_deref()
                .is_some_and(|field| field.starts_with(id))
        };
        let found = self.control.wait_for_any(ENDED, ours).await;
        found
            .map(|report| report.call_sid)
            .map_err(|_| Some(format!("{id} was not dialled")))
    }

    async fn place(
        &self,
        client: &Clients,
        request: &PlaceCallRequest,
        retried: &mut u64,
    ) -> Result<callbridge_proto::call::v1::Call, Status> {
        let mut pause = AGAIN;
        let mut tries = 0;
        loop {
            tries += 1;
            let answer = timeout(PATIENCE, client.calls().place_call(request.clone())).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            match answer {
                Ok(answer) => return Ok(answer.into_inner().call.unwrap_or_default()),
                Err(status) => {
                    if tries >= self.tries || self.give_up.is_cancelled() || !load::may_come_right(status.code()) {
                        return Err(status);
                    }
                    *retried += 1;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN * 16);
        }
    }

    /// Waits for a call's end, and compares what was heard with what was said.
    async fn listen(&self, sid: &str, clip: Clip, beginning: Arc<()>) -> Talk {
        let mut talk = Talk {
            call_sid: sid.to_owned(),
            ..Talk::default()
        };
        let up = |report: &CallReport| {
            let first = report.streams.first().and_then(|stream| stream.first_audio_ms);
            first.is_some() || report.has_ended()
        };
        // What it waits for in vain is told below.
        let _ = self.control.wait_for(sid, ENDED, up).await;
        drop(beginning);
        let report = match self.control.wait_for_end(sid, ENDED).await {
            Ok(report) => report,
            Err(error) => {
                talk.wrong = Some(error.to_string());
                return talk;
            }
        };
        talk.wrong = wrong(&report);
        if let Some(stream) = report.streams.into_iter().next() {
            let compared = tokio::task::spawn_blocking(move || clip.compare(&stream)).await;
            match compared.unwrap_or_else(|_| Err("the sound was not compared".to_owned())) {
                Ok(sound) => talk.sound = sound,
                Err(why) => {
                    talk.sound = Sound::default();
                    talk.wrong.get_or_insert(why);
                }
            }
        }
        talk
    }
}

/// Why a call did not end as its person wanted: by hanging up, on its only stream.
fn wrong(report: &CallReport) -> Option<String> {
    let stream = report.streams.first();
    let by = stream.and_then(|stream| stream.disconnected_by.as_deref());
    let as_wanted = report.cause == Some(Cause::Caller) && report.streams.len() == 1 && by == Some("user");
    (!as_wanted).then(|| {
        format!(
            "{:?} ended it; {} streams, the first one ended by {}, close code {:?}, {}",
            report.cause,
            report.streams.len(),
            by.unwrap_or("nobody"),
            stream.and_then(|stream| stream.close_code),
            stream.and_then(|stream| stream.error.as_deref()).unwrap_or("no error")
        )
    })
}
