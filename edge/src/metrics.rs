//! The edge's metrics. Labels are stable words, never ids or numbers, and nothing is measured per frame: a session's own counters
//! are added up every few seconds and at its end.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, Meter, UpDownCounter};
use runtime::telemetry::{label, meter};

use crate::session::counters::{Counters, Moment};

/// Upper bounds of what a person waits for, in seconds.
const WAITS: [f64; 13] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0, 10.0];
/// Upper bounds of what should not be noticed, in seconds.
const SHORT: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.5, 1.0, 2.0];

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: Histogram<f64>,
    refused: Counter<u64>,
    active: UpDownCounter<i64>,
    ended: Counter<u64>,
    first_audio: Histogram<f64>,
    agent_connect: Histogram<f64>,
    clear_to_silence: Histogram<f64>,
    mark_lag: Histogram<f64>,
    jitter: Histogram<f64>,
    frames: Counter<u64>,
    bad_frames: Counter<u64>,
    missing_frames: Counter<u64>,
    underruns: Counter<u64>,
    barge_ins: Counter<u64>,
    unanswered_marks: Counter<u64>,
    dropped: Counter<f64>,
    reconnects: Counter<u64>,
    dropped_reports: Counter<u64>,
    attached: UpDownCounter<i64>,
    recordings: Counter<u64>,
    recording_missing: Counter<f64>,
}

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

fn ms(value: u64) -> f64 {
    Duration::from_millis(value).as_secs_f64()
}

impl Metrics {
    /// Makes them with the process's meter.
    pub(crate) fn new() -> Self {
        let meter = &meter();
        let made = Self {
            requests: seconds(
                meter,
                "http.server.request.duration",
                "webhooks and upgrades that were answered",
                &WAITS,
            ),
            refused: meter
                .u64_counter("callbridge.requests.refused")
                .with_description("requests that were turned away unread, by why: no genuine token, another source, a replay, too many callbacks")
                .build(),
            active: meter
                .i64_up_down_counter("callbridge.sessions.active")
                .with_description("live media sessions")
                .build(),
            ended: meter
                .u64_counter("callbridge.sessions.ended")
                .with_description("media sessions that are over, by reason")
                .build(),
            first_audio: seconds(
                meter,
                "callbridge.session.first_audio",
                "from a stream's start until the first audio was sent to the person",
                &WAITS,
            ),
            agent_connect: seconds(
                meter,
                "callbridge.session.agent_connect",
                "from a stream's start until the agent's stream was open",
                &WAITS,
            ),
            clear_to_silence: seconds(
                meter,
                "callbridge.audio.clear_to_silence",
                "from the agent's Clear until Exotel was told to drop what it had",
                &SHORT,
            ),
            mark_lag: seconds(
                meter,
                "callbridge.audio.mark_lag",
                "how late Exotel sent a mark back, by our reckoning of its play-out",
                &SHORT,
            ),
            jitter: seconds(
                meter,
                "callbridge.audio.jitter",
                "how unevenly a session's audio arrived (RFC 3550 §6.4.1)",
                &SHORT,
            ),
            frames: meter
                .u64_counter("callbridge.audio.frames")
                .with_description("audio frames from (in) and to (out) Exotel")
                .build(),
            bad_frames: counter(meter, "callbridge.audio.bad_frames", "frames that could not be used"),
            missing_frames: counter(
                meter,
                "callbridge.audio.missing_frames",
                "audio frames that are missing from Exotel's numbering",
            ),
            underruns: counter(
                meter,
                "callbridge.audio.underruns",
                "gaps that a person heard because the agent's audio came too late",
            ),
            barge_ins: counter(meter, "callbridge.audio.barge_ins", "times an agent was interrupted"),
            unanswered_marks: counter(
                meter,
                "callbridge.audio.unanswered_marks",
                "marks that Exotel did not send back",
            ),
            dropped: meter
                .f64_counter("callbridge.audio.dropped")
                .with_unit("s")
                .with_description("audio that queues had no room for, from (in) and to (out) the person")
                .build(),
            reconnects: counter(
                meter,
                "callbridge.agent.reconnects",
                "reconnects to an agent in mid-call",
            ),
            dropped_reports: counter(
                meter,
                "callbridge.reports.dropped",
                "reports to call-service that were lost in an outage",
            ),
            attached: meter
                .i64_up_down_counter("callbridge.edge.attached")
                .with_description("1 while the control stream to call-service is up")
                .build(),
            recordings: meter
                .u64_counter("callbridge.recordings")
                .with_description("recordings that are over, by how they ended and why")
                .build(),
            recording_missing: meter
                .f64_counter("callbridge.recording.missing")
                .with_unit("s")
                .with_description("audio that is not on a recording")
                .build(),
        };
        for reason in ["token", "source", "replay", "callbacks"] {
            made.refused.add(0, &[label("reason", reason)]);
        }
        made.active.add(0, &[]);
        made.attached.add(0, &[]);
        made.recording_missing.add(0.0, &[]);
        for outcome in ["stored", "incomplete", "failed"] {
            // One is enough for an alert, so it has to be a change.
            for reason in ["", "disk_error", "disk_full", "disk_slow", "dropped", "edge_crashed"] {
                made.recordings
                    .add(0, &[label("outcome", outcome), label("reason", reason)]);
            }
        }
        made.count(&Counters::default(), &Counters::default());
        made
    }

    /// A request was answered.
    pub(crate) fn request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let labels = [
            label("http.request.method", method),
            label("http.route", route.to_owned()),
            label("http.response.status_code", i64::from(status)),
        ];
        self.requests.record(took.as_secs_f64(), &labels);
    }

    /// A request was turned away, unread. It is not among the requests: a flood of them would hide the others.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.add(1, &[label("reason", reason)]);
    }

    /// A session began.
    pub(crate) fn session_began(&self) {
        self.active.add(1, &[]);
    }

    /// A session is over.
    pub(crate) fn session_ended(&self, reason: &'static str, counters: &Counters) {
        self.active.add(-1, &[]);
        self.ended.add(1, &[label("reason", reason)]);
        if counters.frames_in > 0 {
            self.jitter.record(ms(counters.jitter_ms), &[]);
        }
    }

    /// What a session has counted since it was asked last.
    pub(crate) fn count(&self, before: &Counters, now: &Counters) {
        let (inward, outward) = ([label("direction", "in")], [label("direction", "out")]);
        self.frames.add(now.frames_in - before.frames_in, &inward);
        self.frames.add(now.frames_out - before.frames_out, &outward);
        self.dropped.add(ms(now.dropped_in_ms - before.dropped_in_ms), &inward);
        self.dropped
            .add(ms(now.dropped_out_ms - before.dropped_out_ms), &outward);
        self.bad_frames.add(now.bad_frames - before.bad_frames, &[]);
        self.missing_frames.add(now.gaps - before.gaps, &[]);
        self.underruns.add(now.underruns - before.underruns, &[]);
        self.barge_ins.add(now.clears - before.clears, &[]);
        self.unanswered_marks
            .add(now.unanswered_marks - before.unanswered_marks, &[]);
        self.reconnects.add(now.agent_retries - before.agent_retries, &[]);
    }

    /// Something on a session took so long.
    pub(crate) fn moment(&self, moment: Moment) {
        let (histogram, took) = match moment {
            Moment::FirstAudio(took) => (&self.first_audio, took),
            Moment::AgentConnected(took) => (&self.agent_connect, took),
            Moment::ClearToSilence(took) => (&self.clear_to_silence, took),
            Moment::MarkLag(took) => (&self.mark_lag, took),
        };
        histogram.record(took.as_secs_f64(), &[]);
    }

    /// The control stream is up until this is dropped.
    pub(crate) fn attached(&self) -> Attached {
        self.attached.add(1, &[]);
        Attached(self.attached.clone())
    }

    /// A recording is over: `stored`, `incomplete` or `failed`.
    pub(crate) fn recording(&self, outcome: &'static str, reason: &str, missing_ms: u64) {
        self.recordings
            .add(1, &[label("outcome", outcome), label("reason", reason.to_owned())]);
        self.recording_missing.add(ms(missing_ms), &[]);
    }

    /// Reports were lost.
    pub(crate) fn reports_dropped(&self, count: u64) {
        if count > 0 {
            self.dropped_reports.add(count, &[]);
        }
    }
}

/// That the control stream is up.
pub(crate) struct Attached(UpDownCounter<i64>);

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.add(-1, &[]);
    }
}
