//! People who talk: so many at one time, every second of them called by us, the others calling an ExoPhone. Each says a clip, waits
//! until the echo has ended, and hangs up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use callbridge_proto::call::v1::{PlaceCallRequest, WaitFor, place_call_request::From};
use exotel_sim::{CallReport, CallerScript, Cause, Control, InboundCall, Outcome, Speech};
use runtime::Tasks;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    super::{
        arguments::What,
        check::{Accepted, Sound, Talk},
        dice::Dice,
        load::{self, Told},
        part::Stage,
    },
    sound::{Clip, PIECE_MS},
};
use crate::{Clients, poll};

/// Clips of as many lengths; calls that take turns with them do not end at one time.
const CLIPS: u64 = 32;
/// A person who hears nothing for so long after the last word hangs up.
const SILENT_MS: u64 = 1_000;
/// Longer than any call.
const ENDED: Duration = Duration::from_mins(1);
/// One try to place a call.
const PATIENCE: Duration = Duration::from_secs(5);
/// Tries of a client of gRPC, by its usual policy for UNAVAILABLE, and the pause before the second one, which doubles.
const TRIES: u32 = 4;
const AGAIN: Duration = Duration::from_millis(50);
/// Where call-service dies, clients ask until it is back.
const TRIES_OF_DETACH: u32 = 200;

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

/// The people.
#[derive(Debug)]
pub(super) struct Callers {
    slots: Vec<JoinHandle<Option<Heard>>>,
    enough: CancellationToken,
    give_up: CancellationToken,
    begin: watch::Sender<bool>,
    /// Held by each call until its first audio; here and at the desk besides.
    beginning: Arc<()>,
}

/// What they share.
struct Desk {
    control: Control,
    clients: Vec<Clients>,
    account_sid: String,
    phone_id: String,
    phone_number: String,
    clips: Vec<Clip>,
    enough: CancellationToken,
    give_up: CancellationToken,
    begin: watch::Receiver<bool>,
    beginning: Arc<()>,
    next: AtomicU64,
    key: String,
    tries: u32,
}

impl Callers {
    /// Begins to call.
    pub(super) async fn start(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let (system, part) = (stage.system, &stage.part);
        // A round takes longer than a call; where call-service dies, most calls outlive that. In pieces.
        let (shortest, longest) = if part.what == What::Rolling {
            (30, 90)
        } else {
            (60, 140)
        };
        let folder = system.folder.clone();
        let clips = tokio::task::spawn_blocking(move || {
            let length = |number| shortest + (longest - shortest) * number / CLIPS;
            (0..CLIPS)
                .map(|number| Clip::write(&folder, number, length(number)))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        let clips = clips.await.context("the clips could not be written")??;
        let member = system.members.first().context("there is no account")?;
        let (enough, give_up, begin) = (
            CancellationToken::new(),
            CancellationToken::new(),
            watch::Sender::new(true),
        );
        let beginning = Arc::new(());
        let desk = Arc::new(Desk {
            control: system.control.clone(),
            clients: system.clients.clone(),
            account_sid: member.registered.account_sid.clone(),
            phone_id: member.registered.phone_id.clone(),
            phone_number: member.registered.phone_number.clone(),
            clips,
            enough: enough.clone(),
            give_up: give_up.clone(),
            begin: begin.subscribe(),
            beginning: Arc::clone(&beginning),
            next: AtomicU64::new(0),
            key: format!("{}-{}", part.seed, part.first),
            tries: if part.what == What::Rolling {
                TRIES
            } else {
                TRIES_OF_DETACH
            },
        });
        let slots = (0..u64::from(part.calls)).map(|slot| {
            // They begin spread over the length of a call.
            let dice = Dice::new(part.seed, "caller", part.first * 10_000 + slot);
            let (desk, spread) = (Arc::clone(&desk), longest * PIECE_MS);
            system.tasks.spawn(async move { desk.talk(dice, spread).await })
        });
        Ok(Self {
            slots: slots.collect(),
            enough,
            give_up,
            begin,
            beginning,
        })
    }

    /// Nobody begins to call until [`Callers::go_on`], and whoever has begun is through. Calls go on.
    pub(super) async fn pause(&self) -> anyhow::Result<()> {
        self.begin.send_replace(false);
        poll("calls that begin to be up", ENDED, async || {
            match Arc::strong_count(&self.beginning).saturating_sub(2) {
                0 => Ok(()),
                count => Err(format!("{count} are not")),
            }
        })
        .await?;
        Ok(())
    }

    /// People call again.
    pub(super) fn go_on(&self) {
        self.begin.send_replace(true);
    }

    /// Lets all calls end, and tells what became of them.
    pub(super) async fn finish(self, limit: Duration) -> Heard {
        self.enough.cancel();
        let give_up = self.give_up.clone();
        let late = Tasks::new();
        late.spawn(async move {
            sleep(limit).await;
            give_up.cancel();
        });
        let mut heard = Heard::default();
        for slot in self.slots {
            if let Ok(Some(more)) = slot.await {
                heard.told.add(more.told);
                heard.talks.extend(more.talks);
                heard.retried += more.retried;
            }
        }
        late.shut_down(Duration::ZERO).await;
        heard
    }
}

impl Desk {
    /// One call after the other.
    async fn talk(&self, mut dice: Dice, spread_ms: u64) -> Heard {
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
        let _ = self.control.clear_outcome(person);
        match placed {
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
        }
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
