//! Durations and sizes as text with a unit, because a bare number does not say what it counts.

use std::time::Duration;

/// Reads `"250ms"`, `"10s"`, `"2m"`, `"1h"`, `"7d"`; `None` when there is no number or no known unit.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis_per_unit).map(Duration::from_millis)
}

/// Reads `"100B"`, `"64KiB"`, `"32MiB"`, `"1GiB"`, and the decimal `kB`, `MB`, `GB`.
pub(crate) fn parse_bytes(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes_per_unit = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes_per_unit).and_then(|bytes| usize::try_from(bytes).ok())
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let (digits, unit) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    Some((digits.parse().ok()?, unit.trim()))
}

/// serde for a [`Duration`] written with its unit.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_duration(&text)
            .ok_or_else(|| D::Error::custom(format!("'{text}' is no duration: write it as 250ms, 10s, 2m or 1h")))
    }
}

/// serde for a number of bytes written with its unit.
pub(crate) mod bytes {
    use serde::{Deserialize, Deserializer, de::Error};

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_bytes(&text)
            .ok_or_else(|| D::Error::custom(format!("'{text}' is no size: write it as 512B, 64KiB, 32MiB or 1GiB")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_nothing_else() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("2 m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_bytes("32MiB"), Some(32 * 1024 * 1024));
        assert_eq!(parse_bytes("5 kB"), Some(5_000));
        for bad in ["", "10", "ms", "-1s", "1.5s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }
}
