//! Damage in RocksDB's own logs, write-ahead logs and manifests, that RocksDB takes for their end.
//!
//! A record is `checksum u32 | length u16 | kind u8 | payload`, in blocks of 32 KiB that no record crosses; the checksum is
//! over kind and payload. Where a length leads past the end of the file RocksDB sees a write that was torn, and where a
//! kind says so a file that was used before: what follows is dropped without a word, with votes and entries that others
//! rely on. A damaged last record is dropped as well, and one flipped bit of a kind makes it read the same bytes for ever.
//!
//! A torn write is what a crash leaves, and fine: it was never promised. It differs from damage in that no record comes
//! behind it, and in that no single bit makes it whole.
//!
//! A power cut may also leave the later of two records that were written since the last sync, without the earlier one. That
//! is refused like damage. The log cannot tell the two apart: what it would need is a word, on the disk before anything is
//! promised, of how far it is synced, which is a second sync for each group; and a later record that says how far the log
//! was synced before it says nothing of its own group, of which a part may as well have been promised and lost. Refusing
//! loses nothing: such a node joins anew.

use crate::Flaw;

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
/// Where the bytes begin that a checksum covers.
const COVERED_FROM: usize = 6;
/// A record in one piece, and the first, a middle and the last piece of one.
const KINDS: std::ops::RangeInclusive<u8> = 1..=4;
/// CRC-32C, reflected.
const POLYNOMIAL: u32 = 0x82F6_3B78;
const MASK_DELTA: u32 = 0xA282_EAD8;

/// Refuses a log that is damaged; a torn end is no damage.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Flaw> {
    let mut at = 0;
    loop {
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            at += left;
        } else if let Some(record) = Record::at(bytes, at).filter(Record::is_whole) {
            at = record.end;
        } else {
            break;
        }
    }
    let is_damaged = Record::at(bytes, at).is_some_and(|record| record.is_one_bit_off(bytes, at))
        || (at + 1..bytes.len()).any(|later| starts_record(bytes, later));
    if is_damaged { Err(Flaw { position: at, what: "a record does not match its checksum" }) } else { Ok(()) }
}

fn starts_record(bytes: &[u8], at: usize) -> bool {
    let kind = bytes.get(at + COVERED_FROM);
    kind.is_some_and(|kind| KINDS.contains(kind)) && Record::at(bytes, at).is_some_and(|record| record.is_whole())
}

/// What a header says.
struct Record<'a> {
    checksum: u32,
    length: u16,
    /// What the checksum is over, if all of it is there.
    covered: Option<&'a [u8]>,
    end: usize,
}

impl<'a> Record<'a> {
    fn at(bytes: &'a [u8], at: usize) -> Option<Self> {
        let header: [u8; HEADER_BYTES] = bytes.get(at..at.checked_add(HEADER_BYTES)?)?.try_into().ok()?;
        let [c0, c1, c2, c3, l0, l1, _] = header;
        let length = u16::from_le_bytes([l0, l1]);
        let (covered, end) = covered(bytes, at, length);
        Some(Self { checksum: u32::from_le_bytes([c0, c1, c2, c3]), length, covered, end })
    }

    fn is_whole(&self) -> bool {
        self.covered.is_some_and(|covered| masked(crc32c::crc32c(covered)) == self.checksum)
    }

    /// True when this record at `at`, which is not whole, is whole but for one bit.
    fn is_one_bit_off(&self, bytes: &[u8], at: usize) -> bool {
        let in_what_is_covered = self.covered.is_some_and(|covered| {
            let actual = crc32c::crc32c(covered);
            let in_the_checksum = (masked(actual) ^ self.checksum).is_power_of_two();
            in_the_checksum || is_of_one_bit(actual ^ unmasked(self.checksum), covered.len())
        });
        let in_the_length = (0..u16::BITS).any(|bit| {
            let (covered, _) = covered(bytes, at, self.length ^ (1 << bit));
            covered.is_some_and(|covered| masked(crc32c::crc32c(covered)) == self.checksum)
        });
        in_what_is_covered || in_the_length
    }
}

/// What the checksum of a record at `at` with this length is over, and where the record ends.
fn covered(bytes: &[u8], at: usize, length: u16) -> (Option<&[u8]>, usize) {
    let end = at + HEADER_BYTES + usize::from(length);
    let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
    (bytes.get(at + COVERED_FROM..end).filter(|_| end <= block_end), end)
}

/// True when two texts of `bytes` bytes whose checksums differ by `difference` may differ in a single bit: checksums are
/// linear.
fn is_of_one_bit(difference: u32, bytes: usize) -> bool {
    let mut of_bits = [1, 2, 4, 8, 16, 32, 64, 128].map(behind_a_byte);
    for _ in 0..bytes {
        if of_bits.contains(&difference) {
            return true;
        }
        of_bits = of_bits.map(behind_a_byte);
    }
    false
}

fn behind_a_byte(mut difference: u32) -> u32 {
    for _ in 0..8 {
        difference = (difference >> 1) ^ if difference & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    difference
}

/// Checksums are stored like this.
const fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(MASK_DELTA)
}

const fn unmasked(stored: u32) -> u32 {
    stored.wrapping_sub(MASK_DELTA).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The log of a database that was closed, over two blocks long.
    fn log(folder: &Path) -> Vec<u8> {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        let database = rocksdb::DB::open(&options, folder).unwrap();
        for at in 0..300_u32 {
            database.put(at.to_be_bytes(), [7; 120]).unwrap();
        }
        database.flush_wal(true).unwrap();
        drop(database);
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|file| file.extension().is_some_and(|kind| kind == "log"));
        logs.map(|log| fs::read(log).unwrap()).max_by_key(Vec::len).expect("a log")
    }

    /// Headers of the records, the last one included.
    fn headers(bytes: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(record) = Record::at(bytes, at).filter(Record::is_whole) {
            found.push(at);
            at = record.end;
            if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES {
                at = at.next_multiple_of(BLOCK_BYTES);
            }
        }
        found
    }

    /// Catches: a flipped bit that is taken for the end of the log, wherever it is, in the last record too.
    #[test]
    fn every_flipped_bit_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = log(folder.path());
        assert!(bytes.len() > BLOCK_BYTES + 1_000, "{} bytes", bytes.len());
        assert_eq!(check(&bytes), Ok(()));
        let headers = headers(&bytes);
        let last = *headers.last().unwrap();
        let in_headers = headers.iter().flat_map(|at| *at..at + HEADER_BYTES);
        let anywhere = (0..bytes.len()).step_by(97).chain(last..bytes.len());
        for byte in in_headers.chain(anywhere) {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[byte] ^= 1 << bit;
                let found = check(&flipped).expect_err("a flipped bit is damage").position;
                assert!(found <= byte && byte - found <= BLOCK_BYTES, "{byte}: {found}");
            }
        }
    }

    /// Catches: a crash that leaves a part of the last write taken for damage.
    #[test]
    fn a_torn_end_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = log(folder.path());
        for end in (0..bytes.len()).rev().step_by(11) {
            assert_eq!(check(&bytes[..end]), Ok(()), "cut at {end}");
        }
        let last = *headers(&bytes).last().unwrap();
        for kept in 1..bytes.len() - last {
            let mut torn = bytes.clone();
            torn[last + kept..].fill(0);
            // A cut before bytes that are zero anyhow tears nothing.
            assert!(torn == bytes || check(&torn).is_ok() || kept + 1 >= bytes.len() - last, "{kept} bytes kept");
        }
        let mut longer = bytes;
        longer.extend([0; 5_000]);
        assert_eq!(check(&longer), Ok(()));
    }

    /// Catches: a page that is gone and, with a whole record behind it, taken for what a crash tore: perhaps it was promised.
    #[test]
    fn a_hole_before_a_record_is_damage() {
        const PAGE_BYTES: usize = 4096;
        let folder = tempfile::tempdir().unwrap();
        let bytes = log(folder.path());
        let before_last = headers(&bytes).last().unwrap() / PAGE_BYTES - 1;
        for page in [1, before_last] {
            let hole = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
            let mut holed = bytes.clone();
            holed[hole.clone()].fill(0);
            let found = check(&holed).expect_err("a record comes behind it").position;
            assert!(found < hole.end && found + PAGE_BYTES > hole.start, "{found} for {hole:?}");
        }
    }
}
