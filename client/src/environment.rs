//! What a client takes from the world besides the network: wall-clock time for record timestamps, and randomness.
//!
//! Both are constructor arguments, so that a simulation can supply its own. Monotonic time and timers are tokio's, which
//! a simulation pauses and steps; nothing in this crate reads any other clock.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use streambus_protocol::timestamp::Timestamp;

use crate::connection::connector::{Connector, TcpConnector};

/// The wall clock. Used for record timestamps only, never for a decision.
pub trait WallClock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// A source of random numbers, for jitter and for where sticky partitioning begins.
pub trait Random: Send + Sync + 'static {
    /// Any 64 bits.
    fn next_u64(&self) -> u64;
}

/// Everything a client takes from the world. Cheap to clone.
#[derive(Clone)]
pub struct Environment {
    /// Opens transports.
    pub connector: Arc<dyn Connector>,
    /// Stamps records.
    pub clock: Arc<dyn WallClock>,
    /// Jitter.
    pub random: Arc<dyn Random>,
}

impl Environment {
    /// TCP, the system's clock and the system's randomness.
    pub fn system() -> Self {
        Self {
            connector: Arc::new(TcpConnector),
            clock: Arc::new(SystemClock),
            random: Arc::new(Seeded::from_system()),
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl WallClock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock adapter")]
    fn now(&self) -> Timestamp {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)),
            // A clock set before 1970 has no wire form but this.
            Err(_) => Timestamp::NONE,
        }
    }
}

/// A small generator, the same for the same seed.
#[derive(Debug)]
pub struct Seeded(Mutex<SmallRng>);

impl Seeded {
    /// A generator whose sequence `seed` fixes.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    /// A generator seeded by the system.
    pub fn from_system() -> Self {
        Self(Mutex::new(SmallRng::from_os_rng()))
    }
}

impl Random for Seeded {
    fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }
}
