//! What a Delta log says about the columns of a segment, so that readers pass it by where it can't hold what they look for:
//! bounds and counts of nulls, from the statistics in the file's footer.
//!
//! Those of strings are bounds already: Parquet cuts them after 64 bytes, and then raises the upper one.

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use serde_json::{Map, Value, json};

use super::super::schema;

/// The columns that are worth it. The log outlives the segments, so it names no person: nothing of `actor`.
const COLUMNS: [&str; 9] =
    ["seq", "op", "db", "coll", "doc_id", "cluster_time", "cluster_inc", "wall_time", "policy"];
/// Longer bounds are left out: only a string without any character to raise is kept whole by Parquet.
const MAX_BYTES: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bound<'a> {
    Number(i64),
    Text(&'a str),
}

/// The `stats` of the file that has this footer.
pub(super) fn of(footer: &ParquetMetaData) -> Value {
    let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
    for name in COLUMNS {
        let Some(column) = schema::position(name) else { continue };
        let Some(null_count) = null_count(footer, column) else { continue };
        nulls.insert(name.to_owned(), null_count.into());
        if let Some((min, max)) = bounds(footer, column)
            && let (Some(min), Some(max)) = (show(name, min, 0), show(name, max, 999))
        {
            least.insert(name.to_owned(), min);
            greatest.insert(name.to_owned(), max);
        }
    }
    let rows = footer.file_metadata().num_rows();
    json!({"numRecords": rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})
}

fn statistics(group: &RowGroupMetaData, column: usize) -> Option<&Statistics> {
    group.columns().get(column)?.statistics()
}

fn null_count(footer: &ParquetMetaData, column: usize) -> Option<u64> {
    footer.row_groups().iter().map(|group| statistics(group, column)?.null_count_opt()).sum()
}

/// The bounds of all that is not null; `None` where they are not known, or where there is nothing else.
fn bounds(footer: &ParquetMetaData, column: usize) -> Option<(Bound<'_>, Bound<'_>)> {
    let mut all: Option<(Bound<'_>, Bound<'_>)> = None;
    for group in footer.row_groups() {
        let statistics = statistics(group, column)?;
        if statistics.null_count_opt() == u64::try_from(group.num_rows()).ok() {
            continue;
        }
        let (min, max) = bounds_of(statistics)?;
        all = Some(all.map_or((min, max), |(least, greatest)| (least.min(min), greatest.max(max))));
    }
    all
}

fn bounds_of(statistics: &Statistics) -> Option<(Bound<'_>, Bound<'_>)> {
    let number = |min: i64, max: i64| (Bound::Number(min), Bound::Number(max));
    Some(match statistics {
        Statistics::Int32(s) => number(i64::from(*s.min_opt()?), i64::from(*s.max_opt()?)),
        Statistics::Int64(s) => number(*s.min_opt()?, *s.max_opt()?),
        Statistics::ByteArray(s) => {
            let text = |bytes| std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_BYTES);
            (Bound::Text(text(s.min_opt()?.data())?), Bound::Text(text(s.max_opt()?.data())?))
        }
        _ => return None,
    })
}

/// A bound in JSON. Times have milliseconds in Delta; `raised` microseconds are added before they are cut.
fn show(name: &str, bound: Bound<'_>, raised: i64) -> Option<Value> {
    match bound {
        Bound::Text(text) => Some(text.into()),
        Bound::Number(micros) if name.ends_with("_time") => {
            let time = jiff::Timestamp::from_microsecond(micros.checked_add(raised)?).ok()?;
            // Signed years, and such of more than four digits, are not read alike everywhere.
            let year = time.to_zoned(jiff::tz::TimeZone::UTC).year();
            (0..=9999).contains(&year).then(|| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into())
        }
        Bound::Number(number) => Some(number.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounds_in_milliseconds() {
        let show = |micros, raised| show("wall_time", Bound::Number(micros), raised);
        assert_eq!(show(1_795_219_200_123_456, 0).unwrap(), "2026-11-21T00:00:00.123Z");
        assert_eq!(show(1_795_219_200_123_456, 999).unwrap(), "2026-11-21T00:00:00.124Z");
        assert_eq!(show(1_795_219_200_123_000, 999).unwrap(), "2026-11-21T00:00:00.123Z");
        assert_eq!(show(-1, 0).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(show(i64::MAX, 999), None);
        assert_eq!(show(-62_167_219_200_000_001, 0), None);
    }
}
