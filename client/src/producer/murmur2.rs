//! Murmur2 as Kafka's Java client computes it (`org.apache.kafka.common.utils.Utils.murmur2`), so that a key goes to the
//! same partition whichever client sends it.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// The hash of `key`.
pub(crate) fn murmur2(key: &[u8]) -> u32 {
    // Java's array length is a 32-bit integer too; no key is longer.
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut h = SEED ^ length;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        for (slot, byte) in last.iter_mut().zip(tail) {
            *slot = *byte;
        }
        h = (h ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of `key` among `count`, as Java's default partitioner chooses it. `count` must not be zero.
pub(crate) fn partition(key: &[u8], count: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_javas_numbers() {
        // From Kafka's own UtilsTest.testMurmur2.
        let vectors: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, expected) in vectors {
            assert_eq!(murmur2(key).cast_signed(), expected, "{key:?}");
        }
    }

    #[test]
    fn a_negative_hash_still_names_a_partition() {
        assert_eq!(partition(b"foobar", 10), (((-790_332_482_i32) & i32::MAX) % 10).cast_unsigned());
        assert!(partition(b"21", 3) < 3);
    }
}
