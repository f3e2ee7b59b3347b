//! Quantities as text: `64MiB`, `30s`, `4MiB/s`, `5%`. One spelling per unit, and no number without one.

use std::time::Duration;

/// Units of size, largest first, with their bytes.
const SIZES: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Units of time, largest first, with their milliseconds.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of size, for messages.
pub const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB";
/// The units of a rate, for messages.
pub const RATE_UNITS: &str = "B/s, KiB/s, MiB/s, GiB/s, TiB/s";
/// The units of time, for messages.
pub const TIME_UNITS: &str = "ms, s, m, h, d";

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// It does not start with a whole number.
    NoNumber,
    /// A number and nothing behind it.
    NoUnit(u64),
    /// A number and a unit that does not exist, with the one that was probably meant.
    UnknownUnit {
        /// What was written.
        unit: String,
        /// What exists and looks alike.
        meant: Option<&'static str>,
    },
    /// More than 64 bits.
    TooLarge,
}

/// Bytes from a text such as `64MiB`.
pub fn parse_bytes(text: &str) -> Result<u64, UnitError> {
    parse(text, &SIZES)
}

/// Bytes per second from a text such as `4MiB/s`.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    match text.trim().strip_suffix("/s") {
        Some(size) => parse(size, &SIZES),
        None => match parse(text, &SIZES) {
            Ok(_) => Err(UnitError::UnknownUnit {
                unit: text.trim().trim_start_matches(|c: char| c.is_ascii_digit()).trim().to_owned(),
                meant: None,
            }),
            Err(error) => Err(error),
        },
    }
}

/// A time span from a text such as `30s`. Whole milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse(text, &TIMES).map(Duration::from_millis)
}

/// Percent from a text such as `5%`. The caller checks that it is at most 100.
pub fn parse_percent(text: &str) -> Result<u64, UnitError> {
    parse(text, &[("%", 1)])
}

/// The largest unit that shows `bytes` as a whole number.
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

/// As [`show_bytes`], per second.
pub fn show_rate(bytes: u64) -> String {
    format!("{}/s", show_bytes(bytes))
}

/// The largest unit that shows `time` as a whole number of it; parts of a millisecond are dropped.
pub fn show_duration(time: Duration) -> String {
    show(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIMES, "s")
}

fn parse(text: &str, units: &[(&'static str, u64)]) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let number: u64 = number.parse().map_err(|_| UnitError::TooLarge)?;
    let unit = unit.trim_start();
    if unit.is_empty() {
        return Err(UnitError::NoUnit(number));
    }
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => number.checked_mul(*factor).ok_or(UnitError::TooLarge),
        None => Err(UnitError::UnknownUnit { unit: unit.chars().take(20).collect(), meant: meant(unit, units) }),
    }
}

/// Decimal and short spellings (`MB`, `M`, `mb`, `min`, `sec`) point to the unit we have.
fn meant(unit: &str, units: &[(&'static str, u64)]) -> Option<&'static str> {
    let unit = unit.to_lowercase();
    let alike = |name: &str| {
        let name = name.to_lowercase();
        let first = name.chars().next();
        name == unit
            || unit.strip_suffix('b').is_some_and(|stem| !stem.is_empty() && name == format!("{stem}ib"))
            || name == format!("{unit}ib")
            || (name.len() == 1 && unit.len() > 1 && unit.chars().next() == first && is_long_time(&unit))
            || (name == "ms" && unit.starts_with("mil"))
    };
    units.iter().map(|(name, _)| *name).find(|name| alike(name))
}

fn is_long_time(unit: &str) -> bool {
    ["sec", "min", "hour", "hr", "day"].iter().any(|stem| unit.starts_with(stem))
}

fn show(value: u64, units: &[(&'static str, u64)], zero: &str) -> String {
    if value == 0 {
        return format!("0{zero}");
    }
    match units.iter().find(|(_, factor)| value.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_survive_parsing_and_showing() {
        for text in ["0B", "1B", "1023B", "64MiB", "256GiB", "3TiB"] {
            assert_eq!(parse_bytes(text).map(show_bytes).as_deref(), Ok(text));
        }
        for text in ["0s", "1ms", "1500ms", "30s", "10m", "36h", "7d"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Ok(text));
        }
        assert_eq!(parse_rate("4MiB/s").map(show_rate).as_deref(), Ok("4MiB/s"));
        assert_eq!(parse_bytes(" 64 MiB "), Ok(64 << 20));
    }

    #[test]
    fn what_is_refused_says_why() {
        assert_eq!(parse_bytes("64"), Err(UnitError::NoUnit(64)));
        assert_eq!(parse_bytes("MiB"), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes("-1B"), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes(""), Err(UnitError::NoNumber));
        assert_eq!(parse_bytes("99999999TiB"), Err(UnitError::TooLarge));
        assert_eq!(parse_bytes("99999999999999999999B"), Err(UnitError::TooLarge));
        assert_eq!(parse_rate("4MiB"), Err(UnitError::UnknownUnit { unit: "MiB".to_owned(), meant: None }));
    }

    #[test]
    fn common_other_spellings_point_to_ours() {
        for (text, meant) in
            [("64MB", "MiB"), ("64mb", "MiB"), ("64M", "MiB"), ("64mib", "MiB"), ("1kB", "KiB"), ("1g", "GiB")]
        {
            let Err(UnitError::UnknownUnit { meant: found, .. }) = parse_bytes(text) else { panic!("{text} accepted") };
            assert_eq!(found, Some(meant), "{text}");
        }
        for (text, meant) in
            [("5sec", "s"), ("5min", "m"), ("5 minutes", "m"), ("1hour", "h"), ("2days", "d"), ("5S", "s")]
        {
            let Err(UnitError::UnknownUnit { meant: found, .. }) = parse_duration(text) else {
                panic!("{text} accepted")
            };
            assert_eq!(found, Some(meant), "{text}");
        }
    }
}
