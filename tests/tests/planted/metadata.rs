//! Mistakes of the metadata's Raft group.

use std::time::Duration;

use streambus_planted::Defect;
use streambus_tests::checker::Violation;
use streambus_tests::cluster::Network;
use streambus_tests::load::LoadOptions;

use crate::{Scenario, is_found};

/// The controller dies, so that its successor's term is one that the others voted in; then one of them dies, too, and must
/// still know the term when it comes back.
pub(crate) fn forgotten_vote() -> Scenario {
    Scenario {
        defect: Defect::ForgottenVote,
        network: Network::Direct,
        load: LoadOptions::default(),
        hurt: |run, _seed| {
            let first = run.controller();
            let at_us = run.cluster.kill_nine(first);
            run.wait_recovery(at_us);
            // A few of the observer's glances.
            run.let_run(Duration::from_secs(1));
            let second = run.controller();
            let voter = run.cluster.ids().into_iter().find(|id| *id != first && *id != second).expect("three brokers");
            run.cluster.kill_nine(voter);
            let started_us = run.cluster.recorder().fault(format!("broker {voter} is started again"));
            run.cluster.start_broker(voter);
            run.wait_recovery(started_us);
        },
        is_it: |violation| matches!(violation, Violation::TermBack { .. }),
    }
}

#[test]
fn a_forgotten_vote_is_found() {
    is_found(Defect::ForgottenVote);
}
