//! Keeps the timelines' partitions ahead of time, in any replica.

use std::{sync::Arc, time::Duration};

use diesel::{QueryableByName, sql_query, sql_types::Int4};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{app::App, error::Error};

/// A partition is needed three months after it is made, so how often does not matter much.
const EVERY: Duration = Duration::from_hours(6);

#[derive(QueryableByName)]
struct Made {
    #[diesel(sql_type = Int4)]
    made: i32,
}

/// Starts the loop.
pub fn start(app: &Arc<App>) {
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            match partitions(&app).await {
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

async fn partitions(app: &App) -> Result<i32, Error> {
    let mut conn = app.db.conn().await?;
    // Two replicas at once would trip over each other's new tables; the second one has nothing left to do.
    conn.transaction(async |conn| {
        sql_query("SELECT pg_advisory_xact_lock(hashtext('call_events_partitions'))")
            .execute(conn)
            .await?;
        let made: Made = sql_query("SELECT call_events_partitions(3) AS made")
            .get_result(conn)
            .await?;
        Ok(made.made)
    })
    .await
}
