//! What all parts of the simulator share: accounts, settings, outcomes, calls, journals, clients.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Event, Outcome, Settings,
    account::AccountState,
    call::Call,
    calls::Calls,
    chance::Chance,
    clock,
    config::Account,
    faults::Plan,
    journal::Journal,
    number::Number,
    script::Speech,
    wav::{self, Clip},
};

/// Speech files kept in memory.
const REMEMBERED_CLIPS: usize = 64;

/// Locks, whatever happened to an earlier holder: all guarded values are valid between statements.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct World {
    pub(crate) state_dir: PathBuf,
    pub(crate) base_url: OnceLock<String>,
    pub(crate) settings: RwLock<Arc<Settings>>,
    pub(crate) accounts: RwLock<BTreeMap<String, Arc<AccountState>>>,
    pub(crate) outcomes: Mutex<BTreeMap<Number, Outcome>>,
    pub(crate) calls: Mutex<Calls>,
    /// Every open connection holds a clone, so its count is theirs and this one.
    pub(crate) connections: Arc<()>,
    /// Counts changes of any call, for whoever waits for one to appear.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) ledger: Journal,
    pub(crate) arrivals: Journal,
    pub(crate) events: Journal,
    pub(crate) http: reqwest::Client,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) seed: u64,
    /// Draws for what happens in streams.
    pub(crate) chance: Chance,
    /// Draws for connects, one each.
    pub(crate) connects: Chance,
    /// Draws for lists and details, one each.
    pub(crate) reads: Chance,
    pub(crate) speech: Option<PathBuf>,
    pub(crate) clips: Mutex<HashMap<PathBuf, Arc<Clip>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl World {
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn account(&self, sid: &str) -> Option<Arc<AccountState>> {
        self.accounts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(sid)
            .cloned()
    }

    pub(crate) fn put_account(&self, account: Account) {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = accounts.get(&account.sid) {
            known.put(account);
        } else {
            accounts.insert(account.sid.clone(), Arc::new(AccountState::new(account)));
        }
    }

    /// The script of a number, without using it up.
    pub(crate) fn outcome(&self, number: &Number) -> Outcome {
        let scripted = locked(&self.outcomes).get(number).cloned();
        scripted.unwrap_or_else(|| self.unscripted(number))
    }

    /// What happens to a number without a script of its own.
    fn unscripted(&self, number: &Number) -> Outcome {
        let settings = self.settings();
        let meant = settings.convention.then(|| Outcome::meant_by(&number.e164())).flatten();
        meant.unwrap_or_else(|| settings.unscripted.clone())
    }

    /// What becomes of a connect to a number: by its script, or else by chance.
    pub(crate) fn plan(&self, number: &Number) -> Plan {
        // Drawn for every connect, so that a script for one number changes nothing for the others.
        let draw = self.connects.draw();
        let scripted = locked(&self.outcomes).contains_key(number);
        let outcome = self.take_outcome(number);
        // What the last four digits mean is about the phone, or it is about the answer and then it stands.
        if outcome.random_faults || (!scripted && outcome.leaves_the_answer()) {
            self.settings().faults.connect(draw, outcome)
        } else {
            Plan::scripted(outcome)
        }
    }

    /// The script of a number for one call.
    pub(crate) fn take_outcome(&self, number: &Number) -> Outcome {
        let outcome = self.outcome(number);
        let mut outcomes = locked(&self.outcomes);
        if let Some(scripted) = outcomes.get_mut(number)
            && let Some(times) = scripted.times.as_mut()
        {
            *times = times.saturating_sub(1);
            if *times == 0 {
                outcomes.remove(number);
            }
        }
        outcome
    }

    pub(crate) fn call(&self, sid: &str) -> Option<Arc<Call>> {
        locked(&self.calls).get(sid)
    }

    pub(crate) fn remember(&self, call: &Arc<Call>) {
        locked(&self.calls).insert(call);
        self.changed();
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Notes a fact in the event journal.
    pub(crate) fn note(&self, call_sid: Option<&str>, kind: &str, facts: serde_json::Value) {
        self.events.note(&Event {
            time: clock::now(),
            call_sid: call_sid.map(str::to_owned),
            kind: kind.to_owned(),
            facts,
        });
    }

    /// The samples of a piece of speech.
    pub(crate) async fn clip(&self, speech: &Speech) -> Result<Arc<Clip>, wav::Error> {
        let path = match (speech, &self.speech) {
            (Speech::File(path), _) | (Speech::Hello, Some(path)) => path.clone(),
            (Speech::Hello, None) => return Ok(built_in(&HELLO, Clip::hello)),
            (Speech::Question, _) => return Ok(built_in(&QUESTION, Clip::question)),
            (Speech::Goodbye, _) => return Ok(built_in(&GOODBYE, Clip::goodbye)),
        };
        if let Some(clip) = locked(&self.clips).get(&path) {
            return Ok(Arc::clone(clip));
        }
        let clip = Arc::new(Clip::load(&path).await?);
        let mut clips = locked(&self.clips);
        if clips.len() >= REMEMBERED_CLIPS {
            clips.clear();
        }
        clips.insert(path, Arc::clone(&clip));
        Ok(clip)
    }
}

/// The built-in voices, read once for all calls.
static HELLO: OnceLock<Arc<Clip>> = OnceLock::new();
static QUESTION: OnceLock<Arc<Clip>> = OnceLock::new();
static GOODBYE: OnceLock<Arc<Clip>> = OnceLock::new();

fn built_in(clip: &OnceLock<Arc<Clip>>, read: fn() -> Clip) -> Arc<Clip> {
    Arc::clone(clip.get_or_init(|| Arc::new(read())))
}
