//! What the service counts and measures as it happens; what rows say is in `gauges`. Labels hold stable words and, for streams, an
//! account's id; never a call, a number or a secret.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use callbridge_proto::id::AccountId;
use chrono::{DateTime, Utc};
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, UpDownCounter},
};
use runtime::telemetry::{label, meter};
use tokio::time::Instant;

use crate::{
    calls::{
        retention::Class,
        state::{Direction, State},
    },
    store::calls::Call,
};

/// Upper bounds of what happens before somebody answers, in seconds.
const SETUP: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 45.0, 60.0, 300.0, 3600.0,
];
/// Upper bounds of requests to Exotel, in seconds: a dial may take 38.
const REQUEST: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 15.0, 38.0];
/// Upper bounds of conversations, in seconds.
const TALK: [f64; 10] = [5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];

/// Why calls end, as far as labels tell it: the words of `docs/states.md`, of Exotel's refusals and of campaigns. Others are
/// `other`, so that no word from outside makes a series.
const REASONS: [&str; 38] = [
    "agent_hung_up",
    "bad_credentials",
    "bad_parameter",
    "busy",
    "campaign_changed",
    "campaign_over",
    "canceled",
    "completed",
    "contact_gone",
    "credentials_unreadable",
    "customer_hung_up",
    "destination_not_allowed",
    "dnd",
    "ended_by_request",
    "expired",
    "failed",
    "forbidden",
    "frequency_cap",
    "hook_later",
    "hook_never",
    "kyc",
    "media_never_opened",
    "no_agent",
    "no_answer",
    "no_balance",
    "not_found",
    "not_sent",
    "number_busy",
    "number_unreadable",
    "phone_gone",
    "provider_failed",
    "rate_limited",
    "reached",
    "suppressed",
    "time_limit",
    "unconfirmed",
    "unconfirmed_ambiguous",
    "unknown_number",
];

/// Reasons of failed calls of which one is enough for an alert (`k8s/components/monitoring`).
const ALERTED: [&str; 6] = [
    "bad_credentials",
    "credentials_unreadable",
    "forbidden",
    "kyc",
    "media_never_opened",
    "no_balance",
];

/// An account's count of streams is asked for every two minutes while it has calls; what is older is not shown.
const STREAMS_STALE: Duration = Duration::from_mins(5);
/// Accounts whose streams are shown, at most: each is two series.
const STREAMS_OF: usize = 200;

fn seconds(meter: &Meter, name: &'static str, about: &'static str, bounds: &[f64]) -> Histogram<f64> {
    let histogram = meter.f64_histogram(name).with_unit("s").with_description(about);
    histogram.with_boundaries(bounds.to_vec()).build()
}

/// A counter that is there before the first event, so that its first one is a change.
fn counter(meter: &Meter, name: &'static str, about: &'static str) -> Counter<u64> {
    let counter = meter.u64_counter(name).with_description(about).build();
    counter.add(0, &[]);
    counter
}

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    swept: Counter<u64>,
    settled: Counter<u64>,
    read_backs: Counter<u64>,
    quarantined: Counter<u64>,
    blanked: Counter<u64>,
    purged: Counter<u64>,
    streams: Streams,
    dials: Histogram<f64>,
    notified: Counter<u64>,
    news: Counter<u64>,
    listening: UpDownCounter<i64>,
}

impl Metrics {
    /// Makes them with the process's meter.
    pub(crate) fn new() -> Self {
        let meter = &meter();
        let made = Self {
            swept: counter(meter, "callbridge.dials.swept", "dials that had no outcome in time"),
            settled: meter
                .u64_counter("callbridge.dials.settled")
                .with_description("looks for unconfirmed dials in Exotel's list, by result")
                .build(),
            read_backs: meter
                .u64_counter("callbridge.read_backs")
                .with_description("calls that Exotel was asked about, by result")
                .build(),
            quarantined: counter(
                meter,
                "callbridge.rows.quarantined",
                "rows of calls that cannot be read and wait for a person",
            ),
            blanked: counter(
                meter,
                "callbridge.calls.blanked",
                "calls whose personal columns were blanked",
            ),
            purged: counter(
                meter,
                "callbridge.rows.purged",
                "rows that were too old to be kept, by class",
            ),
            streams: Streams::new(meter),
            dials: seconds(
                meter,
                "callbridge.dial.duration",
                "connects at Exotel, from the first byte of DNS to the answer, by outcome",
                &REQUEST,
            ),
            notified: counter(meter, "callbridge.notify.sent", "NOTIFYs of this replica"),
            news: counter(meter, "callbridge.notify.received", "NOTIFYs that came, one's own too"),
            listening: meter
                .i64_up_down_counter("callbridge.notify.listening")
                .with_description("1 while this replica hears NOTIFYs; without them news come by a poll")
                .build(),
        };
        made.listening.add(0, &[]);
        for result in ["ended", "open", "left_out", "failed", "rate_limited"] {
            made.read_back(result, 0);
        }
        for result in [
            "found",
            "none",
            "several",
            "unasked",
            "unconfirmed",
            "ambiguous",
            "given_up",
            "open",
        ] {
            made.settled.add(0, &[label("result", result)]);
        }
        calls();
        made
    }

    /// Exotel was asked to connect a call, and answered so or not at all.
    pub(crate) fn dialled(&self, outcome: &'static str, took: Duration) {
        self.dials.record(took.as_secs_f64(), &[label("outcome", outcome)]);
    }

    /// A NOTIFY was sent.
    pub(crate) fn notified(&self) {
        self.notified.add(1, &[]);
    }

    /// A NOTIFY came.
    pub(crate) fn news(&self) {
        self.news.add(1, &[]);
    }

    /// NOTIFYs are heard until this is dropped.
    pub(crate) fn listening(&self) -> Listening {
        self.listening.add(1, &[]);
        Listening(self.listening.clone())
    }

    /// A dial had no outcome in time and is unconfirmed now.
    pub fn dial_swept(&self) {
        self.swept.add(1, &[]);
    }

    /// Exotel's list was read about an unconfirmed dial, or was not to be had; the README has the results.
    pub(crate) fn settled(&self, result: &'static str) {
        self.settled.add(1, &[label("result", result)]);
    }

    /// Exotel was asked about so many calls: `ended`, `open`, `left_out`, `failed` or `rate_limited`.
    pub(crate) fn read_back(&self, result: &'static str, calls: usize) {
        self.read_backs
            .add(u64::try_from(calls).unwrap_or(u64::MAX), &[label("result", result)]);
    }

    /// A row cannot be read and waits for a person.
    pub fn quarantined(&self) {
        self.quarantined.add(1, &[]);
    }

    /// Calls were blanked.
    pub(crate) fn blanked(&self, calls: usize) {
        self.blanked.add(u64::try_from(calls).unwrap_or(u64::MAX), &[]);
    }

    /// Rows were too old to be kept.
    pub(crate) fn purged(&self, class: Class, rows: usize) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.purged.add(rows, &[label("class", class.word())]);
        if class == Class::Calls {
            self.blanked.add(rows, &[]);
        }
    }

    /// Exotel's count of an account's open streams, and ours.
    pub(crate) fn streams(&self, account: AccountId, exotel: u32, ours: i64) {
        let mut counts = self.streams.lock();
        counts.retain(|_, counted| counted.at.elapsed() < STREAMS_STALE);
        if counts.len() < STREAMS_OF || counts.contains_key(&account) {
            let at = Instant::now();
            counts.insert(account, Counted { exotel, ours, at });
        }
    }
}

/// Exotel's count of an account's streams, and ours, and when that was.
struct Counted {
    exotel: u32,
    ours: i64,
    at: Instant,
}

/// Of each account whose streams were counted by this replica.
#[derive(Clone)]
struct Streams(Arc<Mutex<HashMap<AccountId, Counted>>>);

impl Streams {
    fn new(meter: &Meter) -> Self {
        let streams = Self(Arc::default());
        let show = |name, about, value: fn(&Counted) -> i64| {
            let streams = streams.clone();
            meter
                .i64_observable_gauge(name)
                .with_description(about)
                .with_callback(move |gauge| {
                    for (account, counted) in streams.lock().iter() {
                        if counted.at.elapsed() < STREAMS_STALE {
                            gauge.observe(value(counted), &[label("account", account.to_string())]);
                        }
                    }
                })
                .build();
        };
        show(
            "callbridge.streams.active",
            "open streams as Exotel counts them",
            |counted| counted.exotel.into(),
        );
        show(
            "callbridge.streams.drift",
            "open streams as Exotel counts them, minus ours",
            |counted| i64::from(counted.exotel) - counted.ours,
        );
        streams
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// That NOTIFYs are heard.
pub(crate) struct Listening(UpDownCounter<i64>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}

/// What is counted where a row is written, which knows its transaction and nothing else of the process. One that is rolled back
/// after that, which is rare, is counted all the same.
struct Calls {
    placed: Counter<u64>,
    refused: Counter<u64>,
    ended: Counter<u64>,
    waited: Histogram<f64>,
    setup: Histogram<f64>,
    talk: Histogram<f64>,
}

fn calls() -> &'static Calls {
    static CALLS: OnceLock<Calls> = OnceLock::new();
    CALLS.get_or_init(|| {
        let meter = &meter();
        let calls = Calls {
            placed: meter
                .u64_counter("callbridge.calls.placed")
                .with_description("calls that were accepted, by direction")
                .build(),
            refused: meter
                .u64_counter("callbridge.dials.refused")
                .with_description(
                    "numbers that callers may not have called, and calls beyond those of a day, by reason",
                )
                .build(),
            ended: meter
                .u64_counter("callbridge.calls.ended")
                .with_description("calls that are over, by direction, outcome and reason")
                .build(),
            waited: seconds(
                meter,
                "callbridge.call.wait",
                "from when a call might be dialled until it was",
                &SETUP,
            ),
            setup: seconds(
                meter,
                "callbridge.call.setup",
                "from the intent to dial until somebody answered",
                &SETUP,
            ),
            talk: seconds(meter, "callbridge.call.talk", "from the answer to the end", &TALK),
        };
        for direction in [Direction::Outbound, Direction::Inbound] {
            calls.placed.add(0, &[label("direction", direction.label())]);
        }
        for why in ["destination", "daily_calls"] {
            calls.refused.add(0, &[label("reason", why)]);
        }
        // What is alerted on is there before the first one, so that it is a change.
        for reason in ALERTED {
            calls.ended.add(0, &of_end(Direction::Outbound, State::Failed, reason));
        }
        calls
    })
}

/// A number was not to be called, or a caller has had its calls of the day: `destination` or `daily_calls`.
pub(crate) fn dial_refused(why: &'static str) {
    calls().refused.add(1, &[label("reason", why)]);
}

/// Calls were accepted.
pub(crate) fn placed(direction: Direction, calls_placed: usize) {
    calls().placed.add(
        u64::try_from(calls_placed).unwrap_or(u64::MAX),
        &[label("direction", direction.label())],
    );
}

/// A call was over at once.
pub(crate) fn ended(direction: Direction, outcome: State, reason: &str) {
    let reason = REASONS.iter().find(|known| **known == reason).copied();
    calls()
        .ended
        .add(1, &of_end(direction, outcome, reason.unwrap_or("other")));
}

fn of_end(direction: Direction, outcome: State, reason: &'static str) -> [KeyValue; 3] {
    [
        label("direction", direction.label()),
        label("outcome", outcome.label()),
        label("reason", reason),
    ]
}

/// A call's row was changed.
pub(crate) fn changed(before: &Call, after: &Call) {
    let between = |from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>| {
        let took = from.zip(to).map(|(from, to)| to - from);
        took.and_then(|took| took.to_std().ok())
            .unwrap_or_default()
            .as_secs_f64()
    };
    if after.attempt > before.attempt && after.attempt == 1 {
        let from = after.not_before.max(after.queued_at);
        calls().waited.record(between(Some(from), after.post_started_at), &[]);
    }
    if before.answered_at.is_none() && after.answered_at.is_some() && after.direction == Direction::Outbound {
        calls()
            .setup
            .record(between(after.post_started_at, after.answered_at), &[]);
    }
    if !before.state.is_terminal() && after.state.is_terminal() {
        ended(
            after.direction,
            after.state,
            after.end_reason.as_deref().unwrap_or_default(),
        );
        if after.answered_at.is_some() {
            let direction = [label("direction", after.direction.label())];
            calls()
                .talk
                .record(between(after.answered_at, after.ended_at), &direction);
        }
    }
}
