//! The loop that looks after campaigns, in every replica; any of them may do any of it.

use std::{sync::Arc, time::Duration};

use diesel_async::AsyncConnection as _;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::{control, fill, hook, settle};
use crate::{
    app::App,
    error::Error,
    store::campaigns::{self, counts},
};

/// Between two rounds at least: every change of any call wakes the loop.
const PACE: Duration = Duration::from_millis(50);
/// Deltas folded at one time.
const FOLD: i64 = 2_000;
/// How often deltas are folded, so that reading a count costs little.
const FOLD_EVERY: Duration = Duration::from_secs(1);
/// How often a campaign's failures are looked at when none of its calls ended here, and what is left over of campaigns that are over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often parts of time are folded into hours.
const COMPACT_EVERY: Duration = Duration::from_mins(10);

/// When what was done last.
struct Times {
    folded: Instant,
    looked: Instant,
    /// More calls are left over than were cancelled at one time.
    left_over: bool,
    compacted: Instant,
}

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let now = Instant::now();
        let mut times = Times {
            folded: now,
            looked: now,
            left_over: false,
            compacted: now,
        };
        let mut wake = now;
        loop {
            tokio::select! {
                () = &mut stopping => return,
                // Either way it is time to look.
                _ = timeout_at(wake, app.hub.campaigns_wait()) => {}
            }
            wake = Instant::now() + app.config.poll_interval;
            match round(&app, &mut times).await {
                Ok(true) => wake = Instant::now(),
                Ok(false) => {}
                Err(error) => warn!(%error, "a round over the campaigns failed; the next one follows"),
            }
            sleep(PACE).await;
        }
    });
}

/// One round. Returns whether there is more to do at once.
async fn round(app: &Arc<App>, times: &mut Times) -> Result<bool, Error> {
    let touched = settle::all(app).await?;
    let look = due(&mut times.looked, LOOK_EVERY);
    let mut more = false;
    let running = campaigns::running(&mut *app.db.conn().await?).await?;
    for campaign in &running {
        let looked = async {
            if (look || touched.contains(&campaign.id)) && settle::breaker(app, campaign).await? {
                return Ok(fill::Filled::Stopped);
            }
            let filled = fill::campaign(app, campaign).await?;
            hook::ask(app, campaign).await?;
            Ok::<_, Error>(filled)
        };
        match looked.await {
            Ok(filled) => more |= filled == fill::Filled::More,
            Err(error) => warn!(campaign.id = %campaign.id(), %error, "a campaign could not be looked after"),
        }
    }
    app.hub.campaigning(!running.is_empty() || !touched.is_empty());
    if look || times.left_over {
        times.left_over = control::cancel_left_over(app).await?;
        more |= times.left_over;
    }
    if due(&mut times.folded, FOLD_EVERY) {
        more |= fold(app).await? == FOLD;
    }
    if due(&mut times.compacted, COMPACT_EVERY) {
        counts::compact(&mut *app.db.conn().await?).await?;
    }
    Ok(more)
}

/// Whether it is time, which is then the last time that it was.
fn due(last: &mut Instant, every: Duration) -> bool {
    let is = last.elapsed() >= every;
    if is {
        *last = Instant::now();
    }
    is
}

async fn fold(app: &App) -> Result<i64, Error> {
    let mut conn = app.db.conn().await?;
    conn.transaction(async |conn| Ok(counts::fold(conn, FOLD).await?)).await
}
