//! The service's metrics. Labels hold stable words and, for streams, an account's id; never a call, a number or a secret.

use std::fmt;

use callbridge_proto::id::AccountId;
use opentelemetry::metrics::{Counter, Gauge};
use runtime::telemetry::{label, meter};

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    swept: Counter<u64>,
    settled: Counter<u64>,
    read_backs: Counter<u64>,
    quarantined: Counter<u64>,
    blanked: Counter<u64>,
    streams: Gauge<u64>,
    drift: Gauge<i64>,
}

impl Metrics {
    /// Makes them with the process's meter.
    pub(crate) fn new() -> Self {
        let meter = meter();
        Self {
            swept: meter
                .u64_counter("callbridge.dials.swept")
                .with_description("dials that had no outcome in time")
                .build(),
            settled: meter
                .u64_counter("callbridge.dials.settled")
                .with_description("looks for unconfirmed dials in Exotel's list, by result")
                .build(),
            read_backs: meter
                .u64_counter("callbridge.read_backs")
                .with_description("calls that Exotel was asked about, by result")
                .build(),
            quarantined: meter
                .u64_counter("callbridge.rows.quarantined")
                .with_description("rows of calls that cannot be read and wait for a person")
                .build(),
            blanked: meter
                .u64_counter("callbridge.calls.blanked")
                .with_description("calls whose personal columns were blanked")
                .build(),
            streams: meter
                .u64_gauge("callbridge.streams.active")
                .with_description("open streams as Exotel counts them")
                .build(),
            drift: meter
                .i64_gauge("callbridge.streams.drift")
                .with_description("Exotel's count of open streams minus ours")
                .build(),
        }
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

    /// Exotel's count of an account's open streams, and ours.
    pub(crate) fn streams(&self, account: AccountId, exotel: u32, ours: i64) {
        let labels = [label("account", account.to_string())];
        self.streams.record(u64::from(exotel), &labels);
        self.drift.record(i64::from(exotel) - ours, &labels);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
