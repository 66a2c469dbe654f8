//! Builds and reads one segment.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::day::Day;
use super::manifest::ClusterTime;
use crate::error::{Error, Result};
use crate::record::Sha;

/// One built segment: its key, its file, and what a manifest says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The key, relative to the archive's root.
    pub key: String,
    /// The Parquet file.
    pub file: Bytes,
    /// The file's SHA-256.
    pub sha256: Sha,
    /// What is in it.
    pub summary: Summary,
}

/// What is in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The source's name.
    pub source: String,
    /// How many records.
    pub rows: u64,
    /// The BSON bytes of the records.
    pub bson_bytes: u64,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
    /// The lowest cluster time.
    pub first_cluster_time: ClusterTime,
    /// The highest cluster time.
    pub last_cluster_time: ClusterTime,
    /// How many records of each operation.
    pub ops: BTreeMap<String, u64>,
    /// The Merkle root over the records' leaves in seq order.
    pub merkle_root: Sha,
}

/// Collects the records of one segment: contiguous in seq, of one UTC day.
#[derive(Debug)]
pub struct SegmentBuilder {
    source: String,
}

impl SegmentBuilder {
    /// An empty one for this source.
    pub fn new(source: &str) -> Self {
        SegmentBuilder { source: source.to_owned() }
    }

    /// Adds the next record. Refuses one of another day, or whose seq is not the next, and stays as it was.
    pub fn push(&mut self, record: &[u8]) -> Result<()> {
        let _ = record;
        Err(Error::internal("not written yet"))
    }

    /// How many records it holds.
    pub fn rows(&self) -> usize {
        0
    }

    /// The BSON bytes of the records it holds.
    pub fn bson_bytes(&self) -> usize {
        0
    }

    /// The UTC day of its records; `None` while it is empty.
    pub fn day(&self) -> Option<Day> {
        None
    }

    /// Builds the file, and proves that it gives every record back, before anything is stored. CPU-bound: for a
    /// blocking thread. Fails as internal where it holds no record.
    pub fn finish(self) -> Result<Segment> {
        Err(Error::internal("not written yet").hint(self.source))
    }
}

impl Segment {
    /// A segment from a stored file: decodes all of it. CPU-bound. Fails as corrupt where the file is not what the key says.
    pub fn from_file(key: &str, file: Bytes) -> Result<Segment> {
        let _ = (key, file);
        Err(Error::internal("not written yet"))
    }
}

/// The records of one segment in seq order, all in memory.
#[derive(Debug, Clone, Default)]
pub struct Records {}

impl Records {
    /// The canonical bytes of each record, in seq order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }
}

/// Decodes a segment file: every record's canonical bytes, in seq order. CPU-bound. Holds all of them; where order does not matter
/// use [`rows`].
pub fn read(file: Bytes) -> Result<Records> {
    let _ = file;
    Err(Error::internal("not written yet"))
}

/// Decodes a segment file a few records at a time, in the file's order (doc_id, seq): each item is one record's canonical bytes.
pub fn rows(file: Bytes) -> Result<impl Iterator<Item = Result<Vec<u8>>>> {
    let _ = file;
    Ok(std::iter::empty())
}
