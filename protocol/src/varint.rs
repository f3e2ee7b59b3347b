//! Zigzag variable-length integers of the record format: seven bits a byte, least significant first (KIP-98, after
//! Protocol Buffers' `sint32` and `sint64`).

/// Bytes the longest 32-bit value takes.
pub(crate) const VARINT_BYTES_MAX: usize = 5;
/// Bytes the longest 64-bit value takes.
pub(crate) const VARLONG_BYTES_MAX: usize = 10;

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// Bytes that `value` takes.
#[inline]
pub(crate) const fn varint_bytes(value: i64) -> usize {
    // One byte for each started group of seven bits; zero has one group too.
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Writes `value` into the front of `buffer` and returns how many bytes it took.
#[inline]
pub(crate) fn write_varint(buffer: &mut [u8; VARLONG_BYTES_MAX], value: i64) -> usize {
    let mut rest = zigzag(value);
    let mut written = 0;
    for slot in buffer.iter_mut() {
        written += 1;
        if rest < 0x80 {
            *slot = low_byte(rest);
            break;
        }
        *slot = low_byte(rest) | 0x80;
        rest >>= 7;
    }
    written
}

/// Takes a 64-bit value off the front of `bytes`; `None` when it does not end there or has more than 64 bits.
#[inline]
pub(crate) fn read_varlong(bytes: &mut &[u8]) -> Option<i64> {
    // Most values in a record fit one byte.
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    if *first < 0x80 {
        return Some(unzigzag(u64::from(*first)));
    }
    let mut value = u64::from(first & 0x7F);
    let mut shift = 7;
    for _ in 1..VARLONG_BYTES_MAX {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let group = u64::from(byte & 0x7F);
        if shift == 63 && group > 1 {
            return None;
        }
        value |= group << shift;
        if *byte < 0x80 {
            return Some(unzigzag(value));
        }
        shift += 7;
    }
    None
}

/// Takes a 32-bit value off the front of `bytes`; `None` when it does not end there, is written in more bytes than any
/// 32-bit value needs, or has more than 32 bits.
#[inline]
pub(crate) fn read_varint(bytes: &mut &[u8]) -> Option<i32> {
    let before = bytes.len();
    let value = read_varlong(bytes)?;
    if before - bytes.len() > VARINT_BYTES_MAX {
        return None;
    }
    i32::try_from(value).ok()
}

const fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low & 0x7F
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: i64) -> Vec<u8> {
        let mut buffer = [0; VARLONG_BYTES_MAX];
        let count = write_varint(&mut buffer, value);
        buffer[..count].to_vec()
    }

    #[test]
    fn the_published_examples_hold() {
        for (value, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[0x7E]),
            (-64, &[0x7F]),
            (64, &[0x80, 1]),
            (8191, &[0xFE, 0x7F]),
            (i64::from(i32::MAX), &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F]),
            (i64::from(i32::MIN), &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
            (i64::MAX, &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
            (i64::MIN, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
        ] {
            assert_eq!(written(value), bytes);
        }
    }

    #[test]
    fn every_power_of_two_and_its_neighbours_survive_and_are_measured_right() {
        for shift in 0..63 {
            for value in [1_i64 << shift, (1 << shift) - 1, -(1 << shift), -(1 << shift) - 1] {
                let bytes = written(value);
                assert_eq!(bytes.len(), varint_bytes(value), "{value}");
                assert_eq!(read_varlong(&mut bytes.as_slice()), Some(value));
                assert_eq!(read_varint(&mut bytes.as_slice()), i32::try_from(value).ok());
            }
        }
    }

    #[test]
    fn what_does_not_end_or_does_not_fit_is_refused() {
        assert_eq!(read_varlong(&mut [].as_slice()), None);
        assert_eq!(read_varlong(&mut [0x80].as_slice()), None);
        assert_eq!(read_varlong(&mut [0xFF; 11].as_slice()), None);
        assert_eq!(read_varlong(&mut [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2].as_slice()), None);
        assert_eq!(read_varint(&mut [0x80, 0x80, 0x80, 0x80, 0x80, 0].as_slice()), None);
        assert_eq!(read_varint(&mut [0xFF, 0xFF, 0xFF, 0xFF, 0x1F].as_slice()), None);
    }
}
