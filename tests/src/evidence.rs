//! Recorded histories as files: one event a line, the final read behind them as what reader [`FINAL_READER`] got; and the
//! smallest part of a history that still shows what the whole shows.

use std::collections::{BTreeSet, HashSet};
use std::mem::discriminant;

use streambus_protocol::ids::PartitionIndex;
use streambus_protocol::offset::Offset;

use crate::checker::{ReadBack, Violation, check_run};
use crate::event::{Event, What};
use crate::history::Value;

/// The number that stands for the final read in a file.
pub const FINAL_READER: u32 = u32::MAX;

/// A recorded run, whole or in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was recorded.
    pub events: Vec<Event>,
    /// The full read at the end.
    pub read: Vec<ReadBack>,
}

impl Evidence {
    /// The lines that stand for it.
    pub fn to_text(&self) -> String {
        let end_us = self.events.last().map_or(0, |event| event.at_us);
        let read = self.read.iter().map(|record| {
            let (partition, offset) = (record.partition.get(), record.offset.get());
            let what = What::Read { reader: FINAL_READER, partition, offset, value: record.value };
            Event { at_us: end_us, what }
        });
        self.events.iter().cloned().chain(read).map(|event| event.to_line() + "\n").collect()
    }

    /// Reads the lines back.
    ///
    /// # Errors
    ///
    /// The text of what is wrong with a line.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut evidence = Self::default();
        for line in text.lines() {
            let event = Event::from_line(line).map_err(|error| format!("{line}: {error}"))?;
            match event.what {
                What::Read { reader: FINAL_READER, partition, offset, value } => evidence.read.push(ReadBack {
                    partition: PartitionIndex::new(partition),
                    offset: Offset::new(offset).ok_or_else(|| format!("{line}: no such offset"))?,
                    value,
                }),
                _ => evidence.events.push(event),
            }
        }
        Ok(evidence)
    }

    /// What the checker says of it.
    pub fn judge(&self, min_isr: u8) -> Vec<Violation> {
        check_run(&self.events, &self.read, min_isr)
    }

    /// A small part in which the checker still finds what `is_it` describes: whole values, whole kinds of other events, and
    /// in the end single ones are left out, in ever smaller portions, as long as it does. Other violations may come and go.
    pub fn reduced(&self, min_isr: u8, is_it: impl Fn(&Violation) -> bool) -> Self {
        let shows = |part: &Self| part.judge(min_isr).iter().any(&is_it);
        let mut smallest = self.clone();
        let others = self.events.iter().filter(|event| value_of(&event.what).is_none());
        for kind in others.map(|event| discriminant(&event.what)).collect::<HashSet<_>>() {
            let part = smallest.part(|what| value_of(what).is_some() || discriminant(what) != kind);
            if shows(&part) {
                smallest = part;
            }
        }
        let values: Vec<Value> = smallest.values().into_iter().collect();
        let whole = smallest.clone();
        fewest(values, |kept| {
            let kept: BTreeSet<Value> = kept.iter().copied().collect();
            let part = whole.part(|what| value_of(what).is_none_or(|value| kept.contains(&value)));
            let shown = shows(&part);
            if shown {
                smallest = part;
            }
            shown
        });
        let (whole, read) = (smallest.events.clone(), smallest.read.clone());
        let is_single = |event: &Event| value_of(&event.what).is_none();
        fewest((0..whole.len()).filter(|at| is_single(&whole[*at])).collect(), |kept| {
            let kept: BTreeSet<usize> = kept.iter().copied().collect();
            let stays = |(at, event): &(usize, &Event)| !is_single(event) || kept.contains(at);
            let events = whole.iter().enumerate().filter(stays).map(|(_, event)| event.clone()).collect();
            let part = Self { events, read: read.clone() };
            let shown = shows(&part);
            if shown {
                smallest = part;
            }
            shown
        });
        smallest
    }

    fn values(&self) -> BTreeSet<Value> {
        let read = self.read.iter().filter_map(|record| record.value);
        self.events.iter().filter_map(|event| value_of(&event.what)).chain(read).collect()
    }

    fn part(&self, keep: impl Fn(&What) -> bool) -> Self {
        let kept = |record: &&ReadBack| record.value.is_none_or(|value| keep(&What::Invoked { value }));
        Self {
            events: self.events.iter().filter(|event| keep(&event.what)).cloned().collect(),
            read: self.read.iter().filter(kept).cloned().collect(),
        }
    }
}

/// Leaves out portions of `items`, ever smaller ones, as long as `is_enough` says that the rest still is.
fn fewest<T: Clone>(mut items: Vec<T>, mut is_enough: impl FnMut(&[T]) -> bool) {
    let mut portion = items.len().div_ceil(2);
    while portion > 0 {
        let mut at = 0;
        while at < items.len() {
            let mut fewer = items.clone();
            fewer.drain(at..(at + portion).min(items.len()));
            if is_enough(&fewer) {
                items = fewer;
            } else {
                at += portion;
            }
        }
        portion /= 2;
    }
}

fn value_of(what: &What) -> Option<Value> {
    match what {
        What::Invoked { value }
        | What::Acked { value, .. }
        | What::Unknown { value, .. }
        | What::Refused { value, .. } => Some(*value),
        What::Read { value, .. } => *value,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_record_is_all_that_is_left_of_a_long_history() {
        let mut evidence = Evidence::default();
        for sequence in 0..500 {
            let value = Value { producer: 0, sequence };
            evidence.events.push(Event { at_us: sequence * 2, what: What::Invoked { value } });
            let acked = What::Acked { value, partition: 0, offset: sequence, durable: 2 };
            evidence.events.push(Event { at_us: sequence * 2 + 1, what: acked });
            if sequence != 321 {
                let (partition, offset) = (PartitionIndex::new(0), Offset::new(sequence).expect("in range"));
                evidence.read.push(ReadBack { partition, offset, value: Some(value) });
            }
        }
        let is_lost = |violation: &Violation| matches!(violation, Violation::Lost { .. });
        let reduced = evidence.reduced(2, is_lost);
        assert_eq!((reduced.events.len(), reduced.read.len()), (2, 0), "{reduced:?}");
        assert!(reduced.judge(2).iter().any(is_lost));
        assert_eq!(Evidence::from_text(&evidence.to_text()).expect("its own text"), evidence);
    }
}
