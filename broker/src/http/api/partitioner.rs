//! Which partition a record without a chosen one goes to: by key as Kafka's default partitioner does, so that a key
//! meets its earlier records whichever door they came through; without a key, one partition per request.

use streambus_protocol::ids::PartitionIndex;

/// The partition of `key` among `partitions`, which is at least 1.
pub(super) fn of_key(key: &[u8], partitions: u32) -> PartitionIndex {
    // The sign bit is cleared, not the number negated: that is how Kafka makes it positive.
    PartitionIndex::new((murmur2(key) & 0x7fff_ffff) % partitions.max(1))
}

/// The partition of a request's records without a key: `turn` counts requests, so that load spreads and one request's
/// records stay in order.
pub(super) fn of_turn(turn: u64, partitions: u32) -> PartitionIndex {
    let place = turn % u64::from(partitions.max(1));
    PartitionIndex::new(u32::try_from(place).unwrap_or(0))
}

/// MurmurHash2 (32 bits, Austin Appleby) with the seed that Kafka uses.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Kafka's length is a Java int; a key of 4 GiB cannot get here.
    let mut hash = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut words = data.chunks_exact(4);
    for word in words.by_ref() {
        let mut k = word.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        hash ^= tail.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of Kafka's own test of its hash.
    #[test]
    fn hashes_as_kafka_does() {
        for (key, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn partitions_are_in_range_and_turns_go_round() {
        for n in 1..50 {
            assert!(of_key(b"some key", n).get() < n);
        }
        let turns: Vec<u32> = (0..5).map(|turn| of_turn(turn, 3).get()).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1]);
    }
}
