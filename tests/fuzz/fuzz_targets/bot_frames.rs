//! libFuzzer's way into `fuzz::bot_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::bot_frames(data));
