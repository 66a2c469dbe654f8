//! Reads a whole segment file: its records, in the file's order or by seq, and what is in it.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::page_index::offset_index::PageLocation;

use super::super::day::Day;
use super::super::manifest::{ClusterTime, FORMAT};
use super::super::merkle::Tree;
use super::super::schema;
use super::super::spool::{self, Spool};
use super::{MAX_ROWS, Summary, decode};
use crate::error::{Error, Result};
use crate::record::{Record, RecordId, Sha, hex};
use crate::stream_id::StreamId;

/// Text bytes decoded at once, about.
const BATCH_BYTES: i64 = 4 << 20;
const BATCH_ROWS: i64 = 1_024;

/// The records of one segment in seq order: in memory while they are few, else in an unnamed temporary file.
#[derive(Debug)]
pub struct Records {
    spool: Spool,
    order: Vec<u32>,
}

impl Records {
    /// The canonical bytes of the record at this place, from 0 on; `None` behind the last.
    pub fn get(&self, place: usize) -> Result<Option<Vec<u8>>> {
        let Some(n) = self.order.get(place) else { return Ok(None) };
        self.spool.copy(*n as usize).map(Some)
    }

    /// The canonical bytes of each record, in seq order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Vec<u8>>> {
        (0..self.len()).filter_map(|place| self.get(place).transpose())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Decodes a segment file: every record's canonical bytes, in seq order. CPU-bound. Keeps all of them; where order does
/// not matter use [`rows`].
pub fn read(file: Bytes) -> Result<Records> {
    let rows = rows(file)?;
    let range = rows.range.clone();
    let mut spool = Spool::new(spool::READING);
    let mut order: Vec<Option<u32>> = vec![None; (range.end - range.start) as usize];
    for (n, record) in rows.enumerate() {
        let record = record?;
        *slot(&mut order, range.start, Record::new(&record)?.seq()?)? = Some(n as u32);
        spool.push(&record)?;
    }
    let order = order.into_iter().collect::<Option<_>>().ok_or_else(not_dense)?;
    Ok(Records { spool, order })
}

/// The place of this seq, which must not have been taken.
fn slot<T>(slots: &mut [Option<T>], first_seq: i64, seq: i64) -> Result<&mut Option<T>> {
    let at = seq.checked_sub(first_seq).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| slots.get_mut(at)).filter(|slot| slot.is_none()).ok_or_else(not_dense)
}

fn not_dense() -> Error {
    Error::corrupt("a segment's records are not the seqs that its footer names, each once")
}

/// Runs something that reads Parquet, and turns a panic into an error: the library panics on some damaged files.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
    result.unwrap_or_else(|_| Err(damaged()))
}

pub(in super::super) fn damaged() -> Error {
    Error::corrupt("a segment file is damaged: the Parquet reader gave up on it")
}

/// Decodes a segment file a few records at a time, in the file's order (doc_id, seq). CPU-bound.
pub fn rows(file: Bytes) -> Result<Rows> {
    guarded(|| open(file))
}

fn open(file: Bytes) -> Result<Rows> {
    let (builder, footer) = begin(file)?;
    let reader = builder.build().map_err(unreadable)?;
    let range = footer.first_seq..footer.end_seq;
    Ok(Rows { reader, batch: Vec::new().into_iter(), range, stream: footer.stream, failed: false })
}

/// What reads a file, and what its footer says: the seqs in it are as many as its rows, and no more than a segment can hold.
pub(super) fn begin(file: Bytes) -> Result<(ParquetRecordBatchReaderBuilder<Bytes>, Footer)> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new().with_skip_arrow_metadata(true));
    let metadata = metadata.map_err(unreadable)?;
    let footer = Footer::of(metadata.metadata())?;
    let rows = metadata.metadata().file_metadata().num_rows();
    // The bound keeps a damaged footer from asking for absurd amounts of memory.
    if rows <= 0 || rows > MAX_ROWS as i64 || footer.end_seq.checked_sub(footer.first_seq) != Some(rows) {
        return Err(not_dense());
    }
    let batch_rows = batch_rows(metadata.metadata());
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    Ok((builder.with_batch_size(batch_rows), footer))
}

/// How many rows to decode at once so that fat documents stay within bounds.
pub(super) fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let fattest = metadata.row_groups().iter().map(|g| g.total_byte_size() / g.num_rows().max(1)).max();
    (BATCH_BYTES / fattest.unwrap_or(1).max(1)).clamp(1, BATCH_ROWS) as usize
}

/// Whether these can be the pages of a column chunk: one behind the other from its first to its last byte, with rows in each. A reader that
/// trusts others may never end.
pub(super) fn are_in_line(chunk: &ColumnChunkMetaData, pages: &[PageLocation], rows: i64) -> bool {
    let (start, length) = chunk.byte_range();
    let chunk_end = i64::try_from(start.saturating_add(length)).unwrap_or(i64::MAX);
    let ends = pages.iter().map(|page| page.offset.saturating_add(i64::from(page.compressed_page_size)));
    let begins = pages.iter().map(|page| page.offset).skip(1).chain([chunk_end]);
    let firsts = pages.iter().map(|page| page.first_row_index);
    let nexts = firsts.clone().skip(1).chain([rows]);
    let begins_well =
        pages.first().is_some_and(|p| p.offset == chunk.data_page_offset() && p.first_row_index == 0);
    begins_well && ends.eq(begins) && firsts.zip(nexts).all(|(first, next)| first < next)
}

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::corrupt("a segment file does not read as Parquet").because(error)
}

/// Each record's canonical bytes, in the file's order. Ends after an error.
#[derive(Debug)]
pub struct Rows {
    reader: ParquetRecordBatchReader,
    batch: std::vec::IntoIter<Vec<u8>>,
    range: std::ops::Range<i64>,
    stream: StreamId,
    failed: bool,
}

impl Iterator for Rows {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.batch.next() {
                return Some(Ok(record));
            }
            if self.failed {
                return None;
            }
            let batch = guarded(|| {
                let batch = self.reader.next().transpose().map_err(unreadable)?;
                let decoded = |batch: RecordBatch| {
                    schema::check(&batch.schema())?;
                    decode::records(&batch)
                };
                batch.map(decoded).transpose()
            });
            match batch {
                Ok(None) => return None,
                Ok(Some(records)) => self.batch = records.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// What a segment's footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The stream whose records it holds.
    pub stream: StreamId,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
    /// The Merkle root over the records, in hex.
    pub merkle_root: String,
}

impl Footer {
    pub(super) fn of(metadata: &ParquetMetaData) -> Result<Footer> {
        let entries = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
        let find = |key: &str| entries.iter().find(|entry| entry.key == key)?.value.as_deref();
        let entry = |key: &str| {
            find(key).ok_or_else(|| Error::corrupt(format!("a segment's footer lacks an entry: key={key}")))
        };
        let format = entry(schema::KEY_FORMAT)?;
        if format != FORMAT.to_string() {
            let problem = Error::invalid("a segment was written in a format that this version does not know");
            return Err(problem.hint("read it with a newer version of archiver"));
        }
        let bad = |key: &str| Error::corrupt(format!("a segment's footer has a bad entry: key={key}"));
        let number = |key: &str| -> Result<i64> { entry(key)?.parse().map_err(|_| bad(key)) };
        let partition = find(schema::KEY_PARTITION).map(str::parse).transpose();
        let partition = partition.map_err(|_| bad(schema::KEY_PARTITION))?;
        Ok(Footer {
            stream: StreamId { source: entry(schema::KEY_SOURCE)?.to_owned(), partition },
            first_seq: number(schema::KEY_FIRST_SEQ)?,
            end_seq: number(schema::KEY_END_SEQ)?,
            merkle_root: entry(schema::KEY_MERKLE_ROOT)?.to_owned(),
        })
    }
}

/// Decodes all of a segment file and says what is in it, with the day of its records. CPU-bound; holds a few records and one
/// digest per record.
pub(super) fn summarize(file: Bytes) -> Result<(Summary, Day)> {
    let mut rows = rows(file)?;
    let (first_seq, end_seq) = (rows.range.start, rows.range.end);
    let stream = std::mem::replace(&mut rows.stream, StreamId::whole(""));
    let mut leaves: Vec<Option<Sha>> = vec![None; (end_seq - first_seq) as usize];
    let mut tally = Tally::default();
    for record in rows {
        let record = record?;
        let record = Record::new(&record)?;
        let RecordId { partition, seq } = record.record_id()?;
        if partition != stream.partition {
            return Err(not_dense());
        }
        *slot(&mut leaves, first_seq, seq)? = Some(record.leaf());
        tally.add(&record)?;
    }
    let leaves: Vec<Sha> = leaves.into_iter().collect::<Option<_>>().ok_or_else(not_dense)?;
    let root = leaves.into_iter().collect::<Tree>().root();
    tally.summary(stream, first_seq, root)
}

/// Checks that the footer of a file names the root that its records give.
pub(super) fn check_root(file: &Bytes, root: &Sha) -> Result<()> {
    let footer = guarded(|| {
        let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new()).map_err(unreadable)?;
        Footer::of(metadata.metadata())
    });
    let same = footer?.merkle_root == hex(root);
    if same {
        Ok(())
    } else {
        Err(Error::corrupt("a segment's records are not those that its footer is about"))
    }
}

/// Counts what goes into a segment.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    rows: u64,
    bson_bytes: u64,
    times: Option<(ClusterTime, ClusterTime)>,
    ops: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts one record.
    pub(super) fn add(&mut self, record: &Record<'_>) -> Result<()> {
        let time = record.cluster_time()?;
        let time = ClusterTime { t: time.time, i: time.increment };
        let (first, last) = self.times.unwrap_or((time, time));
        self.times = Some((first.min(time), last.max(time)));
        self.rows += 1;
        self.bson_bytes += record.bytes().len() as u64;
        match self.ops.get_mut(record.op()) {
            Some(count) => *count += 1,
            None => drop(self.ops.insert(record.op().to_owned(), 1)),
        }
        Ok(())
    }

    /// The summary and the day; fails as corrupt where the records are of more than one day.
    pub(super) fn summary(
        self,
        stream: StreamId,
        first_seq: i64,
        merkle_root: Sha,
    ) -> Result<(Summary, Day)> {
        let (first, last) = self.times.ok_or_else(not_dense)?;
        let day = Day::of_seconds(first.t);
        if day != Day::of_seconds(last.t) {
            return Err(Error::corrupt("a segment spans more than one UTC day"));
        }
        let summary = Summary {
            stream,
            rows: self.rows,
            bson_bytes: self.bson_bytes,
            first_seq,
            end_seq: first_seq + self.rows as i64,
            first_cluster_time: first,
            last_cluster_time: last,
            ops: self.ops,
            merkle_root,
        };
        Ok((summary, day))
    }
}
