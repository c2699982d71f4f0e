//! Calls: what they are, how they are placed, dialled, followed and ended.

use std::sync::Arc;

use callbridge_proto::id::CallId;
use diesel_async::AsyncPgConnection;
use tracing::error;

use crate::{app::App, error::Error, store};

mod answer;
pub(crate) mod ask;
pub mod breaker;
pub mod capacity;
pub(crate) mod claim;
pub mod dial;
pub mod dispatch;
mod draft;
pub mod drift;
pub mod end;
pub mod hours;
pub mod housekeeping;
pub mod hub;
pub mod list;
pub mod place;
mod question;
pub(crate) mod queued;
pub mod read_back;
pub mod reconcile;
pub mod record;
pub mod recording;
pub mod request;
pub mod retention;
mod search;
mod settle;
pub mod socket;
pub mod state;
pub mod turnstile;
pub mod wall;
pub mod watch;
pub mod zone;

/// Starts the loops: news between replicas, the dialler with its sweep, the questions to Exotel, and what keeps the house.
pub fn start(app: &Arc<App>) {
    hub::start(app);
    dispatch::start(app);
    reconcile::start(app);
    housekeeping::start(app);
    retention::start(app);
    drift::start(app);
}

/// Sets aside a row that cannot be read, for a person and for another release (F40).
///
/// # Errors
/// Of the database.
pub async fn quarantine(app: &App, conn: &mut AsyncPgConnection, id: CallId) -> Result<(), Error> {
    store::calls::quarantine_unreadable(conn, id).await?;
    app.metrics.quarantined();
    error!(
        call.id = %id,
        "the row of a call cannot be read: it is set aside for a day and waits for a person"
    );
    Ok(())
}
