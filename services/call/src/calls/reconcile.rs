//! The loop that asks Exotel about calls whose time has come, in every replica; any of them may ask about any call. The calls
//! of one credential set are asked about one request after the other, and never wait for those of another (F40).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use callbridge_proto::id::CallId;
use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncConnection as _;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument as _, info_span, warn};
use uuid::Uuid;

use super::{
    ask::{Batch, Done, Set, ask},
    read_back, settle,
    state::State,
};
use crate::{
    app::App,
    error::Error,
    store::{calls, calls::Call, credentials, due},
};

/// Calls taken in one round.
const ROUND: usize = 200;
/// Credential sets that are asked with at one time.
const PARALLEL: usize = 16;
/// Calls of a set that is being asked with come again after this.
const BUSY: TimeDelta = TimeDelta::seconds(1);
/// Calls that a list left out, and sets that were of no use, as far as a replica remembers them: forgetting costs a request.
const REMEMBERED: usize = 10_000;

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut asking = FuturesUnordered::new();
        let mut memory = Memory::default();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                // What is being asked is given back by its lease.
                () = &mut stopping => return,
                Some(done) = asking.next(), if !asking.is_empty() => memory.learn(done),
                () = sleep_until(next), if asking.len() < PARALLEL => {
                    next = Instant::now() + app.config.poll_interval;
                    match round(&app, &mut memory).await {
                        Ok((batches, full)) => {
                            for batch in batches {
                                let set = batch.set;
                                // A task of its own: it must go on while the next round is taken.
                                let task = app.tasks.spawn(ask(Arc::clone(&app), batch).instrument(info_span!("calls.read_back")));
                                asking.push(async move {
                                    match task.await {
                                        Ok(Some(done)) => done,
                                        _ => Done::nothing(set),
                                    }
                                });
                            }
                            if full {
                                next = Instant::now();
                            }
                        }
                        Err(error) => warn!(%error, "a round of questions to Exotel failed; the next one follows"),
                    }
                }
            }
        }
    });
}

/// What a replica remembers between two rounds.
#[derive(Default)]
struct Memory {
    /// Sets that are being asked with.
    busy: HashSet<Set>,
    /// Sets that were of no use: how often in a row, and until when they are left alone.
    resting: HashMap<Set, (u32, Instant)>,
    /// Calls that a list left out.
    left_out: HashSet<Uuid>,
}

impl Memory {
    fn learn(&mut self, done: Done) {
        self.busy.remove(&done.set);
        if let Some(pause) = done.pause {
            if self.resting.len() >= REMEMBERED {
                self.resting.clear();
            }
            let resting = self.resting.entry(done.set).or_insert((0, Instant::now()));
            *resting = (resting.0 + 1, Instant::now() + pause);
        } else if !done.idle {
            self.resting.remove(&done.set);
        }
        if self.left_out.len() >= REMEMBERED {
            self.left_out.clear();
        }
        for id in done.asked_singly {
            self.left_out.remove(&id);
        }
        self.left_out.extend(done.left_out);
    }

    fn batch(&mut self, set: Set, calls: Vec<Call>, now: DateTime<Utc>) -> Batch {
        self.busy.insert(set);
        let (failures, until) = self.resting.get(&set).copied().unwrap_or((0, Instant::now()));
        let held = until.saturating_duration_since(Instant::now());
        Batch {
            set,
            singly: calls
                .iter()
                .map(|call| call.id)
                .filter(|id| self.left_out.contains(id))
                .collect(),
            calls,
            now,
            failures,
            held: (!held.is_zero()).then_some(held),
        }
    }
}

/// Takes the calls whose time has come and sorts them by whose credentials they are asked about with. Also whether there may be
/// more.
async fn round(app: &Arc<App>, memory: &mut Memory) -> Result<(Vec<Batch>, bool), Error> {
    let mut conn = app.db.conn().await?;
    let limit = i64::try_from(ROUND).unwrap_or(1);
    let (now, taken, unreadable) = conn
        .transaction::<_, Error, _>(async |conn| {
            let now = calls::database_now(conn).await?;
            let (taken, unreadable) = due::read_backs(conn, app.config.read_back_lease, limit).await?;
            Ok((now, taken, unreadable))
        })
        .await?;
    let full = taken.len() + unreadable.len() == ROUND;
    for id in unreadable {
        super::quarantine(app, &mut conn, CallId(id)).await?;
    }
    let phones: Vec<Uuid> = taken.iter().filter_map(|taken| taken.call.phone_id).collect();
    let own: HashSet<Uuid> = if phones.is_empty() {
        HashSet::new()
    } else {
        credentials::own_phones(&mut conn, &phones).await?.into_iter().collect()
    };
    let mut sets: Vec<(Set, Vec<Call>)> = Vec::new();
    let mut later = Vec::new();
    for taken in taken {
        let call = taken.call;
        if let (true, State::Unconfirmed, Some(posted_at)) =
            (taken.was_due == read_back::TO_BE_SET, call.state, call.post_started_at)
        {
            let first = settle::first_poll(posted_at, app.config.settle_window);
            if first > now {
                later.push((call, first));
                continue;
            }
        }
        let set = Set {
            account: call.account_id,
            phone: call.phone_id.filter(|phone| own.contains(phone)),
        };
        if memory.busy.contains(&set) {
            later.push((call, now + BUSY));
        } else if let Some((_, calls)) = sets.iter_mut().find(|(known, _)| *known == set) {
            calls.push(call);
        } else {
            sets.push((set, vec![call]));
        }
    }
    due::postpone(&mut conn, later.iter().map(|(call, at)| (call, *at))).await?;
    let batches = sets
        .into_iter()
        .map(|(set, calls)| memory.batch(set, calls, now))
        .collect();
    Ok((batches, full))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn done(set: Set) -> Done {
        Done {
            set,
            left_out: Vec::new(),
            asked_singly: Vec::new(),
            pause: None,
            idle: false,
        }
    }

    /// F23: a wrong key is not asked with again and again, and the other sets of the account are.
    #[tokio::test(start_paused = true)]
    async fn a_set_that_is_of_no_use_rests_alone() {
        let account = Uuid::from_u128(1);
        let set = Set { account, phone: None };
        let other = Set {
            phone: Some(Uuid::from_u128(2)),
            ..set
        };
        let mut memory = Memory::default();
        let batch = |memory: &mut Memory, set| memory.batch(set, Vec::new(), DateTime::UNIX_EPOCH);
        assert_eq!(batch(&mut memory, set).held, None);
        assert!(memory.busy.contains(&set));
        let pause = Some(Duration::from_secs(30));
        memory.learn(Done { pause, ..done(set) });
        assert!(!memory.busy.contains(&set));
        let held = batch(&mut memory, set);
        assert_eq!((held.held, held.failures), (pause, 1));
        assert_eq!(batch(&mut memory, other).held, None);
        memory.learn(Done {
            idle: true,
            ..done(set)
        });
        tokio::time::advance(Duration::from_secs(31)).await;
        let again = batch(&mut memory, set);
        assert_eq!((again.held, again.failures), (None, 1));
        memory.learn(done(set));
        assert_eq!(batch(&mut memory, set).failures, 0);
    }

    #[test]
    fn a_call_that_a_list_left_out_is_asked_about_singly_until_it_was() {
        let set = Set {
            account: Uuid::from_u128(1),
            phone: None,
        };
        let call = Uuid::from_u128(3);
        let mut memory = Memory::default();
        memory.learn(Done {
            left_out: vec![call],
            ..done(set)
        });
        memory.learn(Done {
            idle: true,
            ..done(set)
        });
        assert!(memory.left_out.contains(&call), "its turn had not come");
        memory.learn(Done {
            asked_singly: vec![call],
            ..done(set)
        });
        assert!(memory.left_out.is_empty());
    }
}
