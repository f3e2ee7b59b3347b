//! Each test names the rule of the replication specification that it is about.

use super::*;
use crate::replication::planted::PlantedBug;

const ME: BrokerId = BrokerId::new(1);
const LIMIT: Duration = Duration::from_secs(10);

fn b(id: u32) -> BrokerId {
    BrokerId::new(id)
}

fn at(value: u64) -> Offset {
    Offset::new(value).expect("in range")
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn log(durable_end: u64, end: u64) -> LeaderLog {
    LeaderLog { durable_end: at(durable_end), end: at(end), durability: Durability::Sync }
}

fn registered(life: u64, may_join: bool) -> Registered {
    Registered { epoch: BrokerEpoch::new(life), may_join }
}

fn view(partition_epoch: u32, isr: &[u32], replicas_min: usize) -> LeaderView {
    LeaderView {
        version: PartitionVersion {
            leader_epoch: LeaderEpoch::new(5),
            partition_epoch: PartitionEpoch::new(partition_epoch),
            isr: isr.iter().copied().map(BrokerId::new).collect(),
            recovering: false,
        },
        replicas: vec![b(1), b(2), b(3)],
        replicas_min,
        registered: [1, 2, 3].into_iter().map(|id| (b(id), registered(10 + u64::from(id), true))).collect(),
    }
}

/// Broker 1 leads three replicas from offset 10 on and knows of a watermark at 6.
fn leader(isr: &[u32], replicas_min: usize) -> LeaderState {
    LeaderState::new(ME, view(0, isr, replicas_min), at(10), (at(6), log(10, 10)), LIMIT, s(0))
}

fn report(id: u32, log_end: u64, durable_end: u64) -> FollowerReport {
    FollowerReport {
        broker_epoch: BrokerEpoch::new(10 + u64::from(id)),
        log_end: at(log_end),
        durable_end: at(durable_end),
        accepted_end: at(log_end),
        log_start: Offset::ZERO,
    }
}

fn fetch(state: &mut LeaderState, id: u32, log_end: u64, durable_end: u64, log: LeaderLog) {
    assert!(state.on_fetch(b(id), report(id, log_end, durable_end), log, s(1)));
}

/// Advances the watermarks; the high one, when it moved.
fn advance(state: &mut LeaderState, log: LeaderLog, now: Duration) -> Option<Offset> {
    let before = state.high_watermark();
    let has_moved = state.advance(log, now);
    let moved = (state.high_watermark() != before).then(|| state.high_watermark());
    assert!(has_moved || moved.is_none(), "it says that it moved");
    moved
}

fn isr_of(change: &IsrChange) -> Vec<u32> {
    change.isr.iter().map(|member| member.broker.get()).collect()
}

// H1. Catches a watermark that counts what a follower has only in memory, or the leader's own memory.
#[test]
fn h1_only_durable_ends_count_and_the_slowest_in_sync_replica_decides() {
    let mut state = leader(&[1, 2, 3], 2);
    fetch(&mut state, 2, 20, 15, log(20, 20));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), None, "broker 3 has not fetched in this leadership");
    fetch(&mut state, 3, 20, 18, log(20, 20));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(15)));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), None, "it has not moved");
    assert!(state.on_durable_end(b(2), at(20), log(20, 20), s(1)));
    assert_eq!(advance(&mut state, log(16, 20), s(1)), Some(at(16)), "the leader's disk is the slowest");
}

// H1. Catches a leader that takes a follower's word for which of its ends counts, a durable watermark that moves without
// disks, and a durable count with a member that joined when no disk was asked for.
#[test]
fn h1_the_setting_of_the_leader_decides_what_counts() {
    let unsynced = |durability| LeaderLog { durability, ..log(12, 20) };
    let mut state = leader(&[1, 2], 2);
    let watermarks = |state: &LeaderState| (state.high_watermark(), state.durable_watermark(), state.durable_count());
    fetch(&mut state, 2, 20, 11, log(12, 20));
    assert!(state.advance(unsynced(Durability::Sync), s(1)));
    assert_eq!(watermarks(&state), (at(11), at(11), 2));
    assert!(state.advance(unsynced(Durability::Async), s(1)));
    assert_eq!(watermarks(&state), (at(20), at(11), 2));
    fetch(&mut state, 3, 20, 0, unsynced(Durability::Async));
    state.on_metadata(view(1, &[1, 2, 3], 2), s(2));
    assert_eq!(watermarks(&state), (at(20), at(11), 2), "broker 3 has nothing on disk");
    let synced = LeaderLog { durability: Durability::Sync, ..log(20, 20) };
    assert!(state.on_durable_end(b(2), at(20), synced, s(3)));
    state.advance(synced, s(3));
    assert_eq!(watermarks(&state), (at(20), at(11), 2), "nothing goes back, and nothing moves without broker 3");
    assert!(state.on_durable_end(b(3), at(19), synced, s(3)));
    assert!(state.advance(synced, s(3)));
    assert_eq!(watermarks(&state), (at(20), at(19), 3));
}

// H1, strict min ISR (KAFKA-15583), trap 18. Catches a lone leader that commits.
#[test]
fn h1_the_watermark_stands_still_below_min_isr() {
    let mut state = leader(&[1], 2);
    assert!(!state.has_enough_in_sync());
    assert_eq!(advance(&mut state, log(20, 20), s(1)), None);
    fetch(&mut state, 2, 20, 20, log(20, 20));
    assert_eq!(
        advance(&mut state, log(20, 20), s(1)),
        None,
        "a follower that is not in the committed set does not help"
    );
    state.on_metadata(view(1, &[1, 2], 2), s(2));
    assert_eq!(advance(&mut state, log(20, 20), s(2)), Some(at(20)));
    state.on_metadata(view(2, &[1], 2), s(3));
    assert_eq!(advance(&mut state, log(30, 30), s(3)), None);
    assert_eq!(state.high_watermark(), at(20), "nothing goes back");
    // H2: a change of the topic's demand alone moves it.
    state.on_metadata(view(3, &[1], 1), s(20));
    assert_eq!(advance(&mut state, log(30, 30), s(20)), Some(at(30)));
}

// H1: a follower on its way in is waited for, or it would never be level with the watermark; a lost one is not.
#[test]
fn h1_the_watermark_waits_for_a_follower_that_has_caught_up() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 3, 12, 12, log(12, 12));
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 3, 20, 13, log(20, 20));
    assert!(state.is_waited_for(b(3), s(1)));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(13)));
    assert_eq!(
        advance(&mut state, log(20, 20), s(12)),
        Some(at(20)),
        "it has not caught up for longer than the lag limit"
    );
    assert!(!state.is_waited_for(b(3), s(12)));
}

// Catches commits that wait, in the first seconds of a leadership or of a move, for a replica that has a whole log to copy.
#[test]
fn h1_a_follower_that_has_not_been_there_in_this_leadership_is_not_waited_for() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 3, 5, 5, log(20, 20));
    assert!(state.is_waited_for(b(2), s(1)) && !state.is_waited_for(b(3), s(1)));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(20)));
    fetch(&mut state, 3, 20, 20, log(25, 25));
    assert!(state.is_waited_for(b(3), s(1)), "it has what there was when it came");
}

// Catches a limit on what nobody waits for that holds for a partition in which everybody waits: nothing is committed before
// a replica has copied what it lacks.
#[test]
fn every_follower_is_waited_for_while_too_few_are_in_sync() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 3, 5, 5, log(20, 20));
    assert!(!state.is_waited_for(b(3), s(1)));
    state.on_metadata(view(1, &[1], 2), s(1));
    assert!(state.is_waited_for(b(3), s(1)), "one more must join before anything is committed");
    assert!(!state.is_waited_for(b(9), s(1)), "no replica");
}

#[test]
fn h1_a_fenced_follower_outside_the_set_is_not_waited_for() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 3, 12, 12, log(12, 12));
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 3, 20, 12, log(20, 20));
    let mut fenced = view(0, &[1, 2], 2);
    fenced.registered.insert(b(3), registered(13, false));
    state.on_metadata(fenced, s(1));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(20)));
}

// H3, trap 12, KAFKA-7128. Catches growth and a latest offset from a watermark that may lag the true one.
#[test]
fn h3_until_it_has_the_epoch_start_nobody_joins_and_nobody_learns_the_latest_offset() {
    let mut state = leader(&[1, 2], 2);
    // Broker 3 has all of the known watermark, which lags: broker 2 and the former leader may have committed up to 10.
    fetch(&mut state, 3, 8, 8, log(10, 10));
    assert_eq!(state.next_change(log(10, 10), s(1)), None);
    assert!(!state.is_watermark_settled());
    fetch(&mut state, 3, 10, 10, log(10, 10));
    let change = state.next_change(log(10, 10), s(1)).expect("it has everything that can be committed");
    assert_eq!(isr_of(&change), [1, 2, 3]);
    assert!(!state.is_watermark_settled());
    fetch(&mut state, 2, 10, 10, log(10, 10));
    assert_eq!(advance(&mut state, log(10, 10), s(1)), Some(at(10)));
    assert!(state.is_watermark_settled());
}

// Catches a deadlock that the explorer found: the set cannot grow before the watermark moves, nor the other way round.
#[test]
fn a_new_leader_below_min_isr_gets_its_followers_back() {
    let mut state = leader(&[1], 2);
    fetch(&mut state, 2, 10, 10, log(10, 10));
    assert_eq!(advance(&mut state, log(10, 10), s(1)), None, "too few are in sync");
    let change = state.next_change(log(10, 10), s(1)).expect("broker 2 joins");
    assert_eq!(isr_of(&change), [1, 2]);
}

// I2. Every condition alone keeps a follower out.
#[test]
fn i2_growth_needs_every_condition() {
    let settled = || {
        let mut state = leader(&[1, 2], 2);
        fetch(&mut state, 2, 20, 20, log(20, 20));
        advance(&mut state, log(20, 20), s(1));
        assert_eq!(state.high_watermark(), at(20));
        state
    };
    let joins = |mut state: LeaderState| state.next_change(log(20, 20), s(1)).is_some();

    let mut state = settled();
    fetch(&mut state, 3, 20, 20, log(20, 20));
    assert!(joins(state), "all conditions hold");

    assert!(!joins(settled()), "no fetch in this leadership");

    let mut state = settled();
    fetch(&mut state, 3, 20, 19, log(20, 20));
    assert!(!joins(state), "it has the watermark in memory only");

    let mut state = settled();
    fetch(&mut state, 3, 20, 20, log(20, 20));
    let mut fenced = view(0, &[1, 2], 2);
    fenced.registered.insert(b(3), registered(13, false));
    state.on_metadata(fenced, s(1));
    assert!(!joins(state), "fenced or shutting down (KIP-841)");

    let mut state = settled();
    fetch(&mut state, 3, 20, 20, log(20, 20));
    let mut reborn = view(0, &[1, 2], 2);
    reborn.registered.insert(b(3), registered(99, true));
    state.on_metadata(reborn, s(1));
    assert!(!joins(state), "it fetched in an earlier life (KIP-903)");
}

// I1. Catches a shrink that removes a member before its time, or the leader itself.
#[test]
fn i1_a_member_that_lags_is_removed_and_the_leader_stays() {
    let mut state = leader(&[1, 2, 3], 2);
    fetch(&mut state, 2, 20, 20, log(20, 20));
    assert_eq!(state.next_change(log(20, 20), s(10)), None, "broker 3 still has time");
    let change = state.next_change(log(20, 20), s(11)).expect("broker 3 lags");
    assert_eq!(isr_of(&change), [1, 2]);
    assert_eq!(change.partition_epoch, PartitionEpoch::ZERO);
    // I3: until the controller agrees, broker 3 counts.
    assert_eq!(advance(&mut state, log(20, 20), s(11)), None);
    let applied = PartitionVersion { ..view(1, &[1, 2], 2).version };
    state.on_change_answer(PartitionEpoch::ZERO, ChangeAnswer::Applied(applied));
    assert_eq!(advance(&mut state, log(20, 20), s(11)), Some(at(20)));
}

// I3, trap 16. Catches commits that a newcomer, elected by a controller whose reply was lost, does not have.
#[test]
fn i3_a_newcomer_whose_growth_has_no_answer_is_waited_for() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 2, 10, 10, log(10, 10));
    fetch(&mut state, 3, 10, 10, log(10, 10));
    advance(&mut state, log(10, 10), s(1));
    let first = state.next_change(log(10, 10), s(1)).expect("broker 3 joins");
    fetch(&mut state, 2, 12, 12, log(12, 12));
    assert_eq!(advance(&mut state, log(12, 12), s(1)), None);
    state.on_change_answer(PartitionEpoch::ZERO, ChangeAnswer::Unknown);
    assert_eq!(advance(&mut state, log(12, 12), s(60)), None, "also long after the lag limit");
    assert_eq!(state.next_change(log(12, 12), s(60)), Some(first), "the same proposal again");
    fetch(&mut state, 3, 12, 12, log(12, 12));
    assert_eq!(advance(&mut state, log(12, 12), s(60)), Some(at(12)));
}

// R4, trap 17. Catches an old fetch position that speaks for a replica that was removed, emptied and added again.
#[test]
fn r4_a_replica_that_left_and_came_back_starts_from_nothing() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 2, 10, 10, log(10, 10));
    fetch(&mut state, 3, 10, 10, log(10, 10));
    advance(&mut state, log(10, 10), s(1));
    let mut without = view(1, &[1, 2], 2);
    without.replicas = vec![b(1), b(2)];
    state.on_metadata(without, s(1));
    assert!(!state.on_fetch(b(3), report(3, 10, 10), log(10, 10), s(1)), "it is no replica");
    state.on_metadata(view(2, &[1, 2], 2), s(1));
    assert_eq!(state.next_change(log(10, 10), s(1)), None);
}

// I5: a recovering partition is recovered by whoever joins.
#[test]
fn recovery_ends_with_the_first_growth() {
    let mut recovering = view(0, &[1], 1);
    recovering.version.recovering = true;
    let mut state = LeaderState::new(ME, recovering, at(10), (at(10), log(10, 10)), LIMIT, s(0));
    fetch(&mut state, 2, 10, 10, log(10, 10));
    let change = state.next_change(log(10, 10), s(1)).expect("broker 2 joins");
    assert!(!change.recovering);
}

#[test]
fn receipts_count_who_has_the_record_now() {
    let mut state = leader(&[1, 2, 3], 2);
    fetch(&mut state, 2, 20, 15, log(20, 20));
    fetch(&mut state, 3, 12, 12, log(20, 20));
    let holders = |offset| state.holders(at(offset), log(18, 20));
    assert_eq!(holders(12), Holders { replicas: 3, durable: 3 });
    assert_eq!(holders(15), Holders { replicas: 2, durable: 2 });
    assert_eq!(holders(20), Holders { replicas: 2, durable: 0 });
}

#[test]
fn standings_name_every_replica_with_its_lag() {
    let mut state = leader(&[1, 2], 2);
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 2, 20, 20, log(25, 25));
    let standings = state.standings(log(25, 25), s(4));
    let brief: Vec<_> =
        standings.iter().map(|r| (r.broker.get(), r.log_end.get(), r.in_sync, r.caught_up_ago)).collect();
    assert_eq!(brief, [(1, 25, true, Some(s(0))), (2, 20, true, Some(s(3))), (3, 0, false, None)]);
}

// The planted defects must be defects: each breaks the rule it is named for.
#[test]
fn planted_defects_break_their_rules() {
    let mut state = leader(&[1], 2);
    state.plant(Some(PlantedBug::WatermarkBelowMinIsr));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(20)));

    let mut state = leader(&[1, 2], 2);
    state.plant(Some(PlantedBug::GrowthWithoutEpochStart));
    fetch(&mut state, 3, 8, 8, log(10, 10));
    assert!(state.next_change(log(10, 10), s(1)).is_some());

    let mut state = leader(&[1, 2], 2);
    state.plant(Some(PlantedBug::CommittedIsrOnly));
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 3, 12, 12, log(20, 20));
    assert_eq!(advance(&mut state, log(20, 20), s(1)), Some(at(20)));

    let mut state = leader(&[1, 2], 2);
    state.plant(Some(PlantedBug::BrokerEpochIgnored));
    fetch(&mut state, 2, 20, 20, log(20, 20));
    fetch(&mut state, 3, 20, 20, log(20, 20));
    advance(&mut state, log(20, 20), s(1));
    let mut reborn = view(0, &[1, 2], 2);
    reborn.registered.insert(b(3), registered(99, true));
    state.on_metadata(reborn, s(1));
    assert!(state.next_change(log(20, 20), s(1)).is_some());
}
