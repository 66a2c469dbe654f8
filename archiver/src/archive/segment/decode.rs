//! Rebuilds records from the columns of a segment, exactly.

use std::collections::BTreeMap;

use arrow::array::{
    Array, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bson_walker::Writer;
use serde::Deserialize;

use super::super::extjson;
use crate::error::{Error, Result};
use crate::record::{Record, RecordId};

/// Rebuilds the canonical bytes of every record of a batch, in the batch's order. Needs all columns but those that are derived from others.
pub(super) fn records(batch: &RecordBatch) -> Result<Vec<Vec<u8>>> {
    let columns = Columns::of(batch)?;
    (0..batch.num_rows()).map(|n| columns.record(n)).collect()
}

/// One row of a batch, whatever it is worth.
pub(super) struct Decoded {
    /// Its column `seq`.
    pub(super) seq: i64,
    /// Its record, which has a seq and a cluster time.
    pub(super) record: Result<Vec<u8>>,
    /// Whether `extra` holds the whole record.
    pub(super) whole: bool,
}

/// Rebuilds every record of a batch for itself: what one row lacks concerns no other.
pub(super) fn each(batch: &RecordBatch) -> Result<Vec<Decoded>> {
    let columns = Columns::of(batch)?;
    let decoded = (0..batch.num_rows()).map(|n| {
        let record = columns.record(n).and_then(|bytes| {
            let record = Record::new(&bytes)?;
            record.record_id()?;
            record.cluster_time()?;
            Ok(bytes)
        });
        let whole = columns.extra(n).is_ok_and(|extra| extra.record.is_some());
        Decoded { seq: columns.seq.value(n), record, whole }
    });
    Ok(decoded.collect())
}

/// What `extra` can hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extra {
    /// Which of the source's partitions the record is of.
    partition: Option<u32>,
    /// The whole record's BSON in base64: the other columns are for reading only.
    record: Option<String>,
    /// `actor.reason`.
    reason: Option<String>,
    /// Exactness blobs in base64, by field.
    exact: BTreeMap<String, String>,
}

impl Extra {
    fn blob(&self, field: &str) -> Result<Option<Vec<u8>>> {
        self.exact.get(field).map(|text| decode(text)).transpose()
    }
}

fn decode(base64: &str) -> Result<Vec<u8>> {
    STANDARD.decode(base64).map_err(|_| odd("base64 in extra"))
}

fn odd(what: &str) -> Error {
    Error::corrupt(format!("a segment holds a value that it can't hold: {what}"))
}

/// Views of a batch's columns.
struct Columns<'b> {
    seq: &'b Int64Array,
    op: &'b StringArray,
    db: &'b StringArray,
    coll: &'b StringArray,
    doc_key: &'b StringArray,
    cluster_time: &'b TimestampMicrosecondArray,
    cluster_inc: &'b Int32Array,
    wall_time: &'b TimestampMicrosecondArray,
    actor: &'b StringArray,
    actor_from: &'b StringArray,
    txn: &'b StringArray,
    before: &'b StringArray,
    after: &'b StringArray,
    delta: &'b StringArray,
    before_exact: &'b BinaryArray,
    after_exact: &'b BinaryArray,
    delta_exact: &'b BinaryArray,
    images: &'b StringArray,
    detail: &'b StringArray,
    policy: &'b Int64Array,
    extra: &'b StringArray,
}

fn column<'b, A: Array + 'static>(batch: &'b RecordBatch, name: &str) -> Result<&'b A> {
    let column = batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref());
    column.ok_or_else(|| Error::corrupt(format!("a segment lacks a column of its format: column={name}")))
}

fn text(column: &StringArray, n: usize) -> Option<&str> {
    column.is_valid(n).then(|| column.value(n))
}

impl<'b> Columns<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Self> {
        Ok(Columns {
            seq: column(batch, "seq")?,
            op: column(batch, "op")?,
            db: column(batch, "db")?,
            coll: column(batch, "coll")?,
            doc_key: column(batch, "doc_key")?,
            cluster_time: column(batch, "cluster_time")?,
            cluster_inc: column(batch, "cluster_inc")?,
            wall_time: column(batch, "wall_time")?,
            actor: column(batch, "actor")?,
            actor_from: column(batch, "actor_from")?,
            txn: column(batch, "txn")?,
            before: column(batch, "before")?,
            after: column(batch, "after")?,
            delta: column(batch, "delta")?,
            before_exact: column(batch, "before_exact")?,
            after_exact: column(batch, "after_exact")?,
            delta_exact: column(batch, "delta_exact")?,
            images: column(batch, "images")?,
            detail: column(batch, "detail")?,
            policy: column(batch, "policy")?,
            extra: column(batch, "extra")?,
        })
    }

    fn extra(&self, n: usize) -> Result<Extra> {
        match text(self.extra, n) {
            Some(json) => serde_json::from_str(json).map_err(|_| odd("JSON in extra")),
            None => Ok(Extra::default()),
        }
    }

    fn record(&self, n: usize) -> Result<Vec<u8>> {
        let extra = self.extra(n)?;
        let id = RecordId { partition: extra.partition, seq: self.seq.value(n) };
        if let Some(record) = &extra.record {
            let bytes = decode(record)?;
            let same = Record::new(&bytes)?.record_id()? == id;
            return if same { Ok(bytes) } else { Err(odd("a whole record of another seq")) };
        }
        let mut bytes = Vec::with_capacity(512);
        let mut w = Writer::begin(&mut bytes);
        id.write(&mut w);
        w.str("op", self.op.value(n));
        strings(&mut w, "ns", [("db", text(self.db, n)), ("coll", text(self.coll, n))]);
        part(&mut w, "key", text(self.doc_key, n), extra.blob("key")?.as_deref())?;
        let (seconds, ordinal) = self.cluster_time(n)?;
        w.timestamp("clusterTime", seconds, ordinal);
        if self.wall_time.is_valid(n) {
            w.date_millis("wallTime", whole(self.wall_time.value(n), 1_000)?);
        }
        for (name, texts, blobs) in [
            ("before", self.before, self.before_exact),
            ("after", self.after, self.after_exact),
            ("delta", self.delta, self.delta_exact),
        ] {
            part(&mut w, name, text(texts, n), blobs.is_valid(n).then(|| blobs.value(n)))?;
        }
        part(&mut w, "images", text(self.images, n), extra.blob("images")?.as_deref())?;
        if let Some(txn) = text(self.txn, n) {
            let (lsid, number) = transaction(txn).ok_or_else(|| odd("a transaction"))?;
            let mut inner = w.begin_doc(b"txn");
            inner.binary("lsid", 4, &lsid);
            inner.i64("number", number);
            inner.end();
        }
        let actor = [
            ("id", text(self.actor, n)),
            ("from", text(self.actor_from, n)),
            ("reason", extra.reason.as_deref()),
        ];
        strings(&mut w, "actor", actor);
        part(&mut w, "detail", text(self.detail, n), extra.blob("detail")?.as_deref())?;
        if self.policy.is_valid(n) {
            w.i64("policy", self.policy.value(n));
        }
        w.end();
        Ok(bytes)
    }

    fn cluster_time(&self, n: usize) -> Result<(u32, u32)> {
        let seconds = whole(self.cluster_time.value(n), 1_000_000)?;
        let seconds = u32::try_from(seconds).map_err(|_| odd("a cluster time out of range"))?;
        Ok((seconds, self.cluster_inc.value(n) as u32))
    }
}

fn whole(micros: i64, unit: i64) -> Result<i64> {
    if micros % unit == 0 { Ok(micros / unit) } else { Err(odd("a time finer than it can be")) }
}

fn part(w: &mut Writer<'_>, name: &str, text: Option<&str>, exact: Option<&[u8]>) -> Result<()> {
    if let Some(text) = text {
        w.doc(name, &extjson::from_text(text, exact)?);
    }
    Ok(())
}

fn strings<const N: usize>(w: &mut Writer<'_>, name: &str, parts: [(&str, Option<&str>); N]) {
    if parts.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    let mut inner = w.begin_doc(name.as_bytes());
    for (name, value) in parts {
        if let Some(value) = value {
            inner.str(name, value);
        }
    }
    inner.end();
}

/// Reads `lsid:number`.
fn transaction(text: &str) -> Option<([u8; 16], i64)> {
    let (uuid, number) = text.split_once(':')?;
    let digits = uuid.replace('-', "");
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u128::from_str_radix(&digits, 16).ok()?.to_be_bytes(), number.parse().ok()?))
}
