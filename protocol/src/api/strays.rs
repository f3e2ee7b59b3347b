//! Logs in quarantine: what one broker has on its disk that the metadata neither wants there nor proves to be superfluous.
//!
//! Both requests name the broker that they are meant for: each broker knows its own disk only.

use super::messages;
use crate::codec::field_struct;
use crate::epoch::LeaderEpoch;
use crate::ids::{BrokerId, PartitionId};

field_struct! {
    /// Lists the logs that a broker has in quarantine.
    #[derive(Copy)]
    pub struct ListStraysRequest {
        /// The broker that is meant; another refuses.
        pub broker: BrokerId,
    }
}

field_struct! {
    /// The logs in quarantine.
    pub struct ListStraysResponse {
        /// The first of them, in the order of their ids.
        pub strays: Vec<StrayDescription>,
        /// How many more there are.
        pub unlisted: u32,
    }
}

field_struct! {
    /// A log in quarantine.
    pub struct StrayDescription {
        /// Whose log it is.
        pub log: PartitionId,
        /// Offsets from its start to its end.
        pub records: u64,
        /// Bytes of its batches.
        pub bytes: u64,
        /// The newest leadership in it, if it knows one.
        pub newest_epoch: Option<LeaderEpoch>,
        /// True when it goes by itself once the other replicas are in sync, or the metadata is newer.
        pub passing: bool,
        /// Why it is in quarantine, for people.
        pub reason: String,
    }
}

field_struct! {
    /// Removes one log that is in quarantine, for good.
    #[derive(Copy)]
    pub struct DiscardStrayRequest {
        /// The broker that is meant; another refuses.
        pub broker: BrokerId,
        /// Whose log it is.
        pub log: PartitionId,
        /// Its offsets, as they were listed: another number is refused.
        pub records: u64,
        /// Its bytes, as they were listed: another number is refused.
        pub bytes: u64,
    }
}

field_struct! {
    /// The log is removed; its space comes back by and by.
    #[derive(Copy)]
    pub struct DiscardStrayResponse {}
}

messages! {
    ListStrays: ListStraysRequest => ListStraysResponse;
    DiscardStray: DiscardStrayRequest => DiscardStrayResponse;
}
