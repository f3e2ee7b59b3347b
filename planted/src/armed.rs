//! The process's one planted defect, in builds that can have one.

use std::sync::OnceLock;

use crate::Defect;

/// The environment variable by which `streambus-planted` is told what to plant.
pub const VARIABLE: &str = "STREAMBUS_PLANTED_BUG";

/// Written once, before the broker starts, and read wherever a mistake could be made: state of the process on purpose, so
/// that no constructor of the real broker has to carry it.
static PLANTED: OnceLock<Defect> = OnceLock::new();

/// No defect has that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownDefect(String);

impl std::fmt::Display for UnknownDefect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known: Vec<_> = Defect::ALL.iter().map(|defect| defect.name()).collect();
        write!(f, "{VARIABLE}={} names no planted bug: there is {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownDefect {}

/// The defect of this name.
///
/// # Errors
/// [`UnknownDefect`], which lists those that exist.
pub fn named(name: &str) -> Result<Defect, UnknownDefect> {
    let found = Defect::ALL.iter().copied().find(|defect| defect.name() == name);
    found.ok_or_else(|| UnknownDefect(name.to_owned()))
}

/// Plants `defect` in this process, for good. A second one is not planted: a process has one defect.
pub fn plant(defect: Defect) {
    let now = *PLANTED.get_or_init(|| defect);
    assert_eq!(now, defect, "a process has one planted defect");
}

/// The defect of this process.
pub fn planted() -> Option<Defect> {
    PLANTED.get().copied()
}

/// Whether this process makes the mistake.
#[inline]
pub fn is_planted(defect: Defect) -> bool {
    planted() == Some(defect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_is_found_by_its_name_and_no_other() {
        for defect in Defect::ALL {
            assert_eq!(named(defect.name()), Ok(*defect));
        }
        let refused = named("typo").expect_err("no such defect").to_string();
        assert!(Defect::ALL.iter().all(|defect| refused.contains(defect.name())), "{refused}");
    }

    #[test]
    fn a_process_makes_only_the_mistake_that_was_planted() {
        assert!(Defect::ALL.iter().all(|defect| !is_planted(*defect)));
        plant(Defect::ForgottenVote);
        let made: Vec<_> = Defect::ALL.iter().filter(|defect| is_planted(**defect)).collect();
        assert_eq!(made, [&Defect::ForgottenVote]);
    }
}
