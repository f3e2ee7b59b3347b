//! What brokers may use, whatever is done to them (I14). The loads of the fault tests are small: a broker that passes
//! these bounds leaks, or buffers without a limit.

use super::Violation;
use crate::event::{Event, What};
use crate::footprint::Footprint;

/// The bounds of one broker under the loads of the fault tests, several times what a healthy one uses.
pub(super) const BOUNDS: Footprint = Footprint { resident_peak_kib: 512 * 1024, threads: 128, descriptors: 1_024 };

/// Judges every measurement.
pub(super) fn footprints(events: &[Event], violations: &mut Vec<Violation>) {
    for event in events {
        if let What::Footprint { broker, used } = event.what
            && (used.resident_peak_kib > BOUNDS.resident_peak_kib
                || used.threads > BOUNDS.threads
                || used.descriptors > BOUNDS.descriptors)
        {
            violations.push(Violation::Unbounded { broker, used });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(used: Footprint) -> usize {
        let events = [Event { at_us: 1, what: What::Footprint { broker: 2, used } }];
        let mut violations = Vec::new();
        footprints(&events, &mut violations);
        violations.len()
    }

    #[test]
    fn each_bound_is_held_by_itself() {
        assert_eq!(judged(BOUNDS), 0);
        assert_eq!(judged(Footprint { resident_peak_kib: BOUNDS.resident_peak_kib + 1, ..BOUNDS }), 1);
        assert_eq!(judged(Footprint { threads: BOUNDS.threads + 1, ..BOUNDS }), 1);
        assert_eq!(judged(Footprint { descriptors: BOUNDS.descriptors + 1, ..BOUNDS }), 1);
    }
}
