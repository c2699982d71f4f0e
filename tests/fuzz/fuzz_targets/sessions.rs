//! libFuzzer's way into `fuzz::sessions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::sessions(data));
