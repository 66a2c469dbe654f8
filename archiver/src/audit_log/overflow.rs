//! Records larger than one MongoDB document: their largest parts lie as chunks in a collection of their own, written
//! in the same transaction, and every reader puts them back.

use std::time::Instant;

use bson::{Binary, Bson, Document, RawDocumentBuf, doc, spec::BinarySubtype};
use bson_walker::{Doc, Writer};
use futures_util::TryStreamExt;
use mongodb::Database;

use super::pause_after;
use crate::deployment::mongo_error;
use crate::error::{Error, Result};
use crate::event::FIELDS;
use crate::record::{Record, RecordId};
use crate::stream_id::StreamId;

/// Holds `{_id: {source, seq, part, n}, data: Binary}`, where `source` is the stream's text.
pub(super) const COLLECTION: &str = "archiver.overflow";
/// MongoDB takes 16 MiB in one document; the rest is room for the command around it.
const RECORD_MAX: usize = 16 * 1024 * 1024 - 64 * 1024;
const CHUNK: usize = 8 * 1024 * 1024;
/// Chunks deleted in one step of trimming.
const TRIM_STEP: i64 = 16;
const PARTS: [&str; 4] = ["before", "after", "delta", "detail"];
/// The field of a stored record that names the parts to be put back: `overflow: {before: 2}`, with their chunk counts.
const FIELD: &str = "overflow";

/// Splits a record that is too large; others come back untouched.
pub(super) fn split(stream: &StreamId, record: Vec<u8>) -> Result<(Vec<u8>, Vec<RawDocumentBuf>)> {
    split_at(stream, record, RECORD_MAX, CHUNK)
}

fn split_at(
    stream: &StreamId,
    record: Vec<u8>,
    max: usize,
    chunk: usize,
) -> Result<(Vec<u8>, Vec<RawDocumentBuf>)> {
    if record.len() <= max {
        return Ok((record, Vec::new()));
    }
    let view = Record::new(&record)?;
    let seq = view.seq()?;
    let mut parts: Vec<(&str, Doc<'_>)> = PARTS.iter().filter_map(|p| Some((*p, view.part(p)?))).collect();
    parts.sort_by_key(|(_, doc)| std::cmp::Reverse(doc.as_bytes().len()));
    let mut left = record.len();
    let mut out = Vec::new();
    let mut moved = Vec::new();
    for (name, doc) in parts {
        if left <= max {
            break;
        }
        left -= doc.as_bytes().len();
        let chunks = doc.as_bytes().chunks(chunk);
        moved.push((name, chunks.len() as i32));
        for (n, bytes) in chunks.enumerate() {
            let data = Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() };
            let chunk = doc! {"_id": {"source": stream.to_string(), "seq": seq, "part": name, "n": n as i32}, "data": data};
            out.push(
                RawDocumentBuf::try_from(&chunk)
                    .map_err(|e| Error::internal("a chunk can't be encoded").because(e))?,
            );
        }
    }
    let small = Writer::build(|writer| {
        for element in view.doc().elements().map_while(std::result::Result::ok) {
            if !moved.iter().any(|(name, _)| element.name() == name.as_bytes()) {
                writer.append(&element);
            }
        }
        let mut overflow = writer.begin_doc(FIELD.as_bytes());
        for (name, chunks) in &moved {
            overflow.i32(name, *chunks);
        }
        overflow.end();
    });
    Ok((small, out))
}

/// Puts the parts back, so that the canonical bytes are as they were before [`split`].
pub(super) async fn join(database: &Database, source: &str, record: Vec<u8>) -> Result<Vec<u8>> {
    let view = Record::new(&record)?;
    let Some(overflow) = view.part(FIELD) else { return Ok(record) };
    let RecordId { partition, seq } = view.record_id()?;
    let stream = StreamId { source: source.to_owned(), partition };
    let mut parts = Vec::new();
    for element in overflow.elements().map_while(std::result::Result::ok) {
        let name = element.name_str().unwrap_or_default();
        let count = element.as_i32().unwrap_or(0);
        parts.push((name.to_owned(), fetch(database, &stream, seq, name, count).await?));
    }
    Ok(put_back(view, &parts))
}

fn put_back(view: Record<'_>, parts: &[(String, Vec<u8>)]) -> Vec<u8> {
    Writer::build(|writer| {
        for name in std::iter::once("_id").chain(FIELDS).chain(std::iter::once("policy")) {
            if let Some((_, bytes)) = parts.iter().find(|(part, _)| part == name) {
                writer.doc(name, bytes);
            } else if let Some(element) = view.doc().get(name) {
                writer.append(&element);
            }
        }
    })
}

async fn fetch(database: &Database, stream: &StreamId, seq: i64, part: &str, count: i32) -> Result<Vec<u8>> {
    let id = |n| doc! {"source": stream.to_string(), "seq": seq, "part": part, "n": n};
    let ids: Vec<Bson> = (0..count).map(|n| id(n).into()).collect();
    let found = database
        .collection::<Document>(COLLECTION)
        .find(doc! {"_id": {"$in": ids}})
        .sort(doc! {"_id": 1})
        .await;
    let cursor = found.map_err(|e| mongo_error("reading a large record", e))?;
    let chunks: Vec<Document> =
        cursor.try_collect().await.map_err(|e| mongo_error("reading a large record", e))?;
    let mut bytes = Vec::new();
    for chunk in &chunks {
        let data = chunk.get_binary_generic("data");
        bytes.extend_from_slice(
            data.map_err(|_| Error::corrupt(format!("a chunk of a large record has no data seq={seq}")))?,
        );
    }
    if chunks.len() != count as usize || Doc::new(&bytes).is_err() {
        return Err(Error::corrupt(format!(
            "a large record's chunks are incomplete source={stream} seq={seq} part={part}"
        )));
    }
    Ok(bytes)
}

/// Deletes the chunks of records before `end`, in small steps: a chunk is large.
pub(super) async fn trim(database: &Database, stream: &StreamId, end: i64) -> Result<()> {
    let failed = |e| mongo_error("trimming large records", e);
    let source = &stream.to_string();
    // Only documents between the two bounds in BSON order: compares as {source, seq, …} does, through the `_id` index.
    let range =
        doc! {"_id": {"$gte": {"source": source, "seq": i64::MIN}, "$lt": {"source": source, "seq": end}}};
    let chunks = database.collection::<Document>(COLLECTION);
    loop {
        let begun = Instant::now();
        let found =
            chunks.find(range.clone()).sort(doc! {"_id": 1}).projection(doc! {"_id": 1}).limit(TRIM_STEP);
        let found: Vec<Document> = found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        let ids: Vec<Bson> = found.into_iter().filter_map(|mut chunk| chunk.remove("_id")).collect();
        if ids.is_empty() {
            return Ok(());
        }
        chunks.delete_many(doc! {"_id": {"$in": ids}}).await.map_err(failed)?;
        pause_after(begun).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_record_is_put_back_byte_for_byte() {
        let big = Writer::build(|w| w.str("text", &"x".repeat(3000)));
        let small = Writer::build(|w| w.str("text", "y"));
        let body = Writer::build(|w| {
            w.str("op", "update");
            w.doc("before", &big);
            w.doc("after", &small);
            w.doc("delta", &big);
        });
        let record = Record::encode(RecordId { partition: Some(2), seq: 7 }, Doc::new(&body).unwrap(), 1);
        let (stored, chunks) = split_at(&StreamId::whole("payments"), record.clone(), 1000, 512).unwrap();
        assert!(stored.len() <= 1000);
        assert_eq!(chunks.len(), 2 * big.len().div_ceil(512));
        let parts = [("before".to_owned(), big.clone()), ("delta".to_owned(), big)];
        assert_eq!(put_back(Record::new(&stored).unwrap(), &parts), record);
    }
}
