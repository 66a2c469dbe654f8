//! UTC days and the civil calendar, by arithmetic alone: no clock, no time zone, no range beyond which it fails.

use std::fmt;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// A UTC day, counted from 1970-01-01. Displays as `YYYY-MM-DD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// The day that a cluster time's seconds fall on.
    pub fn of_seconds(seconds: u32) -> Self {
        Day(seconds / 86_400)
    }

    /// Reads `YYYY-MM-DD`, exactly as it displays; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
            return None;
        }
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let digits = text.get(range)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?)?;
        u32::try_from(days).ok().map(Day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    // Howard Hinnant's algorithm: years begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day as u32)
}

/// The inverse of [`civil_from_days`]; `None` where there is no such day.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted = year - i64::from(month <= 2);
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    (civil_from_days(days) == (year, month as u32, day as u32)).then_some(days)
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.mmm]Z`, or returns `false` for a time outside the years 1970..=9999.
pub(super) fn push_iso(millis: i64, out: &mut String) -> bool {
    /// 9999-12-31T23:59:59.999Z
    const LAST: i64 = 253_402_300_799_999;
    if !(0..=LAST).contains(&millis) {
        return false;
    }
    let (year, month, day) = civil_from_days(millis / MILLIS_PER_DAY);
    let rest = (millis % MILLIS_PER_DAY) as u32;
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    put_digits(&mut text[0..4], year as u32);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    put_digits(&mut text[11..13], hour);
    put_digits(&mut text[14..16], minute);
    put_digits(&mut text[17..19], second);
    put_digits(&mut text[20..23], rest % 1_000);
    let whole_second = rest.is_multiple_of(1_000);
    let len = if whole_second { 19 } else { 23 };
    out.push_str(std::str::from_utf8(&text[..len]).unwrap_or_default());
    out.push('Z');
    true
}

fn put_digits(into: &mut [u8], mut value: u32) {
    for digit in into.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Reads an ISO-8601 time with `Z` or an offset into milliseconds since 1970; digits beyond milliseconds must be zero.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let sign = |at: usize, expected: u8| bytes.get(at) == Some(&expected);
    if !(sign(4, b'-')
        && sign(7, b'-')
        && (sign(10, b'T') || sign(10, b' '))
        && sign(13, b':')
        && sign(16, b':'))
    {
        return None;
    }
    let days = days_from_civil(number(0..4)?, number(5..7)?, number(8..10)?)?;
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = fraction.split_at(len);
        if len == 0 || digits.bytes().skip(3).any(|b| b != b'0') {
            return None;
        }
        let scale = [100, 10, 1];
        millis = digits.bytes().zip(scale).map(|(digit, scale)| i64::from(digit - b'0') * scale).sum();
        rest = after;
    }
    let local = days * MILLIS_PER_DAY + (hour * 3_600 + minute * 60 + second) * 1_000 + millis;
    Some(local - offset_minutes(rest)? * 60_000)
}

/// Reads `Z`, `±hh`, `±hhmm` or `±hh:mm`.
fn offset_minutes(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits: String = digits.chars().filter(|c| *c != ':').collect();
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let hours: i64 = digits[..2].parse().ok()?;
    let minutes: i64 = if digits.len() == 4 { digits[2..].parse().ok()? } else { 0 };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_a_cluster_time_reads_back() {
        for day in 0..=(u32::MAX / 86_400) {
            assert_eq!(Day::parse(&Day(day).to_string()), Some(Day(day)));
        }
    }

    #[test]
    fn days_agree_with_a_calendar_library() {
        for seconds in [0_u32, 86_399, 86_400, 951_782_400, 1_709_164_800, 1_795_239_000, u32::MAX] {
            let timestamp = jiff::Timestamp::from_second(i64::from(seconds)).unwrap();
            let expected = timestamp.strftime("%Y-%m-%d").to_string();
            assert_eq!(Day::of_seconds(seconds).to_string(), expected);
        }
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for text in ["2025-02-29", "2025-13-01", "2025-00-01", "2025-1-01", "2025-01-01x", "", "+025-01-01"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }

    #[test]
    fn iso_times_read_back_and_agree_with_a_calendar_library() {
        let mut millis = 1_i64;
        while millis < 253_402_300_799_999 {
            let mut text = String::new();
            assert!(push_iso(millis, &mut text));
            assert_eq!(parse_iso(&text), Some(millis), "{text}");
            assert_eq!(text.parse::<jiff::Timestamp>().unwrap().as_millisecond(), millis);
            millis = millis * 3 / 2 + 1_000;
        }
    }

    #[test]
    fn times_outside_the_iso_range_are_left_to_numbers() {
        for millis in [-1, i64::MIN, 253_402_300_800_000, i64::MAX] {
            let mut text = String::new();
            assert!(!push_iso(millis, &mut text));
            assert!(text.is_empty());
        }
    }

    #[test]
    fn offsets_are_applied() {
        let utc = parse_iso("2026-11-21T06:00:00Z");
        assert_eq!(parse_iso("2026-11-21T08:00:00+02:00"), utc);
        assert_eq!(parse_iso("2026-11-20T23:30:00.000-0630"), utc);
        assert_eq!(parse_iso("2026-11-21T06:00:00"), None);
        assert_eq!(parse_iso("2026-11-21T06:00:00.0001Z"), None);
    }
}
