//! Segments that have expired: the absence of each must be told by a tombstone that is right, and that no legal hold forbade.

use std::collections::{BTreeMap, BTreeSet};

use bson::Timestamp;
use bson_walker::Doc;

use super::Report;
use super::finding::Code;
use super::listing::Objects;
use crate::archive::manifest::{ClusterTime, Manifest};
use crate::archive::store::Archive;
use crate::archive::tombstone::{Buried, DeletedBy, Tombstone};
use crate::audit_log::AuditLog;
use crate::error::{Kind, Result};
use crate::history::{BEGINNING, History, removed_words};
use crate::hold::{Held, Hold, Release};
use crate::record::Record;
use crate::stream_id::StreamId;

/// What tombstones are held against: legal holds, and what the records say.
#[derive(Debug, Default)]
pub(super) struct Known {
    holds: Vec<Held>,
    told: BTreeMap<StreamId, Told>,
}

/// What the records of one stream say of tombstones.
#[derive(Debug, Default)]
struct Told {
    /// One after the last seq of which they say that it has expired.
    end_seq: i64,
    /// The SHA-256 of each tombstone.
    tombstones: BTreeSet<String>,
}

impl Known {
    /// Reads the copies of the holds, and the records of sources that have tombstones, from both tiers.
    pub(super) async fn read(
        archive: &Archive,
        log: Option<&AuditLog>,
        streams: &BTreeMap<StreamId, Objects>,
        report: &mut Report,
    ) -> Result<Known> {
        let holds = read_holds(archive, report).await?;
        let expired = streams.iter().filter(|(_, objects)| !objects.tombstones.is_empty());
        let sources: BTreeSet<&str> = expired.map(|(stream, _)| stream.source.as_str()).collect();
        let mut told = BTreeMap::new();
        for source in sources {
            told.append(&mut read_told(archive, log, source).await?);
        }
        Ok(Known { holds, told })
    }
}

/// The copies of legal holds. What is wrong with one is a finding.
async fn read_holds(archive: &Archive, report: &mut Report) -> Result<Vec<Held>> {
    let (holds, releases) = archive.read_holds().await?;
    let mut held: Vec<Held> = Vec::new();
    let mut ends: Vec<(String, Release)> = Vec::new();
    for (key, release) in releases {
        match release {
            Ok(release) => ends.push((key, release)),
            Err(error) => report.find(Code::HoldWrong, &key, None, error.explain()),
        }
    }
    for (key, hold) in holds {
        match hold {
            Ok(hold) => {
                let released = ends.iter().position(|(_, release)| release.id == hold.id);
                held.push(Held { hold, released: released.map(|n| ends.swap_remove(n).1) });
            }
            Err(error) => report.find(Code::HoldWrong, &key, None, error.explain()),
        }
    }
    for (key, _) in ends {
        report.find(Code::HoldWrong, &key, None, "it releases a legal hold that is not there");
    }
    Ok(held)
}

/// What the records of a source say of tombstones. Where they can't be read for damage, that is found elsewhere, and they say nothing.
async fn read_told(
    archive: &Archive,
    log: Option<&AuditLog>,
    source: &str,
) -> Result<BTreeMap<StreamId, Told>> {
    let mut told: BTreeMap<StreamId, Told> = BTreeMap::new();
    let history = History::new(log.cloned(), archive.clone());
    let records = match history.operations(source, &["policy"], BEGINNING).await {
        Err(error) if error.kind() == Kind::Unavailable => return Err(error),
        records => records.unwrap_or_default(),
    };
    for record in &records {
        let record = Record::new(record)?;
        let Some(said) = record.part("detail").and_then(|d| d.get("expired")).and_then(|e| e.as_doc()) else {
            continue;
        };
        let partition = record.record_id()?.partition;
        let told = told.entry(StreamId { source: source.to_owned(), partition }).or_default();
        told.end_seq = told.end_seq.max(said.get("endSeq").and_then(|e| e.as_i64()).unwrap_or(0));
        let tombstones = said.get("tombstones").and_then(|e| e.as_doc()).unwrap_or(Doc::EMPTY);
        told.tombstones.extend(tombstones.elements().map_while(|e| e.ok()?.as_str().map(str::to_owned)));
    }
    Ok(told)
}

/// The expired segments of one stream.
#[derive(Debug)]
pub(super) struct Expired {
    /// How many there are.
    pub(super) segments: u64,
    /// One after the last seq that has expired; 1 where none has.
    pub(super) end_seq: i64,
    /// Until when everything is removed.
    until: Option<ClusterTime>,
    /// The first seqs of those that are not there, and need not be.
    gone: BTreeSet<i64>,
}

impl Expired {
    /// Checks the tombstones of a stream against its manifests, in seq order, each with the SHA-256 of its file.
    pub(super) async fn check(
        archive: &Archive,
        stream: &StreamId,
        objects: &Objects,
        manifests: Vec<(&Manifest, &str)>,
        known: &Known,
        report: &mut Report,
    ) -> Result<Expired> {
        let mut expired = Expired { segments: 0, end_seq: 1, until: None, gone: BTreeSet::new() };
        let told = known.told.get(stream);
        // Whether a segment before has not expired: none behind it may have.
        let mut broken = false;
        for (manifest, sha256) in manifests {
            let Some(key) = objects.tombstones.get(&manifest.first_seq) else {
                broken = true;
                continue;
            };
            let buried = match archive.tombstone(stream, manifest.first_seq).await {
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Ok(Some(buried)) => Ok(buried),
                Ok(None) => Err("it was listed, and is gone".to_owned()),
                Err(error) => Err(error.explain()),
            };
            let right = buried.and_then(|Buried { tombstone, sha256: own }| {
                let other =
                    told.is_some_and(|t| manifest.end_seq <= t.end_seq && !t.tombstones.contains(&own));
                let problem = tombstone.problem(manifest, sha256);
                let problem = problem.or_else(|| expired.problem(&tombstone, manifest, &known.holds));
                let problem = problem
                    .or(broken.then(|| "its segment has expired before an older one".to_owned()))
                    .or(other
                        .then(|| "it is not the one of which a record says that it was written".to_owned()));
                problem.map_or(Ok(tombstone), Err)
            });
            match right {
                Ok(tombstone) => expired.note(&tombstone, manifest, objects, report),
                Err(problem) => report.find(Code::TombstoneWrong, key, None, problem),
            }
        }
        for (first_seq, key) in &objects.tombstones {
            if !objects.manifests.contains_key(first_seq) {
                report.find(Code::TombstoneWrong, key, None, "the manifest that it names is not beside it");
            }
        }
        expired.sum_up(stream, told.map_or(1, |told| told.end_seq), report);
        Ok(expired)
    }

    /// Whether this segment need not be there, and is not.
    pub(super) fn is_gone(&self, first_seq: i64) -> bool {
        self.gone.contains(&first_seq)
    }

    fn note(&mut self, tombstone: &Tombstone, manifest: &Manifest, objects: &Objects, report: &mut Report) {
        self.segments += 1;
        self.end_seq = manifest.end_seq;
        self.until = Some(tombstone.removed_until);
        if !objects.segments.contains_key(&manifest.first_seq) {
            self.gone.insert(manifest.first_seq);
            return;
        }
        let why = match tombstone.deleted_by {
            DeletedBy::Store => "it has expired, and is left to the store's own rules",
            DeletedBy::Archiver => {
                "it has expired and is not deleted yet: the next pass deletes it, unless a legal hold keeps it"
            }
        };
        report.note(Code::SegmentExpired, &manifest.segment, why);
    }

    /// What is wrong with a tombstone that is right by itself.
    fn problem(&self, tombstone: &Tombstone, manifest: &Manifest, holds: &[Held]) -> Option<String> {
        let (first, last) = (manifest.first_cluster_time.t, manifest.last_cluster_time.t);
        let forbids = |held: &&Held| {
            held.was_in_force(tombstone.at) && held.hold.covers(&tombstone.source, first, last)
        };
        if let Some(Held { hold: Hold { id, .. }, .. }) = holds.iter().find(forbids) {
            return Some(format!("it was written at {} under legal hold {id}", tombstone.at));
        }
        let until =
            self.until.map_or(tombstone.last_cluster_time, |until| until.max(tombstone.last_cluster_time));
        (tombstone.removed_until != until)
            .then(|| "it says another time than its segment and those before it".to_owned())
    }

    /// Says what has expired, and how far records tell of it.
    fn sum_up(&self, stream: &StreamId, told_end: i64, report: &mut Report) {
        let Some(until) = self.until else { return };
        let until = removed_words(Timestamp { time: until.t, increment: until.i });
        let words = format!("{until}: segments={} seq=1..{}", self.segments, self.end_seq);
        report.note(Code::SegmentExpired, &stream.to_string(), words);
        if told_end < self.end_seq {
            let reason = format!(
                "no record tells of what has expired from seq={told_end} on: it is not appended or rolled yet, or was never written"
            );
            report.note(Code::TombstoneUntold, &stream.to_string(), reason);
        }
    }
}

#[cfg(test)]
mod tests;
