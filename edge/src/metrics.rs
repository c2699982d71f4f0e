//! The edge's metrics. Labels never hold ids or numbers.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, UpDownCounter};
use runtime::telemetry::{label, meter};

use crate::session::counters::Counters;

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Counter<u64>,
    active: UpDownCounter<i64>,
    sessions: Counter<u64>,
    first_audio: Histogram<f64>,
    frames: Counter<u64>,
    bad_frames: Counter<u64>,
    gaps: Counter<u64>,
    underruns: Counter<u64>,
    clears: Counter<u64>,
    dropped_audio: Counter<u64>,
    dropped_reports: Counter<u64>,
    recordings: Counter<u64>,
    recording_missing: Counter<u64>,
}

impl Metrics {
    /// Makes them with the process's meter.
    pub(crate) fn new() -> Self {
        let meter = meter();
        Self {
            requests: meter
                .u64_counter("edge_http_requests")
                .with_description("webhooks answered")
                .build(),
            active: meter
                .i64_up_down_counter("edge_sessions_active")
                .with_description("live media sessions")
                .build(),
            sessions: meter
                .u64_counter("edge_sessions_ended")
                .with_description("media sessions by reason")
                .build(),
            first_audio: meter
                .f64_histogram("edge_first_audio_seconds")
                .with_description("from start until the first audio was sent")
                .with_boundaries(vec![0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0])
                .build(),
            frames: meter
                .u64_counter("edge_audio_frames")
                .with_description("audio frames")
                .build(),
            bad_frames: meter
                .u64_counter("edge_bad_frames")
                .with_description("frames that could not be used")
                .build(),
            gaps: meter
                .u64_counter("edge_audio_gaps")
                .with_description("audio frames missing on the way in")
                .build(),
            underruns: meter
                .u64_counter("edge_audio_underruns")
                .with_description("gaps within the agent's speech")
                .build(),
            clears: meter.u64_counter("edge_clears").with_description("barge-ins").build(),
            dropped_audio: meter
                .u64_counter("edge_audio_dropped_ms")
                .with_description("audio dropped")
                .build(),
            dropped_reports: meter
                .u64_counter("edge_reports_dropped")
                .with_description("reports lost in an outage")
                .build(),
            recordings: meter
                .u64_counter("edge_recordings")
                .with_description("recordings that are over, by how they ended and why")
                .build(),
            recording_missing: meter
                .u64_counter("edge_recording_missing_ms")
                .with_description("audio that is not on a recording")
                .build(),
        }
    }

    /// A request was answered.
    pub(crate) fn request(&self, route: &str, status: u16) {
        self.requests.add(
            1,
            &[label("route", route.to_owned()), label("status", i64::from(status))],
        );
    }

    /// A session began.
    pub(crate) fn session_began(&self) {
        self.active.add(1, &[]);
    }

    /// A session is over.
    pub(crate) fn session_ended(&self, reason: &'static str, counters: &Counters) {
        self.active.add(-1, &[]);
        self.sessions.add(1, &[label("reason", reason)]);
        if counters.first_audio_ms > 0 {
            self.first_audio
                .record(Duration::from_millis(counters.first_audio_ms).as_secs_f64(), &[]);
        }
        let (inward, outward) = ([label("direction", "in")], [label("direction", "out")]);
        self.frames.add(counters.frames_in, &inward);
        self.frames.add(counters.frames_out, &outward);
        self.dropped_audio.add(counters.dropped_in_ms, &inward);
        self.dropped_audio.add(counters.dropped_out_ms, &outward);
        self.bad_frames.add(counters.bad_frames, &[]);
        self.gaps.add(counters.gaps, &[]);
        self.underruns.add(counters.underruns, &[]);
        self.clears.add(counters.clears, &[]);
    }

    /// A recording is over: `stored`, `incomplete` or `failed`.
    pub(crate) fn recording(&self, outcome: &'static str, reason: &str, missing_ms: u64) {
        self.recordings
            .add(1, &[label("outcome", outcome), label("reason", reason.to_owned())]);
        self.recording_missing.add(missing_ms, &[]);
    }

    /// Reports were lost.
    pub(crate) fn reports_dropped(&self, count: u64) {
        if count > 0 {
            self.dropped_reports.add(count, &[]);
        }
    }
}
