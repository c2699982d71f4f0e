//! What the newest sample of rows says.

use callbridge_proto::id::{AccountId, CampaignId};
use chrono::{DateTime, TimeDelta, Utc};
use opentelemetry::KeyValue;
use runtime::telemetry::label;

use super::{Newest, Tell, gauge};
use crate::store::{
    gauges::{Account, Count},
    rates::Kind,
};

/// Makes them.
pub(super) fn of_rows(newest: &Newest) {
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
        (
            "callbridge.db.standbys",
            "{server}",
            "servers that follow the database, and whether a commit waits for any of them",
        ),
        |sample, tell| {
            let awaited = label("awaited", sample.standbys.awaited.to_string());
            tell(float(sample.standbys.following), &[awaited]);
        },
    );
    gauge(
        ("callbridge.calls.review", "{call}", "calls that a person is to look at"),
        |sample, tell| tell(float(sample.waiting.reviews), &[]),
    );
    gauge(
        (
            "callbridge.retention.behind",
            "s",
            "how long ago the oldest of a class should have been purged",
        ),
        |sample, tell| {
            for behind in &sample.behind {
                tell(behind.seconds, &[label("class", behind.class.clone())]);
            }
        },
    );
    gauge(
        (
            "callbridge.recordings.erasing",
            "{recording}",
            "recordings that are still to be taken out of the object store",
        ),
        |sample, tell| tell(float(sample.waiting.erasing), &[]),
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
