//! libFuzzer's way into `fuzz::reframe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::reframe(data));
