//! Faults planted on purpose: a simulation that does not find them would find nothing.

use crate::fault::Fault;

/// What is wrong with a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plant {
    /// Nothing.
    #[default]
    None,
    /// The brokers' disks confirm records that are only in their cache.
    AckBeforeSync,
    /// The metadata's database confirms votes and entries that are only in its cache.
    ForgottenVotes,
    /// The disks confirm snapshots of the metadata, and their names, that are only in their cache.
    UnsyncedSnapshots,
    /// A broker that is asked to stop goes at once and says that it has stopped in order.
    StopWithoutHandOver,
    /// The disk that a broker keeps its records on is emptied, and the empty one says that it is the same.
    UnnoticedLossOfRecords,
    /// A write that fails is reported as done, and so is every later one, on all brokers' disks at the same time.
    UnnoticedWriteErrors,
    /// Something in the run draws from the system, so that it differs from its repetition.
    Undetermined,
}

impl Plant {
    const ALL: [Self; 8] = [
        Self::None,
        Self::AckBeforeSync,
        Self::ForgottenVotes,
        Self::UnsyncedSnapshots,
        Self::StopWithoutHandOver,
        Self::UnnoticedLossOfRecords,
        Self::UnnoticedWriteErrors,
        Self::Undetermined,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|plant| plant.name() == name).unwrap_or_else(|| panic!("no planted fault '{name}'"))
    }

    /// The kind of fault that can show it, which a run with it must have among its own.
    pub(crate) fn shown_by(self) -> Option<Fault> {
        match self {
            Self::None | Self::Undetermined => None,
            Self::AckBeforeSync => Some(Fault::PowerCutOfAll),
            Self::ForgottenVotes | Self::UnsyncedSnapshots => Some(Fault::PowerCut),
            Self::StopWithoutHandOver => Some(Fault::OrderlyRestart),
            Self::UnnoticedLossOfRecords => Some(Fault::EmptiedDisk),
            Self::UnnoticedWriteErrors => Some(Fault::DiskError),
        }
    }
}
