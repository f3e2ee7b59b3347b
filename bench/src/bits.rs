//! A set of numbers from zero, a bit each. Pure.

/// The set; it grows with its largest member.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// Sets a bit and tells whether it was set before.
    pub(crate) fn set(&mut self, index: u64) -> bool {
        let word = usize::try_from(index / 64).unwrap_or(usize::MAX);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let mask = 1_u64 << (index % 64);
        let before = self.0[word] & mask != 0;
        self.0[word] |= mask;
        before
    }

    /// How many members it has.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Members that `other` does not have.
    pub(crate) fn count_missing_in(&self, other: &Self) -> u64 {
        let words = self.0.iter().enumerate();
        words.map(|(i, word)| u64::from((word & !other.0.get(i).copied().unwrap_or(0)).count_ones())).sum()
    }
}
