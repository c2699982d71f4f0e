//! The figures of a run, and whether they count.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::{
    moments::Moments,
    run::{Cost, Measured},
};
use crate::load::{arguments::Arguments, machine, result};

/// A generator that is later than this measures itself.
const MAX_LATENESS: Duration = Duration::from_millis(5);

/// All figures.
pub(super) struct Figures {
    streams: usize,
    chunk_ms: u32,
    processors: usize,
    load: String,
    socket: Measured,
    agent: Measured,
    edge: Measured,
    moments: Moments,
}

impl Figures {
    /// Of the echoing WebSocket, the echoing agent, and the edge with its agent and with one that greets.
    pub(super) fn new(
        arguments: &Arguments,
        processors: usize,
        socket: Measured,
        agent: Measured,
        edge: Measured,
        moments: Moments,
    ) -> Self {
        Self {
            streams: arguments.streams,
            chunk_ms: arguments.chunk_ms,
            processors,
            load: machine::load_average(),
            socket,
            agent,
            edge,
            moments,
        }
    }

    fn cost(measured: &Measured, server: usize) -> anyhow::Result<Cost> {
        measured.costs.get(server).copied().context("a server was not measured")
    }

    /// Prints them.
    ///
    /// # Errors
    /// When audio went wrong, or the generator was late.
    pub(super) fn tell(&self, arguments: &Arguments) -> anyhow::Result<()> {
        let (edge, agent) = (Self::cost(&self.edge, 0)?, Self::cost(&self.edge, 1)?);
        let (socket, rpc) = (Self::cost(&self.socket, 0)?, Self::cost(&self.agent, 0)?);
        let baseline = socket.ms_per_stream_s + rpc.ms_per_stream_s;
        let ratio = edge.ms_per_stream_s / baseline;
        let latency = |share| ms(self.edge.heard.latency.per_mille(share));
        let all = [&self.socket, &self.agent, &self.edge];
        // The calls of the baselines have no reason to be late either.
        let lateness = all.map(|measured| measured.heard.lateness.per_mille(990));
        let lateness = lateness.into_iter().max().unwrap_or_default();
        let counts = self.edge.heard.counts;
        if let Some(path) = &arguments.json {
            let of = |measured: &Measured| {
                let heard = &measured.heard;
                let (latency, late) = (&heard.latency, &heard.lateness);
                json!({
                    "ms_per_stream_s": measured.costs.iter().map(|cost| cost.ms_per_stream_s).collect::<Vec<_>>(),
                    "rss_per_call_kib": measured.costs.iter().map(|cost| cost.rss_per_call_kib).collect::<Vec<_>>(),
                    "echoes": latency.count(), "p50_ms": ms(latency.per_mille(500)), "p90_ms": ms(latency.per_mille(900)),
                    "p99_ms": ms(latency.per_mille(990)), "p999_ms": ms(latency.per_mille(999)),
                    "longest_ms": ms(latency.per_mille(1_000)), "lost": heard.counts.lost,
                    "doubled": heard.counts.doubled, "out_of_order": heard.counts.out_of_order,
                    "chunks": late.count(), "lateness_p50_ms": ms(late.per_mille(500)),
                    "lateness_p99_ms": ms(late.per_mille(990)),
                })
            };
            let json = json!({
                "axum_echo": of(&self.socket), "tonic_echo": of(&self.agent), "edge_and_agent": of(&self.edge),
                "greeting_ms": self.moments.greeting, "setup_ms": self.moments.agent, "clear_ms": self.moments.clear,
                "ratio": ratio, "streams": self.streams, "chunk_ms": self.chunk_ms, "seconds": arguments.seconds,
                "pinned": arguments.pin, "processors": self.processors, "load_avg": self.load,
            });
            fs::write(path, serde_json::to_vec_pretty(&json)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        result(&format!(
            "edge_ms_per_stream_s={:.3} agent_ms_per_stream_s={:.3} baseline_ms_per_stream_s={baseline:.3} \
            axum_ms_per_stream_s={:.3} tonic_ms_per_stream_s={:.3} ratio={ratio:.2} p50_ms={:.2} p99_ms={:.2} p999_ms={:.2} \
            lost={} doubled={} out_of_order={} rss_per_call_kib={:.1} greeting_ms={:.1} setup_ms={:.0} clear_ms={:.0} \
            lateness_p99_ms={:.2} streams={} chunk_ms={} processors={} load_avg={}",
            edge.ms_per_stream_s,
            agent.ms_per_stream_s,
            socket.ms_per_stream_s,
            rpc.ms_per_stream_s,
            latency(500),
            latency(990),
            latency(999),
            counts.lost,
            counts.doubled,
            counts.out_of_order,
            edge.rss_per_call_kib,
            machine::median(&self.moments.greeting),
            machine::median(&self.moments.agent),
            machine::median(&self.moments.clear),
            ms(lateness),
            self.streams,
            self.chunk_ms,
            self.processors,
            self.load,
        ));
        for (what, measured) in ["axum echo", "tonic echo", "edge"].into_iter().zip(all) {
            let counts = measured.heard.counts;
            ensure!(
                counts.is_clean(),
                "{what}: audio was not echoed as it was said: {counts:?} (bytes)"
            );
        }
        ensure!(
            lateness <= MAX_LATENESS,
            "the run is void: one chunk in a hundred was sent {:.1} ms late or later, more than {} ms; the machine is too busy \
            or has too few processors for so many streams",
            ms(lateness),
            MAX_LATENESS.as_millis()
        );
        Ok(())
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
