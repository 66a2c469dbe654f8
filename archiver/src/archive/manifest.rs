//! A manifest: one immutable JSON file that describes and seals one segment and names the digest of the one before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Counters;

/// The version of the stored format that this code writes.
pub const FORMAT: u32 = 1;

/// What a manifest says. Field order is the order in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The source's name.
    pub source: String,
    /// The segment's key, relative to the archive's root.
    pub segment: String,
    /// The segment file's SHA-256, in hex.
    pub sha256: String,
    /// The segment file's size in bytes.
    pub size: u64,
    /// How many records it holds.
    pub rows: u64,
    /// The uncompressed BSON bytes of its records.
    pub bson_bytes: u64,
    /// The first record's seq.
    pub first_seq: i64,
    /// One after the last record's seq.
    pub end_seq: i64,
    /// The lowest cluster time in it.
    pub first_cluster_time: ClusterTime,
    /// The highest cluster time in it.
    pub last_cluster_time: ClusterTime,
    /// How many records of each operation.
    pub ops: BTreeMap<String, u64>,
    /// The RFC 6962 Merkle root of the records' leaves in seq order, in hex.
    pub merkle_root: String,
    /// The source's counters when the manifest was written; `None` when it was rebuilt from the segment.
    pub counters: Option<Counters>,
    /// The digest of the plugin chain and configuration in force when it was written.
    pub policy_digest: String,
    /// MongoDB's version, as the source's server says.
    pub server: String,
    /// The version of Archiver that wrote it.
    pub archiver: String,
    /// When it was written, RFC 3339 in UTC.
    pub created: String,
    /// The SHA-256 of the manifest file before this one, in hex; `None` for a source's first.
    pub previous: Option<String>,
}

/// A cluster time in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterTime {
    /// Seconds since 1970.
    pub t: u32,
    /// The ordinal within the second.
    pub i: u32,
}
