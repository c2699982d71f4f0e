//! Places of requests that are answered at one time: so many in all, and so many for each account or call, so that whoever has one
//! token cannot take everybody's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

/// The places. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    by: HashMap<Uuid, usize>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    owner: Uuid,
}

impl Places {
    /// `total` of them, of which one account or call has `each` at most.
    pub(super) fn new(total: usize, each: usize) -> Self {
        let taken = Mutex::default();
        Self(Arc::new(Inner { total, each, taken }))
    }

    /// A place for a request of this account or call. None: there is none.
    pub(super) fn enter(&self, owner: Uuid) -> Option<Place> {
        let mut taken = self.taken();
        let theirs = taken.by.get(&owner).copied().unwrap_or(0);
        if taken.total >= self.0.total || theirs >= self.0.each {
            return None;
        }
        taken.total += 1;
        taken.by.insert(owner, theirs + 1);
        let places = self.clone();
        Some(Place { places, owner })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing in here panics half-way.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.total -= 1;
        if let Some(theirs) = taken.by.get_mut(&self.owner) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.by.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F61: one account's storm leaves places for the others.
    #[test]
    fn nobody_takes_all_places() {
        let (places, [one, other, third]) = (Places::new(5, 3), [1, 2, 3].map(Uuid::from_u128));
        let mut taken: Vec<_> = (0..3).map(|_| places.enter(one).unwrap()).collect();
        assert!(places.enter(one).is_none());
        taken.extend([places.enter(other).unwrap(), places.enter(third).unwrap()]);
        assert!(places.enter(third).is_none(), "all are taken");
        taken.remove(0);
        drop(places.enter(one).unwrap());
        drop(taken);
        let taken = places.taken();
        assert!(taken.total == 0 && taken.by.is_empty());
    }
}
