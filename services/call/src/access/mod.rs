//! The API keys of the database: made, listed and revoked by callers, known to every replica from memory.

pub mod keys;
pub mod listed;

use std::{sync::Arc, time::Duration};

use diesel_async::AsyncPgConnection;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{app::App, error::Error, store::api_keys};

/// How many refreshes pass between two looks at which keys were used.
const USES_EVERY: u32 = 30;
/// Live keys at most: all of them are in every replica's memory.
const MOST: i64 = 1000;

/// Reads the keys, so that callers and what they may dial are known before anything is done for them, and starts the loop that reads
/// them again and again. No request ever does: whoever shows forged keys causes no query.
pub(crate) async fn start(app: &Arc<App>) {
    let stopping = app.tasks.stopping();
    tokio::pin!(stopping);
    while let Err(error) = read(app, false).await {
        warn!(%error, "the API keys of the database cannot be read; nothing begins before they are");
        tokio::select! {
            () = &mut stopping => return,
            () = sleep(app.config.api_keys_refresh) => {}
        }
    }
    let app = Arc::clone(app);
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let (mut turn, mut failing) = (0_u32, false);
        loop {
            let read = read(&app, turn.is_multiple_of(USES_EVERY)).await;
            match &read {
                Ok(()) if failing => info!("the API keys of the database can be read again"),
                Err(error) if !failing => {
                    warn!(%error, "the API keys of the database cannot be read; those that are known go on for a while");
                }
                _ => {}
            }
            failing = read.is_err();
            turn = turn.wrapping_add(1);
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(app.config.api_keys_refresh) => {}
            }
        }
    });
}

/// How old the list may be until no key of it is taken any more.
pub(crate) fn stale_after(refresh: Duration) -> Duration {
    refresh * 15
}

async fn read(app: &App, with_uses: bool) -> Result<(), Error> {
    let mut conn = app.db.reserved().await?;
    refresh(app, &mut conn).await?;
    if with_uses {
        let used = app.keys.take_used();
        if !used.is_empty() {
            api_keys::used(&mut conn, &used).await?;
        }
    }
    Ok(())
}

async fn refresh(app: &App, conn: &mut AsyncPgConnection) -> Result<(), Error> {
    // Whoever reads first must not put back what another one has read later.
    let turn = app.keys.turn().await;
    let rows = api_keys::live(conn, MOST).await?;
    app.keys.replace(&rows, turn);
    Ok(())
}
