//! The manifests of one stream: each names the digest of the one before, and seals one segment after the other.

use bytes::Bytes;

use super::{Objects, Report, SourceReport, read, rows};
use crate::archive::manifest::Manifest;
use crate::archive::merkle::sha256;
use crate::archive::store::Archive;
use crate::error::{Error, Result};
use crate::record::hex;
use crate::stream_id::StreamId;

/// A manifest's file, and what it says where that could be trusted enough to be parsed.
struct Link {
    key: String,
    first_seq: i64,
    sha256: String,
    manifest: Option<Manifest>,
}

/// Verifies all objects of one stream.
pub(super) async fn verify_stream(
    archive: &Archive,
    stream: &StreamId,
    objects: &Objects,
    report: &mut Report,
) -> Result<SourceReport> {
    let mut links = Vec::new();
    for (first_seq, key) in &objects.manifests {
        if let Some(bytes) = read(archive, key, report).await? {
            links.push((key.clone(), *first_seq, bytes));
        }
    }
    let links = check_chain(stream, links, report);
    let StreamId { source, partition } = stream.clone();
    let mut verified = SourceReport { source, partition, end_seq: 1, ..SourceReport::default() };
    verified.head = links.last().map(|link| link.sha256.clone());
    check_sequence(stream, &links, report);
    for link in &links {
        let Some(manifest) = &link.manifest else { continue };
        verified.manifests += 1;
        verified.end_seq = manifest.end_seq;
        if let Some(bytes) = read(archive, &manifest.segment, report).await?
            && check_file(manifest, &bytes, report)
        {
            verified.bytes += manifest.size;
            let manifest = manifest.clone();
            let outcome = tokio::task::spawn_blocking(move || rows::check(&manifest, bytes)).await;
            let (records, findings) =
                outcome.map_err(|e| Error::internal("checking a segment was cut short").because(e))?;
            verified.records += records;
            verified.segments += 1;
            report.findings.extend(findings);
        }
    }
    check_leftovers(objects, &links, verified.end_seq, report);
    Ok(verified)
}

/// Goes from the newest manifest to the oldest: each one's digest is known from the one after it before it is parsed.
fn check_chain(stream: &StreamId, files: Vec<(String, i64, Bytes)>, report: &mut Report) -> Vec<Link> {
    let mut links = Vec::with_capacity(files.len());
    // `None`: nothing is known of this manifest's digest; `Some(None)`: there should be no manifest here.
    let mut expected: Option<Option<String>> = None;
    for (key, first_seq, bytes) in files.into_iter().rev() {
        let digest = hex(&sha256(&bytes));
        let trusted = match &expected {
            None => true,
            Some(named) => named.as_ref() == Some(&digest),
        };
        if !trusted {
            report.find(
                &key,
                None,
                "not the manifest that the next one names: changed, or one is missing between them",
            );
        }
        let manifest = if trusted { parse(stream, &key, first_seq, &bytes, report) } else { None };
        expected = manifest.as_ref().map(|manifest| manifest.previous.clone());
        links.push(Link { key, first_seq, sha256: digest, manifest });
    }
    if let (Some(Some(_)), Some(oldest)) = (&expected, links.last()) {
        report.find(&oldest.key, None, "it names a manifest before it, and there is none");
    }
    links.reverse();
    links
}

fn parse(
    stream: &StreamId,
    key: &str,
    first_seq: i64,
    bytes: &[u8],
    report: &mut Report,
) -> Option<Manifest> {
    let manifest = match Manifest::from_json(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            report.find(key, None, error.to_string());
            return None;
        }
    };
    if manifest.stream() != *stream || manifest.first_seq != first_seq {
        report.find(key, None, "its name says another source or seq than its contents");
        return None;
    }
    check_counts(key, &manifest, report);
    Some(manifest)
}

/// A manifest's counters must add up, and cover what was sealed.
fn check_counts(key: &str, manifest: &Manifest, report: &mut Report) {
    let Some(counters) = &manifest.counters else { return };
    let dropped = counters.dropped.values().try_fold(0_i64, |sum, n| sum.checked_add(*n));
    if dropped.and_then(|dropped| dropped.checked_add(counters.appended)) != Some(counters.read) {
        report.find(key, None, "its counters do not add up: read is not appended plus dropped");
    }
    let written = counters.appended.checked_add(counters.own);
    if written.is_none_or(|written| written < manifest.end_seq - 1)
        || counters.quarantined > counters.appended
        || written.is_some_and(|written| counters.gaps > written)
    {
        report.find(key, None, "its counters say fewer records than were sealed");
    }
}

/// The manifests must seal seq after seq from 1, with counters that only grow.
fn check_sequence(stream: &StreamId, links: &[Link], report: &mut Report) {
    let mut next_seq = 1;
    let (mut read, mut gaps) = (0, 0);
    for link in links {
        if link.first_seq != next_seq {
            let reason = format!("records are missing or sealed twice seq={next_seq}..{}", link.first_seq);
            report.find(&link.key, None, reason);
        }
        // Where a manifest could not be read, the next one's own first seq is as good as any.
        next_seq = link.manifest.as_ref().map_or(i64::MAX, |manifest| manifest.end_seq);
        if link.manifest.is_none() {
            next_seq =
                links.iter().map(|l| l.first_seq).find(|seq| *seq > link.first_seq).unwrap_or(next_seq);
        }
        if let Some(counters) = link.manifest.as_ref().and_then(|m| m.counters.as_ref()) {
            if counters.read < read || counters.gaps < gaps {
                report.find(
                    &link.key,
                    None,
                    format!("its counters are lower than those before source={stream}"),
                );
            }
            (read, gaps) = (counters.read, counters.gaps);
        }
    }
}

/// Size and digest of the file, before anything in it is looked at.
fn check_file(manifest: &Manifest, bytes: &[u8], report: &mut Report) -> bool {
    let size = bytes.len() as u64;
    if size != manifest.size {
        report.find(
            &manifest.segment,
            None,
            format!("it has {size} bytes, and was sealed with {}", manifest.size),
        );
        return false;
    }
    let same = hex(&sha256(bytes)) == manifest.sha256;
    if !same {
        report.find(&manifest.segment, None, "its SHA-256 is not the one it was sealed with");
    }
    same
}

/// Segments that no manifest seals: one may be the newest, whose manifest comes next.
fn check_leftovers(objects: &Objects, links: &[Link], end_seq: i64, report: &mut Report) {
    let sealed: Vec<&str> =
        links.iter().filter_map(|link| Some(link.manifest.as_ref()?.segment.as_str())).collect();
    for (first_seq, keys) in &objects.segments {
        for key in keys.iter().filter(|key| !sealed.contains(&key.as_str())) {
            if objects.manifests.contains_key(first_seq)
                && links.iter().any(|l| l.first_seq == *first_seq && l.manifest.is_none())
            {
                report.find(key, None, "not checked: its manifest is not what was written");
            } else if *first_seq == end_seq
                && keys.len() == 1
                && links.iter().all(|link| link.manifest.is_some())
            {
                report.note(key, "not sealed by a manifest: its writer was stopped in between, or the newest manifest was removed");
            } else {
                report.find(key, None, "no manifest seals it");
            }
        }
    }
}
