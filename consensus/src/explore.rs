//! The state machine without a log or a disk, for explorers of other crates: the true decisions, step by step.
//!
//! Not for a broker: nothing here is replicated or durable.

use crate::cluster_state::{ClusterState, Touched};
use crate::command::Command;
use crate::encoding::DecodeError;
use crate::image::ClusterImage;
use crate::outcome::{Outcome, RefusedReason};
use crate::snapshot;
use crate::types::SnapshotMeta;

/// The metadata of a cluster as of the last command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    state: ClusterState,
}

impl State {
    /// The state before the first command, which is to be [`Command::FoundCluster`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the command at log index `index`, which must be above every index before.
    ///
    /// # Errors
    /// The refusal, after which the state says the same as before.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Outcome, RefusedReason> {
        let outcome = self.state.apply(index, command, &mut Touched::new());
        self.state.advance(index);
        outcome
    }

    /// What brokers see.
    pub fn image(&self) -> &ClusterImage {
        self.state.image()
    }

    /// The state as a snapshot's bytes: equal states give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        snapshot::encode(&SnapshotMeta::default(), &self.state)
    }

    /// The state of a snapshot's bytes, as of log index `applied`.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn from_bytes(bytes: &[u8], applied: u64) -> Result<Self, DecodeError> {
        let (_, mut state) = snapshot::verify(bytes)?;
        state.advance(applied);
        Ok(Self { state })
    }
}
