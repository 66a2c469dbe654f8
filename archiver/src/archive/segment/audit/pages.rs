//! What the page index of a segment file says: where the pages of each column are, which rows are in them, and between which bounds.
//! Whoever searches the file reads the pages that it names and no others.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use bytes::Bytes;
use parquet::column::page::PageReader;
use parquet::data_type::ByteArray;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::offset_index::PageLocation;
use parquet::file::reader::SerializedPageReader;
use parquet::file::statistics::Statistics;

use super::super::read::{are_in_line, unreadable};
use super::outside;
use crate::error::{Error, Result};

/// One page of a column.
#[derive(Debug)]
pub(super) struct Page {
    /// The last row in it, plus one, counted in its row group.
    pub(super) end: usize,
    bounds: Bounds,
}

#[derive(Debug)]
enum Bounds {
    /// Nothing is said.
    Unknown,
    /// It has nulls alone; where it is said to have none, nothing at all.
    Nulls {
        any: bool,
    },
    Between(Statistics),
}

impl Page {
    /// The rows among these of the page whose value the index leaves out.
    pub(super) fn outside(&self, column: &ArrayRef) -> Vec<usize> {
        match &self.bounds {
            Bounds::Unknown => Vec::new(),
            Bounds::Nulls { any } => (0..column.len()).filter(|n| !any || column.is_valid(*n)).collect(),
            Bounds::Between(statistics) => outside(statistics, column),
        }
    }
}

/// The file's metadata with its page index, as far as it has one.
pub(super) fn with_index(file: &Bytes, metadata: &ParquetMetaData) -> Result<ParquetMetaData> {
    let reader = ParquetMetaDataReader::new_with_metadata(metadata.clone());
    let mut reader = reader.with_page_index_policy(PageIndexPolicy::Optional);
    reader.read_page_indexes(file).and_then(|()| reader.finish()).map_err(unreadable)
}

/// The pages of one column of a row group; empty where there is no index. Fails as corrupt where it names other pages than there are.
pub(super) fn pages(
    file: &Arc<Bytes>,
    metadata: &ParquetMetaData,
    group: usize,
    column: usize,
) -> Result<Vec<Page>> {
    let index = metadata.page_index_for_row_group(group);
    let Some(locations) = index.page_locations(column) else { return Ok(Vec::new()) };
    let rows = metadata.row_group(group).num_rows();
    let chunk = metadata.row_group(group).column(column);
    if !are_there(file, chunk, locations, rows)? {
        let name = chunk.column_path();
        return Err(Error::corrupt(format!("the page index does not say where the pages of {name} are")));
    }
    let ends = locations.iter().skip(1).map(|page| page.first_row_index).chain([rows]);
    let bounds =
        index.column_index(column).map(|values| (0..locations.len()).map(|n| bounds(values, n)).collect());
    let bounds: Vec<Bounds> = bounds.unwrap_or_default();
    if !bounds.is_empty()
        && index.column_index(column).is_some_and(|v| v.num_pages() != locations.len() as u64)
    {
        return Err(Error::corrupt("the page index has bounds of other pages than it names"));
    }
    let bounds = bounds.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    let pages = ends.zip(bounds).map(|(end, bounds)| Page {
        end: usize::try_from(end).unwrap_or_default(),
        bounds: bounds.unwrap_or(Bounds::Unknown),
    });
    Ok(pages.collect())
}

/// Whether these are the pages of a column chunk, one behind the other, with the rows that are in them. Of a list's pages only the
/// order of the rows is seen: how many there are in each is not in its header.
fn are_there(
    file: &Arc<Bytes>,
    chunk: &ColumnChunkMetaData,
    pages: &[PageLocation],
    rows: i64,
) -> Result<bool> {
    if !are_in_line(chunk, pages, rows) {
        return Ok(false);
    }
    let firsts: Vec<i64> = pages.iter().map(|page| page.first_row_index).chain([rows]).collect();
    let is_list = chunk.column_descr().max_rep_level() > 0;
    let total = usize::try_from(rows).unwrap_or_default();
    let mut reader = SerializedPageReader::new(Arc::clone(file), chunk, total, None).map_err(unreadable)?;
    let mut counts = firsts.windows(2).map(|pair| pair[1] - pair[0]);
    while let Some(page) = reader.peek_next_page().map_err(unreadable)? {
        reader.skip_next_page().map_err(unreadable)?;
        if page.is_dict {
            continue;
        }
        let count = counts.next();
        let values = page.num_levels.and_then(|n| i64::try_from(n).ok());
        if count.is_none() || !is_list && count != values {
            return Ok(false);
        }
    }
    Ok(counts.next().is_none())
}

fn bounds(values: &ColumnIndexMetaData, page: usize) -> Bounds {
    let nulls = values.null_count(page).map(|n| u64::try_from(n).unwrap_or(0));
    if values.is_null_page(page) {
        return Bounds::Nulls { any: nulls != Some(0) };
    }
    let bytes = |value: Option<&[u8]>| value.map(|value| ByteArray::from(value.to_vec()));
    Bounds::Between(match values {
        ColumnIndexMetaData::INT32(v) => {
            Statistics::int32(v.min_value(page).copied(), v.max_value(page).copied(), None, nulls, false)
        }
        ColumnIndexMetaData::INT64(v) => {
            Statistics::int64(v.min_value(page).copied(), v.max_value(page).copied(), None, nulls, false)
        }
        ColumnIndexMetaData::BYTE_ARRAY(v) => {
            Statistics::byte_array(bytes(v.min_value(page)), bytes(v.max_value(page)), None, nulls, false)
        }
        _ => return Bounds::Unknown,
    })
}
