//! Builds and reads one segment: a Parquet file of contiguous records of one stream and one UTC day.

mod audit;
mod decode;
mod encode;
mod read;
mod search;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::arena::Arena;
use super::day::Day;
use super::manifest::ClusterTime;
use super::merkle::{Tree, sha256};
use super::paths::{self, Key};
use super::schema;
use super::spool::{self, Spool};
use crate::error::{Error, Result};
use crate::record::{Record, RecordId, Sha, hex};
use crate::stream_id::StreamId;
use encode::Keep;
use read::Tally;

pub use audit::{Audit, Audited, Flaw, audit};
pub(super) use read::damaged;
pub use read::{Footer, Records, Rows, read, rows};
pub(super) use search::Search;

/// Records in a segment at most: what the roll cuts at, and what a builder refuses beyond.
pub const MAX_ROWS: usize = 1_000_000;

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
    /// The stream whose records it holds.
    pub stream: StreamId,
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

impl Segment {
    /// A segment from a stored file: decodes and checks all of it. CPU-bound: for a blocking thread. Fails as corrupt where the
    /// file is not what its key and its footer say.
    pub fn from_file(key: &str, file: Bytes) -> Result<Segment> {
        let (summary, day) = read::summarize(file.clone())?;
        read::check_root(&file, &summary.merkle_root)?;
        let expected = Key::Segment { stream: summary.stream.clone(), day, first_seq: summary.first_seq };
        if paths::parse(key) != Some(expected) {
            return Err(Error::corrupt(format!("a segment does not hold what its key says: key={key}")));
        }
        Ok(Segment { key: key.to_owned(), sha256: sha256(&file), file, summary })
    }
}

/// Collects the records of one segment: contiguous in seq, of one UTC day. Holds the first of them in memory, the others on disk.
#[derive(Debug)]
pub struct SegmentBuilder {
    stream: StreamId,
    records: Spool,
    /// What column `doc_id` will hold; empty where there is none.
    ids: Arena,
    has_id: Vec<bool>,
    first_seq: i64,
    day: Option<Day>,
    tally: Tally,
    tree: Tree,
}

impl SegmentBuilder {
    /// An empty one for this stream.
    pub fn new(stream: &StreamId) -> Self {
        SegmentBuilder {
            stream: stream.clone(),
            records: Spool::new(spool::BUILDING),
            ids: Arena::default(),
            has_id: Vec::new(),
            first_seq: 0,
            day: None,
            tally: Tally::default(),
            tree: Tree::default(),
        }
    }

    /// Adds the next record. Refuses one of another day, one whose seq is not the next, and more than [`MAX_ROWS`]; the
    /// builder then stays as it was. After any other error it is of no use.
    pub fn push(&mut self, record: &[u8]) -> Result<()> {
        let record = Record::new(record)?;
        let RecordId { partition, seq } = record.record_id()?;
        let day = Day::of_seconds(record.cluster_time()?.time);
        let rows = self.rows();
        if partition != self.stream.partition || (rows > 0 && seq != self.first_seq + rows as i64) {
            return Err(Error::internal(format!(
                "a segment of {} got {seq} of partition {partition:?} after {rows} records from {}",
                self.stream, self.first_seq
            )));
        }
        if self.day.is_some_and(|own| own != day) {
            return Err(Error::internal(format!("a segment got a record of another day: seq={seq}")));
        }
        if rows == MAX_ROWS {
            return Err(Error::internal("a segment got more records than it can hold"));
        }
        let id = super::row::Row::of(record)?.id().map(super::extjson::doc_id_text);
        self.records.push(record.bytes())?;
        self.tally.add(&record)?;
        if rows == 0 {
            self.first_seq = seq;
            self.day = Some(day);
        }
        self.ids.push(id.as_deref().unwrap_or_default().as_bytes());
        self.has_id.push(id.is_some());
        self.tree.push(record.leaf());
        Ok(())
    }

    /// How many records it holds.
    pub fn rows(&self) -> usize {
        self.records.len()
    }

    /// The BSON bytes of the records it holds.
    pub fn bson_bytes(&self) -> usize {
        self.records.bytes()
    }

    /// The UTC day of its records; `None` while it is empty.
    pub fn day(&self) -> Option<Day> {
        self.day
    }

    /// Builds the file, and proves that it gives every record back before anybody stores it. CPU-bound: for a blocking
    /// thread. Fails as internal where there is no record.
    pub fn finish(self) -> Result<Segment> {
        let Some(day) = self.day else {
            return Err(Error::internal("a segment of no records was asked for"));
        };
        let order = self.order();
        let SegmentBuilder { stream, records, tally, tree, first_seq, .. } = self;
        let merkle_root = tree.root();
        let (summary, _) = tally.summary(stream, first_seq, merkle_root)?;
        let footer = schema::Footer {
            stream: &summary.stream,
            first_seq,
            end_seq: summary.end_seq,
            merkle_root: hex(&merkle_root),
        };
        for keep in [Keep::Columns, Keep::Whole] {
            let file = Bytes::from(encode::encode(&records, &order, &footer, keep)?);
            // A file that does not give its records back must never be committed: it could not be replaced.
            match read::summarize(file.clone()) {
                Ok((found, _)) if found == summary => {
                    let key = paths::segment_key(&summary.stream, day, first_seq);
                    return Ok(Segment { key, sha256: sha256(&file), file, summary });
                }
                Ok(_) => tracing::error!(
                    source = %summary.stream,
                    first_seq,
                    "a segment's columns do not give its records back"
                ),
                Err(error) => {
                    tracing::error!(source = %summary.stream, first_seq, %error, "a segment does not read back")
                }
            }
        }
        Err(Error::internal("a segment does not give its records back")
            .hint("report this; nothing has been stored"))
    }

    /// The file's order: by doc_id, records without one first, then by seq.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.rows() as u32).collect();
        order.sort_by_key(|n| (self.has_id[*n as usize], self.ids.get(*n as usize)));
        order
    }
}
