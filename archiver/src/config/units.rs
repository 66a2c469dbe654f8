//! Sizes and durations as people write them: `"128MiB"`, `"20ms"`, `"7d"`.

use std::time::Duration;

/// What a size looks like.
pub(super) const SIZE_FORM: &str = "a whole number with B, KiB, MiB or GiB, for example \"128MiB\"";

/// What a duration looks like.
pub(super) const DURATION_FORM: &str =
    "a whole number with ms, s, m, h, d, w or y, for example \"90s\", \"7d\" or \"7y\"";

const DAY_MILLIS: u64 = 86_400_000;
/// Of 366 days: so many of them are never shorter than as many years of the calendar.
const YEAR_MILLIS: u64 = 366 * DAY_MILLIS;

/// Reads a size in bytes.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number.checked_mul(bytes)?).ok()
}

/// Reads a duration.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_MILLIS,
        "w" => 7 * DAY_MILLIS,
        "y" => YEAR_MILLIS,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

/// Writes a size as people would.
pub(super) fn show_size(bytes: usize) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Writes a duration as people would.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [
        (u128::from(YEAR_MILLIS), "y"),
        (u128::from(DAY_MILLIS), "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1_000, "s"),
    ];
    match units.iter().find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_they_are_written() {
        for (text, bytes) in [("128MiB", 128 << 20), ("1B", 1), ("4 GiB", 4usize << 30), ("64KiB", 65536)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for (text, millis) in [
            ("20ms", 20),
            ("90s", 90_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("7y", 221_356_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(show_size(128 << 20), "128MiB");
        assert_eq!(show_size(1500), "1500B");
        assert_eq!(show_duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!(show_duration(Duration::from_secs(7 * 366 * 86_400)), "7y");
        assert_eq!(show_duration(Duration::from_millis(0)), "0ms");
    }

    #[test]
    fn anything_else_is_no_size_and_no_duration() {
        for text in
            ["", "128", "MiB", "128MB", "128mib", "-1MiB", "1.5GiB", "99999999999999999999MiB", "١MiB"]
        {
            assert_eq!(size(text), None, "{text}");
        }
        for text in ["", "7", "7 days", "1h30m", "-7d", "1.5h", "99999999999999999d", "99999999999999y"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
