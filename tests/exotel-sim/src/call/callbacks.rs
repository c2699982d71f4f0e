//! Status callbacks: how they are delivered, or lost, or late.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Call,
    applet::words,
    forgery::forge,
    payload::{Fields, encode, fields},
    voicebot::without_user,
};
use crate::{
    CallbackReport, Forged,
    chance::Draw,
    settings::{CallbackEncoding, Callbacks},
    world::World,
};

/// A call has three events at most.
const EVENTS: usize = 4;

/// An event of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ringing = 0,
    Answered = 1,
    Terminal = 2,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Terminal => "terminal",
        }
    }
}

/// One event on its way: the facts are those of the moment it happened.
pub(crate) struct Letter {
    pub(crate) kind: Kind,
    pub(crate) fields: Fields,
}

/// Delivers one call's events, first tries in order.
pub(crate) struct Courier {
    world: Arc<World>,
    call: Arc<Call>,
    letters: Option<mpsc::Sender<Letter>>,
}

impl Courier {
    pub(crate) fn start(world: &Arc<World>, call: &Arc<Call>) -> Self {
        let letters = call.request.callback.is_some().then(|| {
            let (letters, waiting) = mpsc::channel(EVENTS);
            let (world, call) = (Arc::clone(world), Arc::clone(call));
            world.tasks.clone().spawn(async move {
                let stop = world.stop.clone();
                let _ = stop.run_until_cancelled(deliver(&world, &call, waiting)).await;
            });
            letters
        });
        Self {
            world: Arc::clone(world),
            call: Arc::clone(call),
            letters,
        }
    }

    /// Hands over an event, when it was asked for.
    pub(crate) async fn send(&self, kind: Kind) {
        let Some(letters) = &self.letters else { return };
        let payload = self.call.callbacks(&self.world).payload;
        if let Some(fields) = fields(&self.world, &self.call, kind, payload) {
            // Only a stopping simulator has no receiver.
            let _ = letters.send(Letter { kind, fields }).await;
        }
    }
}

async fn deliver(world: &Arc<World>, call: &Arc<Call>, mut waiting: mpsc::Receiver<Letter>) {
    let mut held = Vec::new();
    while let Some(letter) = waiting.recv().await {
        let settings = call.callbacks(world);
        if settings.reorder && letter.kind != Kind::Terminal {
            held.push(letter);
            continue;
        }
        if settings.delay_spread_ms > 0 && !settings.reorder {
            let (world, call) = (Arc::clone(world), Arc::clone(call));
            world.tasks.clone().spawn(async move {
                let stop = world.stop.clone();
                let _ = stop.run_until_cancelled(send(&world, &call, &settings, letter)).await;
            });
            continue;
        }
        let retries = send(world, call, &settings, letter).await;
        if held.is_empty() {
            continue;
        }
        if let Some(retries) = retries {
            // The others come after it, however often it has to be sent.
            let _ = retries.await;
        }
        for letter in held.drain(..) {
            send(world, call, &settings, letter).await;
        }
    }
}

/// The first try with all that goes with it; returns the further ones, when there are any.
async fn send(world: &Arc<World>, call: &Arc<Call>, settings: &Callbacks, letter: Letter) -> Option<JoinHandle<()>> {
    // By the call's place and the event: what other calls do meanwhile changes nothing.
    let mut draw = Draw::of(world.seed, call.place.wrapping_mul(4) + letter.kind as u64);
    let spread = draw.below(settings.delay_spread_ms.saturating_add(1));
    let delay = settings.delay_ms.saturating_add(spread);
    tokio::time::sleep(world.settings().scaled_ms(delay)).await;
    let lost = draw.happens(settings.drop);
    if settings.forge {
        forge(world, call, settings, &letter, Forged::Token).await;
    }
    if lost {
        record(world, call, letter.kind, 1, Err("lost on purpose".to_owned()), true);
        return None;
    }
    let letter = Arc::new(letter);
    let apart = world.settings().scaled_ms(settings.duplicates_apart_ms);
    let copies = (1..=settings.duplicates).map(|at| {
        let letter = &letter;
        async move {
            tokio::time::sleep(apart.saturating_mul(at)).await;
            post(world, call, settings, letter, 1).await;
        }
    });
    let copies = futures_util::future::join_all(copies);
    let (delivered, _) = tokio::join!(post(world, call, settings, &letter, 1), copies);
    if settings.forge {
        forge(world, call, settings, &letter, Forged::CallSid).await;
    }
    if delivered || settings.retry_delays_ms.is_empty() {
        return None;
    }
    let (world, call, settings) = (Arc::clone(world), Arc::clone(call), settings.clone());
    Some(world.tasks.clone().spawn(async move {
        let stop = world.stop.clone();
        let retries = async {
            for (attempt, delay) in (2..).zip(&settings.retry_delays_ms) {
                tokio::time::sleep(world.settings().scaled_ms(*delay)).await;
                if post(&world, &call, &settings, &letter, attempt).await {
                    return;
                }
            }
        };
        let _ = stop.run_until_cancelled(retries).await;
    }))
}

/// One try; true when it was answered with 2xx.
async fn post(world: &Arc<World>, call: &Arc<Call>, settings: &Callbacks, letter: &Letter, attempt: u32) -> bool {
    let Some(callback) = &call.request.callback else {
        return true;
    };
    let outcome = request(world, call, settings, &callback.url, &letter.fields).await;
    let delivered = matches!(outcome, Ok(200..=299));
    record(world, call, letter.kind, attempt, outcome, false);
    delivered
}

/// One POST to the URL: the status, or why there was none.
pub(crate) async fn request(
    world: &World,
    call: &Call,
    settings: &Callbacks,
    url: &str,
    fields: &Fields,
) -> Result<u16, String> {
    let json = call.request.callback.as_ref().is_some_and(|callback| callback.json);
    let encoding = match settings.encoding {
        CallbackEncoding::AsRequested if json => CallbackEncoding::Json,
        CallbackEncoding::AsRequested => CallbackEncoding::Multipart,
        other => other,
    };
    let (content_type, body) = encode(encoding, fields);
    let request = world.http.post(url).header("Content-Type", content_type).body(body);
    let sent = request.timeout(Duration::from_millis(settings.timeout_ms)).send().await;
    sent.map(|response| response.status().as_u16()).map_err(words)
}

fn record(world: &World, call: &Call, kind: Kind, attempt: u32, outcome: Result<u16, String>, lost: bool) {
    let event = kind.word().to_owned();
    let url = call
        .request
        .callback
        .as_ref()
        .map(|callback| without_user(&callback.url));
    let facts = json!({
        "event": event, "attempt": attempt, "url": url, "lost": lost,
        "status": outcome.as_ref().ok(), "error": outcome.as_ref().err(),
    });
    world.note(Some(&call.sid), "callback", facts);
    call.update(world, |report| {
        report.callbacks.push(CallbackReport {
            event,
            attempt,
            status: outcome.ok(),
            lost,
        });
    });
}
