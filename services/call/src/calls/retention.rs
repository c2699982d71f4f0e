//! What is kept of an old call: its row, its key and its fingerprint, so that a repeat of the key is still the same call; no
//! person in it, and nothing that was said. Other classes of what is kept about people have ages of their own.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::MediaSessionId;
use chrono::TimeDelta;
use diesel_async::AsyncConnection as _;
use object_store::{ObjectStoreExt as _, path::Path};
use tokio::time::sleep;
use tracing::{info, warn};
use uuid::Uuid;

use super::housekeeping;
use crate::{
    app::App,
    error::Error,
    store::{audit, holds, partitions, recordings, retention},
};

/// Rows in one transaction: it takes a fraction of a second.
const BATCH: i64 = 500;
/// Recordings of one page: each is a request to the store.
const ERASED_AT_ONCE: i64 = 50;
/// Between two batches, so that calls come first.
const PAUSE: Duration = Duration::from_millis(100);
/// How often what is old is looked for; more often where little is kept.
const EVERY: Duration = Duration::from_mins(10);

/// A class of what is kept about people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Calls,
    Transcripts,
    Recordings,
    Webhooks,
    Contacts,
    LateEvents,
    Audit,
}

impl Class {
    const ALL: [Self; 7] = [
        Self::Calls,
        Self::Transcripts,
        Self::Recordings,
        Self::Webhooks,
        Self::Contacts,
        Self::LateEvents,
        Self::Audit,
    ];

    /// Its word in metrics and logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Transcripts => "transcripts",
            Self::Recordings => "recordings",
            Self::Webhooks => "webhooks",
            Self::Contacts => "contacts",
            Self::LateEvents => "late_events",
            Self::Audit => "audit",
        }
    }

    fn kept(self, app: &App) -> Option<TimeDelta> {
        let kept = &app.config.retention;
        match self {
            Self::Calls | Self::LateEvents => kept.calls,
            Self::Transcripts => kept.transcripts,
            Self::Recordings => kept.recordings,
            Self::Webhooks => kept.webhooks,
            Self::Contacts => kept.contacts,
            Self::Audit => kept.audit,
        }
    }
}

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let shortest = app.config.retention.shortest().and_then(|kept| kept.to_std().ok());
    let every = shortest.unwrap_or(EVERY).clamp(PAUSE, EVERY);
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            let again = round(&app).await;
            let dropping = async {
                if !again
                    && let Some(kept) = app.config.retention.calls
                    && let Err(error) = housekeeping::drop_old(&app, kept).await
                {
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

/// One batch of each class; one that fails does not hold up the others. Returns whether there may be more.
async fn round(app: &App) -> bool {
    let mut again = false;
    for class in Class::ALL {
        let Some(kept) = class.kept(app) else { continue };
        match purge(app, class, kept).await {
            Ok(0) => {}
            Ok(rows) => {
                again = true;
                app.metrics.purged(class, rows);
                info!(class = class.word(), rows, "purged what is too old to be kept");
            }
            Err(error) => warn!(%error, class = class.word(), "what is too old could not be purged; it is tried again"),
        }
    }
    if let Err(error) = erase_recordings(app).await {
        warn!(%error, "old recordings could not be erased; they are tried again");
    }
    again
}

async fn purge(app: &App, class: Class, kept: TimeDelta) -> Result<usize, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction::<_, Error, _>(async |conn| {
        holds::purge(conn).await?;
        Ok(match class {
            Class::Calls => retention::blank(conn, kept, BATCH).await?,
            Class::Transcripts => retention::forget_transcripts(conn, kept, BATCH).await?,
            Class::Recordings => retention::forget_recordings(conn, kept, BATCH).await?,
            Class::Webhooks => retention::forget_webhooks(conn, kept, BATCH).await?,
            Class::Contacts => retention::forget_contacts(conn, kept, BATCH).await?,
            Class::LateEvents => partitions::forget_late(conn, kept, BATCH).await?,
            Class::Audit => audit::forget(conn, kept, BATCH).await?,
        })
    })
    .await
}

/// Takes all recordings that are to go out of the object store. Without one, what is known of them is blanked, and the store's own
/// lifecycle has to see to the rest. One that cannot be taken out now does not hold up the next, and is tried again in the next round.
pub(crate) async fn erase_recordings(app: &App) -> Result<(), Error> {
    let mut after = Uuid::nil();
    loop {
        let page = recordings::erasing(&mut *app.db.conn().await?, after, ERASED_AT_ONCE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = *last;
        for (session, key) in page {
            if let (Some(key), Some(store)) = (&key, &app.recordings) {
                match store.delete(&Path::from(key.as_str())).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => {
                        warn!(%error, media.session.id = %MediaSessionId(session), "an old recording cannot be erased; it is tried again");
                        continue;
                    }
                }
            }
            recordings::erased(&mut *app.db.conn().await?, session, key.as_deref()).await?;
        }
        if app.tasks.is_stopping() {
            return Ok(());
        }
    }
}
