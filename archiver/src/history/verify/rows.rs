//! The records of one segment, against what its manifest says. The file's digest is known to be right.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Finding;
use crate::archive::manifest::{ClusterTime, Manifest};
use crate::archive::merkle::Tree;
use crate::archive::paths::{self, Key};
use crate::archive::{day::Day, segment};
use crate::record::{Record, RecordId, hex};

/// MongoDB nests at most 180 to 200 levels, and a record adds a few.
const MAX_DEPTH: usize = 256;
/// More findings in one segment say nothing new.
const MOST_FINDINGS: usize = 20;

/// What the rows add up to.
#[derive(Default)]
struct Sums {
    rows: u64,
    bson_bytes: u64,
    first: Option<ClusterTime>,
    last: Option<ClusterTime>,
    ops: BTreeMap<String, u64>,
    tree: Tree,
}

/// Decodes every row. Returns how many were right, and what is wrong. CPU-bound.
pub(super) fn check(manifest: &Manifest, file: Bytes) -> (u64, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut find = |seq: Option<i64>, reason: String| {
        if findings.len() < MOST_FINDINGS {
            findings.push(Finding { file: manifest.segment.clone(), seq, reason });
        }
    };
    let records = match segment::read(file) {
        Ok(records) => records,
        Err(error) => {
            find(None, format!("it can't be decoded: {error}"));
            return (0, findings);
        }
    };
    let mut sums = Sums::default();
    let mut expected = manifest.first_seq;
    for bytes in records.iter() {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                find(Some(expected), error.to_string());
                break;
            }
        };
        if let Err((seq, reason)) = sums.add(&bytes, expected, manifest) {
            find(seq, reason);
        }
        expected = expected.saturating_add(1);
    }
    for reason in sums.compare(manifest) {
        find(None, reason);
    }
    (sums.rows, findings)
}

impl Sums {
    fn add(&mut self, bytes: &[u8], expected: i64, manifest: &Manifest) -> Result<(), (Option<i64>, String)> {
        let whole = bson_walker::validate(bytes, MAX_DEPTH);
        whole.map_err(|e| (Some(expected), format!("a record is not valid: {e}")))?;
        let record = Record::new(bytes).map_err(|e| (Some(expected), e.to_string()))?;
        self.rows += 1;
        self.bson_bytes += bytes.len() as u64;
        self.tree.push(record.leaf());
        *self.ops.entry(record.op().to_owned()).or_default() += 1;
        let RecordId { partition, seq } = record.record_id().map_err(|e| (None, e.to_string()))?;
        let time = record.cluster_time().map_err(|e| (Some(seq), e.to_string()))?;
        let time = ClusterTime { t: time.time, i: time.increment };
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
        if seq != expected {
            return Err((Some(seq), format!("the record after seq {} has another seq", expected - 1)));
        }
        if partition != manifest.partition {
            return Err((Some(seq), "it is a record of another partition".to_owned()));
        }
        if !matches!(paths::parse(&manifest.segment), Some(Key::Segment { day, .. }) if day == Day::of_seconds(time.t))
        {
            return Err((Some(seq), "its cluster time is not of the segment's day".to_owned()));
        }
        Ok(())
    }

    fn compare(&self, manifest: &Manifest) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut same = |is: bool, what: &str| {
            if !is {
                reasons.push(format!("{what} not what its manifest says"));
            }
        };
        same(hex(&self.tree.root()) == manifest.merkle_root, "the digest over its records is");
        same(self.rows == manifest.rows, "the number of its records is");
        same(self.bson_bytes == manifest.bson_bytes, "the size of its records is");
        same(self.ops == manifest.ops, "the operations of its records are");
        same(self.first == Some(manifest.first_cluster_time), "the first cluster time is");
        same(self.last == Some(manifest.last_cluster_time), "the last cluster time is");
        reasons
    }
}
