//! Keeps the timelines' partitions ahead of time, drops old ones, and forgets what callers did long ago, in any replica.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use diesel_async::AsyncConnection as _;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    app::App,
    error::Error,
    store::{caller_days, partitions},
};

/// A partition is needed three months after it is made, so how often does not matter much.
const EVERY: Duration = Duration::from_hours(6);
/// Tries to drop a partition: each waits a moment for the timelines' lock, and a long transaction may hold it.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(2);

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            if let Err(error) = forget(&app).await {
                warn!(%error, "old counts of callers' days could not be deleted");
            }
            match make(&app).await {
                Ok(0) => {}
                Ok(made) => info!(
                    partitions = made,
                    "made partitions for the timelines of the months ahead"
                ),
                Err(error) => warn!(%error, "partitions could not be made; events go to the default one meanwhile"),
            }
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(EVERY) => {}
            }
        }
    });
}

async fn forget(app: &App) -> Result<usize, Error> {
    Ok(caller_days::forget(&mut *app.db.conn().await?).await?)
}

async fn make(app: &App) -> Result<i32, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction(async |conn| Ok(partitions::make(conn).await?)).await
}

/// Drops the months that were over longer ago than this and whose calls are all blanked. Returns how many.
///
/// # Errors
/// Of the database; the next round tries again.
pub async fn drop_old(app: &App, kept: TimeDelta) -> Result<usize, Error> {
    let old = partitions::old(&mut *app.db.conn().await?, kept).await?;
    let mut dropped = 0;
    for partition in old {
        let mut conn = app.db.conn().await?;
        let blank = conn
            .transaction(async |conn| Ok::<_, Error>(partitions::is_blank(conn, &partition).await?))
            .await?;
        drop(conn);
        if blank {
            drop_one(app, &partition).await?;
            info!(
                partition,
                "dropped the timelines of a month whose calls are all blanked"
            );
            dropped += 1;
        }
    }
    Ok(dropped)
}

async fn drop_one(app: &App, partition: &str) -> Result<(), Error> {
    let mut tries = 1;
    loop {
        let mut conn = app.db.conn().await?;
        let dropped = conn
            .transaction(async |conn| Ok::<_, Error>(partitions::drop(conn, partition).await?))
            .await;
        drop(conn);
        match dropped {
            Err(Error::Db(error)) if error.is_transient() && tries < TRIES => {
                tries += 1;
                sleep(AGAIN).await;
            }
            dropped => return dropped,
        }
    }
}
