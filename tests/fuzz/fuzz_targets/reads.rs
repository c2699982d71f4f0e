//! libFuzzer's way into `fuzz::reads`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::reads(data));
