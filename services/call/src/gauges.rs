//! Gauges of what rows say, read every few seconds, and of this process's connections. Every replica shows the same rows, so that a
//! page takes the largest of what they say. A sample that is too old is not shown: no number is better than a wrong one.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use callbridge_proto::id::{AccountId, CampaignId};
use chrono::{DateTime, TimeDelta, Utc};
use opentelemetry::{KeyValue, metrics::AsyncInstrument};
use runtime::telemetry::{label, meter};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::{
    app::App,
    error::Error,
    store::{
        gauges::{self, Account, Count, Sample},
        rates::Kind,
    },
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
    of_rows(&newest);
    of_pools(&Arc::downgrade(app));
    let app_of_task = Arc::clone(app);
    app.tasks.spawn(async move {
        let stopping = app_of_task.tasks.stopping();
        tokio::pin!(stopping);
        loop {
            match read(&app_of_task).await {
                Ok(sample) => *lock(&newest) = Some((sample, Instant::now())),
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
    Ok(gauges::read(&mut conn).await?)
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

fn of_rows(newest: &Newest) {
    let gauge = |names, tell: Tell| gauge(newest, names, tell);
    gauge(
        ("callbridge.calls.active", "{call}", "active calls by state"),
        |sample, tell| {
            for word in ["dialing", "unconfirmed", "placed", "ringing", "in_progress"] {
                tell(count(&sample.active, word), &[label("state", word)]);
            }
        },
    );
    gauge(
        (
            "callbridge.calls.queued",
            "{call}",
            "queued calls by what they wait for",
        ),
        |sample, tell| {
            // There also when nobody waits.
            tell(count(&sample.queued, "turn"), &[label("waits_for", "turn")]);
            for Count { word, n } in sample.queued.iter().filter(|queued| queued.word != "turn") {
                tell(float(*n), &[label("waits_for", word.clone())]);
            }
        },
    );
    gauge(
        (
            "callbridge.queue.age",
            "s",
            "how long the oldest call that is due has waited",
        ),
        |sample, tell| tell(sample.waiting.queue_seconds, &[]),
    );
    gauge(
        (
            "callbridge.unconfirmed.age",
            "s",
            "age of the oldest dial whose outcome is unknown",
        ),
        |sample, tell| tell(sample.waiting.unconfirmed_seconds, &[]),
    );
    gauge(
        (
            "callbridge.read_backs.lag",
            "s",
            "how late the question to Exotel is that is due first",
        ),
        |sample, tell| tell(sample.waiting.read_back_seconds, &[]),
    );
    gauge(
        (
            "callbridge.callbacks.waiting",
            "{callback}",
            "callbacks that are kept and not applied yet",
        ),
        |sample, tell| tell(float(sample.waiting.callbacks), &[]),
    );
    gauge(
        ("callbridge.calls.review", "{call}", "calls that a person is to look at"),
        |sample, tell| tell(float(sample.waiting.reviews), &[]),
    );
    slots(newest);
    gauge(
        (
            "callbridge.rate.left",
            "{request}",
            "requests that an account's rate leaves for the next minute",
        ),
        |sample, tell| {
            for account in &sample.accounts {
                for (kind, word, at) in kinds(account) {
                    let left = left(sample.now, at, kind.pause(account.calls_per_minute));
                    tell(float(left), &[of(account), label("kind", word)]);
                }
            }
        },
    );
    gauge(
        (
            "callbridge.rate.limit",
            "{request}",
            "dials that an account may make in a minute",
        ),
        |sample, tell| {
            for account in &sample.accounts {
                tell(f64::from(account.calls_per_minute), &[of(account)]);
            }
        },
    );
    gauge(
        (
            "callbridge.campaigns",
            "{campaign}",
            "campaigns that are not over, by state",
        ),
        |sample, tell| {
            for word in ["draft", "running", "paused"] {
                tell(count(&sample.campaigns, word), &[label("state", word)]);
            }
        },
    );
    gauge(
        (
            "callbridge.campaign.contacts",
            "{contact}",
            "contacts of running campaigns, by state",
        ),
        |sample, tell| {
            for contacts in &sample.contacts {
                let labels = [
                    label("campaign", CampaignId(contacts.campaign).to_string()),
                    label("state", contacts.state.clone()),
                ];
                tell(float(contacts.n), &labels);
            }
        },
    );
}

/// Slots by cap: of each account, and of all phones, agents and campaigns together.
fn slots(newest: &Newest) {
    let of_account = |account: &Account| [label("cap", "account"), of(account)];
    gauge(
        newest,
        ("callbridge.slots.used", "{call}", "active calls under a cap"),
        move |sample, tell| {
            for account in &sample.accounts {
                tell(float(account.active), &of_account(account));
            }
            for capped in &sample.capped {
                tell(float(capped.used), &[label("cap", capped.cap.clone())]);
            }
        },
    );
    gauge(
        newest,
        (
            "callbridge.slots.limit",
            "{call}",
            "calls that a cap allows; there is none where this is not told",
        ),
        move |sample, tell| {
            for account in sample
                .accounts
                .iter()
                .filter(|account| account.max_concurrent_calls > 0)
            {
                tell(f64::from(account.max_concurrent_calls), &of_account(account));
            }
            for capped in &sample.capped {
                tell(float(capped.most), &[label("cap", capped.cap.clone())]);
            }
        },
    );
    gauge(
        newest,
        (
            "callbridge.slots.full",
            "{cap}",
            "accounts, phones, agents and campaigns that have as many calls as they may",
        ),
        |sample, tell| {
            let is_full = |account: &&Account| {
                account.max_concurrent_calls > 0 && account.active >= account.max_concurrent_calls.into()
            };
            let accounts = sample.accounts.iter().filter(is_full).count();
            tell(
                float(i64::try_from(accounts).unwrap_or(i64::MAX)),
                &[label("cap", "account")],
            );
            for cap in ["phone", "agent", "campaign"] {
                let capped = sample.capped.iter().find(|capped| capped.cap == cap);
                tell(float(capped.map_or(0, |capped| capped.full)), &[label("cap", cap)]);
            }
        },
    );
}

/// The pools of connections, by OpenTelemetry's conventions for databases, and the edges that are attached.
fn of_pools(app: &Weak<App>) {
    let gauge = |(name, unit, about), tell: fn(&App, &dyn AsyncInstrument<u64>)| {
        let app = Weak::clone(app);
        meter()
            .u64_observable_gauge(name)
            .with_unit(unit)
            .with_description(about)
            .with_callback(move |gauge| {
                if let Some(app) = app.upgrade() {
                    tell(&app, gauge);
                }
            })
            .build();
    };
    gauge(
        (
            "db.client.connection.count",
            "{connection}",
            "connections to Postgres by pool and state",
        ),
        |app, gauge| {
            for (name, status) in app.db.pools() {
                let idle = status.available.min(status.size);
                for (state, n) in [("idle", idle), ("used", status.size - idle)] {
                    let labels = [pool_of(name), label("db.client.connection.state", state)];
                    gauge.observe(number(n), &labels);
                }
            }
        },
    );
    gauge(
        (
            "db.client.connection.max",
            "{connection}",
            "connections that a pool may have",
        ),
        |app, gauge| {
            for (name, status) in app.db.pools() {
                gauge.observe(number(status.max_size), &[pool_of(name)]);
            }
        },
    );
    gauge(
        (
            "db.client.connection.pending_requests",
            "{request}",
            "those that wait for a connection",
        ),
        |app, gauge| {
            for (name, status) in app.db.pools() {
                gauge.observe(number(status.waiting), &[pool_of(name)]);
            }
        },
    );
    gauge(
        (
            "callbridge.edges.attached",
            "{edge}",
            "edges whose control streams this replica holds",
        ),
        |app, gauge| gauge.observe(number(app.edges.len()), &[]),
    );
}

fn number(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn pool_of(name: &'static str) -> KeyValue {
    label("db.client.connection.pool.name", name)
}

fn of(account: &Account) -> KeyValue {
    label("account", AccountId(account.id).to_string())
}

fn kinds(account: &Account) -> [(Kind, &'static str, Option<DateTime<Utc>>); 2] {
    [
        (Kind::Dial, "dial", account.dial_at),
        (Kind::Read, "read", account.read_at),
    ]
}

/// How many requests with this pause between them can begin in the next minute, the first one at `at`.
fn left(now: DateTime<Utc>, at: Option<DateTime<Utc>>, pause: TimeDelta) -> i64 {
    let wait = at.map_or(TimeDelta::zero(), |at| (at - now).max(TimeDelta::zero()));
    let rest = TimeDelta::minutes(1) - wait;
    if rest <= TimeDelta::zero() {
        return 0;
    }
    let pause = pause.num_milliseconds().max(1);
    (rest.num_milliseconds() + pause - 1) / pause
}

fn count(counts: &[Count], word: &str) -> f64 {
    float(
        counts
            .iter()
            .find(|count| count.word == word)
            .map_or(0, |count| count.n),
    )
}

#[expect(clippy::cast_precision_loss, reason = "a gauge of so many would be exact enough")]
fn float(n: i64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rate_leaves_is_what_fits_into_the_next_minute() {
        let now = DateTime::UNIX_EPOCH;
        let second = TimeDelta::seconds(1);
        assert_eq!(left(now, None, second), 60);
        assert_eq!(left(now, Some(now - second), second), 60);
        assert_eq!(left(now, Some(now + TimeDelta::seconds(59)), second), 1);
        assert_eq!(left(now, Some(now + TimeDelta::minutes(5)), second), 0);
        assert_eq!(left(now, None, TimeDelta::seconds(65)), 1);
    }
}
