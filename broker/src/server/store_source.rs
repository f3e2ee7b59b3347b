//! Where a broker's store comes from: its data directory, or whatever a test puts in its place.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use streambus_storage::clock::Clock;
use streambus_storage::config::StoreConfig;
use streambus_storage::error::OpenError;
use streambus_storage::store::{RecoveryReport, Store};

type Open = dyn Fn(&Path, StoreConfig, Arc<dyn Clock>) -> Result<(Store, RecoveryReport), OpenError> + Send + Sync;

/// Opens a broker's store; called once a start, where blocking is allowed.
#[derive(Clone)]
pub struct StoreSource(Arc<Open>);

impl StoreSource {
    /// The directory that the configuration names, on the machine's own disk.
    pub fn directory() -> Self {
        Self::new(Store::open_dir)
    }

    /// Whatever `open` opens instead, such as a store over a disk that fails on purpose.
    pub fn new(
        open: impl Fn(&Path, StoreConfig, Arc<dyn Clock>) -> Result<(Store, RecoveryReport), OpenError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    pub(super) fn open(
        &self,
        directory: &Path,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        (self.0)(directory, config, clock)
    }
}

impl fmt::Debug for StoreSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreSource")
    }
}
