//! What has been said of a damaged index: each of its files is named once, not with each read and each round of background
//! work that meets it until the broker is started again. RocksDB gives no two files the same number.

use std::collections::BTreeSet;

/// Pieces of news that are remembered. An index of more damaged files has been said to be damaged often enough.
const NEWS_MAX: usize = 100;

/// The damage of one open index.
#[derive(Debug, Default)]
pub(crate) struct IndexDamage {
    said: BTreeSet<String>,
    /// The next start will rebuild it.
    pub(crate) is_noted: bool,
}

impl IndexDamage {
    /// True when `problem` is about a file that was not said to be damaged before; or, where it names none, says what was
    /// not said before.
    pub(crate) fn is_news(&mut self, problem: &str) -> bool {
        let subject = table_of(problem).unwrap_or(problem);
        self.said.len() < NEWS_MAX && !self.said.contains(subject) && self.said.insert(subject.to_owned())
    }
}

/// The number of the table that RocksDB names.
fn table_of(problem: &str) -> Option<&str> {
    let (before, _) = problem.split_once(".sst")?;
    let number = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    (!number.is_empty()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Catches a line for every read and every round of background work that meets the same damage, another damaged file that
    // nobody hears of, and memory that grows with what is said.
    #[test]
    fn each_damaged_file_is_said_once() {
        let in_table = |table: u32, at: u32| {
            format!(
                "Corruption: block checksum mismatch: stored = {at}, computed = 7  in /data/index/{table:06}.sst offset {at} size 4"
            )
        };
        let mut damage = IndexDamage::default();
        assert!(damage.is_news(&in_table(12, 0)));
        assert!(!damage.is_news(&in_table(12, 0)) && !damage.is_news(&in_table(12, 4_096)), "the same file");
        assert!(damage.is_news(&in_table(13, 0)));
        assert!(damage.is_news("an extent that ends before it begins"));
        assert!(!damage.is_news("an extent that ends before it begins"));
        assert!(damage.is_news("Corruption: .sst"), "it names no file");
        let said = (0..10_000).filter(|at| damage.is_news(&format!("a value of {at} bytes"))).count();
        assert!(said < NEWS_MAX && !damage.is_news(&in_table(14, 0)), "{said}");
    }
}
