//! Reads a segment file as an auditor does: every record, and whether all else in the file is what the records give.
//!
//! Whoever queries the archive believes the columns, the order of the rows, the statistics and the bloom filters without rebuilding
//! a record. Does not know what the file should hold: that is for whoever has its manifest.

mod pages;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::bloom_filter::Sbbf;
use parquet::file::statistics::Statistics;

use super::super::schema::{self, DOC_ID};
use super::encode::{self, Keep};
use super::read::{Footer, begin, guarded, unreadable};
use super::{decode, decode::Decoded};
use crate::error::Result;
use pages::Page;

/// What in a row, or about it, is not what its record gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// This column.
    Column(String),
    /// Its place: rows are sorted by `doc_id`, then seq.
    Order,
    /// The bloom filter of its row group leaves its document out: a lookup would not find it.
    Bloom,
    /// The statistics of its row group or page leave the value in this column out: a filter would not find it.
    Statistics(String),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Column(name) => write!(f, "column {name} is not what the record gives"),
            Flaw::Order => f.write_str("it does not stand where its doc_id and seq put it"),
            Flaw::Bloom => f.write_str("the bloom filter leaves its document out"),
            Flaw::Statistics(name) => write!(f, "the statistics of column {name} leave its value out"),
        }
    }
}

/// One row of a segment.
#[derive(Debug)]
pub struct Audited {
    /// The seq, as its column says.
    pub seq: i64,
    /// The record's canonical bytes; they have a seq and a cluster time.
    pub record: Result<Vec<u8>>,
    /// What is wrong with the rest of the row.
    pub flaws: Vec<Flaw>,
}

/// The rows of a segment, in the file's order. Ends after an error, which is one of the whole file.
#[derive(Debug)]
pub struct Audit {
    footer: Footer,
    reader: ParquetRecordBatchReader,
    /// The row groups that are not read to their end.
    groups: VecDeque<Group>,
    /// What the last row is sorted by.
    last: Option<(Option<String>, i64)>,
    batch: std::vec::IntoIter<Audited>,
    failed: bool,
}

/// What a file says of one of its row groups, and how many of its rows have been read.
#[derive(Debug)]
struct Group {
    rows: usize,
    read: usize,
    bloom: Option<Sbbf>,
    columns: Vec<Said>,
}

/// What is said of one column of a row group.
#[derive(Debug)]
struct Said {
    statistics: Option<Statistics>,
    pages: Vec<Page>,
}

/// Opens a segment file for an audit. CPU-bound; holds a few records at a time. Fails as corrupt where the file does not read, where
/// it has not as many rows as its footer names seqs, and where its page index names other pages than there are.
pub fn audit(file: Bytes) -> Result<Audit> {
    guarded(|| {
        let (builder, footer) = begin(file.clone())?;
        let groups = groups(file, &builder)?;
        let reader = builder.build().map_err(unreadable)?;
        Ok(Audit { footer, reader, groups, last: None, batch: Vec::new().into_iter(), failed: false })
    })
}

fn groups(file: Bytes, builder: &ParquetRecordBatchReaderBuilder<Bytes>) -> Result<VecDeque<Group>> {
    schema::check(builder.schema())?;
    let metadata = pages::with_index(&file, builder.metadata())?;
    let file = Arc::new(file);
    let doc_id = schema::position(DOC_ID).unwrap_or_default();
    let groups = metadata.row_groups().iter().enumerate().map(|(n, group)| {
        let columns = group.columns().iter().enumerate().map(|(column, chunk)| {
            let pages = pages::pages(&file, &metadata, n, column)?;
            Ok(Said { statistics: chunk.statistics().cloned(), pages })
        });
        Ok(Group {
            rows: usize::try_from(group.num_rows()).unwrap_or_default(),
            read: 0,
            bloom: builder.get_row_group_column_bloom_filter(n, doc_id).map_err(unreadable)?,
            columns: columns.collect::<Result<_>>()?,
        })
    });
    groups.collect()
}

impl Said {
    /// The rows among these, of which the first is that one of its row group, whose value is left out.
    fn outside(&self, column: &ArrayRef, first: usize) -> Vec<usize> {
        let mut found = self.statistics.as_ref().map_or(Vec::new(), |statistics| outside(statistics, column));
        let (mut from, end) = (first, first + column.len());
        if !found.is_empty() {
            return found;
        }
        for page in self.pages.iter().skip_while(|page| page.end <= first) {
            let to = page.end.min(end);
            if from >= to {
                break;
            }
            let rows = page.outside(&column.slice(from - first, to - from));
            found.extend(rows.into_iter().map(|row| row + from - first));
            from = to;
        }
        found
    }
}

impl Audit {
    /// What the footer says.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    fn next_batch(&mut self) -> Result<Option<Vec<Audited>>> {
        let Some(batch) = self.reader.next().transpose().map_err(unreadable)? else { return Ok(None) };
        let decoded = decode::each(&batch)?;
        let mut flaws = columns(&batch, &decoded)?;
        self.check_groups(&batch, &mut flaws);
        let ids = batch.column_by_name(DOC_ID).and_then(|ids| ids.as_any().downcast_ref::<StringArray>());
        for (n, row) in decoded.iter().enumerate() {
            let id = ids.filter(|ids| ids.is_valid(n)).map(|ids| ids.value(n).to_owned());
            let place = (id, row.seq);
            // `None` sorts before every text, as in the file.
            if self.last.as_ref().is_some_and(|last| *last >= place) {
                flaws[n].push(Flaw::Order);
            }
            self.last = Some(place);
        }
        let rows = decoded.into_iter().zip(flaws);
        Ok(Some(rows.map(|(row, flaws)| Audited { seq: row.seq, record: row.record, flaws }).collect()))
    }

    /// Compares each row with what the file says of its row group.
    fn check_groups(&mut self, batch: &RecordBatch, flaws: &mut [Vec<Flaw>]) {
        let mut from = 0;
        while from < batch.num_rows() {
            let Some(group) = self.groups.front_mut() else { return };
            let rows = (group.rows - group.read).min(batch.num_rows() - from);
            for ((n, column), said) in batch.columns().iter().enumerate().zip(&group.columns) {
                for row in said.outside(&column.slice(from, rows), group.read) {
                    flaws[from + row].push(Flaw::Statistics(batch.schema().field(n).name().clone()));
                }
            }
            let ids = batch.column_by_name(DOC_ID).and_then(|ids| ids.as_any().downcast_ref::<StringArray>());
            if let (Some(bloom), Some(ids)) = (&group.bloom, ids) {
                let lost = |n: &usize| ids.is_valid(*n) && !bloom.check(&ids.value(*n));
                (from..from + rows).filter(lost).for_each(|n| flaws[n].push(Flaw::Bloom));
            }
            from += rows;
            group.read += rows;
            if group.read == group.rows {
                self.groups.pop_front();
            }
        }
    }
}

impl Iterator for Audit {
    type Item = Result<Audited>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.batch.next() {
                return Some(Ok(row));
            }
            if self.failed {
                return None;
            }
            match guarded(|| self.next_batch()) {
                Ok(None) => return None,
                Ok(Some(rows)) => self.batch = rows.into_iter(),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Writes the columns of a batch anew from its records, and says of each row which of them differ. Where a record can't be rebuilt
/// nothing is compared in its batch.
fn columns(batch: &RecordBatch, rows: &[Decoded]) -> Result<Vec<Vec<Flaw>>> {
    let mut flaws = vec![Vec::new(); rows.len()];
    let keep = |whole| if whole { Keep::Whole } else { Keep::Columns };
    let records: Option<Vec<_>> =
        rows.iter().map(|row| Some((row.record.as_deref().ok()?, keep(row.whole)))).collect();
    let Some(records) = records else { return Ok(flaws) };
    let expected = encode::columns(records)?;
    for (n, (expected, found)) in expected.columns().iter().zip(batch.columns()).enumerate() {
        if expected == found {
            continue;
        }
        for (row, flaws) in flaws.iter_mut().enumerate() {
            if expected.slice(row, 1) != found.slice(row, 1) {
                flaws.push(Flaw::Column(batch.schema().field(n).name().clone()));
            }
        }
    }
    Ok(flaws)
}

/// The rows whose value these statistics leave out.
fn outside(statistics: &Statistics, column: &ArrayRef) -> Vec<usize> {
    fn rows<T: PartialOrd>(
        values: impl Iterator<Item = Option<T>>,
        min: Option<T>,
        max: Option<T>,
        nulls: Option<u64>,
    ) -> Vec<usize> {
        let out = |value: &Option<T>| match value {
            Some(value) => {
                min.as_ref().is_some_and(|min| value < min) || max.as_ref().is_some_and(|max| value > max)
            }
            None => nulls == Some(0),
        };
        values.enumerate().filter(|(_, value)| out(value)).map(|(n, _)| n).collect()
    }
    let nulls = statistics.null_count_opt();
    let any = column.as_any();
    match statistics {
        Statistics::Int64(s) => {
            let (min, max) = (s.min_opt().copied(), s.max_opt().copied());
            if let Some(values) = any.downcast_ref::<Int64Array>() {
                return rows(values.iter(), min, max, nulls);
            }
            let times = any.downcast_ref::<TimestampMicrosecondArray>();
            times.map_or(Vec::new(), |times| rows(times.iter(), min, max, nulls))
        }
        Statistics::Int32(s) => {
            let (min, max) = (s.min_opt().copied(), s.max_opt().copied());
            let values = any.downcast_ref::<Int32Array>();
            values.map_or(Vec::new(), |values| rows(values.iter(), min, max, nulls))
        }
        Statistics::ByteArray(s) => {
            let (min, max) = (s.min_opt().map(|v| v.data()), s.max_opt().map(|v| v.data()));
            let values = any.downcast_ref::<StringArray>();
            values.map_or(Vec::new(), |values| {
                rows(values.iter().map(|v| v.map(str::as_bytes)), min, max, nulls)
            })
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
