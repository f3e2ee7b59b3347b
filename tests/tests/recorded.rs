//! The checker on recorded histories of brokers with a known mistake, each reduced to what still shows it
//! (`STREAMBUS_EVIDENCE=tests/histories` with the tests of `planted` records them anew): no change of the checker may stop
//! finding them.

use std::path::Path;

use streambus_planted::Defect;
use streambus_tests::checker::Violation;
use streambus_tests::evidence::Evidence;

/// What the topic of the history demanded, and whether this is what the mistake led to.
fn expected(defect: Defect) -> (u8, fn(&Violation) -> bool) {
    match defect {
        Defect::AckBeforeSync | Defect::TruncateToWatermark | Defect::CorruptionAsEnd | Defect::StaleEpochCommit => {
            (2, |violation| matches!(violation, Violation::Lost { .. }))
        }
        Defect::ForgottenVote => (2, |violation| matches!(violation, Violation::TermBack { .. })),
        Defect::DedupeLostOnFailover => (2, |violation| matches!(violation, Violation::Duplicate { .. })),
        Defect::WatermarkBelowMinIsr => (3, |violation| matches!(violation, Violation::TooFewReplicas { .. })),
    }
}

#[test]
fn every_recorded_mistake_is_found_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories");
    for defect in Defect::ALL {
        let file = folder.join(format!("{}.jsonl", defect.name()));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let evidence = Evidence::from_text(&text).unwrap_or_else(|problem| panic!("{}: {problem}", file.display()));
        let (min_isr, is_it) = expected(*defect);
        let found = evidence.judge(min_isr);
        assert!(found.iter().any(is_it), "{}: {found:?}", defect.name());
    }
}
