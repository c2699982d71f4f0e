//! What this process is connected to.

use std::sync::Weak;

use opentelemetry::{KeyValue, metrics::AsyncInstrument};
use runtime::telemetry::{label, meter};

use crate::app::App;

/// The pools of connections, by OpenTelemetry's conventions for databases, and the edges that are attached.
pub(super) fn of_pools(app: &Weak<App>) {
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
