//! Damage, refusals and time by hand: what is asked next, and of whom.

use streambus_protocol::ids::{PartitionIndex, TopicId};

use super::*;

const PAUSES: RepairPauses = RepairPauses { min: Duration::from_millis(100), max: Duration::from_secs(1) };

fn id(index: u32) -> PartitionId {
    PartitionId { topic: TopicId::from_bytes([1; 16]), partition: PartitionIndex::new(index) }
}

fn range(base: u64, next: u64) -> DamagedOffsets {
    let at = |value| Offset::new(value).expect("small");
    DamagedOffsets { base: at(base), next: at(next) }
}

fn damage(index: u32, epoch: u32, ranges: &[(u64, u64)], sources: &[u32]) -> Damage {
    Damage {
        id: id(index),
        leader_epoch: LeaderEpoch::new(epoch),
        ranges: ranges.iter().map(|(base, next)| range(*base, *next)).collect(),
        sources: sources.iter().copied().map(BrokerId::new).collect(),
    }
}

fn observe(state: &mut RepairState, damage: Damage) -> bool {
    state.observe(damage.id, Some(damage))
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Who is asked next, for which partition and offset.
fn asked(state: &RepairState, now: Duration) -> Option<(u32, u64, u32)> {
    match state.next(now) {
        Next::Ask(ask) => Some((ask.id.partition.get(), ask.range.base.get(), ask.source.get())),
        Next::Wait(_) | Next::Nothing => None,
    }
}

fn refuse(state: &mut RepairState, now: Duration, refusal: Refusal) {
    let Next::Ask(ask) = state.next(now) else { panic!("nobody is asked at {now:?}") };
    state.on_refused(&ask, refusal, now);
}

fn later() -> Refusal {
    Refusal::Later("not now".to_owned())
}

fn gone() -> Refusal {
    Refusal::Gone("lost here too".to_owned())
}

// Catches a repair that waits for one silent replica, and one that asks it in a tight loop.
#[test]
fn every_replica_is_asked_in_its_turn_and_the_same_one_ever_more_rarely() {
    let mut state = RepairState::new(PAUSES);
    assert_eq!(state.next(ms(0)), Next::Nothing);
    assert!(observe(&mut state, damage(0, 5, &[(10, 20)], &[2, 3])));
    assert!(!observe(&mut state, damage(0, 5, &[(10, 20)], &[2, 3])), "no news");
    assert_eq!(asked(&state, ms(0)), Some((0, 10, 2)), "the most complete first");
    refuse(&mut state, ms(0), later());
    assert_eq!(asked(&state, ms(0)), Some((0, 10, 3)));
    refuse(&mut state, ms(0), later());
    assert_eq!(state.next(ms(99)), Next::Wait(ms(100)));
    let mut pauses = Vec::new();
    let mut now = ms(100);
    for _ in 0..6 {
        refuse(&mut state, now, later());
        refuse(&mut state, now, later());
        let Next::Wait(until) = state.next(now) else { panic!("both rest") };
        pauses.push((until - now).as_millis());
        now = until;
    }
    assert_eq!(pauses, [200, 400, 800, 1_000, 1_000, 1_000]);
}

// Catches a range that nobody has in front of one that everybody has.
#[test]
fn other_damage_does_not_wait_for_what_cannot_be_repaired() {
    let mut state = RepairState::new(PAUSES);
    observe(&mut state, damage(0, 5, &[(10, 20), (30, 40)], &[2]));
    observe(&mut state, damage(1, 5, &[(7, 8)], &[3]));
    refuse(&mut state, ms(0), gone());
    assert_eq!(asked(&state, ms(0)), Some((0, 30, 2)));
    observe(&mut state, damage(0, 5, &[(10, 20)], &[2]));
    assert_eq!(asked(&state, ms(0)), Some((1, 7, 3)));
    state.observe(id(1), None);
    assert_eq!(state.next(ms(0)), Next::Wait(ms(100)));
    assert_eq!(state.damaged(), [id(0)]);
}

// Catches records called lost because one replica was not there to be asked, and a replica kept out of the in-sync set
// for what nobody has.
#[test]
fn only_what_every_replica_says_is_gone_is_beyond_repair() {
    let mut state = RepairState::new(PAUSES);
    observe(&mut state, damage(0, 5, &[(10, 20)], &[2, 3]));
    assert_eq!((state.prospect(id(0)), state.stuck().len()), (Prospect::Open, 0));
    refuse(&mut state, ms(0), gone());
    assert_eq!((state.prospect(id(0)), state.stuck().len()), (Prospect::Open, 0), "one was not asked yet");
    refuse(&mut state, ms(0), later());
    assert_eq!(state.prospect(id(0)), Prospect::Delayed);
    assert!(!state.stuck()[0].is_beyond_repair);
    // At 100 ms both are due again; the first says the same, the second now too.
    refuse(&mut state, ms(100), gone());
    refuse(&mut state, ms(100), gone());
    assert_eq!(state.prospect(id(0)), Prospect::Hopeless);
    assert!(state.stuck()[0].is_beyond_repair);
    // Another range of the partition may yet be repaired.
    observe(&mut state, damage(0, 5, &[(10, 20), (30, 40)], &[2, 3]));
    assert_eq!(state.prospect(id(0)), Prospect::Delayed);
    // Whoever was repaired meanwhile is found by asking again.
    assert_eq!(asked(&state, ms(2_000)), Some((0, 10, 2)));
}

// Catches a verdict of a former leadership that outlives it.
#[test]
fn another_leadership_begins_anew() {
    let mut state = RepairState::new(PAUSES);
    observe(&mut state, damage(0, 5, &[(10, 20)], &[2]));
    refuse(&mut state, ms(0), gone());
    assert_eq!(state.prospect(id(0)), Prospect::Hopeless);
    assert!(observe(&mut state, damage(0, 6, &[(10, 20)], &[2])));
    assert_eq!(state.prospect(id(0)), Prospect::Open);
    assert_eq!(asked(&state, ms(0)), Some((0, 10, 2)));
    // Not matched with its leader yet: nothing may be asked for.
    observe(&mut state, damage(0, 7, &[], &[2]));
    assert_eq!((state.next(ms(0)), state.prospect(id(0))), (Next::Nothing, Prospect::Open));
}

// Catches a repair that takes what one replica cannot vouch for while another may be asked, and one that waits for ever.
#[test]
fn a_replica_is_the_last_resort_when_every_other_was_asked() {
    let mut state = RepairState::new(PAUSES);
    observe(&mut state, damage(0, 5, &[(10, 20), (30, 40)], &[2, 3]));
    let ask = |state: &RepairState, now| match state.next(now) {
        Next::Ask(ask) => ask,
        other => panic!("{other:?}"),
    };
    let first = ask(&state, ms(0));
    assert!(!state.is_last_resort(&first));
    state.on_refused(&first, later(), ms(0));
    let second = ask(&state, ms(0));
    assert!((second.range == first.range) && state.is_last_resort(&second), "{second:?}");
    assert!(!state.is_last_resort(&first), "broker 3 was not asked yet");
    state.on_refused(&second, later(), ms(0));
    assert!(state.is_last_resort(&first));
    assert!(!state.is_last_resort(&ask(&state, ms(0))), "of the other range nobody was asked");
    let mut alone = RepairState::new(PAUSES);
    observe(&mut alone, damage(0, 5, &[(10, 20)], &[2]));
    assert!(alone.is_last_resort(&ask(&alone, ms(0))));
}
