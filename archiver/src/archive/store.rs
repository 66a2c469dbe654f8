//! The archive in one object store location: listing, reading, and the commit protocol.

use bson::Timestamp;
use bytes::Bytes;

use super::day::Day;
use super::manifest::Manifest;
use super::segment::Segment;
use crate::config::{ArchiveConfig, Secret};
use crate::error::{Error, Result};
use crate::record::Sha;

/// A manifest as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// What it says.
    pub manifest: Manifest,
    /// The SHA-256 of its file: what the next one names as `previous`.
    pub sha256: Sha,
}

/// One segment in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, relative to the archive's root.
    pub key: String,
    /// The first record's seq.
    pub first_seq: i64,
    /// The UTC day of its records.
    pub day: Day,
    /// The file's size in bytes.
    pub size: u64,
}

/// How a commit ended. In every case the archive durably holds a segment under the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Ours, created now or by an earlier try.
    Done,
    /// Somebody else's of the same first seq, perhaps cut elsewhere: compare its records with the log, and go on after its last seq.
    Adopted(Box<Segment>),
}

/// The archive of all sources in one object store location.
#[derive(Debug, Clone)]
pub struct Archive {}

impl Archive {
    /// Opens the configured location; creates the folder of a `file:` URL. Connects to nothing yet.
    pub fn open(config: &ArchiveConfig) -> Result<Archive> {
        Archive::open_url(&config.url, &config.options)
    }

    /// Opens a location that exists, without changing anything.
    pub fn open_url(url: &str, options: &[(String, Secret)]) -> Result<Archive> {
        let _ = (url, options);
        Ok(Archive {})
    }

    /// Where it is, for people; holds no secret.
    pub fn location(&self) -> &str {
        ""
    }

    /// The sources that have anything in the archive, sorted.
    pub async fn sources(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// The manifests of a source in seq order; fails as corrupt where one is unreadable or the chain is broken.
    pub async fn manifests(&self, source: &str) -> Result<Vec<Sealed>> {
        let _ = source;
        Ok(Vec::new())
    }

    /// The manifests of a source in seq order, each with its key, nothing checked between them: for `verify`.
    pub async fn read_manifests(&self, source: &str) -> Result<Vec<(String, Result<Sealed>)>> {
        let _ = source;
        Ok(Vec::new())
    }

    /// The newest manifest of a source: one listing, one read.
    pub async fn last_manifest(&self, source: &str) -> Result<Option<Sealed>> {
        let _ = source;
        Ok(None)
    }

    /// The segments of a source that the store lists, sealed or not, in seq order.
    pub async fn segments(&self, source: &str) -> Result<Vec<Listed>> {
        let _ = source;
        Ok(Vec::new())
    }

    /// A segment's file as it is stored; not found where there is none.
    pub async fn read_segment(&self, key: &str) -> Result<Bytes> {
        let _ = key;
        Err(Error::internal("not written yet"))
    }

    /// The segment file that a manifest seals; fails as corrupt where size or digest differ.
    pub async fn read_sealed(&self, manifest: &Manifest) -> Result<Bytes> {
        let _ = manifest;
        Err(Error::internal("not written yet"))
    }

    /// Creates the segment's object: the commit. Reads it back and compares before it returns.
    pub async fn commit(&self, segment: &Segment) -> Result<Commit> {
        let _ = segment;
        Err(Error::internal("not written yet"))
    }

    /// Creates the manifest's object. One that seals the same segment with the same predecessor is returned as it is stored; any other is corrupt.
    pub async fn seal(&self, manifest: &Manifest) -> Result<Sealed> {
        let _ = manifest;
        Err(Error::internal("not written yet"))
    }

    /// The records of one document in one segment, in seq order, by range requests: one read of the file's tail says
    /// "not here". `doc_id` is [`super::extjson::doc_id_text`].
    pub async fn find_document(&self, manifest: &Manifest, doc_id: &str) -> Result<Vec<Vec<u8>>> {
        let _ = (manifest, doc_id);
        Ok(Vec::new())
    }

    /// The records of these operations with a cluster time at or after `from` in one segment, in seq order.
    pub async fn find_ops(&self, manifest: &Manifest, ops: &[&str], from: Timestamp) -> Result<Vec<Vec<u8>>> {
        let _ = (manifest, ops, from);
        Ok(Vec::new())
    }

    /// Makes sure that the segment a manifest seals is still there with its size; fails as corrupt where it is not.
    pub async fn check_present(&self, manifest: &Manifest) -> Result<()> {
        let _ = manifest;
        Ok(())
    }

    /// Proves that the location can be written and that objects can't be overwritten.
    pub async fn check_writable(&self) -> Result<()> {
        Ok(())
    }
}

/// Chooses the process's TLS library; harmless when repeated. Opening an archive does it too.
pub fn install_tls() {}
