//! Randomness as an argument, so that a seed reproduces a run.

use std::fmt;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// A source of random bits, shared by everything that draws identities in one broker.
pub struct Random(Mutex<StdRng>);

impl Random {
    /// A source seeded by the operating system.
    pub fn from_os() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// A source that draws the same values for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// 64 random bits.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A random identity in the form of a version 4 UUID (RFC 9562); never all zero.
    pub fn next_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        self.0.lock().fill_bytes(&mut id);
        let [.., version, _, variant, _, _, _, _, _, _, _] = &mut id;
        *version = *version & 0x0f | 0x40;
        *variant = *variant & 0x3f | 0x80;
        id
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}
