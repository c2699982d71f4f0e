//! Calls: what they are, how they are placed, dialled, followed and ended.

use std::sync::Arc;

use crate::app::App;

pub mod breaker;
pub mod capacity;
mod claim;
pub mod dial;
pub mod dispatch;
pub mod end;
pub mod hours;
pub mod housekeeping;
pub mod hub;
pub mod list;
pub mod place;
pub mod read_back;
pub mod record;
pub mod request;
pub mod socket;
pub mod state;
pub mod turnstile;
pub mod watch;

/// Starts the loops: news between replicas, the dialler with its sweep, the read-back, and housekeeping.
pub fn start(app: &Arc<App>) {
    hub::start(app);
    dispatch::start(app);
    read_back::start(app);
    housekeeping::start(app);
}
