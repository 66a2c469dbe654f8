//! The Delta log of a source, compared with its manifests: a table must show what was sealed, each segment once. No digest
//! is over its statistics, which can keep a reader from looking into a segment: the log can be made anew at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Report;
use super::chain::Chain;
use super::finding::Code;
use crate::archive::delta::{self, Add, Commit};
use crate::archive::manifest::Manifest;
use crate::archive::paths;
use crate::archive::store::Archive;
use crate::error::{Kind, Result};
use crate::stream_id::StreamId;

/// Checks the log of a source, which has these versions, against the chains of its streams.
pub(super) async fn check(
    archive: &Archive,
    source: &str,
    versions: &BTreeSet<i64>,
    chains: &[Chain],
    report: &mut Report,
) -> Result<()> {
    let newest = versions.last().copied().unwrap_or_default();
    if let Some(missing) = (0..newest).find(|version| !versions.contains(version)) {
        report.find(Code::TableCommit, &paths::delta_commit_key(source, missing), None, "missing");
    }
    let chains: Vec<&Chain> = chains.iter().filter(|chain| chain.stream.source == source).collect();
    let manifests = chains.iter().flat_map(|chain| chain.manifests());
    let sealed: BTreeMap<String, Add> =
        manifests.map(|m| Add::of(m)).map(|add| (add.path.clone(), add)).collect();
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    let mut published: BTreeMap<StreamId, i64> = BTreeMap::new();
    for version in versions {
        let key = paths::delta_commit_key(source, *version);
        let commit = match delta::read(archive, source, *version).await {
            Ok(commit) => commit,
            Err(error) if error.kind() == Kind::Corrupt => {
                report.find(Code::TableCommit, &key, None, error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        check_commit(&key, source, &commit, &sealed, report);
        for add in &commit.adds {
            if !added.insert(add.path.clone()) {
                let reason = format!("it adds a segment that was added before: {}", add.path);
                report.find(Code::TableSegment, &key, None, reason);
            }
        }
        removed.extend(commit.removes.iter().cloned());
        for chain in &chains {
            let stream = &chain.stream;
            published.extend(commit.position(stream).map(|position| (stream.clone(), position.published)));
        }
    }
    for chain in chains {
        let end_seq = published.get(&chain.stream).copied().unwrap_or_default();
        // What has expired leaves the table before its object goes, which may take the store long.
        let shown = |m: &&Arc<Manifest>| m.end_seq <= end_seq && m.first_seq >= chain.expired.end_seq;
        for manifest in chain.manifests().filter(shown) {
            let path = Add::of(manifest).path;
            if !added.contains(&path) || removed.contains(&path) {
                let reason = "the source's Delta table lacks it";
                report.find(Code::TableSegment, &manifest.segment, None, reason);
            }
        }
    }
    Ok(())
}

fn check_commit(
    key: &str,
    source: &str,
    commit: &Commit,
    sealed: &BTreeMap<String, Add>,
    report: &mut Report,
) {
    if commit.table.is_none() && !commit.is_of(source) {
        report.find(Code::TableCommit, key, None, "not a commit of Archiver's to this Delta log");
    }
    for add in &commit.adds {
        match sealed.get(&add.path) {
            None => {
                let reason = format!("it adds what no manifest seals: {}", add.path);
                report.find(Code::TableSegment, key, None, reason);
            }
            Some(manifest) if manifest != add => {
                let reason =
                    format!("it says another size or number of records than the manifest: {}", add.path);
                report.find(Code::TableSegment, key, None, reason);
            }
            Some(_) => {}
        }
    }
}
