//! One line of a recorded run: what a client or an observer saw, and when. All times are of one clock, in microseconds
//! since the run began, so that "before" is exact across every task of the run.
//!
//! The lines are JSON, one event each, in the order they were recorded; `history.jsonl` of a failed run is the evidence.

use serde::{Deserialize, Serialize};

use crate::footprint::Footprint;
use crate::history::Value;

/// What happened at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since the run began.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A producer handed a value to its client.
    Invoked {
        /// The value.
        value: Value,
    },
    /// The client reported it stored.
    Acked {
        /// The value.
        value: Value,
        /// Its partition.
        partition: u32,
        /// Its offset.
        offset: u64,
        /// Replicas that had it on disk when it was acknowledged.
        durable: u8,
    },
    /// The client could not learn the outcome.
    Unknown {
        /// The value.
        value: Value,
        /// What the client said.
        why: String,
    },
    /// The client said that it is certainly not stored.
    Refused {
        /// The value.
        value: Value,
        /// What the client said.
        why: String,
    },
    /// A consumer that follows the log got a record.
    Read {
        /// Which consumer.
        reader: u32,
        /// The partition.
        partition: u32,
        /// The offset.
        offset: u64,
        /// The value, or `None` for bytes that no producer of the run writes.
        value: Option<Value>,
    },
    /// A consumer was told that records which it had read, or was about to, are not there any more, and begins anew.
    Told {
        /// Which consumer.
        reader: u32,
        /// The partition.
        partition: u32,
        /// Where it goes on.
        next: u64,
    },
    /// An operator is about to have one partition led by a replica that may lack records. What was acknowledged there before
    /// may be lost by it, and nothing of any other partition.
    GivenUp {
        /// The partition.
        partition: u32,
    },
    /// An observer asked for the high watermark.
    Watermark {
        /// When it asked; the answer came at [`Event::at_us`].
        asked_us: u64,
        /// The partition.
        partition: u32,
        /// The first offset that is not committed.
        offset: u64,
    },
    /// An observer read a partition's state from one broker.
    Leadership {
        /// The broker that answered.
        observer: u32,
        /// The partition.
        partition: u32,
        /// The leader it knows.
        leader: Option<u32>,
        /// That leader's epoch.
        leader_epoch: u32,
        /// The replicas in sync.
        isr: Vec<u32>,
        /// The replicas assigned.
        replicas: Vec<u32>,
    },
    /// An observer asked one broker for the term of the metadata's Raft group.
    Term {
        /// The broker that answered.
        observer: u32,
        /// The term it is in.
        term: u64,
    },
    /// An observer asked one broker how much of the metadata it has applied, and in which term it is.
    Reached {
        /// The broker that answered.
        observer: u32,
        /// The term it is in: what it has applied was committed in that one or before.
        term: u64,
        /// Index of the last entry it has applied.
        applied: u64,
    },
    /// What a broker's metadata node was at one moment. Only a simulation sees all of it at once.
    Standing {
        /// The broker.
        observer: u32,
        /// Its Raft node, which stands for one disk.
        node: u64,
        /// The term it is in.
        term: u64,
        /// The term of the vote on its disk.
        voted: u64,
        /// Whether it leads.
        leads: bool,
        /// Index of the last entry in its log.
        last: u64,
        /// Index of the last entry it has applied.
        applied: u64,
    },
    /// The cluster's metadata on one broker.
    Applied {
        /// The broker.
        observer: u32,
        /// Index of the last entry in it.
        index: u64,
        /// Checksum of all of it.
        digest: u32,
    },
    /// What the last process of a broker found on its disk: the term of its vote.
    Opened {
        /// The broker.
        broker: u32,
        /// The term.
        term: u64,
    },
    /// What a broker has come to use.
    Footprint {
        /// The broker.
        broker: u32,
        /// What it uses.
        used: Footprint,
    },
    /// A broker process started; what it knew before is gone.
    Started {
        /// The broker.
        broker: u32,
    },
    /// A broker's disk was emptied; what it had promised is gone.
    Wiped {
        /// The broker.
        broker: u32,
    },
    /// Somebody did something to the cluster.
    Fault {
        /// What was done.
        what: String,
    },
}

impl Event {
    /// The line that stands for it in a history file.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("an event is plain data")
    }

    /// Reads a line back.
    ///
    /// # Errors
    ///
    /// The text of what is wrong with the line.
    pub fn from_line(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_the_whole_event() {
        let value = Value { producer: 3, sequence: 17 };
        let events = [
            What::Invoked { value },
            What::Acked { value, partition: 1, offset: 9, durable: 2 },
            What::Unknown { value, why: "timed \"out\"".to_owned() },
            What::Read { reader: 1, partition: 0, offset: 4, value: None },
            What::Leadership {
                observer: 2,
                partition: 0,
                leader: None,
                leader_epoch: 4,
                isr: vec![],
                replicas: vec![1],
            },
            What::Told { reader: 1, partition: 0, next: 0 },
            What::GivenUp { partition: 2 },
            What::Term { observer: 3, term: 9 },
            What::Reached { observer: 3, term: 9, applied: 69 },
            What::Standing { observer: 3, node: 1 << 20, term: 9, voted: 8, leads: true, last: 70, applied: 69 },
            What::Applied { observer: 3, index: 69, digest: u32::MAX },
            What::Footprint { broker: 1, used: Footprint { resident_peak_kib: 70_000, threads: 9, descriptors: 40 } },
            What::Opened { broker: 3, term: 9 },
            What::Wiped { broker: 2 },
            What::Fault { what: "kill -9 of broker 2".to_owned() },
        ];
        for what in events {
            let event = Event { at_us: 12, what };
            let line = event.to_line();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(Event::from_line(&line).expect("its own line"), event);
        }
        assert!(Event::from_line("{\"at_us\":1}").is_err());
    }
}
