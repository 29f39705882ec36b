#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeline_fuzz::dns::packet(bytes));
