//! What is kept of an old call: its row, its key and its fingerprint, so that a repeat of the key is still the same call; no
//! person in it, and nothing that was said.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::MediaSessionId;
use chrono::TimeDelta;
use diesel_async::AsyncConnection as _;
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::time::sleep;
use tracing::{info, warn};

use super::housekeeping;
use crate::{
    app::App,
    error::Error,
    store::{partitions, recordings, retention},
};

/// Rows in one transaction: it takes a fraction of a second.
const BATCH: i64 = 500;
/// Recordings of one batch: each is a request to the store.
const ERASED_AT_ONCE: i64 = 50;
/// Between two batches, so that calls come first.
const PAUSE: Duration = Duration::from_millis(100);
/// How often old calls are looked for; more often where little is kept.
const EVERY: Duration = Duration::from_hours(1);

/// Starts the loop, if anything is ever too old.
pub fn start(app: &Arc<App>) {
    let Some(kept) = app.config.retention else { return };
    let every = kept.to_std().unwrap_or(EVERY).clamp(PAUSE, EVERY);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut blanked = 0;
        loop {
            let again = match round(&app, kept).await {
                Ok((calls, rest)) => {
                    blanked += calls;
                    calls > 0 || rest > 0
                }
                Err(error) => {
                    warn!(%error, "old calls could not be blanked; they are tried again");
                    false
                }
            };
            if !again && blanked > 0 {
                info!(calls = blanked, "blanked the personal columns of old calls");
                blanked = 0;
            }
            let dropping = async {
                if !again && let Err(error) = housekeeping::drop_old(&app, kept).await {
                    warn!(%error, "old months of timelines could not be dropped; they are tried again");
                }
            };
            tokio::select! {
                () = &mut stopping => return,
                () = dropping => {}
            }
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(if again { PAUSE } else { every }) => {}
            }
        }
    });
}

/// One batch of calls, and one of webhooks, contacts, late events and recordings. Returns how many there were.
async fn round(app: &App, kept: TimeDelta) -> Result<(usize, usize), Error> {
    let mut conn = app.db.conn().await?;
    let calls = conn
        .transaction::<_, Error, _>(async |conn| Ok(retention::blank(conn, kept, BATCH).await?))
        .await?;
    app.metrics.blanked(calls);
    let webhooks = retention::forget_webhooks(&mut conn, kept, BATCH).await?;
    let contacts = retention::forget_contacts(&mut conn, kept, BATCH).await?;
    let late = partitions::forget_late(&mut conn, kept, BATCH).await?;
    drop(conn);
    let recordings = erase_recordings(app).await?;
    Ok((calls, webhooks + contacts + late + recordings))
}

/// Takes recordings of old calls out of the object store. Without one, what is known of them is blanked, and the store's own
/// lifecycle has to see to the rest. One that cannot be taken out now is tried again in the next round.
async fn erase_recordings(app: &App) -> Result<usize, Error> {
    let old = recordings::erasing(&mut *app.db.conn().await?, ERASED_AT_ONCE).await?;
    let mut erased = 0;
    for (session, key) in old {
        if let (Some(key), Some(store)) = (&key, &app.recordings) {
            match store.delete(&Path::from(key.as_str())).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    warn!(%error, media.session.id = %MediaSessionId(session), "an old recording cannot be erased; it is tried again");
                    continue;
                }
            }
        }
        erased += recordings::erased(&mut *app.db.conn().await?, session, key.as_deref()).await?;
    }
    Ok(erased)
}
