//! Open quarantine: one document for each event that is withheld and could be tried again, written in the transaction of its
//! `quarantine` record and removed in that of the record with which it is released. So an event is released once, however
//! often it is tried. Holds nothing of an event's contents, and no resume token.

use bson::{Bson, DateTime, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::{ClientSession, Collection};
use serde::{Deserialize, Serialize};

use super::{AuditLog, mongo_error};
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

pub(super) const COLLECTION: &str = "archiver.quarantine";

/// An event that a plugin failed on, and that was not released yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Withheld {
    /// Which `quarantine` record it has.
    #[serde(rename = "_id")]
    pub id: WithheldId,
    /// When the event happened.
    pub cluster_time: Timestamp,
    /// Its operation.
    pub op: String,
    /// Its database and collection.
    #[serde(default, skip_serializing_if = "Document::is_empty")]
    pub ns: Document,
    /// See [`Salt::id_digest`](crate::salt::Salt::id_digest).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_digest: Option<String>,
    /// Which of the change stream's events it is: see [`Salt::token_digest`](crate::salt::Salt::token_digest). `None`: it is none
    /// of them, but a document that was read beside the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// How the plugin failed.
    pub error: String,
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's file.
    pub sha256: String,
    /// When it was withheld.
    pub at: DateTime,
}

impl Withheld {
    /// Whether it is a document that was read beside the stream, and something tells which one.
    pub fn is_known_document(&self) -> bool {
        self.event.is_none() && self.op == "snapshot" && self.key_digest.is_some()
    }
}

/// Which `quarantine` record an event has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WithheldId {
    /// The stream's text.
    pub source: String,
    /// The record's seq.
    pub seq: i64,
}

impl AuditLog {
    fn open_quarantine(&self) -> Collection<Withheld> {
        self.database().collection(COLLECTION)
    }

    /// The events of a stream that are withheld, by cluster time, then seq.
    pub async fn withheld(&self, stream: &StreamId) -> Result<Vec<Withheld>> {
        let failed = |e| mongo_error("reading the open quarantine", e);
        let found = self.open_quarantine().find(of(stream)).await.map_err(failed)?;
        let mut found: Vec<Withheld> = found.try_collect().await.map_err(failed)?;
        found.sort_by_key(|withheld| (withheld.cluster_time, withheld.id.seq));
        Ok(found)
    }

    /// How many events of a stream are withheld.
    pub async fn count_withheld(&self, stream: &StreamId) -> Result<u64> {
        let counted = self.open_quarantine().count_documents(of(stream)).await;
        counted.map_err(|e| mongo_error("counting the open quarantine", e))
    }

    /// Notes events as withheld, in the session's transaction.
    pub(super) async fn withhold(&self, session: &mut ClientSession, withheld: &[Withheld]) -> Result<()> {
        if withheld.is_empty() {
            return Ok(());
        }
        let inserted = self.open_quarantine().insert_many(withheld).session(session).await;
        inserted.map(|_| ()).map_err(|e| mongo_error("noting withheld events", e))
    }

    /// Takes events out of the open quarantine, in the session's transaction. Fails where one is not in it.
    pub(super) async fn release(
        &self,
        session: &mut ClientSession,
        stream: &StreamId,
        seqs: &[i64],
    ) -> Result<()> {
        if seqs.is_empty() {
            return Ok(());
        }
        let ids = seqs.iter().map(|seq| doc! {"source": stream.to_string(), "seq": *seq});
        let ids: Vec<Bson> = ids.map(Bson::from).collect();
        let deleted = self.open_quarantine().delete_many(doc! {"_id": {"$in": ids}}).session(session).await;
        let deleted = deleted.map_err(|e| mongo_error("releasing withheld events", e))?.deleted_count;
        match deleted == seqs.len() as u64 {
            true => Ok(()),
            false => Err(Error::unavailable(format!(
                "an event was released from quarantine by another writer source={stream}"
            ))),
        }
    }
}

/// Selects a stream's documents, through the `_id` index.
fn of(stream: &StreamId) -> Document {
    let id = |seq: Bson| doc! {"source": stream.to_string(), "seq": seq};
    doc! {"_id": {"$gte": id(Bson::MinKey), "$lte": id(Bson::MaxKey)}}
}
