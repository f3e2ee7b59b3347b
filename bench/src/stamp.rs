//! The stamp that benchmark records carry, so that reading them back proves what happened to each.
//!
//! 24 bytes, little-endian, at the start of the value: `u32` run, `u16` producer, `u16` zero, `u32` sequence, `u64`
//! intended send time (microseconds since the run's start), `u32` CRC-32C of the whole value with this field zero.

use bytes::Bytes;

/// Bytes of a stamp: the smallest value that can carry one.
pub const STAMP_BYTES: usize = 24;
const CRC_AT: usize = 20;

/// Which record of which run this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run: u32,
    /// The producer within the run.
    pub producer: u16,
    /// The record's number within its producer, from zero.
    pub sequence: u32,
    /// When it was meant to be sent, microseconds since the run's start.
    pub intended_micros: u64,
}

/// What a value turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A stamped value whose checksum is right.
    Valid(Stamp),
    /// Of this run by its first bytes, with a wrong checksum.
    Damaged,
    /// Of another run, or of no benchmark.
    Foreign,
}

/// Makes values of one size for one producer. The filler is pseudo-random, so that compression finds nothing in it
/// unless `compressible` text was asked for.
#[derive(Debug)]
pub struct ValueMaker {
    filler: Vec<u8>,
    run: u32,
    producer: u16,
}

/// What values are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filler {
    /// Bytes that no codec can shrink.
    Random,
    /// Text like a JSON event, which codecs shrink about as they do real events.
    Text,
}

impl ValueMaker {
    /// Values of `size` bytes. Under [`STAMP_BYTES`] they carry no stamp and integrity is checked by count alone.
    pub fn new(run: u32, producer: u16, size: usize, filler: Filler) -> Self {
        let mut state = u64::from(run) << 16 | u64::from(producer) | 1;
        let mut next = move || {
            // xorshift64 (G. Marsaglia): a filler needs no better randomness.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bytes = Vec::with_capacity(size + 64);
        while bytes.len() < size {
            match filler {
                Filler::Random => bytes.extend_from_slice(&next().to_le_bytes()),
                Filler::Text => {
                    let number = next();
                    let text = format!(
                        "{{\"order\":{},\"state\":\"paid\",\"amount\":{}.00}},",
                        number % 100_000,
                        number % 977
                    );
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        bytes.truncate(size);
        Self { filler: bytes, run, producer }
    }

    /// The value numbered `sequence`: its own memory, as an application's would be.
    pub fn make(&self, sequence: u32, intended_micros: u64) -> Bytes {
        let mut value = self.filler.clone();
        if value.len() >= STAMP_BYTES {
            let mut stamp = [0; STAMP_BYTES];
            stamp[0..4].copy_from_slice(&self.run.to_le_bytes());
            stamp[4..6].copy_from_slice(&self.producer.to_le_bytes());
            stamp[8..12].copy_from_slice(&sequence.to_le_bytes());
            stamp[12..20].copy_from_slice(&intended_micros.to_le_bytes());
            value[..STAMP_BYTES].copy_from_slice(&stamp);
            let crc = crc32c::crc32c(&value);
            value[CRC_AT..STAMP_BYTES].copy_from_slice(&crc.to_le_bytes());
        }
        value.into()
    }
}

/// The run that a value names, if it has room for a stamp; whether it really is of that run [`read`] tells.
pub fn run_of(value: &[u8]) -> Option<u32> {
    value.first_chunk::<STAMP_BYTES>().map(|stamp| u32::from_le_bytes([stamp[0], stamp[1], stamp[2], stamp[3]]))
}

/// Reads a value back as a record of `run`.
pub fn read(value: &[u8], run: u32) -> Reading {
    let Some((stamp, rest)) = value.split_first_chunk::<STAMP_BYTES>() else { return Reading::Foreign };
    let number_at = |at: usize| u32::from_le_bytes([stamp[at], stamp[at + 1], stamp[at + 2], stamp[at + 3]]);
    if number_at(0) != run {
        return Reading::Foreign;
    }
    let mut without_crc = *stamp;
    without_crc[CRC_AT..].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&without_crc), rest);
    if crc != number_at(CRC_AT) {
        return Reading::Damaged;
    }
    Reading::Valid(Stamp {
        run,
        producer: u16::from_le_bytes([stamp[4], stamp[5]]),
        sequence: number_at(8),
        intended_micros: u64::from(number_at(12)) | u64::from(number_at(16)) << 32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_every_flipped_bit_is_noticed() {
        let maker = ValueMaker::new(7, 3, 100, Filler::Random);
        let value = maker.make(9, 1 << 40);
        let expected = Stamp { run: 7, producer: 3, sequence: 9, intended_micros: 1 << 40 };
        assert_eq!(read(&value, 7), Reading::Valid(expected));
        assert_eq!(read(&value, 8), Reading::Foreign);
        assert_eq!((run_of(&value), run_of(&value[..STAMP_BYTES - 1])), (Some(7), None));
        for bit in 32..800 {
            let mut damaged = value.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, 7), Reading::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn sizes_are_exact_and_small_values_are_foreign() {
        for size in [0, 1, STAMP_BYTES - 1, STAMP_BYTES, 1_000] {
            let value = ValueMaker::new(1, 0, size, Filler::Text).make(0, 0);
            assert_eq!(value.len(), size);
            assert_eq!(matches!(read(&value, 1), Reading::Valid(_)), size >= STAMP_BYTES, "{size}");
        }
    }
}
