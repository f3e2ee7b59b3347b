//! Any body under any header: see `fuzzed::message`.

#![no_main]
#![allow(dead_code, reason = "each target uses one function of the module")]

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;
#[path = "../../tests/samples/mod.rs"]
mod samples;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    fuzzed::message(bytes);
});
