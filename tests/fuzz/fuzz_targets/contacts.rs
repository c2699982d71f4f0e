//! libFuzzer's way into `fuzz::contacts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::contacts(data));
