//! Gauges of what rows say, read every few seconds, and of this process's connections. Every replica shows the same rows, so that a
//! page takes the largest of what they say. A sample that is too old is not shown: no number is better than a wrong one.

mod pools;
mod rows;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::KeyValue;
use runtime::telemetry::meter;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    app::App,
    error::Error,
    store::gauges::{self, Sample},
};

/// How often rows are read: as often as pages are usually scraped.
const EVERY: Duration = Duration::from_secs(10);
/// What is older is not shown.
const STALE: Duration = Duration::from_mins(1);

/// The newest sample, and since when it is there.
type Newest = Arc<Mutex<Option<(Sample, Instant)>>>;

/// What a gauge tells of a sample: values and their labels, one after the other.
type Tell = fn(&Sample, &mut dyn FnMut(f64, &[KeyValue]));

/// Makes the gauges and starts the loop that reads.
pub(crate) fn start(app: &Arc<App>) {
    let newest = Newest::default();
    rows::of_rows(&newest);
    pools::of_pools(&Arc::downgrade(app));
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let stopping = app_of_task.tasks.stopping();
        tokio::pin!(stopping);
        let mut may_forget = false;
        loop {
            match read(&app_of_task).await {
                Ok(sample) => {
                    if sample.standbys.may_forget() && !may_forget {
                        warn!(
                            standbys = sample.standbys.following,
                            "no commit waits for a standby: a fail-over may forget dials and repeat them; set synchronous_standby_names"
                        );
                    }
                    may_forget = sample.standbys.may_forget();
                    *lock(&newest) = Some((sample, Instant::now()));
                }
                Err(error) => warn!(%error, "the gauges of rows could not be read"),
            }
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(EVERY) => {}
            }
        }
    });
}

async fn read(app: &App) -> Result<Sample, Error> {
    let mut conn = app.db.conn().await?;
    Ok(gauges::read(&mut conn, &app.config.retention).await?)
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A gauge that tells something of the newest sample.
fn gauge(
    newest: &Newest,
    (name, unit, about): (&'static str, &'static str, &'static str),
    tell: impl Fn(&Sample, &mut dyn FnMut(f64, &[KeyValue])) + Send + Sync + 'static,
) {
    let newest = Arc::clone(newest);
    meter()
        .f64_observable_gauge(name)
        .with_unit(unit)
        .with_description(about)
        .with_callback(move |gauge| {
            if let Some((sample, _)) = lock(&newest).as_ref().filter(|(_, at)| at.elapsed() < STALE) {
                tell(sample, &mut |value, labels| gauge.observe(value, labels));
            }
        })
        .build();
}
