//! Damage in RocksDB's tables, block by block: also in those that RocksDB reads late, or passes over when they are damaged,
//! as it does with deleted ranges.
//!
//! ```text
//!  block | block | ... | metaindex | footer
//!  block  = payload | kind of compression u8 | checksum u32
//!  footer = kind of checksum u8 | 40 bytes | format u32 | magic u64
//! ```
//!
//! The checksum is over payload and kind. The metaindex names the blocks that are not data, the index all that are; nothing
//! lies between blocks. In format 5 the footer's 40 bytes are where metaindex and index lie, then zeros. From format 6 on they
//! have a checksum of their own, and a number of which, with its position, each checksum of the file has an addend.
//! (`table/format.cc` and `table/block_based/block_builder.cc` of RocksDB.)

use twox_hash::XxHash3_64;

use crate::Flaw;

const MAGIC: u64 = 0x88e2_41b7_85f4_cff7;
const FOOTER_BYTES: usize = 53;
/// Where a format's own part of the footer begins, and where the format is.
const OWN_PART: usize = 1;
const FORMAT_AT: usize = 41;
/// The formats of the metadata's tables and of the index's. No single bit makes one of the other.
const FORMAT_BARE: u32 = 5;
const FORMAT_SEALED: u32 = 6;
/// XXH3, the only kind of checksum that this release writes.
const CHECKSUM_XXH3: u8 = 4;
const SEALED_MAGIC: [u8; 4] = [0x3e, 0x00, 0x7a, 0x00];
/// Where the sealed part has its checksum.
const SEAL_AT: std::ops::Range<usize> = 5..9;
/// Bytes behind a payload: the kind of compression and the checksum.
const TRAILER_BYTES: usize = 5;
const LAST_BYTE_PRIME: u32 = 0x6b90_83d9;
/// Bits of a block's last number that count its entries; those above are flags.
const COUNT_MASK: u32 = 0x0fff_ffff;
const INDEX: &[u8] = b"rocksdb.index";

const FOOTER: &str = "the footer of the table does not check";
const BLOCK: &str = "a block does not match its checksum";
const ENTRIES: &str = "a block lists others in a way that this release does not write";
const TILES: &str = "bytes belong to no block";

/// Refuses a table in which any byte is damaged.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Flaw> {
    let footer = Footer::of(bytes)?;
    let mut blocks = vec![footer.metaindex];
    let mut index = footer.index;
    for entry in entries(footer.prove(bytes, footer.metaindex)?, Values::Sized, footer.metaindex)? {
        if entry.key == INDEX {
            index = Some(entry.block);
        } else {
            footer.prove(bytes, entry.block)?;
            blocks.push(entry.block);
        }
    }
    let index = index.ok_or(Flaw { position: footer.metaindex.at, what: ENTRIES })?;
    blocks.push(index);
    for entry in entries(footer.prove(bytes, index)?, Values::Bare, index)? {
        footer.prove(bytes, entry.block)?;
        blocks.push(entry.block);
    }
    blocks.sort_unstable();
    blocks.dedup();
    let mut next = 0;
    for block in blocks {
        if block.at != next {
            return Err(Flaw { position: next, what: TILES });
        }
        next = block.at + block.bytes + TRAILER_BYTES;
    }
    if next == footer.at { Ok(()) } else { Err(Flaw { position: next, what: TILES }) }
}

/// Where a block's payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    at: usize,
    bytes: usize,
}

/// What a footer says.
struct Footer {
    at: usize,
    metaindex: Block,
    /// From format 6 on the metaindex says it.
    index: Option<Block>,
    /// What the addend of each checksum is made of; zero in format 5, which has none.
    base: u32,
}

impl Footer {
    fn of(bytes: &[u8]) -> Result<Self, Flaw> {
        let at = bytes.len().checked_sub(FOOTER_BYTES).ok_or(Flaw { position: 0, what: FOOTER })?;
        let read = || {
            let footer: [u8; FOOTER_BYTES] = bytes.get(at..)?.try_into().ok()?;
            let (&kind, mut tail) = (footer.first()?, Input(footer.get(FORMAT_AT..)?));
            let format = tail.u32()?;
            let magic = tail.u64()?;
            let own = Input(footer.get(OWN_PART..FORMAT_AT)?);
            if kind != CHECKSUM_XXH3 || magic != MAGIC {
                return None;
            }
            match format {
                FORMAT_BARE => Self::bare(at, own),
                FORMAT_SEALED => Self::sealed(at, own, &footer),
                _ => None,
            }
        };
        read().ok_or(Flaw { position: at, what: FOOTER })
    }

    fn bare(at: usize, mut own: Input<'_>) -> Option<Self> {
        let (metaindex, index) = (own.block()?, own.block()?);
        let is_padded = own.0.iter().all(|byte| *byte == 0);
        is_padded.then_some(Self { at, metaindex, index: Some(index), base: 0 })
    }

    fn sealed(at: usize, mut own: Input<'_>, footer: &[u8; FOOTER_BYTES]) -> Option<Self> {
        let magic = own.take(SEALED_MAGIC.len())?;
        let (stored, base, metaindex_bytes) = (own.u32()?, own.u32()?, usize::try_from(own.u32()?).ok()?);
        let mut unsealed = *footer;
        unsealed.get_mut(SEAL_AT)?.fill(0);
        let computed = checksum(&unsealed)?.wrapping_add(addend(base, at));
        let metaindex = Block { at: at.checked_sub(metaindex_bytes + TRAILER_BYTES)?, bytes: metaindex_bytes };
        let is_whole = magic == SEALED_MAGIC && computed == stored && base != 0;
        is_whole.then_some(Self { at, metaindex, index: None, base })
    }

    /// The payload of a block, once its checksum is verified.
    fn prove<'a>(&self, bytes: &'a [u8], block: Block) -> Result<&'a [u8], Flaw> {
        let read = || {
            let covered_end = block.at.checked_add(block.bytes)?.checked_add(1)?;
            let covered = bytes.get(..self.at)?.get(block.at..covered_end)?;
            let stored = Input(bytes.get(covered_end..self.at)?).u32()?;
            let computed = checksum(covered)?.wrapping_add(addend(self.base, block.at));
            (stored == computed).then_some(covered.get(..block.bytes)?)
        };
        read().ok_or(Flaw { position: block.at.min(self.at), what: BLOCK })
    }
}

/// What a block says of another one.
struct Entry<'a> {
    key: &'a [u8],
    block: Block,
}

/// How a block's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// With their length before the key.
    Sized,
    /// Without.
    Bare,
}

/// What the metaindex or the index, which is `block`, lists. Both restart at every entry: no key shares its beginning with
/// the one before.
fn entries(payload: &[u8], values: Values, block: Block) -> Result<Vec<Entry<'_>>, Flaw> {
    let read = || {
        let count_at = payload.len().checked_sub(size_of::<u32>())?;
        let count = usize::try_from(Input(payload.get(count_at..)?).u32()? & COUNT_MASK).ok()?;
        let end = count_at.checked_sub(count.checked_mul(size_of::<u32>())?)?;
        let mut input = Input(payload.get(..end)?);
        let mut entries = Vec::new();
        while !input.0.is_empty() {
            let (shared, key_bytes) = (input.varint()?, input.varint()?);
            let value_bytes = if values == Values::Sized { Some(input.varint()?) } else { None };
            let key = input.take(key_bytes)?;
            let before = input.0.len();
            let block = input.block()?;
            let is_as_sized = value_bytes.is_none_or(|bytes| before - input.0.len() == bytes);
            if shared != 0 || !is_as_sized {
                return None;
            }
            entries.push(Entry { key, block });
        }
        Some(entries)
    };
    read().ok_or(Flaw { position: block.at, what: ENTRIES })
}

/// Bytes that are left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(size_of::<u32>())?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(size_of::<u64>())?.try_into().ok().map(u64::from_le_bytes)
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow. In no more bytes than it takes, or a flipped
    /// bit before a zero would go unnoticed.
    fn varint(&mut self) -> Option<usize> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                let is_shortest = byte != 0 || shift == 0;
                return usize::try_from(value).ok().filter(|_| is_shortest);
            }
        }
        None
    }

    fn block(&mut self) -> Option<Block> {
        Some(Block { at: self.varint()?, bytes: self.varint()? })
    }
}

/// XXH3 of all bytes but the last, which is mixed in.
fn checksum(bytes: &[u8]) -> Option<u32> {
    let (last, hashed) = bytes.split_last()?;
    Some(low_half(XxHash3_64::oneshot(hashed)) ^ u32::from(*last).wrapping_mul(LAST_BYTE_PRIME))
}

/// What a checksum at `position` has added; nothing without a base.
fn addend(base: u32, position: usize) -> u32 {
    let position = position as u64;
    if base == 0 { 0 } else { base ^ low_half(position).wrapping_add(low_half(position >> u32::BITS)) }
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The table of a database with as many keys and, if so, a deleted range.
    fn table(folder: &Path, format: u32, keys: u32, deletes: bool) -> Vec<u8> {
        let mut blocks = rocksdb::BlockBasedOptions::default();
        blocks.set_format_version(i32::try_from(format).unwrap());
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_block_based_table_factory(&blocks);
        let database = rocksdb::DB::open(&options, folder).unwrap();
        for key in 0..keys {
            database.put(key.to_be_bytes(), [7; 60]).unwrap();
        }
        if deletes {
            let mut batch = rocksdb::WriteBatch::default();
            batch.delete_range(3_u32.to_be_bytes(), 9_u32.to_be_bytes());
            database.write(batch).unwrap();
        }
        database.flush().unwrap();
        let files = database.live_files().unwrap();
        assert_eq!(files.len(), 1, "one table");
        fs::read(folder.join(files[0].name.trim_start_matches('/'))).unwrap()
    }

    /// Catches: a bit of a table that nothing proves, a deleted range whose damage RocksDB passes over, and a table that is
    /// refused as it was written.
    #[test]
    fn every_flipped_bit_is_damage_and_what_rocksdb_writes_is_not() {
        for (format, keys, deletes) in [(FORMAT_BARE, 200, true), (FORMAT_SEALED, 200, false), (FORMAT_BARE, 0, true)] {
            let folder = tempfile::tempdir().unwrap();
            let bytes = table(folder.path(), format, keys, deletes);
            assert_eq!(check(&bytes), Ok(()), "format {format}, {keys} keys");
            for bit in 0..bytes.len() * 8 {
                // All of the end, where the small blocks and the footer are; of the data every third bit.
                if bit / 8 + 2_000 < bytes.len() && bit % 3 != 0 {
                    continue;
                }
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let Err(flaw) = check(&flipped) else {
                    panic!("format {format}, {keys} keys, {} bytes: bit {bit} is not noticed", bytes.len())
                };
                assert!(flaw.position <= bytes.len() - FOOTER_BYTES, "bit {bit}: {flaw:?}");
                assert!(bit / 8 >= bytes.len() - FOOTER_BYTES || flaw.position <= bit / 8, "bit {bit}: {flaw:?}");
            }
        }
    }

    /// Catches: a table that lost its end, or got one of another, taken for whole.
    #[test]
    fn a_cut_table_and_one_with_more_bytes_are_damage() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = table(folder.path(), FORMAT_BARE, 200, true);
        for end in (0..bytes.len()).step_by(61) {
            assert!(check(&bytes[..end]).is_err(), "cut at {end}");
        }
        let footer = bytes.len() - FOOTER_BYTES;
        let longer = [&bytes[..footer], &[0; 16], &bytes[footer..]].concat();
        assert_eq!(check(&longer), Err(Flaw { position: footer, what: TILES }));
    }
}
