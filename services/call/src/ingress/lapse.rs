//! Sessions that nobody vouches for any more: their edge is gone and did not come back in time. Their end is presumed.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::{CallId, MediaSessionId};
use diesel_async::AsyncConnection as _;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{Instrument as _, warn};

use super::session_events::over;
use crate::{
    app::App,
    calls::{record::Note, state::Party},
    error::Error,
    store::{calls, sessions},
    trace,
};

/// How often leases are looked at: well below the lease itself.
const EVERY: Duration = Duration::from_secs(2);
/// Sessions ended in one round.
const PAGE: i64 = 100;
const REASON: &str = "edge_lost";

/// Starts the loop. No lease runs out within the grace time of this replica's start or of the database's return: the edges
/// need it to attach again.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let grace = app.config.attach_grace.to_std().unwrap_or(Duration::MAX);
        let mut quiet_since = Instant::now();
        // A short grace, as in tests, wants a short period.
        let mut tick = interval(EVERY.min(grace.max(Duration::from_millis(100))));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut stopping => return,
                _ = tick.tick() => {}
            }
            let result = if quiet_since.elapsed() < grace {
                watch_database(&app).await
            } else {
                round(&app).await
            };
            if let Err(error) = result {
                warn!(%error, "the database is away; no session counts as lost until it has been back for a while");
                quiet_since = Instant::now();
            }
        }
    });
}

/// Only sees whether the database answers.
async fn watch_database(app: &App) -> Result<(), Error> {
    let conn = app.db.reserved().await?;
    calls::database_now(&conn).await?;
    Ok(())
}

async fn round(app: &Arc<App>) -> Result<(), Error> {
    let mut conn = app.db.reserved().await?;
    let grace = app.config.attach_grace;
    let lapsed = sessions::lapsed(&mut conn, PAGE).await?;
    if lapsed.is_empty() || !sessions::database_is_steady(&mut conn, grace).await? {
        return Ok(());
    }
    drop(conn);
    for session in lapsed {
        match lapse(app, session.call_id(), session.id()).await {
            Ok(()) => {}
            Err(Error::Db(error)) if error.is_transient() => return Err(error.into()),
            Err(error) => warn!(call.id = %session.call_id(), %error, "a lost session could not be ended"),
        }
    }
    Ok(())
}

async fn lapse(app: &Arc<App>, call: CallId, session: MediaSessionId) -> Result<(), Error> {
    let mut conn = app.db.reserved().await?;
    let lapsed = conn
        .transaction::<_, Error, _>(async |conn| {
            let Some((call, now)) = calls::lock(conn, call).await? else {
                return Ok(false);
            };
            trace::follow(&call);
            let by = Party::Callbridge;
            if !sessions::lapse(conn, session, by.word(), REASON).await? {
                return Ok(false);
            }
            let note = Note::from("timer")
                .with("by", by.word())
                .with("reason", REASON)
                .with("presumed", "true");
            over(conn, call, now, session, now, by, note).await?;
            Ok(true)
        })
        .instrument(trace::finding("lapse_session"))
        .await?;
    if lapsed {
        warn!(call.id = %call, media.session.id = %session, "an edge did not come back in time: its session counts as over");
        app.hub.committed(call);
    }
    Ok(())
}
