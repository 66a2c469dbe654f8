//! Finds records in a stored segment by range requests: statistics and bloom filters first, then only the pages that matter.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::error::ArrowError;
use bson::Timestamp;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, RowFilter, RowSelection, RowSelector,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{
    ColumnChunkMask, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::super::manifest::Manifest;
use super::super::schema::{self, DOC_ID, ROW_GROUP_BYTES, ROW_GROUP_ROWS};
use super::{decode, read};
use crate::error::{Error, Result};
use crate::record::Record;

/// What is read at first, so that one request gets the footer: so much, and so much more for each row group.
const FOOTER: u64 = 4 << 10;
const FOOTER_OF_GROUP: u64 = 3 << 10;

/// A stored segment that is being searched.
pub(in super::super) struct Search {
    file: Tail,
    metadata: Arc<ParquetMetaData>,
}

impl Search {
    /// Reads the file's footer. Its size is from its manifest: not every store answers suffix requests.
    pub(in super::super) async fn open(
        store: Arc<dyn ObjectStore>,
        path: Path,
        manifest: &Manifest,
    ) -> ParquetResult<Self> {
        let size = manifest.size;
        let groups =
            (manifest.rows / ROW_GROUP_ROWS as u64).max(manifest.bson_bytes / ROW_GROUP_BYTES as u64);
        let start = size.saturating_sub(FOOTER + FOOTER_OF_GROUP * (groups + 1));
        let tail = store.get_range(&path, start..size).await?;
        let mut file = Tail { store, path, size, start, tail };
        let metadata = file.get_metadata(None).await?;
        Ok(Search { file, metadata })
    }

    /// The file's footer.
    pub(in super::super) fn metadata(&self) -> Arc<ParquetMetaData> {
        Arc::clone(&self.metadata)
    }

    /// The records of one document, in seq order. A segment without any costs its footer and mostly one bloom filter; of one
    /// with some, the pages are read that hold them.
    pub(in super::super) async fn document(mut self, doc_id: &str) -> ParquetResult<Result<Vec<Vec<u8>>>> {
        let Some(column) = schema::position(DOC_ID) else { return Ok(Ok(Vec::new())) };
        let mut surviving = Vec::new();
        for group in self.groups(|group| {
            let statistics = group.columns().get(column).and_then(|c| c.statistics());
            statistics.is_none_or(|s| spans(s.min_bytes_opt(), s.max_bytes_opt(), doc_id))
        }) {
            let mut builder = self.builder()?;
            let bloom = builder.get_row_group_column_bloom_filter(group, column).await?;
            if bloom.is_none_or(|bloom| bloom.check(doc_id)) {
                surviving.push(group);
            }
        }
        self.read_page_index(&surviving, Some(column)).await?;
        let rows = self.possible_rows(&surviving, column, doc_id);
        let doc_id = doc_id.to_owned();
        let predicate = move |batch: &RecordBatch| {
            let ids: &StringArray = typed(batch, 0)?;
            Ok(ids.iter().map(|id| Some(id == Some(doc_id.as_str()))).collect())
        };
        let builder = self.builder()?.with_row_selection(rows);
        records(builder, surviving, &[DOC_ID], predicate).await
    }

    /// The records of these operations at or after this cluster time, in seq order.
    pub(in super::super) async fn ops(
        mut self,
        ops: &[&str],
        from: Timestamp,
    ) -> ParquetResult<Result<Vec<Vec<u8>>>> {
        let from_micros = i64::from(from.time) * 1_000_000;
        let groups = self.groups(|group| {
            let times = schema::position("cluster_time").and_then(|n| group.columns().get(n)?.statistics());
            let max = times.and_then(|s| Some(i64::from_le_bytes(s.max_bytes_opt()?.try_into().ok()?)));
            max.is_none_or(|max| max >= from_micros)
        });
        let ops: Vec<String> = ops.iter().map(|op| (*op).to_owned()).collect();
        let predicate = move |batch: &RecordBatch| {
            let found: &StringArray = typed(batch, 0)?;
            let times: &TimestampMicrosecondArray = typed(batch, 1)?;
            let ordinals: &Int32Array = typed(batch, 2)?;
            let wanted = |n: usize| {
                let time = (times.value(n), ordinals.value(n) as u32);
                time >= (from_micros, from.increment) && ops.iter().any(|op| op == found.value(n))
            };
            Ok((0..batch.num_rows()).map(|n| Some(wanted(n))).collect())
        };
        self.read_page_index(&groups, None).await?;
        let builder = self.builder()?;
        records(builder, groups, &["op", "cluster_time", "cluster_inc"], predicate).await
    }

    fn groups(&self, possible: impl Fn(&RowGroupMetaData) -> bool) -> Vec<usize> {
        let groups = self.metadata.row_groups().iter().enumerate();
        groups.filter(|(_, group)| possible(group)).map(|(n, _)| n).collect()
    }

    fn builder(&self) -> ParquetResult<ParquetRecordBatchStreamBuilder<Tail>> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::try_new(Arc::clone(&self.metadata), options)?;
        Ok(ParquetRecordBatchStreamBuilder::new_with_metadata(self.file.clone(), metadata))
    }

    /// Reads where the pages of these row groups are, so that a hit reads single pages, and what is in those of one column.
    async fn read_page_index(&mut self, groups: &[usize], column: Option<usize>) -> ParquetResult<()> {
        if groups.is_empty() {
            return Ok(());
        }
        let of_groups = groups.iter().copied();
        let mut reader = ParquetMetaDataReader::new_with_metadata(ParquetMetaData::clone(&self.metadata))
            .with_column_index_policy(column.map_or(PageIndexPolicy::Skip, |_| PageIndexPolicy::Optional))
            .with_column_index_mask(ColumnChunkMask::row_groups_and_columns(of_groups.clone(), column))
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .with_offset_index_mask(ColumnChunkMask::row_groups(of_groups));
        reader.load_page_index(&mut self.file).await?;
        self.metadata = Arc::new(reader.finish()?);
        let wrong = groups.iter().any(|group| {
            let index = self.metadata.page_index_for_row_group(*group);
            let group = self.metadata.row_group(*group);
            let mut chunks = group.columns().iter().enumerate();
            chunks.any(|(n, chunk)| {
                index
                    .page_locations(n)
                    .is_some_and(|pages| !read::are_in_line(chunk, pages, group.num_rows()))
            })
        });
        match wrong {
            true => Err(ParquetError::General("the page index names other pages than there are".to_owned())),
            false => Ok(()),
        }
    }

    /// The rows of these row groups in whose pages the id can be.
    fn possible_rows(&self, groups: &[usize], column: usize, doc_id: &str) -> RowSelection {
        let mut selectors = Vec::new();
        for group in groups {
            let rows = usize::try_from(self.metadata.row_group(*group).num_rows()).unwrap_or_default();
            let index = self.metadata.page_index_for_row_group(*group);
            let (Some(ColumnIndexMetaData::BYTE_ARRAY(values)), Some(pages)) =
                (index.column_index(column), index.page_locations(column))
            else {
                selectors.push(RowSelector::select(rows));
                continue;
            };
            let starts = pages.iter().map(|page| usize::try_from(page.first_row_index).unwrap_or_default());
            let ends = starts.clone().skip(1).chain([rows]);
            for (page, (start, end)) in starts.zip(ends).enumerate() {
                let count = end.saturating_sub(start);
                selectors.push(match spans(values.min_value(page), values.max_value(page), doc_id) {
                    true => RowSelector::select(count),
                    false => RowSelector::skip(count),
                });
            }
        }
        selectors.into()
    }
}

/// Whether an id can be among values of which these are the bounds, where they are known.
fn spans(min: Option<&[u8]>, max: Option<&[u8]>, doc_id: &str) -> bool {
    min.is_none_or(|min| doc_id.as_bytes() >= min) && max.is_none_or(|max| doc_id.as_bytes() <= max)
}

fn typed<A: 'static>(batch: &RecordBatch, n: usize) -> Result<&A, ArrowError> {
    let column = batch.columns().get(n).and_then(|column| column.as_any().downcast_ref());
    column.ok_or_else(|| ArrowError::SchemaError("a column is of another type".to_owned()))
}

/// Reads the rows of these row groups for which the predicate holds, and rebuilds their records.
async fn records(
    builder: ParquetRecordBatchStreamBuilder<Tail>,
    groups: Vec<usize>,
    columns: &[&str],
    mut predicate: impl FnMut(&RecordBatch) -> Result<BooleanArray, ArrowError> + Send + 'static,
) -> ParquetResult<Result<Vec<Vec<u8>>>> {
    if groups.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    if let Err(error) = schema::check(builder.schema()) {
        return Ok(Err(error));
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    // What no record is rebuilt from is not read; and skipping in a damaged list the Parquet reader may never end.
    let derived = [DOC_ID, "changed"];
    let needed = schema::columns();
    let needed =
        needed.fields().iter().map(|field| field.name().as_str()).filter(|name| !derived.contains(name));
    let needed = ProjectionMask::columns(builder.parquet_schema(), needed);
    let filter = RowFilter::new(vec![Box::new(ArrowPredicateFn::new(mask, move |batch| predicate(&batch)))]);
    let batch_rows = read::batch_rows(builder.metadata());
    let builder = builder.with_row_groups(groups).with_projection(needed).with_row_filter(filter);
    let mut stream = builder.with_batch_size(batch_rows).build()?;
    let mut found: Vec<(i64, Vec<u8>)> = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        let batch = decode::records(&batch).and_then(|records| records.into_iter().map(with_seq).collect());
        match batch {
            Ok::<Vec<_>, Error>(records) => found.extend(records),
            Err(error) => return Ok(Err(error)),
        }
    }
    found.sort_unstable_by_key(|(seq, _)| *seq);
    Ok(Ok(found.into_iter().map(|(_, record)| record).collect()))
}

fn with_seq(record: Vec<u8>) -> Result<(i64, Vec<u8>)> {
    Ok((Record::new(&record)?.seq()?, record))
}

/// A stored file whose tail is in memory; the rest is read by range.
#[derive(Clone)]
struct Tail {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    /// Where the tail begins.
    start: u64,
    tail: Bytes,
}

impl Tail {
    /// The bytes of a range that lies in the tail.
    fn cached(&self, range: &Range<u64>) -> Option<Bytes> {
        let from = usize::try_from(range.start.checked_sub(self.start)?).ok()?;
        let to = usize::try_from(range.end.checked_sub(self.start)?).ok()?;
        (from <= to && to <= self.tail.len()).then(|| self.tail.slice(from..to))
    }
}

impl AsyncFileReader for Tail {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            match self.cached(&range) {
                Some(bytes) => Ok(bytes),
                None => Ok(self.store.get_range(&self.path, range).await?),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let cached: Option<Vec<Bytes>> = ranges.iter().map(|range| self.cached(range)).collect();
            match cached {
                Some(bytes) => Ok(bytes),
                None => Ok(self.store.get_ranges(&self.path, &ranges).await?),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_metadata_options(options.map(|o| o.metadata_options().clone()))
                .with_prefetch_hint(Some(self.tail.len()));
            let metadata = reader.load_and_finish(self, size).await;
            metadata.map(Arc::new).map_err(|e| match e {
                ParquetError::NeedMoreData(_) => ParquetError::EOF("the footer is cut off".to_owned()),
                other => other,
            })
        }
        .boxed()
    }
}
