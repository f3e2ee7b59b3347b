//! The bytes that HTTP bodies and pages may hold in memory, all connections together.

use std::sync::Arc;

use bytes::Bytes;
use streambus_protocol::error_code::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Permits are counted in units of this many bytes, so that 32 bits of them are more than enough.
const UNIT_BYTES: u64 = 1024;

/// The budget of one listener.
#[derive(Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    units_max: u32,
}

/// A share of the budget, given back on drop.
#[derive(Debug)]
pub(super) struct BudgetPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        let units_max = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(units_max).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(permits)), units_max }
    }

    /// Takes `bytes`, or refuses: waiting would keep the connection, and its client can wait just as well.
    pub(super) fn take(&self, bytes: u64) -> Result<BudgetPermit, Problem> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units_max);
        Arc::clone(&self.units).try_acquire_many_owned(units).map(BudgetPermit).map_err(|_| {
            Problem::new(
                ErrorCode::Overloaded,
                "too many request bodies and pages are in memory (`http.inflight_bytes`): try again",
            )
        })
    }
}

impl BudgetPermit {
    /// Ties the permit to `bytes`: it is given back when the last slice of them is dropped, that is, when they are sent.
    pub(super) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _permit: self })
    }
}

struct Held {
    bytes: Bytes,
    _permit: BudgetPermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a permit that comes back while its bytes still wait in a socket.
    #[test]
    fn held_bytes_keep_their_share_until_the_last_slice_is_gone() {
        let budget = Budget::new(4096);
        let sent = budget.take(4096).expect("free").hold(Bytes::from_static(b"page"));
        let slice = sent.slice(1..);
        assert_eq!(budget.take(1).expect_err("full").code.as_str(), "OVERLOADED");
        drop(sent);
        assert!(budget.take(1).is_err());
        drop(slice);
        assert!(budget.take(4096).is_ok());
    }

    #[test]
    fn more_than_the_whole_budget_takes_it_all() {
        let budget = Budget::new(4096);
        let all = budget.take(u64::MAX).expect("free");
        assert!(budget.take(1).is_err());
        drop(all);
        assert!(budget.take(0).is_ok());
    }
}
