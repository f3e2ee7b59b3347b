//! What is promised from one unclean election to the next. Such an election gives up what its leader lacks, and nothing
//! else: the leader's log as it begins to lead is where its lineage starts. Brokers that do not know of the election yet
//! act in the lineage before, whose promises hold among them.

use std::collections::{BTreeMap, BTreeSet};

use streambus_protocol::epoch::LeaderEpoch;

use super::model_log::Entry;
use super::world::NOISE;

/// The promises of one lineage, and its client.
#[derive(Clone, Debug)]
pub(super) struct Lineage {
    /// What somebody could have read, or what the lineage began with, by offset.
    pub(super) visible: BTreeMap<usize, Entry>,
    /// Where each acknowledged record is.
    pub(super) promised: BTreeMap<usize, u64>,
    pub(super) acknowledged: BTreeSet<u64>,
    /// The first numbered record that its log has, or is to have.
    first_value: u64,
}

impl Default for Lineage {
    fn default() -> Self {
        Self { visible: BTreeMap::new(), promised: BTreeMap::new(), acknowledged: BTreeSet::new(), first_value: 1 }
    }
}

impl Lineage {
    /// The lineage that a leader with `log` begins after this one.
    fn succeeded_by(&self, log: &[Entry]) -> Self {
        let has = |at: usize, value: u64| log.get(at).is_some_and(|entry| entry.value == value);
        let promised: BTreeMap<usize, u64> =
            self.promised.iter().filter(|(at, value)| has(**at, **value)).map(|(at, value)| (*at, *value)).collect();
        let numbered = log.iter().map(|entry| entry.value).find(|value| *value < NOISE);
        Self {
            visible: log.iter().copied().enumerate().collect(),
            acknowledged: promised.values().copied().collect(),
            promised,
            first_value: numbered.unwrap_or(1),
        }
    }

    /// The first numbered record that is not acknowledged.
    pub(super) fn next_value(&self) -> u64 {
        (self.first_value..).find(|value| !self.acknowledged.contains(value)).unwrap_or(self.first_value)
    }

    /// Somebody may read `entry` at `at`.
    pub(super) fn show(&mut self, at: usize, entry: Entry) -> Result<(), String> {
        let known = *self.visible.entry(at).or_insert(entry);
        if known == entry {
            return Ok(());
        }
        Err(format!("ConsistentRead: offset {at} was {known:?} and is {entry:?}"))
    }

    /// A client was told that `value` is at `at`. True when it had not been told before.
    pub(super) fn promise(&mut self, at: usize, value: u64) -> Result<bool, String> {
        if let Some(other) = self.promised.insert(at, value).filter(|other| *other != value) {
            return Err(format!("records {other} and {value} are both acknowledged at offset {at}"));
        }
        Ok(self.acknowledged.insert(value))
    }

    /// What was acknowledged can be read.
    pub(super) fn check_promises(&self) -> Result<(), String> {
        let broken = self.promised.iter().find(|(at, value)| self.visible.get(at).map(|e| e.value) != Some(**value));
        match broken {
            Some((at, value)) => {
                Err(format!("offset {at} was acknowledged as {value}, seen {:?}", self.visible.get(at)))
            }
            None => Ok(()),
        }
    }

    /// Idempotent producers: numbered records are there once, in order, without a gap.
    pub(super) fn check_no_duplicates_and_no_gaps(&self) -> Result<(), String> {
        let numbered = self.visible.iter().filter(|(_, entry)| entry.value < NOISE);
        for (expected, (at, Entry { value, .. })) in (self.first_value..).zip(numbered) {
            if *value != expected {
                return Err(format!("record {value} is readable at {at} where {expected} is due"));
            }
        }
        Ok(())
    }

    /// A log that was `before` and was cut to the length `after` has kept what it had of this lineage.
    pub(super) fn check_cut(&self, before: &[Entry], after: usize) -> Result<(), String> {
        let held = before.iter().enumerate().take_while(|(at, entry)| self.visible.get(at) == Some(entry)).count();
        match after < held {
            true => Err(format!("a cut at {after} takes records of the lineage, of which {held} were there")),
            false => Ok(()),
        }
    }

    /// What is missing in `log`, if anything is.
    pub(super) fn missing_in(&self, log: &[Entry]) -> Option<(usize, Entry)> {
        self.visible.iter().find(|(at, entry)| log.get(**at) != Some(*entry)).map(|(at, entry)| (*at, *entry))
    }
}

/// All lineages of a run.
#[derive(Debug)]
pub(super) struct Lineages {
    /// The leaderships that unclean elections began, in order.
    elections: Vec<LeaderEpoch>,
    /// By the number of elections before; only those in which a broker has begun to lead.
    begun: BTreeMap<usize, Lineage>,
    /// Readable records that no later lineage has.
    given_up: usize,
}

impl Lineages {
    pub(super) fn new() -> Self {
        Self { elections: Vec::new(), begun: BTreeMap::from([(0, Lineage::default())]), given_up: 0 }
    }

    /// How many unclean elections there were.
    pub(super) fn elections(&self) -> usize {
        self.elections.len()
    }

    /// How many records that somebody could read such elections have given up.
    pub(super) fn given_up(&self) -> usize {
        self.given_up
    }

    /// The controller has begun `epoch` with an election that may lose records.
    pub(super) fn on_unclean_election(&mut self, epoch: LeaderEpoch) {
        assert!(self.elections.last().is_none_or(|last| *last < epoch), "leader epochs grow");
        self.elections.push(epoch);
    }

    /// A broker with `log` leads in `epoch`: the first one in a lineage begins it.
    pub(super) fn on_leading(&mut self, epoch: LeaderEpoch, log: &[Entry]) {
        let number = self.number(epoch);
        if self.begun.contains_key(&number) {
            return;
        }
        let is_latest = self.begun.keys().next_back().is_none_or(|latest| *latest < number);
        let Some((_, former)) = self.begun.range(..number).next_back() else { return };
        let next = former.succeeded_by(log);
        if is_latest {
            self.given_up += former.visible.iter().filter(|(at, entry)| log.get(**at) != Some(*entry)).count();
        }
        self.begun.insert(number, next);
    }

    /// The lineage of `epoch`; none before anybody leads in it.
    pub(super) fn of(&self, epoch: LeaderEpoch) -> Option<&Lineage> {
        self.begun.get(&self.number(epoch))
    }

    /// The same, to be added to.
    pub(super) fn of_mut(&mut self, epoch: LeaderEpoch) -> Option<&mut Lineage> {
        let number = self.number(epoch);
        self.begun.get_mut(&number)
    }

    /// All that were begun, the latest one last.
    pub(super) fn begun(&self) -> impl DoubleEndedIterator<Item = &Lineage> {
        self.begun.values()
    }

    fn number(&self, epoch: LeaderEpoch) -> usize {
        self.elections.partition_point(|election| *election <= epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(epoch: u32, value: u64) -> Entry {
        Entry { epoch: LeaderEpoch::new(epoch), value }
    }

    fn log(values: &[u64]) -> Vec<Entry> {
        values.iter().map(|value| entry(1, *value)).collect()
    }

    /// Three records are readable, and two of them acknowledged, before an unclean election of epoch 5.
    fn three_records() -> Lineages {
        let mut lineages = Lineages::new();
        let first = lineages.of_mut(LeaderEpoch::new(1)).expect("the first lineage");
        for (at, entry) in log(&[1, 2, 3]).into_iter().enumerate() {
            first.show(at, entry).expect("nobody has read it before");
        }
        assert_eq!((first.promise(0, 1), first.promise(1, 2)), (Ok(true), Ok(true)));
        lineages.on_unclean_election(LeaderEpoch::new(5));
        lineages
    }

    // Catches a checker that excuses more than the election gave up: what the elected replica has must stay.
    #[test]
    fn an_unclean_election_gives_up_what_its_leader_lacks_and_nothing_else() {
        let mut lineages = three_records();
        assert!(lineages.of(LeaderEpoch::new(5)).is_none(), "nobody leads in it");
        lineages.on_leading(LeaderEpoch::new(5), &log(&[1, 2]));
        assert_eq!((lineages.elections(), lineages.given_up()), (1, 1));
        let second = lineages.of(LeaderEpoch::new(6)).expect("it has begun");
        assert_eq!(second.missing_in(&log(&[1])), Some((1, entry(1, 2))), "kept by the election, lost afterwards");
        assert_eq!(second.missing_in(&log(&[1, 2])), None);
        assert_eq!(second.next_value(), 3);
        assert_eq!(
            lineages.of(LeaderEpoch::new(4)).and_then(|first| first.missing_in(&log(&[1, 2]))),
            Some((2, entry(1, 3)))
        );
    }

    // Catches a reader that is shown two records at one offset within a lineage, and one that is refused another record
    // after the election gave the first one up.
    #[test]
    fn readers_see_one_record_at_an_offset_of_a_lineage() {
        let mut lineages = three_records();
        lineages.on_leading(LeaderEpoch::new(5), &log(&[1, 2]));
        let second = lineages.of_mut(LeaderEpoch::new(5)).expect("it has begun");
        assert_eq!(second.show(2, entry(5, 3)), Ok(()));
        assert!(second.show(2, entry(6, 3)).is_err(), "the same value of another leadership is another record");
        assert!(second.show(1, entry(1, 9)).is_err(), "the election kept what was there");
        assert!(lineages.of_mut(LeaderEpoch::new(4)).expect("the first").show(2, entry(5, 3)).is_err());
    }

    // Catches a promise that is given twice for one offset, and one for what nobody can read.
    #[test]
    fn promises_name_what_can_be_read() {
        let mut lineages = three_records();
        let first = lineages.of_mut(LeaderEpoch::new(1)).expect("the first lineage");
        assert_eq!(first.check_promises(), Ok(()));
        assert!(first.promise(1, 7).is_err());
        assert!(first.check_promises().is_err(), "offset 1 is not 7");
        let mut gap = Lineage::default();
        gap.show(0, entry(1, 2)).expect("nobody has read it before");
        assert!(gap.check_no_duplicates_and_no_gaps().is_err(), "the first record is missing");
    }

    // Catches a follower that cuts records its new leader has.
    #[test]
    fn a_cut_takes_nothing_that_the_lineage_holds() {
        let mut lineages = three_records();
        lineages.on_leading(LeaderEpoch::new(5), &log(&[1, 2]));
        let second = lineages.of(LeaderEpoch::new(5)).expect("it has begun");
        assert_eq!(second.check_cut(&log(&[1, 2, 3]), 2), Ok(()));
        assert!(second.check_cut(&log(&[1, 2, 3]), 1).is_err());
        assert!(lineages.of(LeaderEpoch::new(1)).is_some_and(|first| first.check_cut(&log(&[1, 2, 3]), 2).is_err()));
    }

    // Catches a lineage that a late leader of an earlier election takes over.
    #[test]
    fn a_leader_that_comes_late_begins_its_own_lineage() {
        let mut lineages = three_records();
        lineages.on_unclean_election(LeaderEpoch::new(8));
        lineages.on_leading(LeaderEpoch::new(8), &log(&[1, 2]));
        lineages.on_leading(LeaderEpoch::new(5), &log(&[]));
        assert_eq!(lineages.given_up(), 1, "what a leader lacks that nobody follows any more is not lost");
        let lengths: Vec<_> = lineages.begun().map(|lineage| lineage.visible.len()).collect();
        assert_eq!(lengths, [3, 0, 2]);
        lineages.on_leading(LeaderEpoch::new(9), &log(&[]));
        assert!(lineages.of(LeaderEpoch::new(9)).is_some_and(|third| third.missing_in(&[]).is_some()));
    }
}
