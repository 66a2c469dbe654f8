//! Everything that an archive holds, sorted into the objects of its streams and what does not belong.

use std::collections::{BTreeMap, BTreeSet};

use super::Report;
use super::finding::Code;
use crate::archive::paths::{self, Key};
use crate::archive::store::Archive;
use crate::error::Result;
use crate::stream_id::StreamId;

/// The objects of one stream, by first seq, with their sizes.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects {
    pub(super) manifests: BTreeMap<i64, (String, u64)>,
    pub(super) segments: BTreeMap<i64, Vec<(String, u64)>>,
    pub(super) tombstones: BTreeMap<i64, String>,
}

/// What belongs to an archive.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) streams: BTreeMap<StreamId, Objects>,
    /// The versions of the sources' Delta tables.
    pub(super) tables: BTreeMap<String, BTreeSet<i64>>,
}

/// Lists everything, or one source's, and finds what does not belong.
pub(super) async fn sort_objects(
    archive: &Archive,
    only: Option<&str>,
    report: &mut Report,
) -> Result<Listing> {
    let Listing { mut streams, mut tables } = Listing::default();
    for (key, size) in archive.objects(only).await? {
        match paths::parse(&key) {
            Some(Key::Manifest { stream, first_seq }) => {
                streams.entry(stream).or_default().manifests.insert(first_seq, (key, size));
            }
            Some(Key::Segment { stream, first_seq, .. }) => {
                streams.entry(stream).or_default().segments.entry(first_seq).or_default().push((key, size));
            }
            Some(Key::Tombstone { stream, first_seq }) => {
                streams.entry(stream).or_default().tombstones.insert(first_seq, key);
            }
            // Looked into by themselves.
            Some(Key::Hold(_) | Key::HoldReleased(_)) => {}
            Some(Key::DeltaCommit { source, version }) => {
                tables.entry(source).or_default().insert(version);
            }
            // What `archiver check` could not delete again.
            None if paths::is_check_key(&key) => {}
            None => report.find(Code::ObjectUnknown, &key, None, "not a name that Archiver writes"),
        }
    }
    Ok(Listing { streams, tables })
}
