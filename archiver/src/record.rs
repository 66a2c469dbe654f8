//! A record: what is kept of one event, or of one thing the archiver did. Its bytes are one BSON document,
//! `{_id: seq, …the event's fields in order…, policy}`; they are the canonical form that digests are made of. Records of a
//! partitioned source have `{_id: {p: partition, s: seq}, …}`.

use std::fmt;

use bson::{Bson, Timestamp, doc};
use bson_walker::{Doc, Element, Writer, kind};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::event::REDACTED;
use crate::stream_id::StreamId;

/// A SHA-256 digest.
pub type Sha = [u8; 32];

/// What numbers a record in its source: its `_id`. Ordered by stream, then seq; its text is `17`, or `3/17` in partition 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The partition whose stream it is of; `None` where the source has only one.
    pub partition: Option<u32>,
    /// Its number in its stream.
    pub seq: i64,
}

impl RecordId {
    /// The id of the record of this seq in a stream.
    pub fn new(stream: &StreamId, seq: i64) -> RecordId {
        RecordId { partition: stream.partition, seq }
    }

    /// Reads an `_id`; `None` where it is no record's.
    pub fn read(id: &Element<'_>) -> Option<RecordId> {
        if let Some(seq) = id.as_i64() {
            return Some(RecordId { partition: None, seq });
        }
        let doc = id.as_doc().filter(|_| id.kind() == kind::DOCUMENT)?;
        let mut parts = doc.elements();
        let (p, s) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let partition = u32::try_from(p.as_i32()?).ok()?;
        let exact = p.name() == b"p" && s.name() == b"s" && parts.next().is_none();
        exact.then_some(RecordId { partition: Some(partition), seq: s.as_i64()? })
    }

    /// Writes it as `_id`.
    pub fn write(self, writer: &mut Writer<'_>) {
        let Some(partition) = self.partition else { return writer.i64("_id", self.seq) };
        let mut id = writer.begin_doc(b"_id");
        id.i32("p", partition as i32);
        id.i64("s", self.seq);
        id.end();
    }

    /// The value of the `_id`, for queries.
    pub fn to_bson(self) -> Bson {
        match self.partition {
            None => self.seq.into(),
            Some(partition) => doc! {"p": partition as i32, "s": self.seq}.into(),
        }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partition {
            None => write!(f, "{}", self.seq),
            Some(partition) => write!(f, "{partition}/{}", self.seq),
        }
    }
}

/// A view of one record's canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a>(Doc<'a>);

impl<'a> Record<'a> {
    /// Builds a record's bytes from an event's body.
    pub fn encode(id: RecordId, body: Doc<'_>, policy: i64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(body.as_bytes().len() + 32);
        let mut writer = Writer::begin(&mut bytes);
        id.write(&mut writer);
        for element in body.elements().map_while(Result::ok) {
            writer.append(&element);
        }
        writer.i64("policy", policy);
        writer.end();
        bytes
    }

    /// The view of these bytes, which must be one BSON document.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let doc =
            Doc::new(bytes).map_err(|e| Error::corrupt("a record is not one BSON document").because(e))?;
        Ok(Record(doc))
    }

    /// The document itself.
    pub fn doc(&self) -> Doc<'a> {
        self.0
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0.as_bytes()
    }

    /// What numbers the record in its source.
    pub fn record_id(&self) -> Result<RecordId> {
        let id = self.0.get("_id").and_then(|e| RecordId::read(&e));
        id.ok_or_else(|| Error::corrupt("a record has an _id that is no seq"))
    }

    /// The record's number in its stream.
    pub fn seq(&self) -> Result<i64> {
        Ok(self.record_id()?.seq)
    }

    /// The operation.
    pub fn op(&self) -> &'a str {
        self.0.get("op").and_then(|e| e.as_str()).unwrap_or("")
    }

    /// The database's name, where the record has one.
    pub fn db(&self) -> Option<&'a str> {
        self.0.get_path(&["ns", "db"])?.as_str()
    }

    /// The collection's name, where the record has one.
    pub fn coll(&self) -> Option<&'a str> {
        self.0.get_path(&["ns", "coll"])?.as_str()
    }

    /// The document key.
    pub fn key(&self) -> Option<Doc<'a>> {
        self.0.get("key")?.as_doc()
    }

    /// The document's `_id`.
    pub fn id(&self) -> Option<Element<'a>> {
        self.key()?.get("_id")
    }

    /// When it happened, in the source's logical clock.
    pub fn cluster_time(&self) -> Result<Timestamp> {
        let time = self.0.get("clusterTime").and_then(|e| e.as_timestamp());
        let (time, increment) = time.ok_or_else(|| Error::corrupt("a record has no clusterTime"))?;
        Ok(Timestamp { time, increment })
    }

    /// A field that is a document: `before`, `after`, `delta`, `images`, `txn`, `actor`, `detail`.
    pub fn part(&self, name: &str) -> Option<Doc<'a>> {
        self.0.get(name)?.as_doc()
    }

    /// The seq of the `quarantine` record that this one's event had before it was released; `None` for all other records.
    pub fn late(&self) -> Option<i64> {
        self.part("detail")?.get("late")?.as_i64()
    }

    /// Whether plugins have changed its event. Under a policy that does not say so, it may be so without the mark.
    pub fn is_redacted(&self) -> bool {
        let mark = self.part("detail").and_then(|detail| detail.get(REDACTED));
        mark.and_then(|mark| mark.as_bool()).unwrap_or(false)
    }

    /// The record's leaf in the Merkle tree: `SHA256(0x00 ‖ canonical bytes)`.
    pub fn leaf(&self) -> Sha {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(self.bytes());
        hash.finalize().into()
    }
}

/// A digest's lower-case hex text.
pub fn hex(digest: &Sha) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a quarantine record of an earlier version says of its document's `_id`: the SHA-256 of its BSON type byte and value, in
/// hex. For the present one see [`Salt`](crate::salt::Salt).
pub fn unsalted_id_digest(kind: u8, value: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update(value);
    hex(&hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(record: bson::Document) -> Result<RecordId> {
        Record::new(&bson::serialize_to_vec(&record).unwrap()).unwrap().record_id()
    }

    #[test]
    fn an_id_is_read_back_and_anything_else_is_not_taken_for_one() {
        for stream in StreamId::all("s", 1).iter().chain(&StreamId::all("s", 2)) {
            let id = RecordId::new(stream, i64::MAX);
            assert_eq!(id_of(doc! {"_id": id.to_bson()}).unwrap(), id);
            let record = Record::encode(id, Doc::EMPTY, 1);
            assert_eq!(record, bson::serialize_to_vec(&doc! {"_id": id.to_bson(), "policy": 1_i64}).unwrap());
        }
        for odd in [
            doc! {"_id": 5},
            doc! {"_id": {"p": 1_i64, "s": 5_i64}},
            doc! {"_id": {"p": 1, "s": 5}},
            doc! {"_id": {"s": 5_i64, "p": 1}},
            doc! {"_id": {"p": 1, "s": 5_i64, "x": 1}},
            doc! {"_id": {"p": -1, "s": 5_i64}},
            doc! {"_id": [1, 5_i64]},
            doc! {},
        ] {
            assert!(id_of(odd.clone()).is_err(), "{odd}");
        }
    }
}
