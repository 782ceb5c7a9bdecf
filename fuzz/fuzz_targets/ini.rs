#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| properties::ini::holds(data));
