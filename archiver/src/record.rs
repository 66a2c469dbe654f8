//! A record: what is kept of one event, or of one thing the archiver did. Its bytes are one BSON document,
//! `{_id: seq, …the event's fields in order…, policy}`; they are the canonical form that digests are made of.

use bson::Timestamp;
use bson_walker::{Doc, Element, Writer};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A SHA-256 digest.
pub type Sha = [u8; 32];

/// A view of one record's canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a>(Doc<'a>);

impl<'a> Record<'a> {
    /// Builds a record's bytes from an event's body.
    pub fn encode(seq: i64, body: Doc<'_>, policy: i64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(body.as_bytes().len() + 32);
        let mut writer = Writer::begin(&mut bytes);
        writer.i64("_id", seq);
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

    /// The record's number in its source.
    pub fn seq(&self) -> Result<i64> {
        self.0.get("_id").and_then(|e| e.as_i64()).ok_or_else(|| Error::corrupt("a record has no Int64 _id"))
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

/// What a quarantine record says of its document's `_id`: the SHA-256 of its BSON type byte and value, in hex.
pub fn id_digest(kind: u8, value: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update(value);
    hex(&hash.finalize().into())
}
