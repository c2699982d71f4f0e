//! Callers that do what is out of the ordinary: too many calls in a minute or in an hour, or too many that fail. They are told to
//! people, in the log and by a gauge; what stops a caller is its cap.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use runtime::telemetry::{label, meter};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    app::App,
    error::Error,
    store::{
        caller_days::{self, Lately},
        calls,
    },
};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(10);
/// What is older is not shown.
const STALE: Duration = Duration::from_mins(2);
/// Calls that are over before their share of failures says anything.
const ENDED: i64 = 20;

/// What is out of the ordinary; none: nothing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// More calls of a caller than this in a minute.
    pub per_minute: Option<i64>,
    /// In an hour.
    pub per_hour: Option<i64>,
    /// More than so many failed among a hundred that ended in an hour.
    pub failed_percent: Option<i64>,
}

/// What of it a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    PerMinute,
    PerHour,
    Failed,
}

impl Alarm {
    const ALL: [Self; 3] = [Self::PerMinute, Self::PerHour, Self::Failed];

    fn word(self) -> &'static str {
        match self {
            Self::PerMinute => "calls_per_minute",
            Self::PerHour => "calls_per_hour",
            Self::Failed => "failed",
        }
    }
}

fn judge(thresholds: &Thresholds, lately: &Lately) -> impl Iterator<Item = Alarm> {
    let over = |threshold: Option<i64>, value: i64| threshold.is_some_and(|most| value > most);
    let failed = thresholds
        .failed_percent
        .is_some_and(|percent| lately.ended >= ENDED && lately.failed * 100 > percent * lately.ended);
    let alarms = [
        over(thresholds.per_minute, lately.minute).then_some(Alarm::PerMinute),
        over(thresholds.per_hour, lately.hour).then_some(Alarm::PerHour),
        failed.then_some(Alarm::Failed),
    ];
    alarms.into_iter().flatten()
}

type Seen = BTreeSet<(Alarm, String)>;

/// Starts the loop and makes the gauge.
pub(crate) fn start(app: &Arc<App>) {
    let newest: Arc<Mutex<Option<(Seen, Instant)>>> = Arc::default();
    let shown = Arc::clone(&newest);
    meter()
        .u64_observable_gauge("callbridge.callers.alarmed")
        .with_unit("{caller}")
        .with_description("callers whose calls of the last hour are out of the ordinary, by what is")
        .with_callback(move |gauge| {
            let seen = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((seen, _)) = seen.as_ref().filter(|(_, at)| at.elapsed() < STALE) {
                for alarm in Alarm::ALL {
                    let callers = seen.iter().filter(|(kind, _)| *kind == alarm).count();
                    gauge.observe(
                        u64::try_from(callers).unwrap_or(u64::MAX),
                        &[label("kind", alarm.word())],
                    );
                }
            }
        })
        .build();
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let app = app_of_task;
        let stopping = app.tasks.stopping();
        tokio::pin!(stopping);
        let mut before = Seen::new();
        loop {
            match look(&app, &before).await {
                Ok(seen) => {
                    before.clone_from(&seen);
                    *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((seen, Instant::now()));
                }
                Err(error) => warn!(%error, "what callers did lately could not be read"),
            }
            tokio::select! {
                () = &mut stopping => return,
                () = sleep(EVERY) => {}
            }
        }
    });
}

/// Looks at all callers, and tells of those that were not out of the ordinary before.
async fn look(app: &App, before: &Seen) -> Result<Seen, Error> {
    let thresholds = &app.config.toll.alarms;
    if *thresholds == Thresholds::default() {
        return Ok(Seen::new());
    }
    let mut conn = app.db.conn().await?;
    let now = calls::database_now(&conn).await?;
    let callers = caller_days::lately(&mut conn, now).await?;
    drop(conn);
    let mut seen = Seen::new();
    for lately in &callers {
        for alarm in judge(thresholds, lately) {
            let (minute, hour, ended, failed) = (lately.minute, lately.hour, lately.ended, lately.failed);
            if seen.insert((alarm, lately.caller.clone())) && !before.contains(&(alarm, lately.caller.clone())) {
                warn!(
                    caller = lately.caller,
                    kind = alarm.word(),
                    minute,
                    hour,
                    ended,
                    failed,
                    "a caller's calls are out of the ordinary: if they are not meant, revoke its keys (callbridge keys) and abort its campaigns (callbridge campaigns), which go on without a key"
                );
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarms(minute: i64, hour: i64, ended: i64, failed: i64) -> Vec<Alarm> {
        let thresholds = Thresholds {
            per_minute: Some(10),
            per_hour: Some(100),
            failed_percent: Some(50),
        };
        let caller = String::new();
        judge(
            &thresholds,
            &Lately {
                caller,
                minute,
                hour,
                ended,
                failed,
            },
        )
        .collect()
    }

    /// F126.
    #[test]
    fn what_is_out_of_the_ordinary_is_seen() {
        assert_eq!(alarms(10, 100, 100, 50), []);
        assert_eq!(alarms(11, 100, 0, 0), [Alarm::PerMinute]);
        assert_eq!(alarms(0, 101, 20, 11), [Alarm::PerHour, Alarm::Failed]);
        // Too few to say.
        assert_eq!(alarms(0, 19, 19, 19), []);
        let nothing = Thresholds::default();
        let lately = Lately {
            caller: String::new(),
            minute: 1_000,
            hour: 1_000,
            ended: 1_000,
            failed: 1_000,
        };
        assert_eq!(judge(&nothing, &lately).count(), 0);
    }
}
