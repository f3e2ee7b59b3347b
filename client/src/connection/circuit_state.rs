//! Decides whether a broker may be tried now: the circuit breaker of one broker. Pure: time is an argument.
//!
//! ```text
//!            failures < limit                 pause over
//!  Closed ------------------> Closed    Open -------------> HalfOpen (one probe)
//!     |  failures = limit                 ^                    |        |
//!     +-----------------------------------+---- probe failed --+        +-- probe succeeded --> Closed
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;

/// The breaker of one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitState {
    /// Attempts are made; `failures` in a row have failed.
    Closed { failures: u32 },
    /// Nothing is tried before `until`; the breaker has opened `openings` times in a row.
    Open { until: Instant, openings: u32 },
    /// One probe is under way; others wait for it. A probe that never reports is given up at `until`.
    HalfOpen { until: Instant, openings: u32 },
}

/// The answer to "may I try?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Try, and report how it went.
    Try,
    /// Come back then.
    NotBefore(Instant),
}

/// The rules of a breaker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CircuitRules {
    /// Failures in a row that open it.
    pub(crate) failures: u32,
    /// How long it stays open.
    pub(crate) pause: Backoff,
    /// How long a probe may take before another is let through.
    pub(crate) probe_timeout: Duration,
}

impl CircuitState {
    /// A breaker that has seen nothing, or just a success.
    pub(crate) const NEW: Self = Self::Closed { failures: 0 };

    /// Asks to try at `now`.
    pub(crate) fn admit(self, now: Instant, rules: &CircuitRules) -> (Self, Admission) {
        match self {
            Self::Closed { .. } => (self, Admission::Try),
            Self::Open { until, openings } | Self::HalfOpen { until, openings } if now >= until => {
                (Self::HalfOpen { until: now + rules.probe_timeout, openings }, Admission::Try)
            }
            Self::Open { until, .. } | Self::HalfOpen { until, .. } => (self, Admission::NotBefore(until)),
        }
    }

    /// Reports a failure at `now`, with 64 random bits for the length of the pause.
    pub(crate) fn failed(self, now: Instant, rules: &CircuitRules, random: u64) -> Self {
        let open = |openings: u32| Self::Open { until: now + rules.pause.pause(openings, random), openings };
        match self {
            Self::Closed { failures } if failures.saturating_add(1) < rules.failures => {
                Self::Closed { failures: failures + 1 }
            }
            Self::Closed { .. } => open(1),
            Self::HalfOpen { openings, .. } => open(openings.saturating_add(1)),
            // A straggler from before it opened says nothing new.
            Self::Open { .. } => self,
        }
    }

    /// The broker is said to be alive: the next probe may go out at `now`. How long the pause after another failure is
    /// stays.
    pub(crate) fn forgiven(self, now: Instant) -> Self {
        match self {
            Self::Open { until, openings } => Self::Open { until: until.min(now), openings },
            Self::Closed { .. } | Self::HalfOpen { .. } => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> CircuitRules {
        CircuitRules {
            failures: 3,
            pause: Backoff::new(Duration::from_millis(500), Duration::from_secs(8)),
            probe_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn opens_after_the_limit_lets_one_probe_through_and_closes_on_success() {
        let (rules, mut now) = (rules(), Instant::now());
        let mut state = CircuitState::NEW;
        for _ in 0..2 {
            state = state.failed(now, &rules, 0);
            assert_eq!(state.admit(now, &rules).1, Admission::Try, "below the limit it stays closed");
        }
        state = state.failed(now, &rules, 0);
        assert!(matches!(state.admit(now, &rules).1, Admission::NotBefore(_)));
        now += Duration::from_secs(1);
        let (half, first) = state.admit(now, &rules);
        assert_eq!(first, Admission::Try);
        assert!(matches!(half.admit(now, &rules).1, Admission::NotBefore(_)), "one probe at a time");
        let again = half.failed(now, &rules, 0);
        assert!(matches!(again, CircuitState::Open { openings: 2, .. }), "{again:?}");
    }

    #[test]
    fn a_probe_that_never_reports_does_not_close_the_door_for_ever() {
        let (rules, now) = (rules(), Instant::now());
        let open = CircuitState::Open { until: now, openings: 1 };
        let (half, _) = open.admit(now, &rules);
        assert_eq!(half.admit(now + Duration::from_secs(5), &rules).1, Admission::Try);
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask,
        Succeed,
        Fail,
        Wait(u16),
    }

    proptest! {
        /// Catches a breaker that refuses for ever, that pauses longer than its cap, or that opens too early.
        #[test]
        fn always_lets_somebody_try_within_the_longest_pause(
            steps in prop::collection::vec(
                prop_oneof![Just(Step::Ask), Just(Step::Succeed), Just(Step::Fail), (0u16..4000).prop_map(Step::Wait)],
                0..60,
            ),
            random: u64,
        ) {
            let (rules, mut now, mut state) = (rules(), Instant::now(), CircuitState::NEW);
            let mut failures_in_a_row = 0;
            for step in steps {
                match step {
                    Step::Ask => {
                        let (next, admission) = state.admit(now, &rules);
                        state = next;
                        if let Admission::NotBefore(until) = admission {
                            prop_assert!(failures_in_a_row >= rules.failures);
                            prop_assert!(until > now && until <= now + Duration::from_secs(8));
                        }
                    }
                    Step::Succeed => { state = CircuitState::NEW; failures_in_a_row = 0; }
                    Step::Fail => { state = state.failed(now, &rules, random); failures_in_a_row += 1; }
                    Step::Wait(ms) => now += Duration::from_millis(u64::from(ms)),
                }
            }
            prop_assert_eq!(state.admit(now + Duration::from_secs(8), &rules).1, Admission::Try);
        }
    }
}
