//! Formats and parses every object key; nothing else names one.

use super::day::Day;
use crate::stream_id::StreamId;

/// The folder of the manifests. Begins with an underscore so that readers of the documented glob never see it.
const MANIFESTS: &str = "_manifests";

/// The folder of the copies of legal holds.
const HOLDS: &str = "_holds";

/// How a tombstone's name differs from its manifest's.
const TOMBSTONE: &str = ".tombstone";

/// The folder of the write probes that `archiver check` leaves where it may not delete.
const CHECKS: &str = "_checks";

/// The folder of a source's Delta log. Delta readers look for it under this name; other readers pass names with an underscore by.
const DELTA_LOG: &str = "_delta_log";

/// What an object key of the archive names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `source=<name>/date=<YYYY-MM-DD>/seg-[p<partition>-]<first seq, 20 digits>.parquet`
    Segment {
        /// The stream whose records it holds.
        stream: StreamId,
        /// The UTC day of the cluster time of all its records.
        day: Day,
        /// Its first record's seq.
        first_seq: i64,
    },
    /// `_manifests/source=<name>/[p<partition>-]<first seq, 20 digits>.json`
    Manifest {
        /// The stream in whose chain it is.
        stream: StreamId,
        /// The first seq of the segment it seals.
        first_seq: i64,
    },
    /// `_manifests/source=<name>/[p<partition>-]<first seq, 20 digits>.tombstone.json`
    Tombstone {
        /// The stream whose records have expired.
        stream: StreamId,
        /// The first seq of the segment that is removed.
        first_seq: i64,
    },
    /// `_holds/<id, 20 digits>.json`
    Hold(i64),
    /// `_holds/<id, 20 digits>.released.json`
    HoldReleased(i64),
    /// `source=<name>/_delta_log/<version, 20 digits>.json`
    DeltaCommit {
        /// The source whose table it is of.
        source: String,
        /// The table's version that it makes.
        version: i64,
    },
}

/// The key of a stream's segment that begins with this seq, relative to the archive's root.
pub fn segment_key(stream: &StreamId, day: Day, first_seq: i64) -> String {
    let place = place(stream.partition, first_seq);
    format!("{}date={day}/seg-{place}.parquet", segments_prefix(&stream.source))
}

/// The key of the manifest that seals a stream's segment beginning with this seq.
pub fn manifest_key(stream: &StreamId, first_seq: i64) -> String {
    format!("{}{}.json", manifests_prefix(&stream.source), place(stream.partition, first_seq))
}

/// The key of the tombstone of a stream's segment beginning with this seq. In the manifests' folder, so that one listing
/// shows both.
pub fn tombstone_key(stream: &StreamId, first_seq: i64) -> String {
    let place = place(stream.partition, first_seq);
    format!("{}{place}{TOMBSTONE}.json", manifests_prefix(&stream.source))
}

/// The key of a legal hold's copy.
pub fn hold_key(id: i64) -> String {
    format!("{}{id:020}.json", holds_prefix())
}

/// The key of the copy of a legal hold's release.
pub fn hold_released_key(id: i64) -> String {
    format!("{}{id:020}.released.json", holds_prefix())
}

/// The prefix of the copies of legal holds, with its trailing slash.
pub fn holds_prefix() -> String {
    format!("{HOLDS}/")
}

/// The key of the commit that makes this version of a source's Delta table.
pub fn delta_commit_key(source: &str, version: i64) -> String {
    format!("{}{version:020}.json", delta_log_prefix(source))
}

/// The prefix of all commits of a source's Delta table, with its trailing slash.
pub fn delta_log_prefix(source: &str) -> String {
    format!("{}{DELTA_LOG}/", segments_prefix(source))
}

/// `[p<partition>-]<first seq, 20 digits>`
fn place(partition: Option<u32>, first_seq: i64) -> String {
    let partition = partition.map(|p| format!("p{p}-")).unwrap_or_default();
    format!("{partition}{first_seq:020}")
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

/// Whether this is the key of a write probe, as `archiver check` names it.
pub fn is_check_key(key: &str) -> bool {
    let unique = key.strip_prefix(CHECKS).and_then(|rest| rest.strip_prefix('/'));
    unique.is_some_and(|unique| {
        unique.len() == 32 && unique.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
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
            let name = file.strip_suffix(".json")?;
            if let Some(place) = name.strip_suffix(TOMBSTONE) {
                let (stream, first_seq) = parse_place(folder, place)?;
                return Some(Key::Tombstone { stream, first_seq });
            }
            let (stream, first_seq) = parse_place(folder, name)?;
            Some(Key::Manifest { stream, first_seq })
        }
        [HOLDS, file] => {
            let name = file.strip_suffix(".json")?;
            match name.strip_suffix(".released") {
                Some(id) => Some(Key::HoldReleased(parse_seq(id)?)),
                None => Some(Key::Hold(parse_seq(name)?)),
            }
        }
        [folder, DELTA_LOG, file] => {
            let version = parse_seq(file.strip_suffix(".json")?)?;
            Some(Key::DeltaCommit { source: source_of_folder(folder)?.to_owned(), version })
        }
        [folder, date, file] => {
            let day = Day::parse(date.strip_prefix("date=")?)?;
            let place = file.strip_prefix("seg-")?.strip_suffix(".parquet")?;
            let (stream, first_seq) = parse_place(folder, place)?;
            Some(Key::Segment { stream, day, first_seq })
        }
        _ => None,
    }
}

/// Reads what [`place`] wrote, in a folder of the source.
fn parse_place(folder: &str, place: &str) -> Option<(StreamId, i64)> {
    let source = source_of_folder(folder)?.to_owned();
    let (partition, seq) = match place.strip_prefix('p') {
        Some(rest) => {
            let (partition, seq) = rest.split_once('-')?;
            (Some(parse_partition(partition)?), seq)
        }
        None => (None, place),
    };
    Some((StreamId { source, partition }, parse_seq(seq)?))
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
            segment_key(&StreamId::whole("payments"), day, 1),
            "source=payments/date=2026-11-21/seg-00000000000000000001.parquet"
        );
        assert_eq!(
            manifest_key(&StreamId::whole("payments"), 1),
            "_manifests/source=payments/00000000000000000001.json"
        );
        let third = StreamId { source: "payments".to_owned(), partition: Some(3) };
        assert_eq!(
            segment_key(&third, day, 77),
            "source=payments/date=2026-11-21/seg-p3-00000000000000000077.parquet"
        );
        assert_eq!(manifest_key(&third, 77), "_manifests/source=payments/p3-00000000000000000077.json");
        assert_eq!(
            tombstone_key(&third, 77),
            "_manifests/source=payments/p3-00000000000000000077.tombstone.json"
        );
        assert_eq!(hold_key(7), "_holds/00000000000000000007.json");
        assert_eq!(hold_released_key(7), "_holds/00000000000000000007.released.json");
        assert_eq!(delta_commit_key("payments", 0), "source=payments/_delta_log/00000000000000000000.json");
    }

    #[test]
    fn a_write_probe_is_told_from_what_hides_among_them() {
        assert!(is_check_key(&check_key(&format!("{:032x}", 7))));
        for key in ["_checks/7", "_checks", "_checksx", "_checks/", "_checks/source=a/x", "x/_checks/7"] {
            assert!(!is_check_key(key), "{key}");
        }
        assert!(!is_check_key(&format!("_checks/{}", "A".repeat(32))));
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
            "_manifests/source=payments/p-00000000000000000001.json",
            "_manifests/source=payments/p01-00000000000000000001.json",
            "_manifests/payments/00000000000000000001.json",
            "_manifests/source=payments/00000000000000000001.tombstone.parquet",
            "_holds/1.json",
            "_holds/source=payments/00000000000000000001.json",
            "_checks/20261121",
            "source=payments/_delta_log/1.json",
            "source=payments/_delta_log/_last_checkpoint",
            "source=payments/_delta_log/00000000000000000010.checkpoint.parquet",
            "source=Payments/_delta_log/00000000000000000010.json",
            "_delta_log/00000000000000000010.json",
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
            let stream = StreamId { source, partition };
            let expected = Key::Segment { stream: stream.clone(), day, first_seq };
            prop_assert_eq!(parse(&segment_key(&stream, day, first_seq)), Some(expected));
            let expected = Key::Manifest { stream: stream.clone(), first_seq };
            prop_assert_eq!(parse(&manifest_key(&stream, first_seq)), Some(expected));
            let expected = Key::Tombstone { stream: stream.clone(), first_seq };
            prop_assert_eq!(parse(&tombstone_key(&stream, first_seq)), Some(expected));
            prop_assert_eq!(parse(&hold_key(first_seq)), Some(Key::Hold(first_seq)));
            prop_assert_eq!(parse(&hold_released_key(first_seq)), Some(Key::HoldReleased(first_seq)));
            let expected = Key::DeltaCommit { source: stream.source.clone(), version: first_seq };
            prop_assert_eq!(parse(&delta_commit_key(&stream.source, first_seq)), Some(expected));
        }

        #[test]
        fn what_parses_formats_back(key in "(source=|_manifests/source=)[a-z0-9]{1,3}/(date=20[0-9]{2}-[0-9]{2}-[0-9]{2}/|_delta_log/)?(seg-)?(p[0-9]-)?[0-9]{19,21}\\.(parquet|json|tombstone\\.json)") {
            let formatted = match parse(&key) {
                None => return Ok(()),
                Some(Key::Manifest { stream, first_seq }) => manifest_key(&stream, first_seq),
                Some(Key::Tombstone { stream, first_seq }) => tombstone_key(&stream, first_seq),
                Some(Key::Segment { stream, day, first_seq }) => segment_key(&stream, day, first_seq),
                Some(Key::Hold(id)) => hold_key(id),
                Some(Key::HoldReleased(id)) => hold_released_key(id),
                Some(Key::DeltaCommit { source, version }) => delta_commit_key(&source, version),
            };
            prop_assert_eq!(formatted, key);
        }
    }
}
