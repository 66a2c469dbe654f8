//! The Parquet schema of a segment: its columns, how each is stored, and what its footer says.
//!
//! The columns are frozen: readers glob over files of all ages, and a column that some files lack breaks that. What comes
//! later goes into `extra`.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{
    BloomFilterPosition, EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;

use super::manifest::FORMAT;
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

/// Rows in a row group at most. The largest single gain of a lookup: DuckDB skips row groups, not pages.
pub const ROW_GROUP_ROWS: usize = 16_384;
/// BSON bytes in a row group at which it is ended, so that fat documents do not make huge ones.
pub const ROW_GROUP_BYTES: usize = 32 << 20;
/// Rows in a page at most: a lookup that hits reads one page of every column.
const PAGE_ROWS: usize = 2_048;
/// The share of absent ids that the bloom filter lets through.
const BLOOM_FPP: f64 = 0.01;
const ZSTD_LEVEL: i32 = 3;

/// The column that the bloom filter is on and that rows are sorted by.
pub const DOC_ID: &str = "doc_id";
/// Columns of few different values: these alone have dictionaries.
const DICTIONARY: [&str; 7] = ["op", "db", "coll", "actor", "actor_from", "images", "policy"];
/// Columns that nobody can prune by: no statistics.
const OPAQUE: [&str; 10] = [
    "doc_key",
    "before",
    "after",
    "delta",
    "before_exact",
    "after_exact",
    "delta_exact",
    "images",
    "detail",
    "extra",
];

/// Footer key: the version of the stored format.
pub const KEY_FORMAT: &str = "archiver.format";
/// Footer key: the source's name.
pub const KEY_SOURCE: &str = "archiver.source";
/// Footer key: the partition, where the source has several.
pub const KEY_PARTITION: &str = "archiver.partition";
/// Footer key: the first record's seq.
pub const KEY_FIRST_SEQ: &str = "archiver.first_seq";
/// Footer key: one after the last record's seq.
pub const KEY_END_SEQ: &str = "archiver.end_seq";
/// Footer key: the Merkle root over the records, in hex.
pub const KEY_MERKLE_ROOT: &str = "archiver.merkle_root";
/// Footer key: the version of Archiver that wrote the file.
pub const KEY_VERSION: &str = "archiver.version";

/// The columns, in their order.
pub fn columns() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let names = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
        Arc::new(Schema::new(vec![
            Field::new("seq", DataType::Int64, false),
            Field::new("op", DataType::Utf8, false),
            Field::new("db", DataType::Utf8, true),
            Field::new("coll", DataType::Utf8, true),
            Field::new(DOC_ID, DataType::Utf8, true),
            Field::new("doc_key", DataType::Utf8, true),
            Field::new("cluster_time", time(), false),
            Field::new("cluster_inc", DataType::Int32, false),
            Field::new("wall_time", time(), true),
            Field::new("actor", DataType::Utf8, true),
            Field::new("actor_from", DataType::Utf8, true),
            Field::new("txn", DataType::Utf8, true),
            Field::new("before", DataType::Utf8, true),
            Field::new("after", DataType::Utf8, true),
            Field::new("delta", DataType::Utf8, true),
            Field::new("before_exact", DataType::Binary, true),
            Field::new("after_exact", DataType::Binary, true),
            Field::new("delta_exact", DataType::Binary, true),
            Field::new("changed", names, true),
            Field::new("images", DataType::Utf8, true),
            Field::new("detail", DataType::Utf8, true),
            Field::new("policy", DataType::Int64, true),
            Field::new("extra", DataType::Utf8, true),
        ]))
    });
    Arc::clone(&SCHEMA)
}

/// Checks that a file has the columns of this format, in their order.
pub fn check(found: &Schema) -> Result<()> {
    let expected = columns();
    let same = expected.fields().len() == found.fields().len()
        && expected.fields().iter().zip(found.fields()).all(|(a, b)| a.name() == b.name() && same_type(a, b));
    if same { Ok(()) } else { Err(Error::corrupt("a segment does not have the columns of its format")) }
}

fn same_type(a: &Field, b: &Field) -> bool {
    match (a.data_type(), b.data_type()) {
        (DataType::List(a), DataType::List(b)) => same_type(a, b),
        (a, b) => a == b,
    }
}

/// The number of a column that is not nested.
pub fn position(name: &str) -> Option<usize> {
    columns().fields().iter().position(|field| field.name() == name)
}

/// What the footer says about the whole file.
#[derive(Debug, Clone)]
pub struct Footer<'a> {
    /// The stream whose records the file holds.
    pub stream: &'a StreamId,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
    /// The Merkle root in hex.
    pub merkle_root: String,
}

/// How a segment is written. Equal records give equal bytes: nothing here depends on time or machine.
pub fn writer_properties(footer: &Footer<'_>) -> Result<WriterProperties> {
    let level =
        ZstdLevel::try_new(ZSTD_LEVEL).map_err(|e| Error::internal("zstd has no such level").because(e))?;
    let version = env!("CARGO_PKG_VERSION");
    let entry = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
    let mut entries = vec![
        entry(KEY_FORMAT, FORMAT.to_string()),
        entry(KEY_SOURCE, footer.stream.source.clone()),
        entry(KEY_FIRST_SEQ, footer.first_seq.to_string()),
        entry(KEY_END_SEQ, footer.end_seq.to_string()),
        entry(KEY_MERKLE_ROOT, footer.merkle_root.clone()),
        entry(KEY_VERSION, version.to_owned()),
    ];
    entries.extend(footer.stream.partition.map(|partition| entry(KEY_PARTITION, partition.to_string())));
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("archiver version {version}"))
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_column_bloom_filter_enabled(DOC_ID.into(), true)
        .set_column_bloom_filter_fpp(DOC_ID.into(), BLOOM_FPP)
        .set_sorting_columns(Some(sorting()))
        .set_key_value_metadata(Some(entries));
    for name in DICTIONARY {
        builder = builder.set_column_dictionary_enabled(name.into(), true);
    }
    for name in OPAQUE {
        builder = builder.set_column_statistics_enabled(name.into(), EnabledStatistics::None);
    }
    Ok(with_changed(builder).build())
}

fn with_changed(builder: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(["changed", "list", "element"].map(str::to_owned).to_vec());
    builder
        .set_column_dictionary_enabled(path.clone(), true)
        .set_column_statistics_enabled(path, EnabledStatistics::None)
}

/// By doc_id, records without one first, then by seq.
fn sorting() -> Vec<SortingColumn> {
    let by = |name: &str| {
        let column_idx = position(name).unwrap_or_default() as i32;
        SortingColumn { column_idx, descending: false, nulls_first: true }
    };
    vec![by(DOC_ID), by("seq")]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract that queries outside this repository rely on.
    #[test]
    fn the_columns_are_frozen() {
        let found: Vec<String> =
            columns().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        let time = "Timestamp(µs, \"UTC\")";
        let expected = [
            "seq Int64",
            "op Utf8",
            "db Utf8",
            "coll Utf8",
            "doc_id Utf8",
            "doc_key Utf8",
            &format!("cluster_time {time}"),
            "cluster_inc Int32",
            &format!("wall_time {time}"),
            "actor Utf8",
            "actor_from Utf8",
            "txn Utf8",
            "before Utf8",
            "after Utf8",
            "delta Utf8",
            "before_exact Binary",
            "after_exact Binary",
            "delta_exact Binary",
            "changed List(Utf8, field: 'element')",
            "images Utf8",
            "detail Utf8",
            "policy Int64",
            "extra Utf8",
        ];
        assert_eq!(found, expected);
    }
}
