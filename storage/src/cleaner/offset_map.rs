//! The newest offset of each key, in bounded memory: hashes of keys stand for the keys.
//!
//! Two keys of one hash would be taken for one, and the older record lost. The hash has 128 bits, which Kafka's cleaner
//! also relies upon.

use std::hash::{DefaultHasher, Hasher};

use streambus_protocol::offset::Offset;

/// A key's place; an empty one has no offset after it.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: [u64; 2],
    /// The newest offset of the key, plus one; zero for an empty slot.
    after: u64,
}

/// Slots of a new map.
const SLOTS_MIN: usize = 1 << 10;

/// An open-addressing map from keys to offsets. It doubles until the next size would be over its budget.
#[derive(Debug)]
pub struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    slots_max: usize,
}

impl OffsetMap {
    /// A map of at most `bytes_max` bytes, but of at least a thousand slots.
    pub fn new(bytes_max: usize) -> Self {
        let fitting = bytes_max / size_of::<Slot>();
        // Powers of two, so that a hash finds its slot by masking.
        let slots_max = if fitting < SLOTS_MIN { SLOTS_MIN } else { 1 << fitting.ilog2() };
        Self { slots: vec![Slot::default(); SLOTS_MIN], used: 0, slots_max }
    }

    /// Keys in it.
    pub fn len(&self) -> usize {
        self.used
    }

    /// True when there is no key in it.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Notes that `key` has a record at `offset`, which is above all noted before. False when there is no room.
    #[must_use]
    pub fn note(&mut self, key: &[u8], offset: Offset) -> bool {
        if self.used >= self.slots.len() / 4 * 3 && !self.grow() {
            return false;
        }
        let hash = hash_of(key);
        let is_new = self.slot(hash).is_some_and(|slot| {
            let is_new = slot.after == 0;
            *slot = Slot { hash, after: offset.get().saturating_add(1) };
            is_new
        });
        self.used += usize::from(is_new);
        true
    }

    /// The newest noted offset of `key`.
    pub fn newest(&self, key: &[u8]) -> Option<Offset> {
        let slot = self.slots.get(self.find(hash_of(key)))?;
        Offset::new(slot.after.checked_sub(1)?)
    }

    fn slot(&mut self, hash: [u64; 2]) -> Option<&mut Slot> {
        let at = self.find(hash);
        self.slots.get_mut(at)
    }

    /// The slot of `hash`, or the empty one where it belongs. There always is one: a quarter stays empty.
    fn find(&self, hash: [u64; 2]) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = usize::try_from(hash[0] & mask as u64).unwrap_or(0);
        while self.slots.get(at).is_some_and(|slot| slot.after != 0 && slot.hash != hash) {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) -> bool {
        let wanted = self.slots.len() * 2;
        if wanted > self.slots_max {
            return false;
        }
        let old = std::mem::replace(&mut self.slots, vec![Slot::default(); wanted]);
        for held in old.into_iter().filter(|slot| slot.after != 0) {
            if let Some(slot) = self.slot(held.hash) {
                *slot = held;
            }
        }
        true
    }
}

fn hash_of(key: &[u8]) -> [u64; 2] {
    let half = |prefix: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(prefix);
        hasher.write(key);
        hasher.finish()
    };
    [half(0), half(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_offset_is_kept_and_memory_is_bounded() {
        let mut map = OffsetMap::new(4096 * size_of::<Slot>());
        let mut offset = Offset::ZERO;
        let mut noted = 0_u64;
        while map.note(&noted.to_le_bytes(), offset) {
            noted += 1;
            offset = offset.next().expect("small");
        }
        assert_eq!((noted, map.len()), (4096 / 4 * 3, 4096 / 4 * 3));
        assert_eq!(map.newest(&7_u64.to_le_bytes()), Offset::new(7));
        assert_eq!(map.newest(b"never"), None);
        let mut map = OffsetMap::new(0);
        assert!(map.is_empty() && map.note(b"a", Offset::ZERO) && map.note(b"a", offset));
        assert_eq!((map.newest(b"a"), map.len()), (Some(offset), 1));
    }
}
