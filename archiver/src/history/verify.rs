//! Proves that an archive is what was written: the chain of manifests, every segment's digest, every record.
//!
//! Needs the objects only. Nothing is parsed whose digest is known and does not match, and what is parsed without (the
//! newest manifest) goes through parsers that take any bytes. What can't be seen from the archive alone is that its
//! newest end is missing, or that all of it was written anew: a digest noted elsewhere shows it, and the audit database.

mod chain;
mod contents;
mod delta;
mod expired;
mod finding;
mod listing;
mod rows;
mod scope;
mod witness;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use self::chain::Chain;
pub use self::contents::{Checked, check_segment};
use self::expired::Known;
pub use self::finding::{Code, Finding};
use self::listing::{Listing, Objects};
pub use self::scope::{Level, Part, Scope, moment};
pub use self::witness::Noted;
use crate::archive::manifest::Manifest;
use crate::archive::store::Archive;
use crate::audit_log::AuditLog;
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

/// What to verify.
pub struct Request<'a> {
    /// Only this source.
    pub source: Option<&'a str>,
    /// How much of it.
    pub scope: Scope,
    /// Digests that were noted when they were the newest.
    pub noted: &'a [Noted],
    /// Segments looked into at a time, each held in memory as a whole.
    pub jobs: usize,
    /// Is told how far it is, before the first segment and behind each.
    pub progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl Default for Request<'_> {
    fn default() -> Self {
        Request { source: None, scope: Scope::FULL, noted: &[], jobs: 1, progress: &|_| {} }
    }
}

/// How far a verification is; the chains of manifests are done by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Segments checked.
    pub segments_done: u64,
    /// Segments in all.
    pub segments: u64,
    /// Bytes of the files that were to be read of them.
    pub bytes_done: u64,
    /// Bytes of the files to be read in all.
    pub bytes: u64,
}

/// What a verification found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where the archive is.
    pub archive: String,
    /// How much of it was looked at.
    #[serde(flatten)]
    pub scope: Scope,
    /// One for each stream, sorted.
    pub sources: Vec<SourceReport>,
    /// What is not as it was written, in the order in which it was found.
    pub findings: Vec<Finding>,
    /// What is as it should be, but worth knowing.
    pub notes: Vec<Finding>,
}

/// What was verified of one stream.
#[derive(Debug, Default, Serialize)]
pub struct SourceReport {
    /// The source's name.
    pub source: String,
    /// The partition, where the source has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Manifests whose digest is named by the next one (or that are the newest).
    pub manifests: u64,
    /// Files of segments that were read and have the digest they were sealed with.
    pub files: u64,
    /// Segments of which every record was checked.
    pub segments: u64,
    /// Records checked.
    pub records: u64,
    /// Bytes of the files that were read.
    pub bytes: u64,
    /// Segments that have expired: a tombstone says so of each.
    pub expired: u64,
    /// One after the last seq that has expired; 1 where none has.
    pub expired_end: i64,
    /// One after the last seq that a manifest seals; 1 where none does.
    pub end_seq: i64,
    /// The SHA-256 of the newest manifest: kept elsewhere, it proves later that nothing was taken away or rewritten.
    pub newest: Option<String>,
}

impl SourceReport {
    /// Which stream it is about.
    pub fn stream(&self) -> StreamId {
        StreamId { source: self.source.clone(), partition: self.partition }
    }
}

impl Report {
    fn new(archive: &Archive, scope: Scope) -> Report {
        let archive = archive.location().to_owned();
        Report { archive, scope, sources: Vec::new(), findings: Vec::new(), notes: Vec::new() }
    }

    /// Whether everything is as it was written.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, code: Code, file: &str, seq: Option<i64>, reason: impl Into<String>) {
        self.findings.push(Finding::new(code, file, seq, reason));
    }

    fn note(&mut self, code: Code, file: &str, reason: impl Into<String>) {
        self.notes.push(Finding::new(code, file, None, reason));
    }
}

/// Verifies one source or all; with an audit log also that it goes on where the archive ends.
///
/// Fails as not found where the archive has nothing of the source, and as unavailable where it can't be read.
pub async fn verify(archive: &Archive, log: Option<&AuditLog>, request: &Request<'_>) -> Result<Report> {
    let source = request.source;
    let hot = witness::read_log(log, source).await?;
    let mut report = Report::new(archive, request.scope);
    let Listing { mut streams, tables } = listing::sort_objects(archive, source, &mut report).await?;
    for stream in hot.keys() {
        streams.entry(stream.clone()).or_default();
    }
    if let Some(wanted) = source
        && streams.is_empty()
        && report.is_clean()
    {
        let known = archive.sources().await?;
        return Err(Error::not_found(format!("the archive has nothing of a source named {wanted:?}"))
            .hint(format!("the sources there are: {}", known.join(", "))));
    }
    let known = Known::read(archive, log, &streams, &mut report).await?;
    let chains = read_chains(archive, streams, &known, &mut report).await?;
    for chain in &chains {
        report.sources.push(chain.summary());
        if let (Some(log), Some(hot)) = (log, hot.get(&chain.stream)) {
            witness::compare_log(log, chain, hot, &mut report).await?;
        }
    }
    for (of, versions) in &tables {
        delta::check(archive, of, versions, &chains, &mut report).await?;
    }
    witness::check_noted(request.noted, &chains, &mut report)?;
    contents::check(archive, &chains, request, &mut report).await?;
    Ok(report)
}

async fn read_chains(
    archive: &Archive,
    streams: BTreeMap<StreamId, Objects>,
    known: &Known,
    report: &mut Report,
) -> Result<Vec<Chain>> {
    let mut chains = Vec::with_capacity(streams.len());
    for (stream, objects) in streams {
        chains.push(chain::read_chain(archive, &stream, objects, known, report).await?);
    }
    Ok(chains)
}

/// What can be said of one stream without reading a segment, and the manifests of it that are wanted.
pub async fn look_through(
    archive: &Archive,
    log: &AuditLog,
    stream: &StreamId,
    wanted: impl Fn(&Manifest) -> bool,
) -> Result<(Report, Vec<Arc<Manifest>>)> {
    let hot = witness::read_log(Some(log), Some(&stream.source)).await?;
    let scope = Scope::only(Level::Listing);
    let mut report = Report::new(archive, scope);
    let listing = listing::sort_objects(archive, Some(&stream.source), &mut report).await?;
    let known = Known::read(archive, Some(log), &listing.streams, &mut report).await?;
    // What belongs to no stream is found by one of them.
    if stream.partition.is_some_and(|partition| partition > 0) {
        report.findings.clear();
    }
    let objects = listing.streams.get(stream).cloned().unwrap_or_default();
    let chain = chain::read_chain(archive, stream, objects, &known, &mut report).await?;
    if let Some(hot) = hot.get(stream) {
        witness::compare_log(log, &chain, hot, &mut report).await?;
    }
    let request = Request { source: Some(&stream.source), scope, ..Request::default() };
    report.sources.push(chain.summary());
    let chains = [chain];
    contents::check(archive, &chains, &request, &mut report).await?;
    let [chain] = chains;
    let manifests = chain.to_read().filter(|m| wanted(m)).cloned().collect();
    Ok((report, manifests))
}

#[cfg(test)]
mod tests;
