//! Proves that an archive is what was written: the chain of manifests, every segment's digest, every record.
//!
//! Needs the objects only. Nothing is parsed whose digest is known and does not match, and what is parsed without (the
//! newest manifest) goes through parsers that take any bytes. What can't be seen from the archive alone is that its
//! newest end is missing; the audit log's checkpoint shows that.

mod chain;
mod rows;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::archive::paths::{self, Key};
use crate::archive::store::Archive;
use crate::audit_log::AuditLog;
use crate::error::{Error, Kind, Result};
use crate::stream_id::StreamId;

/// What a verification found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Where the archive is.
    pub archive: String,
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
    /// Segments of which every record was checked.
    pub segments: u64,
    /// Records checked.
    pub records: u64,
    /// Bytes of these segments.
    pub bytes: u64,
    /// One after the last seq that a manifest seals; 1 where none does.
    pub end_seq: i64,
    /// The SHA-256 of the newest manifest: kept elsewhere, it proves later that nothing was taken from the end.
    pub head: Option<String>,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object's key, or the stream where none is concerned.
    pub file: String,
    /// The record, where one is concerned.
    pub seq: Option<i64>,
    /// What is wrong.
    pub reason: String,
}

impl Report {
    /// Whether everything is as it was written.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, file: &str, seq: Option<i64>, reason: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), seq, reason: reason.into() });
    }

    fn note(&mut self, file: &str, reason: impl Into<String>) {
        self.notes.push(Finding { file: file.to_owned(), seq: None, reason: reason.into() });
    }
}

/// The objects of one stream, by first seq.
#[derive(Debug, Default)]
struct Objects {
    manifests: BTreeMap<i64, String>,
    segments: BTreeMap<i64, Vec<String>>,
}

/// What the audit log says about one stream. Read before the archive: what is trimmed meanwhile is sealed by then.
#[derive(Debug, Clone, Copy)]
struct Hot {
    first_seq: Option<i64>,
    next_seq: Option<i64>,
    sealed_end: Option<i64>,
}

/// Verifies one source or all; with an audit log also that it goes on where the archive ends.
///
/// Fails as not found where the archive has nothing of the source, and as unavailable where it can't be read.
pub async fn verify(archive: &Archive, source: Option<&str>, log: Option<&AuditLog>) -> Result<Report> {
    let hot = match log {
        Some(log) => read_log(log, source).await?,
        None => BTreeMap::new(),
    };
    let mut report = Report { archive: archive.location().to_owned(), ..Report::default() };
    let mut streams = sort_objects(archive, source, &mut report).await?;
    for stream in hot.keys() {
        streams.entry(stream.clone()).or_default();
    }
    if let Some(wanted) = source
        && !streams.keys().any(|stream| stream.source == wanted)
    {
        let mut known: Vec<_> = streams.into_keys().map(|stream| stream.source).collect();
        known.dedup();
        return Err(Error::not_found(format!("the archive has nothing of a source named {wanted:?}"))
            .hint(format!("the sources there are: {}", known.join(", "))));
    }
    for (stream, objects) in streams.iter().filter(|(stream, _)| source.is_none_or(|s| s == stream.source)) {
        let verified = chain::verify_stream(archive, stream, objects, &mut report).await?;
        if let Some(hot) = hot.get(stream) {
            compare_log(&stream.to_string(), verified.end_seq, *hot, &mut report);
        }
        report.sources.push(verified);
    }
    Ok(report)
}

async fn read_log(log: &AuditLog, source: Option<&str>) -> Result<BTreeMap<StreamId, Hot>> {
    let mut hot = BTreeMap::new();
    let streams = log.streams().await?;
    for stream in streams.into_iter().filter(|stream| source.is_none_or(|s| s == stream.source)) {
        let first_seq = log.first_seq(&stream).await?;
        let next_seq = log.checkpoint(&stream).await?.map(|c| c.next_seq);
        let sealed_end = log.sealed_end(&stream).await?;
        hot.insert(stream, Hot { first_seq, next_seq, sealed_end });
    }
    Ok(hot)
}

/// Lists everything, and finds what does not belong.
async fn sort_objects(
    archive: &Archive,
    only: Option<&str>,
    report: &mut Report,
) -> Result<BTreeMap<StreamId, Objects>> {
    let mut streams: BTreeMap<StreamId, Objects> = BTreeMap::new();
    for (key, _) in archive.objects().await? {
        match paths::parse(&key) {
            Some(Key::Manifest { stream, first_seq }) => {
                streams.entry(stream).or_default().manifests.insert(first_seq, key);
            }
            Some(Key::Segment { stream, first_seq, .. }) => {
                streams.entry(stream).or_default().segments.entry(first_seq).or_default().push(key);
            }
            // What `archiver check` could not delete again.
            None if key.starts_with(&paths::check_key("")) => {}
            None if only.is_none_or(|only| key.contains(&format!("source={only}/"))) => {
                report.find(&key, None, "not a name that Archiver writes");
            }
            None => {}
        }
    }
    Ok(streams)
}

/// The log must go on where the archive ends, or before.
fn compare_log(source: &str, end_seq: i64, hot: Hot, report: &mut Report) {
    if let Some(sealed_end) = hot.sealed_end.filter(|sealed| *sealed > end_seq) {
        let reason = format!(
            "the newest manifests were removed: sealed up to seq={sealed_end}, there up to seq={end_seq}"
        );
        report.find(source, None, reason);
    }
    let Some(next_seq) = hot.next_seq else { return };
    if next_seq < end_seq {
        report.find(
            source,
            None,
            format!("the checkpoint is behind the archive next_seq={next_seq} end_seq={end_seq}"),
        );
    }
    let first_seq = hot.first_seq.unwrap_or(next_seq);
    if first_seq > end_seq {
        let reason =
            format!("records are in neither tier, or a manifest was removed seq={end_seq}..{first_seq}");
        report.find(source, None, reason);
    }
}

/// Reads an object; one that is not there is a finding and not an error.
async fn read(archive: &Archive, key: &str, report: &mut Report) -> Result<Option<bytes::Bytes>> {
    match archive.read_segment(key).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == Kind::NotFound => {
            report.find(key, None, "missing");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
