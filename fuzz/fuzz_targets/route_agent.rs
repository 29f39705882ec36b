#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeline_fuzz::route_agent(bytes));
