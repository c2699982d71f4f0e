//! libFuzzer's way into `fuzz::tokens`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::tokens(data));
