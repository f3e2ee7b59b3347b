//! What the clients of one run were told: every attempt and its outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

use crate::event::{Event, What};

/// A value that one producer wrote once: its number and its place in that producer's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value {
    /// Which producer of the run.
    pub producer: u32,
    /// Its running number, from zero.
    pub sequence: u64,
}

impl Value {
    /// The record value that stands for it: readable, unique in the run, and followed by a fixed filler so that
    /// batches have a realistic size.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut text = format!("{}:{}:", self.producer, self.sequence);
        let filler = (self.sequence.wrapping_mul(0x9E37_79B9) ^ u64::from(self.producer)) % 80;
        for i in 0..filler {
            text.push(char::from(b'a' + ((i + self.sequence) % 26) as u8));
        }
        text.into_bytes()
    }

    /// Reads a record value back; `None` when it is not exactly what [`Value::to_bytes`] writes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.splitn(3, ':');
        let value = Self { producer: parts.next()?.parse().ok()?, sequence: parts.next()?.parse().ok()? };
        (value.to_bytes() == bytes).then_some(value)
    }
}

/// What the client said became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged at this place.
    Acked {
        /// The partition.
        partition: PartitionIndex,
        /// The offset within it.
        offset: Offset,
    },
    /// Acknowledged at this place, in a partition that an operator gave up after that: the record may be there or not.
    GivenUp {
        /// The partition.
        partition: PartitionIndex,
        /// The offset within it.
        offset: Offset,
    },
    /// The client could not learn the outcome: the record may be there.
    Unknown,
    /// The client said that the record is certainly not there.
    Refused,
}

impl Outcome {
    /// What it is worth once an operator has given up what `given_up` had.
    fn after_giving_up(self, given_up: u32) -> Self {
        match self {
            Self::Acked { partition, offset } if partition.get() == given_up => Self::GivenUp { partition, offset },
            Self::Acked { .. } | Self::GivenUp { .. } | Self::Unknown | Self::Refused => self,
        }
    }
}

/// Every attempt of one run with its outcome.
#[derive(Clone, Debug, Default)]
pub struct History {
    outcomes: BTreeMap<Value, Outcome>,
}

impl History {
    /// The attempts in `events`. One that was handed over and never answered counts as unknown: nobody was told that it
    /// failed.
    pub fn of(events: &[Event]) -> Self {
        let mut outcomes: BTreeMap<Value, Outcome> = BTreeMap::new();
        for event in events {
            let (value, outcome) = match &event.what {
                What::Invoked { value } => {
                    let before = outcomes.insert(*value, Outcome::Unknown);
                    assert!(before.is_none(), "{value:?} was attempted twice: the run cannot be checked");
                    continue;
                }
                What::Acked { value, partition, offset, .. } => {
                    let offset = Offset::new(*offset).expect("a broker's offset is in range");
                    (value, Outcome::Acked { partition: PartitionIndex::new(*partition), offset })
                }
                What::GivenUp { partition } => {
                    outcomes.values_mut().for_each(|outcome| *outcome = outcome.after_giving_up(*partition));
                    continue;
                }
                What::Unknown { value, .. } => (value, Outcome::Unknown),
                What::Refused { value, .. } => (value, Outcome::Refused),
                _ => continue,
            };
            let before = outcomes.insert(*value, outcome);
            assert_eq!(before, Some(Outcome::Unknown), "{value:?} has two outcomes: the run cannot be checked");
        }
        Self { outcomes }
    }

    /// Records the outcome of `value`. Panics when the same value is recorded twice: the run itself is wrong then.
    pub fn record(&mut self, value: Value, outcome: Outcome) {
        let before = self.outcomes.insert(value, outcome);
        assert!(before.is_none(), "{value:?} was attempted twice: the run cannot be checked");
    }

    /// Every attempt in order of producer and sequence.
    pub fn outcomes(&self) -> impl Iterator<Item = (Value, Outcome)> + '_ {
        self.outcomes.iter().map(|(value, outcome)| (*value, *outcome))
    }

    /// The outcome of `value`, or `None` when it was never attempted.
    pub fn outcome(&self, value: Value) -> Option<Outcome> {
        self.outcomes.get(&value).copied()
    }

    /// Attempts that were acknowledged, given up later or not.
    pub fn acked(&self) -> usize {
        let is_acked = |outcome: &&Outcome| matches!(outcome, Outcome::Acked { .. } | Outcome::GivenUp { .. });
        self.outcomes.values().filter(is_acked).count()
    }

    /// Attempts whose outcome is unknown.
    pub fn unknown(&self) -> usize {
        self.outcomes.values().filter(|outcome| **outcome == Outcome::Unknown).count()
    }
}
