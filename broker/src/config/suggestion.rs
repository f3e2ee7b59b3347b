//! "Did you mean": the known name nearest to the one somebody typed.

/// The nearest of `known` to `typed`, if one is near enough to be worth saying. Ties go to the first.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    // A third of the letters may be wrong: more, and the guess is noise.
    let limit = (typed.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|name| (edits(&typed, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b` (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(NAME_CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(NAME_CHARS_MAX).collect();
    let mut older: Vec<usize> = Vec::new();
    let mut old: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut new = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replace = old[j] + usize::from(from != to);
            let mut best = replace.min(old[j + 1] + 1).min(new[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *to && *from == b[j - 1] {
                best = best.min(older[j - 1] + 1);
            }
            new.push(best);
        }
        older = std::mem::replace(&mut old, new);
    }
    old[b.len()]
}

/// Names are compared up to here: the work is quadratic and the typed name comes from outside.
const NAME_CHARS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("orders", "ordres", 1), ("kitten", "sitting", 3)] {
            assert_eq!(edits(a, b), expected, "{a} {b}");
            assert_eq!(edits(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn near_names_are_offered_and_far_ones_are_not() {
        let known = ["orders", "payments", "returns"];
        assert_eq!(nearest("ordres", known), Some("orders"));
        assert_eq!(nearest("ORDERS", known), Some("orders"));
        assert_eq!(nearest("customers", known), None);
        assert_eq!(nearest("", known), None);
    }
}
