//! A manifest: one immutable JSON file that describes and seals one segment and names the digest of the one before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::merkle::sha256;
use super::paths::{self, Key};
use super::segment::Segment;
use crate::checkpoint::Counters;
use crate::error::{Error, Result};
use crate::record::Sha;
use crate::record::hex;
use crate::stream_id::StreamId;

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
    /// The partition, where the source has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Which audit log the records are from: the `id` of its database's marker.
    pub log: String,
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
    /// The stream's counters when the manifest was written; `None` when it was rebuilt from the segment.
    pub counters: Option<Counters>,
    /// The digest of the plugin chain and configuration in force when it was written.
    pub policy_digest: String,
    /// MongoDB's version, as the source's server says.
    pub server: String,
    /// The version of Archiver that wrote it.
    pub archiver: String,
    /// When it was written, RFC 3339 in UTC.
    pub created: String,
    /// The SHA-256 of the manifest file before this one, in hex; `None` for a stream's first.
    pub previous: Option<String>,
}

/// A manifest as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it says.
    pub manifest: Manifest,
    /// The SHA-256 of its file: what the next one names as `previous`.
    pub sha256: Sha,
    /// Whether its segment has expired, as a tombstone beside it says: there is nothing to be read of it any more.
    pub expired: bool,
}

/// What a manifest says that the segment does not know.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    /// Which audit log the records are from.
    pub log: &'a str,
    /// The stream's counters; `None` when the manifest is rebuilt.
    pub counters: Option<Counters>,
    /// The digest of the plugin chain and configuration in force.
    pub policy_digest: &'a str,
    /// MongoDB's version.
    pub server: &'a str,
    /// The time, RFC 3339 in UTC.
    pub created: String,
    /// The manifest before this one; `None` for a stream's first.
    pub previous: Option<&'a Sealed>,
}

impl Manifest {
    /// The manifest that seals this segment.
    pub fn new(segment: &Segment, context: Context<'_>) -> Manifest {
        let summary = &segment.summary;
        Manifest {
            format: FORMAT,
            source: summary.stream.source.clone(),
            partition: summary.stream.partition,
            log: context.log.to_owned(),
            segment: segment.key.clone(),
            sha256: hex(&segment.sha256),
            size: segment.file.len() as u64,
            rows: summary.rows,
            bson_bytes: summary.bson_bytes,
            first_seq: summary.first_seq,
            end_seq: summary.end_seq,
            first_cluster_time: summary.first_cluster_time,
            last_cluster_time: summary.last_cluster_time,
            ops: summary.ops.clone(),
            merkle_root: hex(&summary.merkle_root),
            counters: context.counters,
            policy_digest: context.policy_digest.to_owned(),
            server: context.server.to_owned(),
            archiver: env!("CARGO_PKG_VERSION").to_owned(),
            created: context.created,
            previous: context.previous.map(|sealed| hex(&sealed.sha256)),
        }
    }

    /// The stream in whose chain it is.
    pub fn stream(&self) -> StreamId {
        StreamId { source: self.source.clone(), partition: self.partition }
    }

    /// The bytes of its file: JSON, indented, with a newline at the end. Equal manifests give equal bytes. The last field,
    /// `digest`, is the SHA-256 of all bytes before its comma: the newest manifest is named by no other, so that damage to it
    /// would be seen by nothing else.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        with_digest(self)
    }

    /// Reads a file. Fails as corrupt where it is not a manifest, or does not fit together in itself; as invalid where it
    /// is of a newer format.
    pub fn from_json(json: &[u8]) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let unreadable = |e: serde_json::Error| Error::corrupt("a manifest does not read as one").because(e);
        let json = without_digest(json);
        let json = json.ok_or_else(|| Error::corrupt("a manifest is not what its own digest says"))?;
        let json = json.as_slice();
        let Version { format } = serde_json::from_slice(json).map_err(unreadable)?;
        if format != FORMAT {
            let problem = Error::invalid(format!(
                "a manifest is of a format that this version does not know: {format}"
            ));
            return Err(problem.hint("read it with a newer version of archiver"));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(unreadable)?;
        match manifest.problem() {
            Some(problem) => Err(Error::corrupt(format!("a manifest contradicts itself: {problem}"))),
            None => Ok(manifest),
        }
    }

    /// What does not fit together in it.
    fn problem(&self) -> Option<&'static str> {
        let Some(Key::Segment { stream, first_seq, .. }) = paths::parse(&self.segment) else {
            return Some("segment is not a segment's key");
        };
        let is_digest =
            |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if stream != self.stream() || first_seq != self.first_seq {
            Some("segment is another's key")
        } else if self.first_seq < 1
            || self.end_seq.checked_sub(self.first_seq) != i64::try_from(self.rows).ok()
        {
            Some("rows is not the number of its seqs")
        } else if self.rows == 0 || self.ops.values().sum::<u64>() != self.rows {
            Some("ops do not add up to rows")
        } else if self.first_cluster_time > self.last_cluster_time {
            Some("its cluster times are in the wrong order")
        } else if !is_digest(&self.sha256)
            || !is_digest(&self.merkle_root)
            || !self.previous.as_deref().is_none_or(is_digest)
        {
            Some("a digest is not 64 lower-case hex digits")
        } else {
            None
        }
    }

    /// Whether both seal the same bytes at the same place in the chain; who wrote them when, and with what counters, may differ.
    pub fn seals_the_same(&self, other: &Manifest) -> bool {
        let bare = |m: &Manifest| Manifest {
            counters: None,
            policy_digest: String::new(),
            server: String::new(),
            archiver: String::new(),
            created: String::new(),
            ..m.clone()
        };
        bare(self) == bare(other)
    }
}

/// A value as a JSON file whose last field is the SHA-256 of what is before it.
pub(crate) fn with_digest<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let json = serde_json::to_vec_pretty(value);
    let mut json = json.map_err(|e| Error::internal("a value does not become JSON").because(e))?;
    json.truncate(json.len().saturating_sub(CLOSE.len()));
    let digest = digest_field(&json);
    json.extend_from_slice(digest.as_bytes());
    Ok(json)
}

/// How a file's other fields end.
const CLOSE: &[u8] = b"\n}";

/// The last field and the end of a file, for the bytes before them.
fn digest_field(body: &[u8]) -> String {
    format!(",\n  \"digest\": \"{}\"\n}}\n", hex(&sha256(body)))
}

/// What [`with_digest`] wrote, without the digest; `None` where the digest is not right.
pub(crate) fn without_digest(json: &[u8]) -> Option<Vec<u8>> {
    let body = json.get(..json.len().checked_sub(digest_field(b"").len())?)?;
    json.ends_with(digest_field(body).as_bytes()).then(|| [body, CLOSE].concat())
}

impl Sealed {
    /// A manifest from its stored file.
    pub fn from_json(json: &[u8]) -> Result<Sealed> {
        Ok(Sealed { manifest: Manifest::from_json(json)?, sha256: sha256(json), expired: false })
    }

    /// What keeps it from being the link of the chain after `before` (`None`: from being the first); `None` where it is.
    pub fn chain_problem(&self, before: Option<&Sealed>) -> Option<String> {
        let this = &self.manifest;
        let expected_seq = before.map_or(1, |before| before.manifest.end_seq);
        let expected_digest = before.map(|before| hex(&before.sha256));
        if this.first_seq != expected_seq {
            Some(format!(
                "seqs {}..{} are missing or sealed twice",
                expected_seq.min(this.first_seq),
                expected_seq.max(this.first_seq)
            ))
        } else if this.previous != expected_digest {
            Some(format!(
                "the manifest of seq {} does not name the digest of the one before it",
                this.first_seq
            ))
        } else {
            None
        }
    }
}

/// A cluster time in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClusterTime {
    /// Seconds since 1970.
    pub t: u32,
    /// The ordinal within the second.
    pub i: u32,
}
