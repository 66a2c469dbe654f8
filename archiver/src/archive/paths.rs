//! Formats and parses every object key; nothing else names one.

use super::day::Day;

/// The folder of the manifests. Begins with an underscore so that readers of the documented glob never see it.
const MANIFESTS: &str = "_manifests";

/// The folder of the write probes that `archiver check` leaves where it may not delete.
const CHECKS: &str = "_checks";

/// What an object key of the archive names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `source=<name>/date=<YYYY-MM-DD>/seg-[p<partition>-]<first seq, 20 digits>.parquet`
    Segment {
        /// The source's name.
        source: String,
        /// The partition, for partitioned sources.
        partition: Option<u32>,
        /// The UTC day of the cluster time of all its records.
        day: Day,
        /// Its first record's seq.
        first_seq: i64,
    },
    /// `_manifests/source=<name>/<first seq, 20 digits>.json`
    Manifest {
        /// The source's name.
        source: String,
        /// The first seq of the segment it seals.
        first_seq: i64,
    },
}

/// The key of the segment that begins with this seq, relative to the archive's root.
pub fn segment_key(source: &str, day: Day, first_seq: i64) -> String {
    format!("{}date={day}/seg-{first_seq:020}.parquet", segments_prefix(source))
}

/// The key of the segment of one partition of a partitioned source.
pub fn partitioned_segment_key(source: &str, partition: u32, day: Day, first_seq: i64) -> String {
    format!("{}date={day}/seg-p{partition}-{first_seq:020}.parquet", segments_prefix(source))
}

/// The key of the manifest that seals the segment beginning with this seq.
pub fn manifest_key(source: &str, first_seq: i64) -> String {
    format!("{}{first_seq:020}.json", manifests_prefix(source))
}

/// The prefix of all segments of a source, with its trailing slash.
pub fn segments_prefix(source: &str) -> String {
    format!("source={source}/")
}

/// The prefix of all manifests of a source, with its trailing slash.
pub fn manifests_prefix(source: &str) -> String {
    format!("{MANIFESTS}/source={source}/")
}

/// The prefix of all manifests, with its trailing slash.
pub fn all_manifests_prefix() -> String {
    format!("{MANIFESTS}/")
}

/// The key of a write probe; `unique` makes it one that nobody has used.
pub fn check_key(unique: &str) -> String {
    format!("{CHECKS}/{unique}")
}

/// The source that a folder of segments or manifests belongs to: `source=payments` is of `payments`.
pub fn source_of_folder(name: &str) -> Option<&str> {
    name.strip_prefix("source=").filter(|source| is_source_name(source))
}

/// Whether this can be a source's name: `[a-z][a-z0-9_-]*`.
pub fn is_source_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// Reads a key (relative to the archive's root) back; `None` for anything that this module would not write.
pub fn parse(key: &str) -> Option<Key> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        [MANIFESTS, folder, file] => {
            let source = source_of_folder(folder)?.to_owned();
            Some(Key::Manifest { source, first_seq: parse_seq(file.strip_suffix(".json")?)? })
        }
        [folder, date, file] => {
            let source = source_of_folder(folder)?.to_owned();
            let day = Day::parse(date.strip_prefix("date=")?)?;
            let name = file.strip_prefix("seg-")?.strip_suffix(".parquet")?;
            let (partition, seq) = match name.strip_prefix('p') {
                Some(rest) => {
                    let (partition, seq) = rest.split_once('-')?;
                    (Some(parse_partition(partition)?), seq)
                }
                None => (None, name),
            };
            Some(Key::Segment { source, partition, day, first_seq: parse_seq(seq)? })
        }
        _ => None,
    }
}

fn parse_seq(text: &str) -> Option<i64> {
    let digits = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn parse_partition(text: &str) -> Option<u32> {
    let partition: u32 = text.parse().ok()?;
    (partition.to_string() == text).then_some(partition)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_have_the_documented_form() {
        let day = Day::parse("2026-11-21").unwrap();
        assert_eq!(
            segment_key("payments", day, 1),
            "source=payments/date=2026-11-21/seg-00000000000000000001.parquet"
        );
        assert_eq!(
            partitioned_segment_key("payments", 3, day, 77),
            "source=payments/date=2026-11-21/seg-p3-00000000000000000077.parquet"
        );
        assert_eq!(manifest_key("payments", 1), "_manifests/source=payments/00000000000000000001.json");
    }

    #[test]
    fn keys_of_others_are_not_taken_for_ours() {
        for key in [
            "",
            "source=payments",
            "source=Payments/date=2026-11-21/seg-00000000000000000001.parquet",
            "source=1/date=2026-11-21/seg-00000000000000000001.parquet",
            "source=payments/date=2026-11-31/seg-00000000000000000001.parquet",
            "source=payments/date=2026-11-21/seg-1.parquet",
            "source=payments/date=2026-11-21/seg-99999999999999999999.parquet",
            "source=payments/date=2026-11-21/seg-p03-00000000000000000001.parquet",
            "source=payments/date=2026-11-21/seg-00000000000000000001.parquet#1",
            "x/source=payments/date=2026-11-21/seg-00000000000000000001.parquet",
            "_manifests/source=payments/1.json",
            "_manifests/payments/00000000000000000001.json",
            "_checks/20261121",
        ] {
            assert_eq!(parse(key), None, "{key}");
        }
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_back(
            source in "[a-z][a-z0-9_-]{0,40}",
            seconds: u32,
            partition: Option<u32>,
            first_seq in 0..=i64::MAX,
        ) {
            let day = Day::of_seconds(seconds);
            let key = match partition {
                Some(partition) => partitioned_segment_key(&source, partition, day, first_seq),
                None => segment_key(&source, day, first_seq),
            };
            let expected = Key::Segment { source: source.clone(), partition, day, first_seq };
            prop_assert_eq!(parse(&key), Some(expected));
            let expected = Key::Manifest { source: source.clone(), first_seq };
            prop_assert_eq!(parse(&manifest_key(&source, first_seq)), Some(expected));
        }

        #[test]
        fn what_parses_formats_back(key in "(source=|_manifests/source=)[a-z0-9]{1,3}/(date=20[0-9]{2}-[0-9]{2}-[0-9]{2}/)?(seg-)?(p[0-9]-)?[0-9]{19,21}\\.(parquet|json)") {
            let formatted = match parse(&key) {
                None => return Ok(()),
                Some(Key::Manifest { source, first_seq }) => manifest_key(&source, first_seq),
                Some(Key::Segment { source, partition: None, day, first_seq }) => segment_key(&source, day, first_seq),
                Some(Key::Segment { source, partition: Some(partition), day, first_seq }) =>
                    partitioned_segment_key(&source, partition, day, first_seq),
            };
            prop_assert_eq!(formatted, key);
        }
    }
}
