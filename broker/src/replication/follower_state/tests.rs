//! Each test names the rule of the replication specification that it is about.

use std::cell::RefCell;

use streambus_storage::epoch_cache::{EpochCache, EpochStart};

use super::*;

fn at(value: u64) -> Offset {
    Offset::new(value).expect("in range")
}

fn e(epoch: u32) -> LeaderEpoch {
    LeaderEpoch::new(epoch)
}

struct Log {
    start: u64,
    end: u64,
    epochs: EpochCache,
}

impl Log {
    fn new(start: u64, end: u64, epochs: &[(u32, u64)]) -> Self {
        let starts = epochs.iter().map(|(epoch, start)| EpochStart { epoch: e(*epoch), start: at(*start) });
        Self { start, end, epochs: EpochCache::from_starts(starts) }
    }
}

impl FollowerLog for Log {
    fn start(&self) -> Offset {
        at(self.start)
    }

    fn end(&self) -> Offset {
        at(self.end)
    }

    fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd {
        self.epochs.end_offset_for(epoch, at(self.end))
    }
}

fn ends(log_start: u64, high_watermark: u64, log_end: u64) -> LeaderEnds {
    LeaderEnds { log_start: at(log_start), high_watermark: at(high_watermark), log_end: at(log_end) }
}

fn answer(diverging: Option<(u32, u64)>, ends: LeaderEnds) -> Answer {
    Answer { leader_epoch: e(9), diverging: diverging.map(|(epoch, end)| (e(epoch), at(end))), ends: Ok(ends) }
}

fn asked(fetch_offset: u64) -> Asked {
    Asked { leader_epoch: e(9), fetch_offset: at(fetch_offset) }
}

fn follower(high_watermark: u64) -> FollowerState {
    FollowerState::new(e(9), at(high_watermark), false)
}

// F5, KIP-101. Catches truncation to the watermark, which loses committed records or keeps divergent ones.
#[test]
fn f5_the_cut_is_where_both_logs_leave_each_other_not_the_watermark() {
    let log = Log::new(0, 20, &[(2, 0), (4, 12)]);
    let step = follower(5).judge(asked(20), &answer(Some((4, 17)), ends(0, 17, 30)), &log);
    assert_eq!(step, Step::Truncate(at(17)));
    // The leader never saw epoch 4; both know epoch 2, which ended earlier here.
    let step = follower(5).judge(asked(20), &answer(Some((2, 15)), ends(0, 17, 30)), &log);
    assert_eq!(step, Step::Truncate(at(12)));
    // The leader's epoch 3 is unknown here: what follows the last epoch below it goes.
    let step = follower(5).judge(asked(20), &answer(Some((3, 18)), ends(0, 17, 30)), &log);
    assert_eq!(step, Step::Truncate(at(12)));
}

// F5, KAFKA-14704, trap 15. Catches a watermark that exposes what is about to be cut.
#[test]
fn f5_an_answer_that_cuts_does_not_move_the_watermark() {
    let log = Log::new(0, 20, &[(2, 0), (4, 12)]);
    let mut state = follower(5);
    assert_eq!(state.judge(asked(20), &answer(Some((2, 12)), ends(0, 18, 30)), &log), Step::Truncate(at(12)));
    assert_eq!(state.high_watermark(), at(5));
    state.on_cut(at(12));
    assert_eq!(state.high_watermark(), at(5));
}

// E3, KAFKA-7786. Catches an answer of an earlier leadership, or to an earlier log end, that is acted on.
#[test]
fn e3_answers_of_the_past_change_nothing() {
    let log = Log::new(0, 20, &[(2, 0)]);
    let cuts = answer(Some((2, 10)), ends(0, 10, 10));
    let mut state = FollowerState::new(e(10), at(0), false);
    assert_eq!(state.judge(asked(20), &cuts, &log), Step::Ignore, "asked in epoch 9, follows 10");
    assert_eq!(follower(0).judge(asked(18), &cuts, &log), Step::Ignore, "the log has moved");
    let old = Answer { leader_epoch: e(8), ..cuts };
    assert_eq!(follower(0).judge(asked(20), &old, &log), Step::Ignore, "the leader answered in another epoch");
}

// F6, KAFKA-9491. Catches a follower that waits for ever for records the leader has given up.
#[test]
fn f6_below_the_leaders_start_the_log_begins_anew_there_and_so_does_the_watermark() {
    let log = Log::new(0, 20, &[(2, 0)]);
    let mut state = follower(5);
    assert_eq!(state.judge(asked(20), &answer(None, ends(30, 40, 50)), &log), Step::RestartAt(at(30)));
    state.on_restarted(at(30));
    assert_eq!(state.high_watermark(), at(30));
}

// F6 and F7. Catches silent loss of committed records without an unclean election.
#[test]
fn f7_a_cut_below_the_watermark_stops_the_replica_unless_an_unclean_election_is_recorded() {
    let log = Log::new(0, 20, &[(2, 0)]);
    for shorter in [answer(None, ends(0, 8, 10)), answer(Some((2, 10)), ends(0, 8, 10))] {
        let mut state = follower(15);
        let Step::Stop(alarm) = state.judge(asked(20), &shorter, &log) else { panic!("it must stop") };
        assert!(alarm.to_string().contains("cut at 10"), "{alarm}");
        assert_eq!(state.alarm(), Some(alarm));
        let good = answer(None, ends(0, 20, 20));
        assert_eq!(state.judge(asked(20), &good, &log), Step::Stop(alarm), "it stays stopped");

        let mut unclean = FollowerState::new(e(9), at(15), true);
        assert_eq!(unclean.judge(asked(20), &shorter, &log), Step::Truncate(at(10)));
        unclean.on_cut(at(10));
        assert_eq!(unclean.high_watermark(), at(10));
        unclean.on_matched(ends(0, 8, 10), at(10));
        assert!(!unclean.is_unclean(), "it matches now: a further cut in this leadership would be wrong");
    }
}

// F8. Catches a watermark above the follower's own log.
#[test]
fn f8_the_watermark_is_the_leaders_as_far_as_the_own_log_goes() {
    let log = Log::new(0, 20, &[(2, 0)]);
    let mut state = follower(5);
    let Step::Append(found) = state.judge(asked(20), &answer(None, ends(0, 40, 50)), &log) else {
        panic!("it matches")
    };
    state.on_matched(found, at(25));
    assert_eq!(state.high_watermark(), at(25));
    state.on_matched(ends(0, 22, 50), at(25));
    assert_eq!(state.high_watermark(), at(22), "a new leader's may lag");
}

// A log whose every record is the leader's no more goes on where the leader begins.
#[test]
fn a_divergence_below_the_own_start_drops_the_log() {
    let log = Log::new(10, 20, &[(4, 10)]);
    let mut state = FollowerState::new(e(9), at(10), true);
    assert_eq!(state.judge(asked(20), &answer(Some((2, 6)), ends(3, 6, 6)), &log), Step::RestartAt(at(3)));
}

#[test]
fn a_refusal_waits() {
    let log = Log::new(0, 20, &[(2, 0)]);
    let refused = Answer { leader_epoch: e(9), diverging: None, ends: Err(ErrorCode::NotLeader) };
    assert_eq!(follower(5).judge(asked(20), &refused, &log), Step::Wait(ErrorCode::NotLeader));
}

// F3 and F4. Catches a leader that serves records behind a divergent tail.
#[test]
fn f4_the_leader_finds_where_a_follower_leaves_its_log() {
    let leader = Log::new(5, 40, &[(2, 0), (4, 20), (7, 30)]);
    let compare = |offset, epoch| compare(at(offset), e(epoch), e(7), &leader);
    assert_eq!(compare(4, 2), Prefix::BelowStart);
    assert_eq!(compare(40, 7), Prefix::Matches);
    assert_eq!(compare(30, 4), Prefix::Matches);
    assert_eq!(compare(31, 4), Prefix::Diverges(e(4), at(30)));
    assert_eq!(compare(41, 7), Prefix::Diverges(e(7), at(40)), "longer than the leader");
    assert_eq!(compare(25, 5), Prefix::Diverges(e(4), at(30)), "an epoch the leader never saw");
    assert_eq!(compare(25, 8), Prefix::Unknown);
    assert_eq!(compare(10, 1), Prefix::Diverges(e(1), at(0)), "an epoch below all the leader knows");
}

// Trap 13, KAFKA-7415, KAFKA-20961. Catches an idle partition that is told to cut for ever after empty leaderships.
#[test]
fn idle_leaderships_converge_after_one_cut() {
    // Epochs 5 and 6 wrote nothing. The follower led 5 itself; the leader never saw it.
    let leader = Log::new(0, 10, &[(4, 0), (6, 10)]);
    let mut own = Log::new(0, 10, &[(4, 0), (5, 10)]);
    let last = own.epochs.latest().expect("an epoch").epoch;
    let Prefix::Diverges(epoch, end) = compare(at(10), last, e(6), &leader) else { panic!("epoch 5 is unknown there") };
    let told = Answer { leader_epoch: e(6), diverging: Some((epoch, end)), ends: Ok(ends(0, 10, 10)) };
    let mut state = FollowerState::new(e(6), at(10), false);
    let asked = Asked { leader_epoch: e(6), fetch_offset: at(10) };
    assert_eq!(state.judge(asked, &told, &own), Step::Truncate(at(10)), "at the end: only the empty epoch goes");
    own.epochs.truncate(at(10));
    state.on_cut(at(10));
    let last = own.epochs.latest().expect("an epoch").epoch;
    assert_eq!(compare(at(10), last, e(6), &leader), Prefix::Matches);
}

#[test]
fn an_empty_log_matches_wherever_the_leader_has_its_place() {
    let leader = Log::new(5, 40, &[(2, 5)]);
    let compare = |offset| compare(at(offset), LeaderEpoch::UNKNOWN, e(2), &leader);
    assert_eq!(compare(0), Prefix::BelowStart);
    assert_eq!(compare(5), Prefix::Matches);
    assert_eq!(compare(41), Prefix::Diverges(e(2), at(40)));
}

// Trap 14, KIP-279: several divergent leaderships need several rounds, each of which makes the log shorter.
#[test]
fn two_divergent_leaderships_converge_in_finitely_many_rounds() {
    let leader = Log::new(0, 30, &[(1, 0), (3, 10), (5, 14), (7, 30)]);
    let mut own = Log::new(0, 40, &[(1, 0), (2, 8), (4, 12), (6, 20)]);
    let mut state = FollowerState::new(e(7), at(0), true);
    let mut rounds = 0;
    loop {
        let last = own.epochs.latest().map_or(LeaderEpoch::UNKNOWN, |latest| latest.epoch);
        let Prefix::Diverges(epoch, end) = compare(at(own.end), last, e(7), &leader) else { break };
        let told = Answer { leader_epoch: e(7), diverging: Some((epoch, end)), ends: Ok(ends(0, 0, 30)) };
        let asked = Asked { leader_epoch: e(7), fetch_offset: at(own.end) };
        let Step::Truncate(to) = state.judge(asked, &told, &own) else { panic!("a cut") };
        let before = (own.end, own.epochs.starts().len());
        own.end = to.get();
        own.epochs.truncate(to);
        state.on_cut(to);
        assert!((own.end, own.epochs.starts().len()) < before, "every round makes progress");
        rounds += 1;
    }
    assert_eq!(own.end, 8, "epoch 1 is all that both have");
    assert!(rounds <= 3, "{rounds}");
}

/// A leader's log whose start retention moves while it is looked at: each look finds the next of `starts`.
struct Moving {
    starts: RefCell<Vec<u64>>,
    log: Log,
}

impl FollowerLog for Moving {
    fn start(&self) -> Offset {
        let mut starts = self.starts.borrow_mut();
        at(if starts.len() > 1 { starts.remove(0) } else { starts[0] })
    }

    fn end(&self) -> Offset {
        self.log.end()
    }

    fn end_offset_for(&self, epoch: LeaderEpoch) -> EpochEnd {
        self.log.end_offset_for(epoch)
    }
}

// F6. Catches a log start from before retention moved it, next to a comparison from after: a log that ends below the start,
// and was compared with nothing, would pass for a prefix of the leader's.
#[test]
fn f6_a_leader_that_trims_while_it_compares_says_one_thing() {
    let leader = Moving { starts: RefCell::new(vec![5, 12]), log: Log::new(12, 30, &[(8, 12), (9, 20)]) };
    let own = Log::new(0, 10, &[(7, 0)]);
    let (ends, prefix) = look_at(own.end(), e(7), e(9), at(25), &leader);
    assert_eq!(
        (prefix, ends),
        (Prefix::BelowStart, LeaderEnds { log_start: at(12), high_watermark: at(25), log_end: at(30) })
    );
    let mut state = follower(0);
    assert_eq!(state.judge(asked(10), &answer(None, ends), &own), Step::RestartAt(at(12)));
}
