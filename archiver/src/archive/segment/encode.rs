//! Writes the Parquet file of a segment, row group by row group.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson_walker::Doc;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

use super::super::extjson;
use super::super::row::Row;
use super::super::schema::{self, Footer, ROW_GROUP_BYTES, ROW_GROUP_ROWS};
use super::super::spool::Spool;
use crate::error::{Error, Result};
use crate::record::Record;

/// Rows handed to the Parquet writer at once, so that the text of a whole row group is never in memory uncompressed.
const BATCH_ROWS: usize = 1_024;
/// BSON bytes of such rows at which the batch is ended early.
const BATCH_BYTES: usize = 2 << 20;

/// Whether records go into columns or are kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Columns, and odd records whole.
    Columns,
    /// Every record whole, beside its columns: the way out should columns ever fail to give a record back.
    Whole,
}

/// Writes the records in this order into one Parquet file.
pub(super) fn encode(records: &Spool, order: &[u32], footer: &Footer<'_>, keep: Keep) -> Result<Vec<u8>> {
    let options = ArrowWriterOptions::new()
        .with_properties(schema::writer_properties(footer)?)
        .with_skip_arrow_metadata(true)
        .with_schema_root("record".to_owned());
    let mut writer =
        ArrowWriter::try_new_with_options(Vec::new(), schema::columns(), options).map_err(failed)?;
    let mut columns = Columns::default();
    let (mut group_rows, mut group_bytes) = (0, 0);
    let mut buffer = Vec::new();
    for n in order {
        let record = records.get(*n as usize, &mut buffer)?;
        let mut row = Row::of(Record::new(record)?)?;
        row.odd |= keep == Keep::Whole;
        columns.push(&row, record);
        group_rows += 1;
        group_bytes += record.len();
        let group_ends = group_rows == ROW_GROUP_ROWS || group_bytes >= ROW_GROUP_BYTES;
        if group_ends || columns.rows == BATCH_ROWS || columns.bytes >= BATCH_BYTES {
            columns.write(&mut writer)?;
        }
        if group_ends {
            writer.flush().map_err(failed)?;
            (group_rows, group_bytes) = (0, 0);
        }
    }
    columns.write(&mut writer)?;
    writer.into_inner().map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("a segment file could not be written").because(error)
}

/// What the columns of these records hold, in this order.
pub(super) fn columns<'r>(records: impl IntoIterator<Item = (&'r [u8], Keep)>) -> Result<RecordBatch> {
    let mut columns = Columns::default();
    for (record, keep) in records {
        let mut row = Row::of(Record::new(record)?)?;
        row.odd |= keep == Keep::Whole;
        columns.push(&row, record);
    }
    columns.finish()
}

/// The columns of one batch under construction.
#[derive(Debug)]
struct Columns {
    seq: Int64Builder,
    op: StringBuilder,
    db: StringBuilder,
    coll: StringBuilder,
    doc_id: StringBuilder,
    doc_key: StringBuilder,
    cluster_time: TimestampMicrosecondBuilder,
    cluster_inc: Int32Builder,
    wall_time: TimestampMicrosecondBuilder,
    actor: StringBuilder,
    actor_from: StringBuilder,
    txn: StringBuilder,
    /// `before`, `after`, `delta`.
    images: [StringBuilder; 3],
    /// Their exactness blobs.
    exact: [BinaryBuilder; 3],
    changed: ListBuilder<StringBuilder>,
    why_missing: StringBuilder,
    detail: StringBuilder,
    policy: Int64Builder,
    extra: StringBuilder,
    rows: usize,
    bytes: usize,
    /// Where texts are written before they are appended.
    text: String,
}

impl Default for Columns {
    fn default() -> Self {
        let element = Field::new("element", DataType::Utf8, true);
        Columns {
            seq: Int64Builder::new(),
            op: StringBuilder::new(),
            db: StringBuilder::new(),
            coll: StringBuilder::new(),
            doc_id: StringBuilder::new(),
            doc_key: StringBuilder::new(),
            cluster_time: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            cluster_inc: Int32Builder::new(),
            wall_time: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            actor: StringBuilder::new(),
            actor_from: StringBuilder::new(),
            txn: StringBuilder::new(),
            images: Default::default(),
            exact: Default::default(),
            changed: ListBuilder::new(StringBuilder::new()).with_field(element),
            why_missing: StringBuilder::new(),
            detail: StringBuilder::new(),
            policy: Int64Builder::new(),
            extra: StringBuilder::new(),
            rows: 0,
            bytes: 0,
            text: String::new(),
        }
    }
}

impl Columns {
    fn push(&mut self, row: &Row<'_>, record: &[u8]) {
        let (seconds, ordinal) = row.cluster_time;
        self.seq.append_value(row.seq);
        self.op.append_value(row.op);
        self.db.append_option(row.db);
        self.coll.append_option(row.coll);
        self.doc_id.append_option(row.id().map(extjson::doc_id_text));
        self.cluster_time.append_value(i64::from(seconds) * 1_000_000);
        self.cluster_inc.append_value(ordinal as i32);
        self.wall_time.append_option(row.wall_micros);
        self.actor.append_option(row.actor);
        self.actor_from.append_option(row.actor_from);
        self.txn.append_option(row.txn.map(|(lsid, number)| txn_text(lsid, number)));
        for (n, part) in [row.before, row.after, row.delta].into_iter().enumerate() {
            let exact = push_text(&mut self.text, &mut self.images[n], part, extjson::to_relaxed);
            self.exact[n].append_option(exact.filter(|_| !row.odd));
        }
        self.push_changed(row);
        let key = push_text(&mut self.text, &mut self.doc_key, row.key, extjson::to_canonical);
        let images = push_text(&mut self.text, &mut self.why_missing, row.images, extjson::to_relaxed);
        let detail = push_text(&mut self.text, &mut self.detail, row.detail, extjson::to_relaxed);
        self.policy.append_option(row.policy);
        self.extra.append_option(extra(
            row.partition,
            row.odd.then_some(record),
            row.reason,
            [("key", key), ("images", images), ("detail", detail)],
        ));
        self.rows += 1;
        self.bytes += record.len();
    }

    fn push_changed(&mut self, row: &Row<'_>) {
        let changed = row.changed();
        self.changed.values().extend(changed.iter().flatten().map(Some));
        self.changed.append(changed.is_some());
    }

    /// Hands what has been collected to the writer and starts anew.
    fn write<W: Write + Send>(&mut self, writer: &mut ArrowWriter<W>) -> Result<()> {
        match self.rows {
            0 => Ok(()),
            _ => writer.write(&self.finish()?).map_err(failed),
        }
    }

    /// What has been collected, to start anew.
    fn finish(&mut self) -> Result<RecordBatch> {
        let [before, after, delta] = &mut self.images;
        let [before_exact, after_exact, delta_exact] = &mut self.exact;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.seq.finish()),
            Arc::new(self.op.finish()),
            Arc::new(self.db.finish()),
            Arc::new(self.coll.finish()),
            Arc::new(self.doc_id.finish()),
            Arc::new(self.doc_key.finish()),
            Arc::new(self.cluster_time.finish()),
            Arc::new(self.cluster_inc.finish()),
            Arc::new(self.wall_time.finish()),
            Arc::new(self.actor.finish()),
            Arc::new(self.actor_from.finish()),
            Arc::new(self.txn.finish()),
            Arc::new(before.finish()),
            Arc::new(after.finish()),
            Arc::new(delta.finish()),
            Arc::new(before_exact.finish()),
            Arc::new(after_exact.finish()),
            Arc::new(delta_exact.finish()),
            Arc::new(self.changed.finish()),
            Arc::new(self.why_missing.finish()),
            Arc::new(self.detail.finish()),
            Arc::new(self.policy.finish()),
            Arc::new(self.extra.finish()),
        ];
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new(schema::columns(), columns).map_err(failed)
    }
}

/// Appends a part's text, or null where the record does not have it, and returns its exactness blob.
fn push_text(
    text: &mut String,
    column: &mut StringBuilder,
    part: Option<Doc<'_>>,
    write: impl Fn(Doc<'_>, &mut String) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let Some(doc) = part else {
        column.append_null();
        return None;
    };
    text.clear();
    let exact = write(doc, text);
    column.append_value(&text);
    exact
}

/// `lsid:number`, the session's UUID with its hyphens.
pub(super) fn txn_text(lsid: &[u8], number: i64) -> String {
    let mut text = String::with_capacity(56);
    for (n, byte) in lsid.iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        extjson::push_hex(&[*byte], &mut text);
    }
    text.push(':');
    text.push_str(&number.to_string());
    text
}

/// The `extra` column: the partition, and the whole of an odd record, else the actor's reason and the exactness blobs that
/// have no column of their own.
fn extra(
    partition: Option<u32>,
    odd: Option<&[u8]>,
    reason: Option<&str>,
    exact: [(&str, Option<Vec<u8>>); 3],
) -> Option<String> {
    let mut members = serde_json::Map::new();
    let mut add = |name: &str, value: serde_json::Value| drop(members.insert(name.to_owned(), value));
    if let Some(partition) = partition {
        add("partition", partition.into());
    }
    if let Some(record) = odd {
        add("record", STANDARD.encode(record).into());
    } else {
        if let Some(reason) = reason {
            add("reason", reason.into());
        }
        let blobs = exact
            .into_iter()
            .filter_map(|(name, blob)| Some((name.to_owned(), STANDARD.encode(blob?).into())));
        let blobs: serde_json::Map<String, serde_json::Value> = blobs.collect();
        if !blobs.is_empty() {
            add("exact", blobs.into());
        }
    }
    (!members.is_empty()).then(|| serde_json::Value::from(members).to_string())
}
