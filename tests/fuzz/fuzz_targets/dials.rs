//! libFuzzer's way into `fuzz::dials`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::dials(data));
