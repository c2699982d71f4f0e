//! What the AgentStream codec costs a frame: one media event read, one written.

use data_encoding::BASE64;
use divan::{Bencher, black_box, counter::BytesCount};
use exotel::stream;

/// Bytes of 20 ms, of 100 ms, and of the documented packet, at 8 kHz.
const BYTES: [usize; 3] = [320, 1_600, 3_200];

fn main() {
    divan::main();
}

/// Noise: silence would be one letter.
fn pcm(bytes: usize) -> Vec<u8> {
    let noise = (0..bytes as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]);
    noise.collect()
}

#[divan::bench(args = BYTES)]
fn decode_media(bencher: Bencher<'_, '_>, bytes: usize) {
    let text = format!(
        r#"{{"event":"media","sequence_number":"321","stream_sid":"3357459ca698d8c765bac10b0ec418bl","media":{{"chunk":"320","timestamp":"32000","payload":"{}"}}}}"#,
        BASE64.encode(&pcm(bytes))
    );
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| stream::decode(black_box(&text)));
}

#[divan::bench(args = BYTES)]
fn write_media(bencher: Bencher<'_, '_>, bytes: usize) {
    let pcm = pcm(bytes);
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| stream::media(black_box("3357459ca698d8c765bac10b0ec418bl"), black_box(&pcm), None));
}
