//! libFuzzer's way into `fuzz::forms`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::forms(data));
