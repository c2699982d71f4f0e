//! Exotel's side of a socket, written by hand so that the edge's codec is not checked against itself.

use data_encoding::BASE64;
use serde_json::{Value, json};

pub(crate) const STREAM: &str = "3357459ca698d8c765bac10b0ec418bl";

pub(crate) fn connected() -> String {
    json!({ "event": "connected" }).to_string()
}

/// As seen live: strings everywhere, no custom parameters.
pub(crate) fn start(rate: u32) -> String {
    json!({ "event": "start", "stream_sid": STREAM, "sequence_number": "1", "start": {
        "stream_sid": STREAM, "call_sid": "b0c8aea60aceb0007fc5a1bb75c218bl", "account_sid": "examplesid1",
        "from": "09990000105", "to": "04440000319",
        "media_format": { "encoding": "base64", "sample_rate": rate.to_string(), "bit_rate": "128kbps" } } })
    .to_string()
}

pub(crate) fn media_of(stream: &str, chunk: u64, pcm: &[u8]) -> String {
    media_at(stream, chunk, 20, pcm)
}

pub(crate) fn media_at(stream: &str, chunk: u64, timestamp: u64, pcm: &[u8]) -> String {
    json!({ "event": "media", "sequence_number": (chunk + 1).to_string(), "stream_sid": stream,
        "media": { "chunk": chunk.to_string(), "timestamp": timestamp.to_string(), "payload": BASE64.encode(pcm) } })
    .to_string()
}

pub(crate) fn media(chunk: u64, pcm: &[u8]) -> String {
    media_of(STREAM, chunk, pcm)
}

/// A sound whose samples tell their places.
pub(crate) fn sound(count: usize) -> Vec<i16> {
    (0..count).map(|at| (at % 30_000) as i16 + 1).collect()
}

pub(crate) fn dtmf(digit: &str) -> String {
    json!({ "event": "dtmf", "sequence_number": "7", "stream_sid": STREAM, "dtmf": { "digit": digit, "duration": "100" } })
        .to_string()
}

pub(crate) fn mark(name: &str) -> String {
    json!({ "event": "mark", "sequence_number": "9", "stream_sid": STREAM, "mark": { "name": name } }).to_string()
}

pub(crate) fn stop(reason: &str) -> String {
    json!({ "event": "stop", "sequence_number": "20", "stream_sid": STREAM,
        "stop": { "call_sid": "b0c8aea60aceb0007fc5a1bb75c218bl", "account_sid": "examplesid1", "reason": reason } })
    .to_string()
}

/// What the edge sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sent {
    Audio(Vec<u8>),
    Mark(String),
    Clear,
}

pub(crate) fn read(text: &str) -> Sent {
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(value["stream_sid"], STREAM);
    match value["event"].as_str().unwrap() {
        "media" => Sent::Audio(
            BASE64
                .decode(value["media"]["payload"].as_str().unwrap().as_bytes())
                .unwrap(),
        ),
        "mark" => Sent::Mark(value["mark"]["name"].as_str().unwrap().to_owned()),
        "clear" => Sent::Clear,
        other => panic!("unknown event {other}"),
    }
}

pub(crate) fn pcm(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

pub(crate) fn samples(pcm: &[u8]) -> Vec<i16> {
    pcm.chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}
