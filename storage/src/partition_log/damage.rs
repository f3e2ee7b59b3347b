//! Offsets of one log that this disk has lost. Known damage is remembered, never served, and never the end of a log.

use streambus_protocol::offset::Offset;

/// Ranges remembered for one log; neighbours are merged, and past this number the two closest ones are.
const RANGES_MAX: usize = 256;

/// A half-open range of damaged offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DamagedOffsets {
    /// First damaged offset.
    #[serde(serialize_with = "serialize_offset")]
    pub base: Offset,
    /// The first offset behind the damage.
    #[serde(serialize_with = "serialize_offset")]
    pub next: Offset,
}

fn serialize_offset<S: serde::Serializer>(offset: &Offset, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(offset.get())
}

/// The damage of one log, in order, without overlaps. Costs nothing while there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DamageMap {
    ranges: Vec<DamagedOffsets>,
}

impl DamageMap {
    pub(crate) fn from_ranges(ranges: impl IntoIterator<Item = DamagedOffsets>) -> Self {
        let mut map = Self::default();
        for range in ranges {
            map.add(range.base, range.next);
        }
        map
    }

    pub(crate) fn ranges(&self) -> &[DamagedOffsets] {
        &self.ranges
    }

    /// Adds `base..next`; returns false when all of it was known.
    pub(crate) fn add(&mut self, base: Offset, next: Offset) -> bool {
        if base >= next || self.ranges.iter().any(|known| known.base <= base && next <= known.next) {
            return false;
        }
        let (mut base, mut next) = (base, next);
        self.ranges.retain(|known| {
            let touches = known.base <= next && base <= known.next;
            if touches {
                base = base.min(known.base);
                next = next.max(known.next);
            }
            !touches
        });
        let at = self.ranges.partition_point(|known| known.base < base);
        self.ranges.insert(at, DamagedOffsets { base, next });
        // Cutting a repaired stretch out may have added one.
        while self.ranges.len() > RANGES_MAX {
            self.merge_closest();
        }
        true
    }

    /// The damage that `offset` lies in.
    pub(crate) fn at(&self, offset: Offset) -> Option<DamagedOffsets> {
        let after = self.ranges.partition_point(|known| known.base <= offset);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).filter(|known| offset < known.next).copied()
    }

    /// True when some of `base..next` is damaged.
    pub(crate) fn overlaps(&self, base: Offset, next: Offset) -> bool {
        self.ranges.iter().any(|known| known.base < next && base < known.next)
    }

    /// Forgets `base..next`: it was stored anew.
    pub(crate) fn remove(&mut self, base: Offset, next: Offset) {
        let cut = |known: &DamagedOffsets| {
            let left = DamagedOffsets { base: known.base, next: known.next.min(base) };
            let right = DamagedOffsets { base: known.base.max(next), next: known.next };
            [left, right].into_iter().filter(|part| part.base < part.next)
        };
        self.ranges = self.ranges.iter().flat_map(cut).collect();
    }

    /// Forgets damage below `start`.
    pub(crate) fn trim(&mut self, start: Offset) {
        self.ranges.retain(|known| known.next > start);
        if let Some(first) = self.ranges.first_mut() {
            first.base = first.base.max(start);
        }
    }

    /// Forgets damage at or above `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.ranges.retain(|known| known.base < end);
        if let Some(last) = self.ranges.last_mut() {
            last.next = last.next.min(end);
        }
    }

    /// Calls a good stretch damaged rather than to forget a damaged one.
    fn merge_closest(&mut self) {
        let gap = |pair: &[DamagedOffsets]| match pair {
            [a, b] => a.next.distance_to(b.base).unwrap_or(0),
            _ => u64::MAX,
        };
        let closest = self.ranges.windows(2).enumerate().min_by_key(|(_, pair)| gap(pair)).map(|(i, _)| i);
        if let Some(i) = closest {
            let second = self.ranges.remove(i + 1);
            if let Some(first) = self.ranges.get_mut(i) {
                first.next = second.next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: u64) -> Offset {
        Offset::new(value).expect("small")
    }

    #[test]
    fn ranges_merge_and_are_cut_with_the_log() {
        let mut map = DamageMap::default();
        assert!(map.add(offset(10), offset(20)));
        assert!(map.add(offset(30), offset(40)));
        assert!(!map.add(offset(12), offset(18)), "known already");
        assert!(map.add(offset(20), offset(30)));
        assert_eq!(map.ranges(), [DamagedOffsets { base: offset(10), next: offset(40) }]);
        assert_eq!(map.at(offset(9)), None);
        assert!(map.at(offset(10)).is_some() && map.at(offset(39)).is_some());
        assert_eq!(map.at(offset(40)), None, "half-open");
        map.trim(offset(15));
        map.truncate(offset(35));
        assert_eq!(map.ranges(), [DamagedOffsets { base: offset(15), next: offset(35) }]);
    }

    #[test]
    fn a_repaired_stretch_is_cut_out_and_nothing_else() {
        let mut map = DamageMap::from_ranges([
            DamagedOffsets { base: offset(10), next: offset(20) },
            DamagedOffsets { base: offset(30), next: offset(40) },
        ]);
        map.remove(offset(12), offset(15));
        map.remove(offset(30), offset(40));
        map.remove(offset(20), offset(30));
        let left = [
            DamagedOffsets { base: offset(10), next: offset(12) },
            DamagedOffsets { base: offset(15), next: offset(20) },
        ];
        assert_eq!(map.ranges(), left);
    }

    // Catches a bound that forgets damage: what is forgotten might be served.
    #[test]
    fn the_bound_widens_damage_and_never_forgets_it() {
        let mut map = DamageMap::default();
        for i in 0..1_000 {
            map.add(offset(i * 10), offset(i * 10 + 1));
        }
        assert!(map.ranges().len() <= RANGES_MAX);
        assert!((0..1_000).all(|i| map.at(offset(i * 10)).is_some()));
    }
}
