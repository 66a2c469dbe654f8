//! What the verification of the archive has found of a stream, beside its lease: it survives whoever verifies, and `status` shows it.

use bson::{DateTime, Document, doc};
use serde::{Deserialize, Serialize};

use super::{AuditLog, LEASES, mongo_error};
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

/// What stands against a stream's archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When its manifests and the names and sizes of its segments were last looked through.
    pub at: DateTime,
    /// How many findings there are.
    pub found: i64,
    /// The first of them.
    pub findings: Vec<FoundWrong>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundWrong {
    /// Its code, as `archiver verify` gives it.
    pub code: String,
    /// The object's key, or the stream where none is concerned.
    pub file: String,
    /// The record, where one is concerned.
    pub seq: Option<i64>,
    /// What is wrong.
    pub reason: String,
}

impl Verified {
    /// Reads it from a lease; `None` where the stream was not verified yet.
    pub fn of_lease(lease: &Document) -> Option<Verified> {
        bson::deserialize_from_document(lease.get_document("verified").ok()?.clone()).ok()
    }
}

impl AuditLog {
    /// What was noted last; `None` where nothing was.
    pub async fn verified(&self, stream: &StreamId) -> Result<Option<Verified>> {
        let leases = self.database().collection::<Document>(LEASES);
        let lease = leases.find_one(doc! {"_id": stream.to_string()}).await;
        let lease = lease.map_err(|e| mongo_error("reading what was verified", e))?;
        Ok(lease.as_ref().and_then(Verified::of_lease))
    }

    /// Notes what stands against the stream's archive now.
    pub async fn note_verified(&self, stream: &StreamId, verified: &Verified) -> Result<()> {
        let verified = bson::serialize_to_document(verified)
            .map_err(|e| Error::internal("what was verified can't be encoded").because(e))?;
        let leases = self.database().collection::<Document>(LEASES);
        let note = doc! {"$set": {"verified": verified}};
        let noted = leases.update_one(doc! {"_id": stream.to_string()}, note).await;
        noted.map(|_| ()).map_err(|e| mongo_error("noting what was verified", e))
    }
}
