//! Whose hook is asked when.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::app::App;

/// The campaigns whose hooks are being asked (None), and until when those that could not be reached are left alone: a hook that is
/// away takes no permit from the others.
#[derive(Debug, Default)]
pub struct Hooks(Mutex<HashMap<Uuid, Option<Instant>>>);

impl Hooks {
    /// Takes a campaign's turn to ask. False: it is being asked, or left alone.
    fn begin(&self, campaign: Uuid, now: Instant) -> bool {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.retain(|_, until| until.is_none_or(|until| until > now));
        match hooks.entry(campaign) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(None);
                true
            }
        }
    }

    /// Gives the turn back.
    fn end(&self, campaign: Uuid, alone_until: Option<Instant>) {
        let mut hooks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match alone_until {
            Some(until) => drop(hooks.insert(campaign, Some(until))),
            None => drop(hooks.remove(&campaign)),
        }
    }
}

/// A campaign's turn, given back whatever happens.
pub(super) struct Turn {
    app: Arc<App>,
    campaign: Uuid,
    /// Set when the hook could not be reached.
    pub(super) alone_until: Option<Instant>,
}

impl Turn {
    /// None: it is being asked, or left alone.
    pub(super) fn take(app: &Arc<App>, campaign: Uuid) -> Option<Self> {
        app.hooks.begin(campaign, Instant::now()).then(|| Self {
            app: Arc::clone(app),
            campaign,
            alone_until: None,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.app.hooks.end(self.campaign, self.alone_until);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hook_is_asked_by_one_batch_at_a_time_and_left_alone_when_it_is_away() {
        const ALONE: Duration = Duration::from_secs(5);
        let (hooks, now) = (Hooks::default(), Instant::now());
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(hooks.begin(one, now));
        assert!(!hooks.begin(one, now), "it is being asked");
        assert!(hooks.begin(other, now), "another one is not in its way");
        hooks.end(one, None);
        assert!(hooks.begin(one, now));
        hooks.end(one, Some(now + ALONE));
        assert!(!hooks.begin(one, now + ALONE - Duration::from_millis(1)));
        assert!(hooks.begin(one, now + ALONE));
    }
}
