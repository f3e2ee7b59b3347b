//! What the environment says about a run: seeds, lengths, where figures are collected.

/// A number from the environment, else `default`. Panics on text that is no number.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// The seed of this run: `STREAMBUS_SEED`, else 1.
pub fn seed() -> u64 {
    number("STREAMBUS_SEED", 1)
}

/// How often a test repeats its fault: `STREAMBUS_FAULT_CYCLES`, else `default`, which suits every change.
pub fn cycles(default: u64) -> u64 {
    number("STREAMBUS_FAULT_CYCLES", default)
}
