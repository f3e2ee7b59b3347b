//! A stream of bytes through the frame decoder: see `fuzzed::frame`.

#![no_main]
#![allow(dead_code, reason = "each target uses one function of the module")]

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;
#[path = "../../tests/samples/mod.rs"]
mod samples;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzed::frame(bytes);
});
