#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| s2pt_fuzz::targets::dump::run(input));
