//! How far Exotel's count of open streams and ours are apart: a number that stays away from zero means that sockets leak on one
//! side.

use std::{sync::Arc, time::Duration};

use callbridge_proto::id::AccountId;
use exotel::rest::{Rejection, RestError};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::ask::turn;
use crate::{
    app::App,
    error::Error,
    store::{
        accounts::{self, Account},
        rates::{self, Kind},
        sessions,
    },
};

/// How often accounts are looked for whose time has come.
const TICK: Duration = Duration::from_secs(5);

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            // Each account is taken once in two minutes, so this ends.
            let wait = match round(&app).await {
                Ok(true) => Duration::ZERO,
                Ok(false) => TICK,
                Err(error) => {
                    warn!(%error, "Exotel's count of open streams could not be compared with ours");
                    TICK
                }
            };
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(wait) => {}
            }
        }
    });
}

/// Compares one account. False: none is due.
async fn round(app: &App) -> Result<bool, Error> {
    let mut conn = app.db.conn().await?;
    let Some(account) = accounts::take_for_streams(&mut conn).await? else {
        return Ok(false);
    };
    let opened = app.vault.resolve(&conn, &account, None).await;
    drop(conn);
    match opened {
        Ok(opened) => compare(app, &account, &opened).await?,
        // Its phones may have sets of their own, and Exotel counts by account.
        Err(Error::Precondition { reason, .. } | Error::Unavailable { reason, .. }) => {
            debug!(account.id = %account.id(), reason, "an account's streams cannot be counted");
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}

async fn compare(app: &App, account: &Account, credentials: &exotel::rest::Credentials) -> Result<(), Error> {
    // Calls come first: without a turn there is no number this time.
    if turn(app, account).await?.is_err() {
        return Ok(());
    }
    let account_id: AccountId = account.id();
    let counted = match app.exotel.active_streams(credentials).await {
        Ok(counted) => counted,
        Err(error) => {
            warn!(account.id = %account_id, %error, "Exotel does not tell its count of open streams");
            if let RestError::Refused {
                kind: Rejection::RateLimited,
                retry_after: Some(wait),
                ..
            } = error
            {
                let wait = chrono::TimeDelta::from_std(wait).unwrap_or_default();
                rates::hold(&mut *app.db.conn().await?, account_id, Kind::Read, wait).await?;
            }
            return Ok(());
        }
    };
    let ours = sessions::live_of_account(&mut *app.db.conn().await?, account.id).await?;
    app.metrics.streams(account_id, counted.active, ours);
    Ok(())
}
