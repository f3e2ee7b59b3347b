//! What can happen to a simulated cluster, and what ends it.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    PowerCut,
    PowerCutInAWrite,
    PowerCutOfAll,
    Cut,
    CutOneWay,
    Isolation,
    Freeze,
    SlowLink,
    SlowDisk,
    ClockJump,
    OrderlyRestart,
    EmptiedDisk,
    DiskError,
    FullDisk,
    Replacement,
}

impl Fault {
    pub(crate) const ALL: [Self; 16] = [
        Self::Kill,
        Self::PowerCut,
        Self::PowerCutInAWrite,
        Self::PowerCutOfAll,
        Self::Cut,
        Self::CutOneWay,
        Self::Isolation,
        Self::Freeze,
        Self::SlowLink,
        Self::SlowDisk,
        Self::ClockJump,
        Self::OrderlyRestart,
        Self::EmptiedDisk,
        Self::DiskError,
        Self::FullDisk,
        Self::Replacement,
    ];
}

/// What ends a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Start(u32),
    Unblock(String, String),
    BreakLines(String, String),
    Release(String, String),
    QuickLink(String, String),
    QuickDisk(u32),
    /// No more errors of the disk, and a new process, because one that met an error writes no more.
    SoundDisk(u32),
    RoomOnDisk(u32),
}

impl Due {
    /// True for what would happen on the machine of broker `id`.
    pub(crate) fn is_of(&self, id: u32) -> bool {
        match self {
            Self::Start(of) | Self::QuickDisk(of) | Self::SoundDisk(of) | Self::RoomOnDisk(of) => *of == id,
            Self::Unblock(..) | Self::BreakLines(..) | Self::Release(..) | Self::QuickLink(..) => false,
        }
    }
}
