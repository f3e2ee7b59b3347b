//! Wall-clock instants as people write them: RFC 3339, a date, milliseconds, or an age such as `1h`.
//!
//! Pure: "now" is an argument. The calendar is the proleptic Gregorian one, by the days-from-civil method
//! (H. Hinnant, "chrono-compatible low-level date algorithms").

use std::time::Duration;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// A text that names no instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no time: write 2026-11-20T08:30:00Z, a date, milliseconds since 1970, 'now', or an age such as 90s, 15m, 1h, 2d"
)]
pub struct InstantError(pub String);

/// Milliseconds since the Unix epoch that `text` names. Ages (`1h`, `-1h`) count back from `now_ms`. A time without
/// a zone is UTC.
pub fn parse(text: &str, now_ms: i64) -> Result<i64, InstantError> {
    let wrong = || InstantError(text.to_owned());
    let trimmed = text.trim();
    if trimmed == "now" {
        return Ok(now_ms);
    }
    if let Some(age) = parse_duration(trimmed.strip_prefix('-').unwrap_or(trimmed)) {
        let age_ms = i64::try_from(age.as_millis()).map_err(|_| wrong())?;
        return now_ms.checked_sub(age_ms).ok_or_else(wrong);
    }
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return trimmed.parse().map_err(|_| wrong());
    }
    parse_iso(trimmed).ok_or_else(wrong)
}

/// A length of time: a number and a unit of `ms`, `s`, `m`, `h` or `d`. A bare number has no unit and is refused.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit_ms).map(Duration::from_millis);
    }
    let seconds = number.parse::<f64>().ok()? * (Duration::from_millis(unit_ms).as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

/// A number of bytes: a whole number, alone or with `KiB`, `MiB`, `GiB`, `kB`, `MB`, `GB` or `B`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_iso(text: &str) -> Option<i64> {
    let (date, rest) = match text.split_once(['T', 't', ' ']) {
        Some((date, rest)) => (date, rest),
        None => (text, ""),
    };
    let mut parts = date.splitn(3, '-');
    let year: i64 = parts.next().filter(|y| y.len() == 4)?.parse().ok()?;
    let month: i64 = two_digits(parts.next()?)?;
    let day: i64 = two_digits(parts.next()?)?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let (clock, zone_minutes) = split_zone(rest)?;
    let mut of_day = 0;
    if !clock.is_empty() {
        let mut parts = clock.splitn(3, ':');
        let hour = two_digits(parts.next()?).filter(|h| *h < 24)?;
        let minute = two_digits(parts.next()?).filter(|m| *m < 60)?;
        let (second, millis) = match parts.next() {
            None => (0, 0),
            Some(text) => match text.split_once('.') {
                None => (two_digits(text)?, 0),
                Some((seconds, fraction)) => {
                    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                        return None;
                    }
                    let first: String = fraction.chars().chain("00".chars()).take(3).collect();
                    (two_digits(seconds)?, first.parse().ok()?)
                }
            },
        };
        if second > 59 {
            return None;
        }
        of_day = ((hour * 60 + minute) * 60 + second) * 1_000 + millis;
    }
    Some(days_from_civil(year, month, day) * MILLIS_PER_DAY + of_day - zone_minutes * 60_000)
}

fn split_zone(clock: &str) -> Option<(&str, i64)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, 0)) };
    let (clock, zone) = clock.split_at_checked(at)?;
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let zone = zone.get(1..)?;
    let (hours, minutes) = zone.split_once(':').or_else(|| zone.split_at_checked(2))?;
    Some((clock, sign * (two_digits(hours)? * 60 + two_digits(minutes)?)))
}

fn two_digits(text: &str) -> Option<i64> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// `millis` since the Unix epoch as RFC 3339 in UTC with milliseconds; `-` for none (negative).
pub fn format_iso(millis: i64) -> String {
    if millis < 0 {
        return "-".to_owned();
    }
    let days = millis / MILLIS_PER_DAY + 719_468;
    let of_day = millis % MILLIS_PER_DAY;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_that_people_write() {
        let now = 1_795_219_200_000;
        assert_eq!(parse("now", now), Ok(now));
        assert_eq!(parse("1h", now), Ok(now - 3_600_000));
        assert_eq!(parse("-90s", now), Ok(now - 90_000));
        assert_eq!(parse("1795219200000", 0), Ok(now));
        assert_eq!(parse("2026-11-21", 0), Ok(now));
        assert_eq!(parse("2026-11-21T00:00Z", 0), Ok(now));
        assert_eq!(parse("2026-11-21T02:00:00.5+02:00", 0), Ok(now + 500));
        assert_eq!(parse("2024-02-29 12:00:00", 0), Ok(1_709_208_000_000));
        for bad in ["", "yesterday", "2026-13-01", "2026-02-29", "2026-11-21T24:00Z", "2026-11-21T10", "5 parsecs"] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_durations_need_units_they_know() {
        assert_eq!(parse_bytes("64KiB"), Some(65_536));
        assert_eq!(parse_bytes("100"), Some(100));
        assert_eq!(parse_bytes("1 MB"), Some(1_000_000));
        assert_eq!(parse_bytes("1parsec"), None);
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("10"), None);
    }

    proptest! {
        /// Catches calendar errors: writing and reading are inverse over eight thousand years.
        #[test]
        fn iso_round_trip(millis in 0_i64..253_402_300_799_999) {
            prop_assert_eq!(parse(&format_iso(millis), 0), Ok(millis));
        }
    }
}
