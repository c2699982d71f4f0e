//! One call: its facts, how it is steered, how it lives.

pub(crate) mod applet;
pub(crate) mod callbacks;
pub(crate) mod caller;
pub(crate) mod connect;
pub(crate) mod flow;
pub(crate) mod forgery;
pub(crate) mod life;
pub(crate) mod payload;
pub(crate) mod playout;
pub(crate) mod query;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod voicebot;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::callbacks::Kind;
use crate::{
    CallReport, Cause, Mode, Outcome, Phase,
    account::AccountState,
    clock,
    number::Number,
    script::Step,
    settings::{Callbacks, Streams},
    world::{World, locked},
};

/// Steps that wait to be taken by the caller; more are refused by the control API.
pub(crate) const WAITING_STEPS: usize = 1_000;

/// What a connect asked for, or what an inbound call is.
pub(crate) struct Request {
    pub(crate) mode: Mode,
    pub(crate) customer: Number,
    pub(crate) exophone: Number,
    /// The second number.
    pub(crate) to: Option<Number>,
    /// The app id of the flow.
    pub(crate) app_id: Option<String>,
    pub(crate) stream_url: Option<String>,
    pub(crate) custom_field: Option<String>,
    pub(crate) record: bool,
    pub(crate) time_limit: Option<u64>,
    pub(crate) ring_timeout: Option<u64>,
    pub(crate) callback: Option<CallbackRequest>,
}

/// The status callback that a connect asked for.
pub(crate) struct CallbackRequest {
    pub(crate) url: String,
    /// The subscribed events.
    pub(crate) events: Vec<Kind>,
    /// Whether JSON was asked for.
    pub(crate) json: bool,
}

pub(crate) struct Call {
    pub(crate) sid: String,
    /// Place in the order of creation: the cursor of lists.
    pub(crate) place: u64,
    pub(crate) account: Arc<AccountState>,
    pub(crate) request: Request,
    pub(crate) outcome: Outcome,
    pub(crate) report: watch::Sender<CallReport>,
    /// Cancelled when the call has to end; the cause says why.
    pub(crate) ending: CancellationToken,
    cause: OnceLock<Cause>,
    steps: Mutex<VecDeque<Step>>,
}

impl Call {
    pub(crate) fn new(world: &World, account: &Arc<AccountState>, request: Request, outcome: Outcome) -> Arc<Self> {
        let call = Self::unlisted(world, account, request, outcome);
        world.remember(&call);
        call
    }

    /// A call that is not remembered.
    pub(crate) fn unlisted(
        world: &World,
        account: &Arc<AccountState>,
        request: Request,
        outcome: Outcome,
    ) -> Arc<Self> {
        let sid = new_sid();
        let report = CallReport {
            call_sid: sid.clone(),
            account_sid: account.get().sid.clone(),
            mode: request.mode,
            customer: request.customer.national(),
            exophone: request.exophone.national(),
            to: request.to.as_ref().map(Number::national),
            custom_field: request.custom_field.clone(),
            phase: Phase::Queued,
            status: None,
            cause: None,
            created: clock::now(),
            ringing: None,
            answered: None,
            ended: None,
            applets: Vec::new(),
            streams: Vec::new(),
            legs: Vec::new(),
            callbacks: Vec::new(),
            forgeries: Vec::new(),
            said: Vec::new(),
            recorded: request.record,
            recording_fetches: 0,
        };
        Arc::new(Self {
            sid,
            place: locked(&world.calls).next_place(),
            account: Arc::clone(account),
            request,
            outcome,
            report: watch::Sender::new(report),
            ending: world.stop.child_token(),
            cause: OnceLock::new(),
            steps: Mutex::default(),
        })
    }

    /// Changes the report and wakes whoever waits for it.
    pub(crate) fn update(&self, world: &World, change: impl FnOnce(&mut CallReport)) {
        self.report.send_modify(change);
        world.changed();
    }

    /// Ends the call, if nothing else did before.
    pub(crate) fn end(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.ending.cancel();
    }

    /// Why the call has to end; only the simulator's stop has no cause of its own.
    pub(crate) fn cause(&self) -> Cause {
        self.cause.get().copied().unwrap_or(Cause::Shutdown)
    }

    /// Waits, unless the call has to end first; false when it has.
    pub(crate) async fn pause(&self, duration: Duration) -> bool {
        self.ending
            .run_until_cancelled(tokio::time::sleep(duration))
            .await
            .is_some()
    }

    /// Adds steps in front of the caller's script; false when too many wait.
    pub(crate) fn add_steps(&self, steps: Vec<Step>) -> bool {
        let mut waiting = locked(&self.steps);
        if waiting.len() + steps.len() > WAITING_STEPS {
            return false;
        }
        waiting.extend(steps);
        true
    }

    /// Takes the steps added since the last time.
    pub(crate) fn added_steps(&self) -> VecDeque<Step> {
        std::mem::take(&mut *locked(&self.steps))
    }

    /// Takes the keys pressed since the last time, and leaves the other steps.
    pub(crate) fn added_keys(&self) -> String {
        let mut keys = String::new();
        locked(&self.steps).retain(|step| {
            if let Step::Press(digits) = step {
                keys.push_str(digits);
                return false;
            }
            true
        });
        keys
    }

    /// How this call's callbacks behave: by number, by account, by the settings.
    pub(crate) fn callbacks(&self, world: &World) -> Callbacks {
        let chosen = self
            .outcome
            .callbacks
            .clone()
            .or_else(|| self.account.get().callbacks.clone());
        chosen.unwrap_or_else(|| world.settings().callbacks.clone())
    }

    /// How this call's streams behave: by number, by the settings.
    pub(crate) fn streams(&self, world: &World) -> Streams {
        self.outcome
            .stream
            .clone()
            .unwrap_or_else(|| world.settings().stream.clone())
    }

    /// Where the recording is, under the simulator's own address.
    pub(crate) fn recording_url(&self, world: &World) -> String {
        let base = world.base_url.get().map_or("", String::as_str);
        format!("{base}/exotelrecordings/{}/{}.mp3", self.account.get().sid, self.sid)
    }
}

/// A new SID: 32 characters, mostly hex, with an end that is not, as newer ones have.
pub(crate) fn new_sid() -> String {
    let mut sid = Uuid::new_v4().simple().to_string();
    sid.truncate(28);
    sid.push_str("18bl");
    sid
}
