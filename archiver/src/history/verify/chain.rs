//! The manifests of one stream: each names the digest of the one before, and seals one segment after the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::expired::{Expired, Known};
use super::finding::Code;
use super::listing::Objects;
use super::rows::is_of_day;
use super::{Report, SourceReport};
use crate::archive::manifest::Manifest;
use crate::archive::merkle::sha256;
use crate::archive::paths;
use crate::archive::store::Archive;
use crate::error::{Kind, Result};
use crate::record::hex;
use crate::stream_id::StreamId;

/// Manifests fetched at a time.
const PARALLEL: usize = 16;
/// A manifest is a few kilobytes: what is larger is none, and is not read.
const MAX_BYTES: u64 = 16 << 20;
/// For how long a newest segment may lie there without its manifest, which follows within seconds while its writer runs.
const UNSEALED: Duration = Duration::from_secs(3_600);

/// The manifests of one stream in seq order, as far as they can be trusted.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) stream: StreamId,
    /// One after the last seq that a manifest seals; 1 where none does.
    pub(super) end_seq: i64,
    /// What a listing said of the segments.
    pub(super) sizes: HashMap<String, u64>,
    pub(super) expired: Expired,
    links: Vec<Link>,
}

/// A manifest's file, and what it says where that could be trusted enough to be parsed.
#[derive(Debug)]
struct Link {
    key: String,
    first_seq: i64,
    sha256: String,
    manifest: Option<Arc<Manifest>>,
}

impl Chain {
    /// What the manifests say, in seq order.
    pub(super) fn manifests(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.links.iter().filter_map(|link| link.manifest.as_ref())
    }

    /// The manifests whose segments must be there.
    pub(super) fn to_read(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.manifests().filter(|manifest| !self.expired.is_gone(manifest.first_seq))
    }

    /// Whether a manifest has this digest.
    pub(super) fn has(&self, digest: &str) -> bool {
        self.links.iter().any(|link| link.sha256 == digest)
    }

    /// What is to be said of it before any segment is looked at.
    pub(super) fn summary(&self) -> SourceReport {
        SourceReport {
            source: self.stream.source.clone(),
            partition: self.stream.partition,
            manifests: self.manifests().count() as u64,
            expired: self.expired.segments,
            expired_end: self.expired.end_seq,
            end_seq: self.end_seq,
            newest: self.links.last().filter(|link| link.manifest.is_some()).map(|link| link.sha256.clone()),
            ..SourceReport::default()
        }
    }
}

/// Reads and checks the chain of one stream, and finds segments that are not in it.
pub(super) async fn read_chain(
    archive: &Archive,
    stream: &StreamId,
    objects: Objects,
    known: &Known,
    report: &mut Report,
) -> Result<Chain> {
    let mut links = read_links(archive, stream, &objects.manifests, report).await?;
    links.reverse();
    check_sequence(stream, &links, report);
    let mut before: Option<&Manifest> = None;
    for (link, manifest) in links.iter().filter_map(|link| Some((link, link.manifest.as_deref()?))) {
        check_counts(&link.key, manifest, before, report);
        check_belonging(&link.key, manifest, before, report);
        before = Some(manifest);
    }
    let end_seq = before.map_or(1, |manifest| manifest.end_seq);
    let sizes = objects.segments.values().flatten().cloned().collect();
    let manifests = links.iter().filter_map(|link| Some((link.manifest.as_deref()?, link.sha256.as_str())));
    let expired = Expired::check(archive, stream, &objects, manifests.collect(), known, report).await?;
    let chain = Chain { stream: stream.clone(), end_seq, sizes, expired, links };
    check_leftovers(archive, &objects, &chain, report).await?;
    Ok(chain)
}

/// Goes from the newest manifest to the oldest: each one's digest is known from the one after it before it is parsed.
async fn read_links(
    archive: &Archive,
    stream: &StreamId,
    manifests: &BTreeMap<i64, (String, u64)>,
    report: &mut Report,
) -> Result<Vec<Link>> {
    let listed: Vec<(i64, String, u64)> =
        manifests.iter().rev().map(|(first_seq, (key, size))| (*first_seq, key.clone(), *size)).collect();
    let mut files = stream::iter(listed)
        .map(|(first_seq, key, size)| async move {
            let file = read(archive, &key, size).await;
            (first_seq, key, file)
        })
        .buffered(PARALLEL);
    let mut links: Vec<Link> = Vec::with_capacity(manifests.len());
    // What is known of the next file's digest; `Some(None)`: there should be no manifest here.
    let mut expected: Option<Option<String>> = None;
    while let Some((first_seq, key, file)) = files.next().await {
        let bytes = match file? {
            File::Bytes(bytes) => bytes,
            File::Missing => {
                report.find(Code::ManifestMissing, &key, None, "it was listed, and is gone");
                continue;
            }
            File::TooLarge => {
                report.find(Code::ManifestUnreadable, &key, None, "it is too large to be a manifest");
                expected = None;
                links.push(Link { key, first_seq, sha256: String::new(), manifest: None });
                continue;
            }
        };
        let sha256 = hex(&sha256(&bytes));
        let named = expected.as_ref().is_none_or(|named| named.as_ref() == Some(&sha256));
        let next_seq = links.last().map_or(i64::MAX, |next| next.first_seq);
        let manifest = match (named, parse(stream, first_seq, &bytes)) {
            (true, Ok(manifest)) => Some(Arc::new(manifest)),
            (true, Err((code, reason))) => {
                report.find(code, &key, None, reason);
                None
            }
            // One between them is missing, which shows in the seqs; this one is whole in itself, and the one after it names another.
            (false, Ok(manifest)) if manifest.end_seq < next_seq => Some(Arc::new(manifest)),
            (false, _) => {
                report.find(Code::ManifestChanged, &key, None, "not the manifest that the next one names");
                None
            }
        };
        expected = manifest.as_ref().map(|manifest| manifest.previous.clone());
        links.push(Link { key, first_seq, sha256, manifest });
    }
    if let (Some(Some(_)), Some(oldest)) = (&expected, links.last().filter(|oldest| oldest.first_seq == 1)) {
        let reason = "it names a manifest before it, and seals the first seq";
        report.find(Code::ManifestChanged, &oldest.key, None, reason);
    }
    Ok(links)
}

enum File {
    Bytes(Bytes),
    Missing,
    TooLarge,
}

async fn read(archive: &Archive, key: &str, size: u64) -> Result<File> {
    if size > MAX_BYTES {
        return Ok(File::TooLarge);
    }
    match archive.read_segment(key).await {
        Ok(bytes) => Ok(File::Bytes(bytes)),
        Err(error) if error.kind() == Kind::NotFound => Ok(File::Missing),
        Err(error) => Err(error),
    }
}

fn parse(stream: &StreamId, first_seq: i64, bytes: &[u8]) -> Result<Manifest, (Code, String)> {
    let manifest = Manifest::from_json(bytes).map_err(|e| (Code::ManifestUnreadable, e.explain()))?;
    if manifest.stream() != *stream || manifest.first_seq != first_seq {
        let reason = "its name says another source or seq than its contents";
        return Err((Code::ManifestMisplaced, reason.to_owned()));
    }
    Ok(manifest)
}

/// The manifests must seal seq after seq from 1.
fn check_sequence(stream: &StreamId, links: &[Link], report: &mut Report) {
    let mut next_seq = 1;
    for (n, link) in links.iter().enumerate() {
        if link.first_seq > next_seq {
            let reason = format!("no manifest seals seq={next_seq}..{}", link.first_seq);
            let key = paths::manifest_key(stream, next_seq);
            report.find(Code::ManifestMissing, &key, None, reason);
        } else if link.first_seq < next_seq {
            let reason =
                format!("it seals again what one before it seals seq={}..{next_seq}", link.first_seq);
            report.find(Code::ManifestSeq, &link.key, None, reason);
        }
        // Where a manifest could not be read, the next one's own first seq is as good as any.
        next_seq = match (&link.manifest, links.get(n + 1)) {
            (Some(manifest), _) => manifest.end_seq,
            (None, Some(next)) => next.first_seq,
            (None, None) => next_seq,
        };
    }
}

/// A manifest's counters must add up, cover what was sealed, and only grow.
fn check_counts(key: &str, manifest: &Manifest, before: Option<&Manifest>, report: &mut Report) {
    let Some(counters) = &manifest.counters else { return };
    let mut find = |reason: &str| report.find(Code::ManifestCounters, key, None, reason);
    let dropped = counters.dropped.values().try_fold(0_i64, |sum, n| sum.checked_add(*n));
    if dropped.and_then(|dropped| dropped.checked_add(counters.appended)) != Some(counters.read) {
        find("its counters do not add up: read is not appended plus dropped");
    }
    let written = counters.appended.checked_add(counters.own);
    if written.is_none_or(|written| written < manifest.end_seq - 1)
        || counters.quarantined > counters.appended
        || written.is_some_and(|written| counters.gaps > written)
    {
        find("its counters say fewer records than were sealed");
    }
    if let Some(before) = before.and_then(|before| before.counters.as_ref())
        && (counters.read < before.read || counters.gaps < before.gaps)
    {
        find("its counters are lower than those before");
    }
}

/// A manifest must be of the day that its segment's folder names, and of the same audit log as those before.
fn check_belonging(key: &str, manifest: &Manifest, before: Option<&Manifest>, report: &mut Report) {
    let days = [manifest.first_cluster_time, manifest.last_cluster_time];
    if !days.into_iter().all(|time| is_of_day(&manifest.segment, time)) {
        let reason = "its cluster times are not of the day in its segment's name";
        report.find(Code::ManifestDay, key, None, reason);
    }
    if before.is_some_and(|before| before.log != manifest.log) {
        report.find(Code::ManifestLog, key, None, "it seals records of another audit log than those before");
    }
}

/// Segments that no manifest seals: one may be the newest, whose manifest comes next.
async fn check_leftovers(
    archive: &Archive,
    objects: &Objects,
    chain: &Chain,
    report: &mut Report,
) -> Result<()> {
    let sealed: std::collections::HashSet<&str> = chain.manifests().map(|m| m.segment.as_str()).collect();
    let broken = |first_seq| chain.links.iter().any(|l| l.first_seq == first_seq && l.manifest.is_none());
    let whole = chain.links.iter().all(|link| link.manifest.is_some());
    for (first_seq, segments) in &objects.segments {
        for (key, _) in segments.iter().filter(|(key, _)| !sealed.contains(key.as_str())) {
            if broken(*first_seq) {
                let reason = "not checked: its manifest is not what was written";
                report.find(Code::SegmentUnchecked, key, None, reason);
            } else if *first_seq == chain.end_seq && segments.len() == 1 && whole {
                let written = archive.stat(key).await?.map(|(_, written)| written);
                let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
                let reason = "no manifest seals it: its writer was stopped in between, or somebody put it here, or removed the newest manifest";
                match age.is_some_and(|age| age > UNSEALED) {
                    true => report.find(Code::SegmentUnsealed, key, None, reason),
                    false => report.note(Code::SegmentUnsealed, key, reason),
                }
            } else {
                report.find(Code::SegmentUnsealed, key, None, "no manifest seals it");
            }
        }
    }
    Ok(())
}
