//! libFuzzer's way into `fuzz::applets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::applets(data));
