//! What is wrong with a configuration, said so that it can be put right at once.

use std::fmt;

/// One thing that is wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The key, as it was written.
    pub key: String,
    /// What is wrong with it or its value.
    pub problem: String,
    /// What was probably meant, if something comes close.
    pub suggestion: Option<String>,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean '{suggestion}'?"),
            None => Ok(()),
        }
    }
}

/// A key that does not exist.
pub(super) fn unknown_key(name: &str, keys: &[&str]) -> ConfigProblem {
    ConfigProblem { key: excerpt(name), problem: "there is no such key".into(), suggestion: closest(name, keys) }
}

/// A value that is none of the choices, and the choice that was probably meant.
pub(super) fn not_one_of(value: &str, choices: &[&str]) -> (String, Option<String>) {
    (format!("'{}' is none of: {}", excerpt(value), choices.join(", ")), closest(value, choices))
}

/// The start of a text that somebody else wrote: problems are shown and logged.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The choice that needs the fewest changes, when these are few for its length. Case and the separators `-`, `_` and `.`
/// do not count.
fn closest(text: &str, choices: &[&str]) -> Option<String> {
    let plain = |text: &str| -> Vec<char> {
        text.chars().take(64).map(|c| if matches!(c, '-' | '_') { '.' } else { c.to_ascii_lowercase() }).collect()
    };
    let text = plain(text);
    choices
        .iter()
        .map(|choice| (distance(&text, &plain(choice)), *choice))
        .min()
        .filter(|(distance, choice)| *distance <= choice.chars().count() / 3)
        .map(|(_, choice)| choice.to_owned())
}

/// Levenshtein's distance: insertions, deletions and replacements that turn one text into the other.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, above) in to.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *above;
            left = replaced.min(left + 1).min(*above + 1);
            *above = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_insertions_deletions_and_replacements() {
        let measured = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(measured("kitten", "sitting"), 3);
        assert_eq!(measured("", "abc"), 3);
        assert_eq!(measured("abc", ""), 3);
        assert_eq!(measured("abc", "abc"), 0);
        assert_eq!(measured("abc", "acb"), 2);
    }

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_is_not() {
        assert_eq!(closest("retention_ms", &["retention.ms", "retention.bytes"]), Some("retention.ms".into()));
        assert_eq!(closest("createtime", &["CreateTime", "LogAppendTime"]), Some("CreateTime".into()));
        assert_eq!(closest("zzz", &["retention.ms"]), None);
    }
}
