//! What all parts of the simulator share: accounts, settings, outcomes, calls, journals, clients.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    AccountLoad, Event, Outcome, Settings,
    call::Call,
    chance::Chance,
    clock,
    config::Account,
    journal::Journal,
    number::Number,
    script::Speech,
    wav::{self, Clip},
};

/// Calls that are remembered; beyond, the oldest ended ones are forgotten. Some 200 MB.
const REMEMBERED_CALLS: usize = 100_000;

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
    /// Counts changes of any call, for whoever waits for one to appear.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) ledger: Journal,
    pub(crate) events: Journal,
    pub(crate) http: reqwest::Client,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) chance: Chance,
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
            *known.account.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(account);
        } else {
            accounts.insert(account.sid.clone(), Arc::new(AccountState::new(account)));
        }
    }

    /// The script of a number, without using it up.
    pub(crate) fn outcome(&self, number: &Number) -> Outcome {
        if let Some(outcome) = locked(&self.outcomes).get(number) {
            return outcome.clone();
        }
        if self.settings().convention {
            Outcome::by_convention(&number.e164())
        } else {
            Outcome::default()
        }
    }

    /// The script of a number for one connect.
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
        locked(&self.calls).by_sid.get(sid).cloned()
    }

    pub(crate) fn remember(&self, call: &Arc<Call>) {
        locked(&self.calls).insert(Arc::clone(call));
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
            (Speech::Hello, None) => return Ok(Arc::new(Clip::hello())),
            (Speech::Question, _) => return Ok(Arc::new(Clip::question())),
            (Speech::Goodbye, _) => return Ok(Arc::new(Clip::goodbye())),
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

/// All calls, in the order in which they came.
#[derive(Default)]
pub(crate) struct Calls {
    by_sid: HashMap<String, Arc<Call>>,
    order: VecDeque<Arc<Call>>,
    next: u64,
}

impl Calls {
    fn insert(&mut self, call: Arc<Call>) {
        if self.order.len() >= REMEMBERED_CALLS
            && let Some(at) = self.order.iter().position(|call| call.report.borrow().has_ended())
            && let Some(old) = self.order.remove(at)
        {
            self.by_sid.remove(&old.sid);
        }
        self.by_sid.insert(call.sid.clone(), Arc::clone(&call));
        self.order.push_back(call);
    }

    /// The place of the next call in the order of creation.
    pub(crate) fn next_place(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Call>> {
        self.order.iter().cloned().collect()
    }
}

/// An account with what it uses at the moment.
pub(crate) struct AccountState {
    account: RwLock<Arc<Account>>,
    usage: Mutex<Usage>,
}

#[derive(Default)]
struct Usage {
    accepted: VecDeque<Instant>,
    arrived: VecDeque<Instant>,
    reads: VecDeque<Instant>,
    load: AccountLoad,
}

const MINUTE: Duration = Duration::from_mins(1);

/// Forgets what is older than a minute and returns how many are left.
fn in_last_minute(times: &mut VecDeque<Instant>, now: Instant) -> u64 {
    while times.front().is_some_and(|at| now.duration_since(*at) >= MINUTE) {
        times.pop_front();
    }
    u64::try_from(times.len()).unwrap_or(u64::MAX)
}

impl AccountState {
    fn new(account: Account) -> Self {
        Self {
            account: RwLock::new(Arc::new(account)),
            usage: Mutex::default(),
        }
    }

    pub(crate) fn get(&self) -> Arc<Account> {
        Arc::clone(&self.account.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn zone(&self) -> clock::Zone {
        clock::Zone::new(self.get().utc_offset_minutes)
    }

    pub(crate) fn load(&self) -> AccountLoad {
        locked(&self.usage).load.clone()
    }

    /// Counts a connect request; false when it is over the rate.
    pub(crate) fn admit_connect(&self) -> bool {
        let limit = u64::from(self.get().calls_per_minute);
        let now = Instant::now();
        let usage = &mut *locked(&self.usage);
        usage.arrived.push_back(now);
        let arrived = in_last_minute(&mut usage.arrived, now);
        usage.load.connects += 1;
        usage.load.peak_connects_per_minute = usage.load.peak_connects_per_minute.max(arrived);
        if limit > 0 && in_last_minute(&mut usage.accepted, now) >= limit {
            usage.load.refused_by_rate += 1;
            return false;
        }
        usage.accepted.push_back(now);
        true
    }

    /// Counts a read; false when it is over the rate.
    pub(crate) fn admit_read(&self) -> bool {
        let limit = u64::from(self.get().reads_per_minute);
        if limit == 0 {
            return true;
        }
        let now = Instant::now();
        let usage = &mut *locked(&self.usage);
        if in_last_minute(&mut usage.reads, now) >= limit {
            return false;
        }
        usage.reads.push_back(now);
        true
    }

    /// Counts a call until the guard is dropped.
    pub(crate) fn open_call(self: &Arc<Self>) -> Open {
        let load = &mut locked(&self.usage).load;
        load.calls += 1;
        load.peak_calls = load.peak_calls.max(load.calls);
        Open {
            account: Arc::clone(self),
            stream: false,
        }
    }

    /// Counts a stream until the guard is dropped; `None` beyond the account's limit.
    pub(crate) fn open_stream(self: &Arc<Self>) -> Option<Open> {
        let limit = u64::from(self.get().max_streams);
        let load = &mut locked(&self.usage).load;
        if load.streams >= limit {
            return None;
        }
        load.streams += 1;
        load.peak_streams = load.peak_streams.max(load.streams);
        Some(Open {
            account: Arc::clone(self),
            stream: true,
        })
    }
}

/// Counts a call or a stream as long as it lives.
pub(crate) struct Open {
    account: Arc<AccountState>,
    stream: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let load = &mut locked(&self.account.usage).load;
        if self.stream {
            load.streams -= 1;
        } else {
            load.calls -= 1;
        }
    }
}
