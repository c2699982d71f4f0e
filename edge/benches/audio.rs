//! What a session's audio costs without sockets: the way to the agent, the way back through the play-out, and changes of rate.

use std::time::Duration;

use bytes::Bytes;
use callbridge_proto::agent::v1::converse_request::Event;
use divan::{Bencher, black_box};
use edge::session::{
    counters::Counters,
    playout::{Frame, Plan, Playout},
    resample::Resampler,
    tuning::Tuning,
    uplink::Uplink,
};
use exotel::stream::Encoding;
use tokio::time::Instant;

/// Milliseconds of the pieces that a second of speech comes in.
const PIECES: [u32; 2] = [20, 100];
/// Rates of the two sides, in samples per second.
const RATES: [(u32, u32); 5] = [
    (8_000, 8_000),
    (8_000, 16_000),
    (16_000, 8_000),
    (8_000, 24_000),
    (24_000, 8_000),
];

fn main() {
    divan::main();
}

/// Noise.
fn pcm(rate: u32, ms: u32) -> Vec<u8> {
    let bytes = 2 * rate / 1_000 * ms;
    let noise = (0..u64::from(bytes)).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]);
    noise.collect()
}

/// A second of the agent's speech in pieces, each sent as soon as it may be.
#[divan::bench(args = PIECES)]
fn playout_second(bencher: Bencher<'_, '_>, ms: u32) {
    let (piece, mut counters) = (pcm(8_000, ms), Counters::default());
    let mut now = Instant::now();
    let mut playout = Playout::new(now, 8_000, 8_000, &Tuning::default(), None);
    bencher.bench_local(|| {
        let mut bytes = 0;
        for _ in 0..1_000 / ms {
            playout.audio(now, 1, black_box(&piece), &mut counters);
            while playout.plan(now) == Plan::Send {
                if let Some(Frame::Audio { pcm, .. }) = playout.next(now, &mut counters) {
                    bytes += pcm.len();
                }
            }
            now += Duration::from_millis(ms.into());
        }
        bytes
    });
}

/// A second of the person's speech in pieces, each taken by the agent at once.
#[divan::bench(args = PIECES)]
fn uplink_second(bencher: Bencher<'_, '_>, ms: u32) {
    let piece = Bytes::from(pcm(8_000, ms));
    let (now, mut uplink) = (Instant::now(), Uplink::default());
    uplink.set_line(Encoding::Pcm16, 8_000, 8_000);
    uplink.agent_reads(now);
    bencher.bench_local(|| {
        let mut bytes = 0;
        for _ in 0..1_000 / ms {
            uplink.audio(now, black_box(piece.clone()));
            if let Some(Event::Audio(audio)) = uplink.pop() {
                bytes += audio.pcm.len();
            }
        }
        bytes
    });
}

/// A second of speech in pieces of 20 ms.
#[divan::bench(args = RATES)]
fn resample_second(bencher: Bencher<'_, '_>, (from, to): (u32, u32)) {
    let piece = pcm(from, 20);
    let (mut resampler, mut out) = (Resampler::new(from, to), Vec::new());
    bencher.bench_local(|| {
        for _ in 0..50 {
            out.clear();
            resampler.push(black_box(&piece), &mut out);
        }
        out.len()
    });
}
