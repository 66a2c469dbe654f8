//! A tombstone: one immutable JSON file beside a manifest that says that the manifest's segment has expired, why, and when.
//!
//! It is written before the segment is deleted. It keeps what later records can't be understood without and what holds no
//! contents: the records that concern whole namespaces, or the source.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::manifest::{ClusterTime, Manifest, Sealed, with_digest, without_digest};
use crate::error::{Error, Result};
use crate::record::{Record, RecordId, hex};
use crate::stream_id::StreamId;

/// The version of the stored format that this code writes.
pub const FORMAT: u32 = 1;

/// The operations whose records are kept, but for those about one document.
pub const KEPT: [&str; 6] = ["drop", "dropDatabase", "rename", "gap", "quarantine", "policy"];

/// Who deletes the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeletedBy {
    /// Archiver, right after the tombstone.
    Archiver,
    /// The store, by rules of its own: it keeps versions, or objects under a lock.
    Store,
}

/// What a tombstone says. Field order is the order in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// [`FORMAT`].
    pub format: u32,
    /// The source's name.
    pub source: String,
    /// The partition, where the source has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The segment's key, relative to the archive's root.
    pub segment: String,
    /// The segment file's SHA-256, in hex.
    pub sha256: String,
    /// How many records it held.
    pub rows: u64,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
    /// The highest cluster time in it.
    pub last_cluster_time: ClusterTime,
    /// The highest cluster time in it and in all of the stream that expired before it.
    pub removed_until: ClusterTime,
    /// The SHA-256 of the manifest file that sealed it, in hex.
    pub manifest: String,
    /// The policy it expired under, as configured.
    pub policy: String,
    /// The same in seconds.
    pub retention_seconds: u64,
    /// Who deletes the segment.
    pub deleted_by: DeletedBy,
    /// The process that wrote this.
    pub by: String,
    /// The version of Archiver that wrote it.
    pub archiver: String,
    /// When no legal hold was in force and the retention was over, by the audit server's clock.
    pub at: Timestamp,
    /// Records of the segment that are kept, in seq order: their BSON in base64.
    pub kept: Vec<String>,
}

/// What a tombstone says that the manifest does not know.
#[derive(Debug, Clone)]
pub struct Expiry<'a> {
    /// The highest cluster time that had expired of the stream before; `None` for its first segment.
    pub removed_before: Option<ClusterTime>,
    /// The policy, as configured.
    pub policy: &'a str,
    /// The same in seconds.
    pub retention_seconds: u64,
    /// Who deletes the segment.
    pub deleted_by: DeletedBy,
    /// This process.
    pub by: &'a str,
    /// When it was decided, by the audit server's clock.
    pub at: Timestamp,
    /// The records that are kept.
    pub kept: &'a [Vec<u8>],
}

impl Tombstone {
    /// The tombstone of this manifest's segment.
    pub fn new(sealed: &Sealed, expiry: Expiry<'_>) -> Tombstone {
        let manifest = &sealed.manifest;
        Tombstone {
            format: FORMAT,
            source: manifest.source.clone(),
            partition: manifest.partition,
            segment: manifest.segment.clone(),
            sha256: manifest.sha256.clone(),
            rows: manifest.rows,
            first_seq: manifest.first_seq,
            end_seq: manifest.end_seq,
            last_cluster_time: manifest.last_cluster_time,
            removed_until: expiry
                .removed_before
                .unwrap_or(manifest.last_cluster_time)
                .max(manifest.last_cluster_time),
            manifest: hex(&sealed.sha256),
            policy: expiry.policy.to_owned(),
            retention_seconds: expiry.retention_seconds,
            deleted_by: expiry.deleted_by,
            by: expiry.by.to_owned(),
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
            at: expiry.at,
            kept: expiry.kept.iter().map(|record| STANDARD.encode(record)).collect(),
        }
    }

    /// The stream whose records have expired.
    pub fn stream(&self) -> StreamId {
        StreamId { source: self.source.clone(), partition: self.partition }
    }

    /// The bytes of its file, which ends with its own digest as a manifest's does.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        with_digest(self)
    }

    /// Reads a file. Fails as corrupt where it is no tombstone; as invalid where it is of a newer format.
    pub fn from_json(json: &[u8]) -> Result<Tombstone> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| Error::corrupt("a tombstone does not read as one").because(e);
        let json = without_digest(json);
        let json = json.ok_or_else(|| Error::corrupt("a tombstone is not what its own digest says"))?;
        let Version { format } = serde_json::from_slice(&json).map_err(unreadable)?;
        if format != FORMAT {
            let problem = Error::invalid(format!(
                "a tombstone is of a format that this version does not know: {format}"
            ));
            return Err(problem.hint("read it with a newer version of archiver"));
        }
        serde_json::from_slice(&json).map_err(unreadable)
    }

    /// Why it is not the tombstone of what this manifest seals, whose file has this SHA-256, written after its retention was over;
    /// `None` where it is.
    pub fn problem(&self, manifest: &Manifest, sha256: &str) -> Option<String> {
        if self.manifest != sha256 {
            return Some("it names another manifest than the one beside it".to_owned());
        }
        let same = self.stream() == manifest.stream()
            && (&self.segment, &self.sha256) == (&manifest.segment, &manifest.sha256)
            && (self.first_seq, self.end_seq) == (manifest.first_seq, manifest.end_seq)
            && (self.rows, self.last_cluster_time) == (manifest.rows, manifest.last_cluster_time)
            && self.removed_until >= self.last_cluster_time;
        if !same {
            return Some("it says something else of the segment than its manifest".to_owned());
        }
        if !self.is_due() {
            return Some(format!(
                "it was written before the retention was over: at {}, {}",
                self.at, self.policy
            ));
        }
        self.kept_records().err().map(|error| error.to_string())
    }

    /// Whether its retention was over when it was written.
    fn is_due(&self) -> bool {
        let over = i128::from(self.last_cluster_time.t) + i128::from(self.retention_seconds);
        over <= i128::from(self.at.as_second())
    }

    /// The records that are kept, in seq order. Fails as corrupt where they are not such as are kept.
    pub fn kept_records(&self) -> Result<Vec<Vec<u8>>> {
        let wrong = || {
            Error::corrupt(format!("a tombstone keeps what is none of its records: seq={}", self.first_seq))
        };
        let mut records = Vec::with_capacity(self.kept.len());
        let mut next = self.first_seq;
        for text in &self.kept {
            let bytes = STANDARD.decode(text).map_err(|e| wrong().because(e))?;
            let record = Record::new(&bytes)?;
            let RecordId { partition, seq } = record.record_id()?;
            if partition != self.partition || !(next..self.end_seq).contains(&seq) || !is_kept(&record) {
                return Err(wrong());
            }
            next = seq + 1;
            records.push(bytes);
        }
        Ok(records)
    }
}

/// Whether a record stays behind when its segment expires: one that concerns no single document.
pub fn is_kept(record: &Record<'_>) -> bool {
    KEPT.contains(&record.op()) && record.key().is_none()
}

/// A tombstone as it is stored, with its file's SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// What it says.
    pub tombstone: Tombstone,
    /// The SHA-256 of its file, in hex.
    pub sha256: String,
}

impl Buried {
    /// Reads a stored file.
    pub fn from_json(json: &Bytes) -> Result<Buried> {
        let sha256 = hex(&super::merkle::sha256(json));
        Ok(Buried { tombstone: Tombstone::from_json(json)?, sha256 })
    }
}
