//! Faults planted on purpose: a simulation that does not find them would find nothing.

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
    /// Something in the run draws from the system, so that it differs from its repetition.
    Undetermined,
}

impl Plant {
    const ALL: [Self; 4] = [Self::None, Self::AckBeforeSync, Self::ForgottenVotes, Self::Undetermined];

    pub(crate) fn name(self) -> String {
        format!("{self:?}")
    }

    pub(crate) fn from_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|plant| plant.name() == name).unwrap_or_else(|| panic!("no planted fault '{name}'"))
    }
}
