//! Segments against their manifests: there, with their size and digest, with their records.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::chain::Chain;
use super::finding::{Code, Finding};
use super::rows::{self, STEPS_BACK};
use super::scope::{Level, Scope};
use super::{Progress, Report, Request};
use crate::archive::manifest::{ClusterTime, Manifest};
use crate::archive::merkle::sha256;
use crate::archive::store::Archive;
use crate::error::{Error, Kind, Result};
use crate::record::hex;

/// What came of one segment.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Bytes read whose digest is the one that was sealed.
    pub bytes: u64,
    /// Records checked, where they were to be.
    pub records: Option<u64>,
    /// The first and the last time, in seq order, of records that stand in the order of time.
    pub(super) span: Option<(ClusterTime, ClusterTime)>,
}

impl Checked {
    fn of(manifest: &Manifest, code: Code, reason: impl Into<String>) -> Checked {
        let findings = vec![Finding::new(code, &manifest.segment, None, reason)];
        Checked { findings, ..Checked::default() }
    }
}

/// Checks the segments that the manifests of these chains seal, as many at a time as the request says, and adds what it finds.
pub(super) async fn check(
    archive: &Archive,
    chains: &[Chain],
    request: &Request<'_>,
    report: &mut Report,
) -> Result<()> {
    let jobs = jobs(chains, request.scope);
    let mut progress = Progress { segments: jobs.len() as u64, ..Progress::default() };
    progress.bytes = jobs.iter().map(Job::bytes).sum();
    let mut results = stream::iter(jobs)
        .map(|job| async move {
            let checked = check_segment(archive, &job.manifest, job.level, job.size).await;
            (job, checked)
        })
        .buffered(request.jobs.max(1));
    // The latest time in the segments before, of the same stream and all of them looked into.
    let mut latest: Option<(usize, i64, Option<ClusterTime>)> = None;
    (request.progress)(progress);
    while let Some((job, checked)) = results.next().await {
        let mut checked = checked?;
        let Job { chain: n, manifest, .. } = &job;
        let before = latest.take_if(|(chain, end, _)| (*chain, *end) == (*n, manifest.first_seq));
        let before = before.and_then(|(_, _, time)| time);
        if let (Some(before), Some((first, _))) = (before, checked.span)
            && first < before
        {
            checked.findings.push(Finding::new(Code::RowTime, &manifest.segment, None, STEPS_BACK));
        }
        if checked.records.is_some() {
            let last = checked.span.map(|(_, last)| last).max(before);
            latest = Some((*n, manifest.end_seq, last));
        }
        let source = &mut report.sources[*n];
        source.bytes += checked.bytes;
        source.files += u64::from(checked.bytes > 0);
        source.segments += u64::from(checked.records.is_some());
        source.records += checked.records.unwrap_or_default();
        report.findings.append(&mut checked.findings);
        progress.segments_done += 1;
        progress.bytes_done += job.bytes();
        (request.progress)(progress);
    }
    Ok(())
}

/// One segment to be checked.
struct Job {
    /// The number of its chain.
    chain: usize,
    manifest: Arc<Manifest>,
    level: Level,
    size: Option<u64>,
}

impl Job {
    /// What is to be read for it.
    fn bytes(&self) -> u64 {
        if self.level == Level::Listing { 0 } else { self.manifest.size }
    }
}

fn jobs(chains: &[Chain], scope: Scope) -> Vec<Job> {
    let mut jobs = Vec::new();
    for (n, chain) in chains.iter().enumerate() {
        jobs.extend(chain.to_read().map(|manifest| Job {
            chain: n,
            level: scope.level_of(&chain.stream, manifest.first_seq),
            size: chain.sizes.get(&manifest.segment).copied(),
            manifest: Arc::clone(manifest),
        }));
    }
    jobs
}

/// Checks one segment against its manifest; `size` is what a listing said. Reads no file of another size, and decodes none of
/// another digest.
pub async fn check_segment(
    archive: &Archive,
    manifest: &Manifest,
    level: Level,
    size: Option<u64>,
) -> Result<Checked> {
    let key = &manifest.segment;
    let size = match size {
        Some(size) => Some(size),
        None => archive.stat(key).await?.map(|(size, _)| size),
    };
    let Some(size) = size else { return missing(archive, manifest).await };
    if size != manifest.size {
        return Ok(wrong_size(manifest, size));
    }
    match level {
        Level::Listing => Ok(Checked::default()),
        Level::Structure => match archive.digest(key, size).await? {
            None => missing(archive, manifest).await,
            Some(digest) if hex(&digest) != manifest.sha256 => Ok(wrong_digest(manifest)),
            Some(_) => Ok(Checked { bytes: size, ..Checked::default() }),
        },
        Level::Full => {
            let file = match archive.read_segment(key).await {
                Ok(file) => file,
                Err(error) if error.kind() == Kind::NotFound => return missing(archive, manifest).await,
                Err(error) => return Err(error),
            };
            let manifest = manifest.clone();
            let checked = tokio::task::spawn_blocking(move || check_file(&manifest, file)).await;
            checked.map_err(|e| Error::internal("checking a segment was cut short").because(e))
        }
    }
}

/// A segment that is not there, unless it has expired since its chain was read. Whether its tombstone is right in all is seen with
/// the chain.
async fn missing(archive: &Archive, manifest: &Manifest) -> Result<Checked> {
    let told = match archive.tombstone(&manifest.stream(), manifest.first_seq).await {
        Err(error) if error.kind() == Kind::Unavailable => return Err(error),
        told => told.ok().flatten().map(|buried| buried.tombstone),
    };
    Ok(match told {
        Some(tombstone) if tombstone.problem(manifest, &tombstone.manifest).is_none() => Checked::default(),
        _ => Checked::of(manifest, Code::SegmentMissing, "missing"),
    })
}

/// Size and digest of the file, then its records. CPU-bound.
fn check_file(manifest: &Manifest, file: bytes::Bytes) -> Checked {
    let bytes = file.len() as u64;
    if bytes != manifest.size {
        return wrong_size(manifest, bytes);
    }
    if hex(&sha256(&file)) != manifest.sha256 {
        return wrong_digest(manifest);
    }
    let contents = rows::check(manifest, file);
    Checked { findings: contents.findings, bytes, records: Some(contents.records), span: contents.span }
}

fn wrong_size(manifest: &Manifest, size: u64) -> Checked {
    let reason = format!("it has {size} bytes, and was sealed with {}", manifest.size);
    Checked::of(manifest, Code::SegmentSize, reason)
}

fn wrong_digest(manifest: &Manifest) -> Checked {
    Checked::of(manifest, Code::SegmentDigest, "its SHA-256 is not the one it was sealed with")
}
