//! A consistent-hash ring: each partition owns 150 points, SHA-1 of its number and the point's; a key belongs to the
//! first point at or after its own SHA-1. A new partition takes keys from the others and moves none between them.

use sha1::{Digest, Sha1};

/// Points of each partition: enough that the largest share is within about a quarter of the mean.
const POINTS_PER_PARTITION: u32 = 150;

/// The ring for one number of partitions.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    /// (point, partition), sorted by point.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring for partitions `0..count`.
    pub(crate) fn new(count: u32) -> Self {
        let mut points: Vec<(u64, u32)> = (0..count)
            .flat_map(|partition| (0..POINTS_PER_PARTITION).map(move |point| (partition, point)))
            .map(|(partition, point)| {
                let mut name = [0; 8];
                for (slot, byte) in name.iter_mut().zip(partition.to_be_bytes().into_iter().chain(point.to_be_bytes()))
                {
                    *slot = byte;
                }
                (hash(&name), partition)
            })
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// The partition of `key`; `None` on a ring without partitions.
    pub(crate) fn partition(&self, key: &[u8]) -> Option<u32> {
        let at = hash(key);
        let next = self.points.partition_point(|(point, _)| *point < at);
        self.points.get(next).or_else(|| self.points.first()).map(|(_, partition)| *partition)
    }
}

/// The first eight bytes of SHA-1, big-endian.
fn hash(bytes: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(bytes).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = Vec<u8>> {
        (0..20_000u32).map(|i| format!("customer-{i}").into_bytes())
    }

    #[test]
    fn shares_are_even_within_a_third() {
        let (ring, mut counts) = (Ring::new(12), [0u32; 12]);
        for key in keys() {
            counts[ring.partition(&key).expect("not empty") as usize] += 1;
        }
        let mean = 20_000 / 12;
        for count in counts {
            assert!(count > mean * 2 / 3 && count < mean * 4 / 3, "{counts:?}");
        }
    }

    #[test]
    fn a_new_partition_takes_its_share_and_nothing_moves_between_the_old_ones() {
        let (before, after) = (Ring::new(12), Ring::new(13));
        let mut moved = 0;
        for key in keys() {
            let (old, new) = (before.partition(&key), after.partition(&key));
            if old != new {
                assert_eq!(new, Some(12), "a key moved between old partitions");
                moved += 1;
            }
        }
        assert!((20_000 / 26..20_000 / 8).contains(&moved), "{moved} keys moved, about 1 in 13 was expected");
    }

    #[test]
    fn an_empty_ring_has_no_place() {
        assert_eq!(Ring::new(0).partition(b"k"), None);
    }
}
