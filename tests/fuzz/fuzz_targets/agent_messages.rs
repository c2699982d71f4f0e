//! libFuzzer's way into `fuzz::agent_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::agent_messages(data));
