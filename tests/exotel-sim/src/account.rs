//! An account with what it uses at the moment, and its limits.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use crate::{AccountLoad, ExoPhoneLoad, clock, config::Account, number::Number, world::locked};

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
    phones: BTreeMap<Number, InUse>,
}

/// Calls of one ExoPhone.
#[derive(Clone, Copy, Default)]
struct InUse {
    calls: u64,
    peak: u64,
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
    pub(crate) fn new(account: Account) -> Self {
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

    /// Replaces the account and keeps what it uses.
    pub(crate) fn put(&self, account: Account) {
        *self.account.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(account);
    }

    pub(crate) fn load(&self) -> AccountLoad {
        let usage = locked(&self.usage);
        let phone = |(number, in_use): (&Number, &InUse)| ExoPhoneLoad {
            number: number.national(),
            calls: in_use.calls,
            peak_calls: in_use.peak,
        };
        AccountLoad {
            exophones: usage.phones.iter().map(phone).collect(),
            ..usage.load.clone()
        }
    }

    /// Counts a connect request; false when it is over the rate.
    pub(crate) fn admit_connect(&self) -> bool {
        let limit = u64::from(self.get().calls_per_minute);
        let usage = &mut *locked(&self.usage);
        // Under the lock, so that the times are in order and old ones are all at the front.
        usage.admit_connect(limit, Instant::now())
    }

    /// Counts a read; false when it is over the rate.
    pub(crate) fn admit_read(&self) -> bool {
        let limit = u64::from(self.get().reads_per_minute);
        if limit == 0 {
            return true;
        }
        let usage = &mut *locked(&self.usage);
        let now = Instant::now();
        if in_last_minute(&mut usage.reads, now) >= limit {
            return false;
        }
        usage.reads.push_back(now);
        true
    }

    /// Counts a call from or to this ExoPhone until the guard is dropped.
    pub(crate) fn open_call(self: &Arc<Self>, exophone: &Number) -> Open {
        let usage = &mut *locked(&self.usage);
        usage.load.calls += 1;
        usage.load.peak_calls = usage.load.peak_calls.max(usage.load.calls);
        let phone = usage.phones.entry(exophone.clone()).or_default();
        phone.calls += 1;
        phone.peak = phone.peak.max(phone.calls);
        Open {
            account: Arc::clone(self),
            what: What::Call(exophone.clone()),
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
            what: What::Stream,
        })
    }
}

impl Usage {
    fn admit_connect(&mut self, limit: u64, now: Instant) -> bool {
        self.arrived.push_back(now);
        let arrived = in_last_minute(&mut self.arrived, now);
        self.load.connects += 1;
        self.load.peak_connects_per_minute = self.load.peak_connects_per_minute.max(arrived);
        // Without a limit they are counted all the same: one may be set at any time.
        let accepted = in_last_minute(&mut self.accepted, now);
        if limit > 0 && accepted >= limit {
            self.load.refused_by_rate += 1;
            return false;
        }
        self.accepted.push_back(now);
        true
    }
}

/// Counts a call or a stream as long as it lives.
pub(crate) struct Open {
    account: Arc<AccountState>,
    what: What,
}

enum What {
    Call(Number),
    Stream,
}

impl Drop for Open {
    fn drop(&mut self) {
        let usage = &mut *locked(&self.account.usage);
        match &self.what {
            What::Stream => usage.load.streams -= 1,
            What::Call(exophone) => {
                usage.load.calls -= 1;
                if let Some(phone) = usage.phones.get_mut(exophone) {
                    phone.calls -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{AccountState, Usage};
    use crate::{Account, number::Number};

    /// A hundred a second for three minutes against a limit of 6,000 and one of 5,999.
    #[test]
    fn the_sliding_minute_holds_at_six_thousand() {
        for (limit, refused) in [(6_000, 0), (5_999, 3), (0, 0)] {
            let (mut usage, start) = (Usage::default(), Instant::now());
            for at in 0..18_000 {
                usage.admit_connect(limit, start + Duration::from_millis(10) * at);
            }
            assert_eq!(usage.load.refused_by_rate, refused, "limit {limit}");
            assert_eq!(
                (usage.load.connects, usage.load.peak_connects_per_minute),
                (18_000, 6_000)
            );
            assert!(
                usage.arrived.len() <= 6_000 && usage.accepted.len() <= 6_000,
                "old times are forgotten"
            );
        }
    }

    #[test]
    fn peaks_are_kept_by_account_and_by_exophone() {
        let account = Arc::new(AccountState::new(Account::default()));
        let number = |text| Number::parse(text).expect("a number");
        let first = account.open_call(&number("08040000155"));
        let second = account.open_call(&number("08040000155"));
        drop(first);
        let other = account.open_call(&number("08040000156"));
        drop((second, other));
        let load = account.load();
        assert_eq!((load.calls, load.peak_calls), (0, 2));
        let peaks = |number| load.exophone(number).map(|phone| (phone.calls, phone.peak_calls));
        assert_eq!(peaks("+918040000155"), Some((0, 2)));
        assert_eq!(peaks("08040000156"), Some((0, 1)));
        assert_eq!(peaks("08040000157"), None);
        assert!(!format!("{load:?}").contains("4000015"), "numbers are not in Debug");
    }
}
