//! Decides whether a recorded run kept its promises. Pure: events, a final read and the replicas' dumps in, violations
//! out; so it judges recorded runs and simulated ones alike, and is itself tested by planted histories.
//!
//! The invariants are those of the field's consistency tests of logs:
//!
//! | invariant | held by |
//! | --- | --- |
//! | I1 nothing acknowledged is lost | `final_read` against the last full read; `real_time::readers`; `replicas` on each disk |
//! | I2 one value per offset | `final_read`, `real_time::readers`, `replicas` |
//! | I3 order, per producer and in real time | `final_read`, `real_time::acknowledgements` |
//! | I4 nothing twice | `final_read` |
//! | I5 nothing invented | `final_read` |
//! | I6 watermarks never go back, and what was read stays where it was read | `real_time::watermarks`, `real_time::readers` |
//! | I7 groups, I8 transactions | not judged: the broker has neither yet |
//! | I9 one leader per epoch, enough replicas behind an acknowledgement | `leadership`, `real_time::acknowledgements` |
//! | I10 a vote is never forgotten | `terms` |
//! | I10 a controller has all that was committed before it | `metadata`; `controllers` by what it left on disks |
//! | I10 no node stands for two disks | `metadata` |
//! | I10 what is committed never changes, and makes one state | `metadata`; `metadata_logs` on each disk |
//! | I11 replicas are equal after healing, disks undamaged | `replicas`, [`Violation::DiskDamaged`] |
//! | I12 everything heals in time and stops in order | [`Violation::NotHealed`], [`Violation::BadStop`]; waits of the tests |
//! | I13 honest errors | how outcomes are read: an unknown one may be there or not, a refused one must not (I5) |
//! | I14 bounded memory, threads, descriptors | `bounds` |
//!
//! What an operator gives up, with the election of a leader that lacks records, is excepted from I1, I3 and I6: of that
//! partition, acknowledged before that election, and only a tail of it (`lineages`). Everything else is judged as ever.

mod bounds;
mod controllers;
mod final_read;
mod leadership;
mod lineages;
mod metadata;
mod metadata_logs;
mod real_time;
mod replicas;
mod terms;

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

pub use controllers::check_controllers;
pub use final_read::{ReadBack, check};
pub use metadata_logs::check_metadata_logs;
pub use real_time::staleness_us;
pub use replicas::check_replicas;

use crate::event::Event;
use crate::footprint::Footprint;
use crate::history::{History, Value};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// I1: an acknowledged record is not at its place.
    #[error("lost: {value:?} was acknowledged at partition {partition} offset {offset}, where {found:?} was read")]
    Lost {
        /// The record.
        value: Value,
        /// Its partition.
        partition: PartitionIndex,
        /// Its offset.
        offset: Offset,
        /// What was read there.
        found: Option<Value>,
    },
    /// I2: two records at one offset.
    #[error("two records were read at partition {partition} offset {offset}")]
    TwoValues {
        /// The partition.
        partition: PartitionIndex,
        /// The offset.
        offset: Offset,
    },
    /// I3: a producer's records are not in its order.
    #[error("reordered: producer {producer} sequence {later} lies before {earlier} in partition {partition}")]
    Reordered {
        /// The partition.
        partition: PartitionIndex,
        /// The producer.
        producer: u32,
        /// The sequence that should lie first.
        earlier: u64,
        /// The sequence that does.
        later: u64,
    },
    /// I4: one record stored twice.
    #[error("duplicate: {value:?} was read at offset {first} and again at {second} of partition {partition}")]
    Duplicate {
        /// The record.
        value: Value,
        /// The partition of the second.
        partition: PartitionIndex,
        /// The first offset.
        first: Offset,
        /// The second offset.
        second: Offset,
    },
    /// I5: a record nobody wrote, or one whose producer was told that it is not there.
    #[error("phantom: {value:?} was read at partition {partition} offset {offset}")]
    Phantom {
        /// What was read.
        value: Option<Value>,
        /// The partition.
        partition: PartitionIndex,
        /// The offset.
        offset: Offset,
    },
    /// Offsets of a partition without compaction have no gap.
    #[error("gap: partition {partition} has no offset {missing}")]
    Gap {
        /// The partition.
        partition: PartitionIndex,
        /// The first missing offset.
        missing: Offset,
    },
    /// I1 or I2: what one consumer read is not what lies there at the end.
    #[error("reader {reader} read {read:?} at partition {partition} offset {offset}, where {found:?} lies at the end")]
    ReadDisagrees {
        /// The consumer.
        reader: u32,
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
        /// What it read.
        read: Option<Value>,
        /// What the final read found there; the outer `None` says that the log ends before.
        found: Option<Option<Value>>,
    },
    /// A consumer went back or left records out.
    #[error("reader {reader} got offset {got} of partition {partition} where {expected} comes next")]
    ReaderJumped {
        /// The consumer.
        reader: u32,
        /// The partition.
        partition: u32,
        /// The offset that comes next.
        expected: u64,
        /// The offset it got.
        got: u64,
    },
    /// I3: a record sent after another was acknowledged lies before it.
    #[error(
        "real time: {value:?} was sent after offset {earlier} of partition {partition} was acknowledged, and lies at {offset}"
    )]
    OutOfRealTime {
        /// The record sent later.
        value: Value,
        /// The partition.
        partition: u32,
        /// Its offset.
        offset: u64,
        /// The offset that was acknowledged before it was sent.
        earlier: u64,
    },
    /// I1: an operator gave up a tail, and what lay above its begin is still there.
    #[error("survived: {value:?} lies at partition {partition} offset {offset}, but {lost} below it was given up")]
    Survived {
        /// The record.
        value: Value,
        /// The partition.
        partition: u32,
        /// Its offset.
        offset: u64,
        /// The first offset that was lost.
        lost: u64,
    },
    /// I2: two records at one offset while nobody gave anything up.
    #[error("partition {partition} had {one:?} and {other:?} at offset {offset} between the same two elections")]
    TwoLineages {
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
        /// What was seen first.
        one: Option<Value>,
        /// What was seen later.
        other: Option<Value>,
    },
    /// I1: a consumer that read what was given up went on in what took its place, and was not told.
    #[error(
        "reader {reader} read {read:?} at partition {partition} offset {offset}, went on where {found:?} lies there"
    )]
    Mixed {
        /// The consumer.
        reader: u32,
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
        /// What it read.
        read: Option<Value>,
        /// What lies there in the log that it went on in.
        found: Option<Value>,
    },
    /// I1, I13: a consumer was told of a loss without an operator who had given anything up.
    #[error("reader {reader} was told that records of partition {partition} are lost, which nobody gave up")]
    ToldForNothing {
        /// The consumer.
        reader: u32,
        /// The partition.
        partition: u32,
    },
    /// I6: a watermark below what somebody already knew to be committed.
    #[error(
        "watermark: partition {partition} was asked at {asked_us} us and answered {offset}, after {known} was known to be committed"
    )]
    WatermarkBack {
        /// The partition.
        partition: u32,
        /// When it was asked.
        asked_us: u64,
        /// The answer.
        offset: u64,
        /// The highest answer before.
        known: u64,
    },
    /// I9: an acknowledgement that fewer replicas back than the topic demands.
    #[error("{value:?} was acknowledged with {durable} durable replica(s), the topic demands {min_isr}")]
    TooFewReplicas {
        /// The record.
        value: Value,
        /// Replicas that had it on disk.
        durable: u8,
        /// What `min.insync.replicas` says.
        min_isr: u8,
    },
    /// I9: two leaders in one epoch.
    #[error("partition {partition} has leaders {one} and {other} in epoch {leader_epoch}")]
    TwoLeaders {
        /// The partition.
        partition: u32,
        /// The epoch.
        leader_epoch: u32,
        /// A leader.
        one: u32,
        /// Another.
        other: u32,
    },
    /// I9: a broker forgot an epoch that it had seen.
    #[error("broker {observer} said epoch {now} of partition {partition} after it had said {before}")]
    EpochBack {
        /// The broker that answered.
        observer: u32,
        /// The partition.
        partition: u32,
        /// What it said first.
        before: u32,
        /// What it said later.
        now: u32,
    },
    /// I9: a broker in sync, or leading, that is no replica.
    #[error(
        "partition {partition} epoch {leader_epoch}: in sync {isr:?} and leader {leader:?} are not all of the replicas {replicas:?}"
    )]
    NotAReplica {
        /// The partition.
        partition: u32,
        /// The epoch.
        leader_epoch: u32,
        /// The leader.
        leader: Option<u32>,
        /// In sync.
        isr: Vec<u32>,
        /// Assigned.
        replicas: Vec<u32>,
    },
    /// I11: two replicas hold different bytes below the watermark.
    #[error("replicas {one} and {other} differ in {log} at offset {offset}: {detail}")]
    ReplicasDiffer {
        /// A broker.
        one: u32,
        /// Another.
        other: u32,
        /// The partition's log.
        log: String,
        /// The first offset of the difference.
        offset: u64,
        /// Both sides.
        detail: String,
    },
    /// I11: a replica does not reach the watermark.
    #[error("replica {broker} of {log} ends at {end}, the watermark is {watermark}")]
    ReplicaShort {
        /// The broker.
        broker: u32,
        /// The partition's log.
        log: String,
        /// Where its log ends.
        end: u64,
        /// The watermark.
        watermark: u64,
    },
    /// I10: a disk forgot a term in which it may have voted.
    #[error("broker {broker} is in term {now} of the metadata after it was in {before}")]
    TermBack {
        /// The broker.
        broker: u32,
        /// The term it was in.
        before: u64,
        /// The term it said later.
        now: u64,
    },
    /// I10: two brokers made different states of the same metadata changes.
    #[error("brokers {one} and {other} have different metadata after its change {index}")]
    StatesDiffer {
        /// A broker.
        one: u32,
        /// Another, or the same one in another life.
        other: u32,
        /// Index of the last change in both states.
        index: u64,
    },
    /// I10: a metadata leader lacks what was committed before it was elected.
    #[error(
        "broker {leader} leads the metadata in term {term} with a log that ends at {last}, and broker {by} applied {applied} in \
         an earlier term"
    )]
    LeaderIncomplete {
        /// The leader.
        leader: u32,
        /// Its term.
        term: u64,
        /// Index of the last entry in its log.
        last: u64,
        /// Who knew of more.
        by: u32,
        /// Index of what that broker had applied.
        applied: u64,
    },
    /// I10: a controller wrote into the metadata's log where others had applied entries before its election.
    #[error(
        "raft node {node} wrote entry {index} of the metadata in term {term}, and broker {by} had applied {applied} in an \
         earlier term"
    )]
    ControllerIncomplete {
        /// The controller.
        node: u64,
        /// Its term.
        term: u64,
        /// Index of an entry that it wrote.
        index: u64,
        /// Who knew of more.
        by: u32,
        /// Index of what that broker had applied.
        applied: u64,
    },
    /// I10: a Raft node stands for two disks.
    #[error("broker {now} is raft node {node} of the metadata, which was the disk that broker {before} had before")]
    NodeTwice {
        /// The node.
        node: u64,
        /// Whose disk it was first.
        before: u32,
        /// Whose it is later.
        now: u32,
    },
    /// I10: the metadata logs of two disks contradict each other.
    #[error("the metadata logs of brokers {one} and {other} differ at entry {index}: {detail}")]
    MetadataLogsDiffer {
        /// A broker.
        one: u32,
        /// Another.
        other: u32,
        /// Index of the entry.
        index: u64,
        /// Both sides.
        detail: String,
    },
    /// I12: the cluster did not heal after the faults had ended.
    #[error("not healed: {what}")]
    NotHealed {
        /// What did not come back.
        what: String,
    },
    /// I12: a broker that was asked to stop did not, or not in order.
    #[error("broker {broker} did not stop in order: {what}")]
    BadStop {
        /// The broker.
        broker: u32,
        /// How it ended.
        what: String,
    },
    /// I11: a stopped broker's disk is damaged although nobody damaged it, or was not repaired.
    #[error("the disk of broker {broker} is damaged: {what}")]
    DiskDamaged {
        /// The broker.
        broker: u32,
        /// What the tool says.
        what: String,
    },
    /// I14: a broker uses more than it may.
    #[error("broker {broker} uses {used:?}, more than {:?}", bounds::BOUNDS)]
    Unbounded {
        /// The broker.
        broker: u32,
        /// What it uses.
        used: Footprint,
    },
}

/// Every broken promise of a run of one topic: its `events` against the `read` of everything at its end. `min_isr` is
/// the topic's `min.insync.replicas`.
pub fn check_run(events: &[Event], read: &[ReadBack], min_isr: u8) -> Vec<Violation> {
    let mut violations = check(&History::of(events), read);
    real_time::readers(events, read, &mut violations);
    lineages::given_up(events, read, &mut violations);
    violations.extend(check_events(events, min_isr));
    violations
}

/// What the events alone show, for a run whose topic cannot be read at the end.
pub fn check_events(events: &[Event], min_isr: u8) -> Vec<Violation> {
    let mut violations = Vec::new();
    real_time::acknowledgements(events, min_isr, &mut violations);
    real_time::watermarks(events, &mut violations);
    leadership::leaders(events, &mut violations);
    terms::votes(events, &mut violations);
    metadata::disks(events, &mut violations);
    metadata::leaders(events, &mut violations);
    metadata::states(events, &mut violations);
    bounds::footprints(events, &mut violations);
    violations
}
