//! Sockets that have not said `start`: how many there may be, and which of them go when descriptors are short (F66, F130).
//!
//! Whoever was upgraded and says nothing holds a place until its time is up. Places are bounded in all and for each address, so that one
//! peer cannot take everybody's. They are also bounded by the descriptors that connections and live calls leave: there a newcomer is
//! more likely to be a call than the one that has waited longest, which goes.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// How many descriptors a live call may need: its socket, an agent's connection and its recording.
pub(crate) const DESCRIPTORS_PER_CALL: usize = 3;

/// One of so many descriptors is for a socket that was told to go and has not gone.
const LEAVING_SHARE: usize = 8;

/// How many sockets may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) total: usize,
    /// From one address.
    pub(crate) per_address: usize,
    /// Descriptors that are theirs, together with live calls.
    pub(crate) descriptors: usize,
}

/// There is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The sockets that wait. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pending(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By their numbers, so that the first one has waited longest.
    waiting: BTreeMap<u64, Waiting>,
    addresses: HashMap<Option<IpAddr>, usize>,
    /// Those that were told to go, and still have their descriptors.
    leaving: usize,
    next: u64,
    live: usize,
}

#[derive(Debug)]
struct Waiting {
    address: Option<IpAddr>,
    /// Tells it to go.
    go: oneshot::Sender<()>,
}

/// One socket's place, first among those that wait, then among live calls, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pending: Pending,
    number: u64,
    is_live: bool,
    shed: Option<oneshot::Receiver<()>>,
}

impl Pending {
    /// Nobody waits.
    pub(crate) fn new(limits: Limits) -> Self {
        let state = Mutex::default();
        Self(Arc::new(Inner { limits, state }))
    }

    /// A place for a socket from this address. Those whose address is not known count as one.
    pub(crate) fn enter(&self, address: impl Into<Option<IpAddr>>) -> Result<Place, Full> {
        let (limits, address) = (self.0.limits, address.into());
        let mut state = self.state();
        let from_there = state.addresses.get(&address).copied().unwrap_or(0);
        if state.waiting.len() >= limits.total || from_there >= limits.per_address {
            return Err(Full);
        }
        state.make_room(limits)?;
        let number = state.next;
        state.next += 1;
        let (go, shed) = oneshot::channel();
        state.waiting.insert(number, Waiting { address, go });
        *state.addresses.entry(address).or_default() += 1;
        Ok(Place {
            pending: self.clone(),
            number,
            is_live: false,
            shed: Some(shed),
        })
    }

    /// There was no descriptor for something: whoever has waited longest goes.
    pub(crate) fn shed(&self) {
        self.state().shed();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What live calls leave, and how much of it is kept for those that leave.
    fn room(&self, limits: Limits) -> (usize, usize) {
        let taken = self.live.saturating_mul(DESCRIPTORS_PER_CALL);
        let room = limits.descriptors.saturating_sub(taken);
        (room, room.div_ceil(LEAVING_SHARE))
    }

    /// Room for one more: where there is none, one goes for it, but not for everybody who knocks meanwhile.
    fn make_room(&mut self, limits: Limits) -> Result<(), Full> {
        let (room, kept) = self.room(limits);
        if self.waiting.len() >= room - kept && self.leaving < kept {
            self.shed();
        }
        if self.waiting.len() + self.leaving < room {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// What a live call needs is taken from those that wait.
    fn give_way(&mut self, limits: Limits) {
        let (room, kept) = self.room(limits);
        while self.waiting.len() > room - kept {
            self.shed();
        }
    }

    fn shed(&mut self) {
        if let Some((_, waiting)) = self.waiting.pop_first() {
            self.forget(waiting.address);
            self.leaving += 1;
            // It may be going by itself.
            let _ = waiting.go.send(());
        }
    }

    fn forget(&mut self, address: Option<IpAddr>) {
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    fn leave(&mut self, number: u64) {
        match self.waiting.remove(&number) {
            Some(waiting) => self.forget(waiting.address),
            None => self.leaving -= 1,
        }
    }
}

impl Place {
    /// Resolves when the socket has to go, which is never once it is live. Once.
    pub(crate) fn shed(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let shed = self.shed.take();
        async move {
            let is_shed = match shed {
                Some(shed) => shed.await.is_ok(),
                None => false,
            };
            if !is_shed {
                pending::<()>().await;
            }
        }
    }

    /// The socket has said `start`, and call-service knows its call.
    pub(crate) fn go_live(&mut self) {
        if self.is_live {
            return;
        }
        self.is_live = true;
        let mut state = self.pending.state();
        state.leave(self.number);
        state.live += 1;
        state.give_way(self.pending.0.limits);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pending.state();
        if self.is_live {
            state.live -= 1;
        } else {
            state.leave(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        total: 5,
        per_address: 3,
        descriptors: 100,
    };

    fn from(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn no_address_takes_all_places() {
        let pending = Pending::new(LIMITS);
        let mut places: Vec<_> = (0..3).map(|_| pending.enter(from(1)).unwrap()).collect();
        assert_eq!(pending.enter(from(1)).err(), Some(Full));
        places.extend([from(2), from(3)].map(|address| pending.enter(address).unwrap()));
        assert_eq!(pending.enter(from(4)).err(), Some(Full), "all places are taken");
        // Who begins a call, or goes, makes place.
        places[0].go_live();
        places.remove(1);
        places.push(pending.enter(from(1)).unwrap());
        places.push(pending.enter(from(4)).unwrap());
        assert_eq!(pending.enter(from(5)).err(), Some(Full));
        drop(places);
        let state = pending.state();
        assert!(state.waiting.is_empty() && state.addresses.is_empty());
        assert_eq!((state.live, state.leaving), (0, 0));
    }

    /// F130: whoever has waited longest gives its descriptor to a newcomer or to a live call.
    #[test]
    fn those_that_wait_give_way_to_calls() {
        let pending = Pending::new(Limits {
            descriptors: 5,
            ..LIMITS
        });
        let mut places: Vec<_> = (0..4).map(|last| pending.enter(from(last)).unwrap()).collect();
        let mut told = [false; 4];
        let mut sheds: Vec<_> = places.iter_mut().map(Place::shed).map(Box::pin).collect();
        let mut gone = || {
            for (is_gone, shed) in told.iter_mut().zip(&mut sheds) {
                *is_gone = *is_gone || shed.now_or_never().is_some();
            }
            told
        };
        assert_eq!(gone(), [false; 4]);
        let newcomer = pending.enter(from(9)).unwrap();
        assert_eq!(gone(), [true, false, false, false]);
        assert_eq!(
            pending.enter(from(9)).err(),
            Some(Full),
            "the one that is told to go has not gone"
        );
        assert_eq!(gone(), [true, false, false, false]);
        // Three descriptors for the call leave two, one of them for those that leave.
        places[3].go_live();
        assert_eq!(gone(), [true, true, true, false]);
        assert_eq!(pending.state().waiting.len(), 1);
        drop((newcomer, places.drain(..3)));
        let mut last = pending.enter(from(7)).unwrap();
        last.go_live();
        assert_eq!(pending.enter(from(8)).err(), Some(Full), "calls have all there is");
    }

    #[test]
    fn who_is_shed_is_told_and_a_call_is_not() {
        let pending = Pending::new(LIMITS);
        let (mut first, mut second) = (pending.enter(from(1)).unwrap(), pending.enter(from(2)).unwrap());
        let (told, not_told) = (first.shed(), second.shed());
        second.go_live();
        pending.shed();
        pending.shed();
        assert_eq!((told.now_or_never(), not_told.now_or_never()), (Some(()), None));
    }

    proptest! {
        /// Whatever comes and goes, the bounds hold and the counts agree.
        #[test]
        fn the_books_are_kept(steps in proptest::collection::vec((0_u8..5, 0_u8..4), 0..200)) {
            let limits = Limits { descriptors: 12, ..LIMITS };
            let pending = Pending::new(limits);
            let mut places = Vec::new();
            for (step, which) in steps {
                match step {
                    0 | 1 => places.extend(pending.enter(from(which)).ok()),
                    2 => pending.shed(),
                    _ if places.is_empty() => {}
                    3 => {
                        let at = usize::from(which) % places.len();
                        places[at].go_live();
                    }
                    _ => drop(places.remove(usize::from(which) % places.len())),
                }
                let state = pending.state();
                prop_assert!(state.waiting.len() <= limits.total);
                prop_assert!(state.addresses.values().all(|count| (1..=limits.per_address).contains(count)));
                prop_assert_eq!(state.addresses.values().sum::<usize>(), state.waiting.len());
                prop_assert_eq!(state.live, places.iter().filter(|place| place.is_live).count());
                prop_assert_eq!(state.waiting.len() + state.leaving + state.live, places.len());
                prop_assert!(
                    state.waiting.is_empty()
                        || state.waiting.len() + state.live * DESCRIPTORS_PER_CALL <= limits.descriptors
                );
            }
        }
    }
}
